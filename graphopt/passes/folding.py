"""Evaluate nodes whose inputs are all constants."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from graphopt.graph import (
    QUANTIZE_OPS,
    Array,
    Graph,
    Node,
    Tensor,
    constant,
    disconnect,
    is_graph_output,
    is_op,
    is_standard,
    static_shape,
)
from graphopt.model import Feeds, Model
from graphopt.passes.base import Change, Skip
from graphopt.runtime import open_session

# Another value each time, or state.
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial",
           "Bernoulli", "Dropout")  # fmt: skip
# Folding these would undo a quantization.
_QUANTIZATION = (*sorted(QUANTIZE_OPS), "DynamicQuantizeLinear")
# Shape inference reads constants up to about here.
_SMALL = 1024


def fold_constants(model: Model, largest: int) -> Iterator[Change | Skip]:
    """Replace what depends on constants alone by its value, chains in one go.

    Values come from ONNX Runtime, node by node, so they are the bits the node would have computed;
    from the reference implementation where ONNX Runtime has no kernel. Not folded: random
    operators, Q/DQ (the weights would grow fourfold), custom operators, nodes with bodies, nodes
    that write a graph output, and whatever would make a constant of more than ``largest`` bytes
    out of smaller ones.
    """
    folded: set[int] = set()
    for node in model.graph.nodes:
        values = _constant_inputs(node)
        if values is None or not _may_fold(model.graph, node):
            continue
        alone, feeds = _alone(node, values, model.opset)
        size = _bytes_of(alone, values)
        if size > max(largest, sum(v.nbytes for v in values if v is not None)):
            yield Skip(
                node.name,
                f"{node.op} of constants would add {size / 2**20:.0f} MiB to the model "
                f"(limit {largest / 2**20:.0f} MiB)",
            )
            continue
        results = _evaluate(alone, feeds)
        if results is None:
            continue
        named = [tensor for tensor in node.outputs if tensor.name]
        disconnect(node)
        for tensor, value in zip(named, results, strict=True):
            tensor.to_constant(value)
        folded.add(id(node))
        yield Change("folded", node.name, f"{node.op} of constants")
    model.graph.nodes = [node for node in model.graph.nodes if id(node) not in folded]


def _may_fold(graph: Graph, node: Node) -> bool:
    return (
        is_standard(node)
        and not is_op(node, *_RANDOM, *_QUANTIZATION)
        and not any(True for _ in node.subgraphs())
        and not any(is_graph_output(graph, t) for t in node.outputs)
    )


def _constant_inputs(node: Node) -> list[Array | None] | None:
    """Values of the inputs, None for one left out; or None if any is not constant."""
    values: list[Array | None] = []
    for tensor in node.inputs:
        value = None if tensor.is_empty() else constant(tensor)
        if value is None and not tensor.is_empty():
            return None
        values.append(value)
    return values


def _alone(node: Node, values: Sequence[Array | None], opset: int) -> tuple[Model, Feeds]:
    """The node as a model of its own, small constants inside it and large ones as inputs."""
    feeds: dict[str, Array] = {}
    inputs: list[Tensor] = []
    for i, value in enumerate(values):
        if value is None:
            inputs.append(gs.Variable.empty())
        elif value.size <= _SMALL:
            inputs.append(gs.Constant(f"i{i}", value))
        else:
            feeds[f"i{i}"] = value
            inputs.append(gs.Variable(f"i{i}", value.dtype, value.shape))
    outputs = [gs.Variable(f"o{i}" if t.name else "") for i, t in enumerate(node.outputs)]
    twin = gs.Node(node.op, "node", dict(node.attrs), inputs, outputs, node.domain)
    graph = gs.Graph(
        [twin],
        [t for t in inputs if t.name in feeds],
        [t for t in outputs if t.name],
        opset=opset,
        import_domains=[onnx.helper.make_opsetid("", opset)],
    )
    model = Model(graph)
    model.infer_shapes()
    return model, feeds


def _bytes_of(alone: Model, values: Sequence[Array | None]) -> int:
    """How large the results are, known before any is computed."""
    # Where the shape depends on the data (NonZero, Unique): an index per element and axis.
    bound = sum(8 * v.size * max(v.ndim, 1) for v in values if v is not None)
    total = 0
    for tensor in alone.graph.outputs:
        shape = static_shape(tensor)
        if shape is None or tensor.dtype is None:
            total += bound
        else:
            total += int(np.prod(shape, dtype=np.float64)) * tensor.dtype.itemsize
    return total


def _evaluate(alone: Model, feeds: Feeds) -> list[Array] | None:
    try:
        with open_session(alone, optimize=False, threads=1) as session:
            results = session.run(None, dict(feeds))
    except Exception:  # noqa: BLE001 - no kernel, an unsupported type: told apart by no class
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                results = ReferenceEvaluator(alone.to_onnx()).run(None, dict(feeds))
        except Exception:  # noqa: BLE001 - the node is invalid, or unknown here too: left alone
            return None
    if not all(isinstance(r, np.ndarray | np.generic) for r in results):
        return None  # A sequence, a map: no initializer can hold it.
    return [np.asarray(r) for r in results]
