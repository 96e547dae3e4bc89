"""Lend a model to a tool that speaks protobuf, and take back all that such tools lose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
import onnx.inliner
import onnx_graphsurgeon as gs

from graphopt.graph import Graph, is_constant, walk
from graphopt.model import Model
from graphopt.passes.base import Change
from graphopt.reader import rest

# Tools read constants only where they are axes, sizes, pads or scales.
_LARGEST_LENT = 1024


def through_proto(model: Model, tool: Callable[[onnx.ModelProto], onnx.ModelProto]) -> Model:
    """Return what ``tool`` makes of the model; it sees large weights as inputs, never their values.

    Names, doc strings and metadata are put back on nodes and tensors that kept their output names.
    """
    made = Model.from_onnx(tool(model.to_onnx(largest=_LARGEST_LENT)))
    weights = {t.name: t for t in model.graph.tensors().values() if is_constant(t)}
    own = {t.name for t in model.graph.inputs}
    for tensor in made.graph.inputs:
        if tensor.name not in own:
            tensor.to_constant(weights[tensor.name]._values)
    made.graph.inputs = [t for t in made.graph.inputs if t.name in own]
    _restore(model.graph, made.graph)
    return made


def inline_functions(model: Model) -> Iterator[Change]:
    """Replace calls of local functions by their bodies, in place: passes see what they compute."""
    called = {(node.domain or "", node.op) for node in walk(model.graph)}
    before = {(f.domain, f.name) for f in model.metadata.functions}
    made = through_proto(model, onnx.inliner.inline_local_functions)
    after = {(f.domain, f.name) for f in made.metadata.functions}
    model.graph, model.metadata = made.graph, made.metadata
    for domain, name in sorted((before - after) & called):
        yield Change("inlined", f"{domain}::{name}", "a local function, by its body")


def _restore(old: Graph, new: Graph) -> None:
    """Put back on ``new`` what its nodes and tensors of the same names carried in ``old``."""
    bodies = _bodies(new)
    pairs = [(body, bodies[key]) for key, body in _bodies(old).items() if key in bodies]
    for ours, theirs in ((old, new), *pairs):
        nodes = {node.outputs[0].name: node for node in ours.nodes if node.outputs}
        for node in theirs.nodes:
            twin = nodes.get(node.outputs[0].name) if node.outputs else None
            if twin is not None:
                node.name = twin.name
                _carry(twin, node)
        tensors = ours.tensors()
        for name, tensor in theirs.tensors().items():
            if name in tensors and is_constant(tensors[name]) == is_constant(tensor):
                _carry(tensors[name], tensor)
        _carry(ours, theirs)
    if "annotated" in vars(old):
        named = new.tensors()
        new.annotated = [named.get(t.name, t) for t in old.annotated]


def _bodies(graph: Graph, path: str = "") -> dict[str, Graph]:
    """Every sub-graph, by the outputs and attributes on the way to it."""
    found: dict[str, Graph] = {}
    for node in graph.nodes:
        for key, value in node.attrs.items():
            if isinstance(value, gs.Graph) and node.outputs:
                here = f"{path}/{node.outputs[0].name}.{key}"
                found[here] = value
                found.update(_bodies(value, here))
    return found


def _carry(old: Any, new: Any) -> None:
    left = rest(old)
    if left is not None:
        new.rest = left
