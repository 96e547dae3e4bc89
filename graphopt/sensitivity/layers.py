"""One layer to INT8 alone: what the build writes around it, in a model that is float elsewhere.

Where Q/DQ goes and with which scales is not decided here: the dialect quantizes the whole model,
as ``build --int8`` does, and one layer's share of that is carried over. A layer's share is the Q/DQ
on what it reads (activation, weight, bias), and on what it writes where the dialect quantizes that
behind the layer, as ONNX Runtime's integer kernels want it.

A dialect may write a layer as another operator, with channels filled up, or with moves of integers
around it. Alone such a layer stays as it is in the float model and reads and writes the same steps;
its weight is rounded to the same steps too, to nearest.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from graphopt.dialects.emit import Writer
from graphopt.dialects.heads import HeadRules, find_heads
from graphopt.dialects.scales import channel_scales, quantize_weight
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
    rewritten = _is_rewritten(node, twin)
    if not rewritten:
        node.op, node.attrs = twin.op, dict(twin.attrs)
    for index, (tensor, before) in enumerate(zip(twin.inputs, [*node.inputs], strict=False)):
        dequantize = _dequantized(tensor)
        fixed = constant(before) is not None
        if rewritten and fixed:
            continue
        if dequantize is not None:
            node.inputs[index] = _chain(graph, names, before, dequantize)
        elif is_constant(tensor) and constant(tensor) is not constant(before):
            node.inputs[index] = _copy(names, tensor)
    if rewritten:
        _round_weight(graph, node)
    for tensor, dequantize in behind:
        source = tensor.inputs[0]
        index = next(i for i, t in enumerate(source.outputs) if t is tensor)
        raw = gs.Variable(names.fresh(f"{tensor.name}_float"), tensor.dtype, tensor.shape)
        source.outputs[index] = raw
        _chain(graph, names, raw, dequantize, into=tensor)
    return out


def _is_rewritten(node: Node, twin: Node) -> bool:
    """Whether a dialect computes a layer in another form: its weights then mean something else."""
    if node.op != twin.op and (node.op, twin.op) != ("Sum", "Add"):
        return True
    for before, after in zip(node.inputs, twin.inputs, strict=False):
        known, dequantize = constant(before), _dequantized(after)
        if dequantize is None or (known is None and _quantizer(dequantize) is None):
            continue
        integers = constant(dequantize.inputs[0])
        if known is not None and integers is not None and integers.shape != known.shape:
            return True
        if known is None and not is_op(producer(dequantize.inputs[0]), "QuantizeLinear"):
            return True
    return False


def _round_weight(graph: Graph, node: Node) -> None:
    """Make a head read its weight as int8 behind DQ, as the dialects write it."""
    heads, _ = find_heads(graph, frozenset(), HeadRules())
    for head in heads:
        if head.node is node:
            scales = channel_scales(head.values, head.axis)
            codes = quantize_weight(head.values, scales, head.axis)
            node.inputs[1] = Writer(graph).integer_weight(
                head.weight.name, codes, scales, head.axis
            )


def _adds_constant(node: Node) -> bool:
    return is_op(node, "Add") and any(constant(t) is not None for t in node.inputs)


def _quantizer(dequantize: Node) -> Node | None:
    """Return the QuantizeLinear that a DequantizeLinear undoes, through moves of integers."""
    source = producer(dequantize.inputs[0])
    while source is not None and not is_op(source, "QuantizeLinear"):
        source = producer(source.inputs[0]) if source.inputs else None
    return source


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
            if is_op(reader, "Relu", "Clip") or _adds_constant(reader):
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
    """Append Q and DQ (or DQ of integers that are constant) as they are before ``like``.

    What only moves the integers between the two is left out.
    """
    integers = like.inputs[0]
    quantize = _quantizer(like)
    scales = [_copy(names, t) for t in (like if quantize is None else quantize).inputs[1:]]
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
            "DequantizeLinear",
            names.fresh(like.name),
            dict(like.attrs if quantize is None else quantize.attrs),
            [read, *scales],
            [into],
        )
    )
    return into


def _copy(names: Names, tensor: Tensor) -> Tensor:
    return gs.Constant(names.fresh(tensor.name), constant(tensor))
