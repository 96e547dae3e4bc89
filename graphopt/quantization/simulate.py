"""The float model with its activations as the quantized network sees them.

Where a dialect rounds activations, and with which scales, is read off what it wrote; in the float
model that becomes plain arithmetic, ``clip(round(x / s)) * s``: the same values, and nothing that
ONNX Runtime would fuse with a neighbour or take as leave to quantize weights by itself. Nodes and
weights stay those of the float model, whatever the dialect makes of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.calibrators import CalibrationTable
from graphopt.dialects.heads import Head, HeadRules, find_heads, label
from graphopt.graph import (
    Graph,
    Names,
    Node,
    Tensor,
    constant,
    consumers,
    is_op,
    replace_input,
    sort,
)
from graphopt.model import Model
from graphopt.passes.base import PassResult
from graphopt.passes.insert_qdq import InsertQDQ, excluded_nodes


@dataclass(frozen=True, slots=True)
class Rounding:
    """Where one activation is rounded.

    Attributes:
        tensor: its name in the float model.
        scale: of the integers.
        low: the least integer, zero-point taken off.
        high: the greatest.
        readers: (node label, input index) of those that read it rounded; None for all.
    """

    tensor: str
    scale: np.float32
    low: int
    high: int
    readers: frozenset[tuple[str, int]] | None


def place(
    model: Model, table: CalibrationTable, dialect: str, exclude: Sequence[str] = ()
) -> PassResult:
    """Return the model with Q/DQ as a dialect writes it, weights rounded to nearest.

    Raises:
        GraphoptError: as :class:`~graphopt.passes.insert_qdq.InsertQDQ`.
    """
    return InsertQDQ(dialect, table, tuple(exclude))(model)


def quantized_heads(model: Model, placed: PassResult, exclude: Sequence[str] = ()) -> list[Head]:
    """Return the nodes of ``model`` whose weight is in INT8 once quantized, in graph order."""
    told = {change.where for change in placed.changes if change.kind == "quantized"}
    heads, _ = find_heads(model.graph, excluded_nodes(model, tuple(exclude)), HeadRules())
    return [head for head in heads if label(head.node) in told]


def roundings(model: Model, placed: Model) -> list[Rounding]:
    """Return where the activations of ``model`` are rounded in ``placed``, in its order."""
    tensors = model.graph.tensors()
    nodes = {label(node): node for node in model.graph.nodes}
    found: dict[str, Rounding] = {}
    for node in placed.graph.nodes:
        if not is_op(node, "QuantizeLinear") or constant(node.inputs[0]) is not None:
            continue
        scale, zero = constant(node.inputs[1]), constant(node.inputs[2])
        if scale is None or zero is None:
            continue
        limits, offset = np.iinfo(zero.dtype), int(zero.reshape(-1)[0])
        bounds = (np.float32(scale.reshape(-1)[0]), limits.min - offset, limits.max - offset)
        for dequantized in _dequantized(node):
            name = dequantized.name if dequantized.name in tensors else node.inputs[0].name
            if name not in tensors:
                continue
            readers = None
            if name != dequantized.name:
                readers = _readers(dequantized, nodes, tensors[name])
            old = found.get(name)
            if old is not None and old.readers is not None and readers is not None:
                readers |= old.readers
            found[name] = Rounding(name, *bounds, readers)
    return list(found.values())


def _dequantized(quantize: Node) -> Iterator[Tensor]:
    """Yield what the DequantizeLinear nodes behind a QuantizeLinear write, through moves."""
    todo, seen = [quantize.outputs[0]], set()
    while todo:
        for node in consumers(todo.pop(0)):
            if id(node) in seen:
                continue
            seen.add(id(node))
            if is_op(node, "DequantizeLinear"):
                yield node.outputs[0]
            else:
                todo += list(node.outputs)


def _readers(
    dequantized: Tensor, nodes: dict[str, Node], tensor: Tensor
) -> frozenset[tuple[str, int]] | None:
    """Return who reads it in the float model too; None where the dialect rewrote the readers."""
    found = {
        (label(node), i)
        for node in consumers(dequantized)
        for i, t in enumerate(node.inputs)
        if t is dequantized
    }
    known = {
        (name, i)
        for name, i in found
        if name in nodes and i < len(nodes[name].inputs) and nodes[name].inputs[i] is tensor
    }
    return frozenset(known) if known == found else None


def simulate(model: Model, placed: Model) -> Model:
    """Return ``model`` with its activations rounded as they are in ``placed``.

    Every tensor keeps its name; what is rounded has a name of its own behind it. What the graph
    returns, and what bodies of If, Loop and Scan read, is not rounded.
    """
    out = model.clone()
    names = Names(out.graph)
    tensors = out.graph.tensors()
    for rounding in roundings(model, placed):
        _round(out.graph, tensors[rounding.tensor], rounding, names)
    sort(out.graph)
    out.infer_shapes()
    return out


def _round(graph: Graph, tensor: Tensor, rounding: Rounding, names: Names) -> None:
    local = {id(node) for node in graph.nodes}
    readers = [
        (node, i)
        for node in consumers(tensor)
        if id(node) in local
        for i, t in enumerate(node.inputs)
        if t is tensor and (rounding.readers is None or (label(node), i) in rounding.readers)
    ]
    base = tensor.name

    def value(kind: str, number: float) -> Tensor:
        return gs.Constant(names.fresh(f"{base}_{kind}"), np.asarray(number, dtype=np.float32))

    def then(op: str, *inputs: Tensor) -> Tensor:
        made = gs.Variable(names.fresh(f"{base}_{op}"), np.float32, tensor.shape)
        graph.nodes.append(gs.Node(op, names.fresh(f"{base}_{op}"), {}, list(inputs), [made]))
        return made

    step = value("step", float(rounding.scale))
    codes = then("Round", then("Div", tensor, step))
    codes = then("Clip", codes, value("low", rounding.low), value("high", rounding.high))
    rounded = then("Mul", codes, step)
    for node, index in readers:
        replace_input(node, index, rounded)
