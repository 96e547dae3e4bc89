"""One layer to INT8 alone: what the build writes around it, in a model that is float elsewhere.

Where Q/DQ goes and with which scales is not decided here: the dialect quantizes the whole model,
as ``build --int8`` does, and one layer's share of that is carried over. A layer's share is the Q/DQ
on what it reads (activation, weight, bias), and on what it writes where the dialect quantizes that
behind the layer, as ONNX Runtime's integer kernels want it.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from graphopt.graph import (
    Graph,
    Names,
    Node,
    Tensor,
    constant,
    is_constant,
    is_graph_output,
    is_op,
    producer,
)
from graphopt.model import Model
from graphopt.passes.base import PassResult

# Operators that move values, or cut them off as the quantization does anyway: nothing is lost
# in them that is not lost in the layer before or behind.
# fmt: off
_MOVES = frozenset({
    "Clip", "Concat", "DepthToSpace", "Expand", "Flatten", "Identity", "MaxPool", "Pad", "Relu",
    "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})
# fmt: on


def quantized_layers(model: Model, placed: PassResult) -> Iterator[Node]:
    """Yield the nodes of ``model`` that compute in INT8 once quantized, in graph order.

    Args:
        model: the float model.
        placed: what :class:`graphopt.passes.insert_qdq.InsertQDQ` made of it.
    """
    told = {change.where for change in placed.changes if change.kind == "quantized"}
    twins = {node.name: node for node in placed.model.graph.nodes}
    for node in model.graph.nodes:
        twin = twins.get(node.name)
        if node.name not in told or twin is None or node.op in _MOVES:
            continue
        if any(_dequantized(tensor) is not None for tensor in twin.inputs):
            yield node


def layer_alone(model: Model, quantized: Model, name: str) -> Model:
    """Return ``model`` with one node as it is in ``quantized``.

    Args:
        model: the float model; not changed.
        quantized: the same with Q/DQ everywhere; nodes and tensors have the same names.
        name: of the node.
    """
    out = model.clone()
    graph, names = out.graph, Names(out.graph)
    node = next(n for n in graph.nodes if n.name == name)
    twin = next(n for n in quantized.graph.nodes if n.name == name)
    behind = _quantized_behind(graph, node, quantized.graph.tensors())
    node.op, node.attrs = twin.op, dict(twin.attrs)
    for index, tensor in enumerate(twin.inputs):
        dequantize = _dequantized(tensor)
        if dequantize is not None:
            read = _chain(graph, names, node.inputs[index], dequantize)
            node.inputs[index] = read
        elif is_constant(tensor) and constant(tensor) is not constant(node.inputs[index]):
            node.inputs[index] = _copy(names, tensor)
    for tensor, dequantize in behind:
        source = tensor.inputs[0]
        index = next(i for i, t in enumerate(source.outputs) if t is tensor)
        raw = gs.Variable(names.fresh(f"{tensor.name}_float"), tensor.dtype, tensor.shape)
        source.outputs[index] = raw
        _chain(graph, names, raw, dequantize, into=tensor)
    return out


def _dequantized(tensor: Tensor) -> Node | None:
    """Return the DequantizeLinear that writes a tensor, or None."""
    source = producer(tensor)
    return source if source is not None and is_op(source, "DequantizeLinear") else None


def _quantized_behind(
    graph: Graph, node: Node, quantized: dict[str, Tensor]
) -> list[tuple[Tensor, Node]]:
    """Return the tensors behind a node that keep their name and come out of Q/DQ.

    That is its output, or that of the Relu or Clip which the quantization makes superfluous.
    """
    found = []
    for output in node.outputs:
        places = [output]
        if len(output.outputs) == 1 and not is_graph_output(graph, output):
            reader = output.outputs[0]
            if is_op(reader, "Relu", "Clip"):
                places.append(reader.outputs[0])
        for tensor in places:
            twin = quantized.get(tensor.name)
            dequantize = None if twin is None else _dequantized(twin)
            if dequantize is not None:
                found.append((tensor, dequantize))
                break
    return found


def _chain(
    graph: Graph, names: Names, tensor: Tensor, like: Node, *, into: Tensor | None = None
) -> Tensor:
    """Append Q and DQ (or DQ of integers that are constant) as they are before ``like``."""
    integers = like.inputs[0]
    quantize = producer(integers)
    scales = [_copy(names, t) for t in like.inputs[1:]]
    if quantize is None:
        read = _copy(names, integers)
    else:
        read = gs.Variable(names.fresh(integers.name), integers.dtype, integers.shape)
        graph.nodes.append(
            gs.Node(
                "QuantizeLinear",
                names.fresh(quantize.name),
                dict(quantize.attrs),
                [tensor, *scales],
                [read],
            )
        )
    if into is None:
        into = gs.Variable(names.fresh(f"{like.outputs[0].name}_dq"), tensor.dtype, tensor.shape)
    graph.nodes.append(
        gs.Node(
            "DequantizeLinear", names.fresh(like.name), dict(like.attrs), [read, *scales], [into]
        )
    )
    return into


def _copy(names: Names, tensor: Tensor) -> Tensor:
    return gs.Constant(names.fresh(tensor.name), constant(tensor))
