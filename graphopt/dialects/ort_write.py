"""Writes what :class:`IntegerFlow` decided into the graph: Q/DQ, integer weights, fast forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from graphopt.dialects.codes import WeightCodes
from graphopt.dialects.emit import Writer
from graphopt.dialects.heads import Head, label
from graphopt.dialects.integer_flow import IntegerFlow, data_inputs
from graphopt.dialects.ort_batchnorm import as_convolution
from graphopt.dialects.ort_convs import Form, form_of
from graphopt.dialects.ort_linear import added, as_gemm, linear_form
from graphopt.dialects.ort_moves import Move, plain_moves
from graphopt.dialects.scales import (
    channel_scales,
    quantize_weight,
    scales_for_bias,
)
from graphopt.graph import Array, Graph, Node, Tensor, constant, is_op

FULL_RANGE = 127


class IntegerWriter:
    """Edits one graph in place.

    Args:
        graph: what the flow was found in.
        flow: which nodes run on integers.
        parameters: group of tensors -> scale and zero-point.
        levels: the greatest absolute value of an int8 weight.
    """

    def __init__(
        self,
        graph: Graph,
        flow: IntegerFlow,
        parameters: Mapping[str, tuple[np.float32, np.uint8]],
        levels: int,
    ) -> None:
        self._graph = graph
        self._flow = flow
        self._parameters = parameters
        self._levels = levels
        self._writer = Writer(graph)
        self._forms = {
            id(head.node): form for head in flow.heads if (form := self._form(head)) is not None
        }
        # Before anything changes: names of quantized tensors -> what moves their values behind Q,
        # and the heads whose float output is moved.
        self._behind: dict[str, Sequence[Move]] = {}
        self._float_outputs: list[tuple[Tensor, Sequence[Move]]] = []
        for head in flow.heads:
            self._place_behind(head)

    def _form(self, head: Head) -> Form | None:
        if id(head.node) in self._flow.biases:
            return linear_form(head)
        return form_of(self._graph, head)

    def _place_behind(self, head: Head) -> None:
        form = self._forms.get(id(head.node))
        if form is None or not form.after:
            return
        output = head.node.outputs[0]
        if (add := self._flow.biases.get(id(head.node))) is not None:
            output = add.outputs[0]
        if not self._flow.quantizes_output(head):
            self._float_outputs.append((output, form.after))
            return
        final = self._flow.final(head.node, head.node.outputs[0])
        self._behind[final.name] = form.after
        if final is not output:  # The shape known so far is that behind the moves.
            output.shape = None

    def head(self, head: Head, chosen: WeightCodes | None) -> None:
        """Give a head an int8 weight and an int32 bias; fold Gemm's alpha and beta into them."""
        node, values, bias = head.node, head.values, channel_bias(head)
        data_scale, _ = self._parameters[self._flow.groups.find(head.data.name)]
        form = self._forms.get(id(node))
        if (add := self._flow.biases.get(id(node))) is not None:
            bias = added(add, node.outputs[0])
            as_gemm(self._graph, head, add)
        elif node.op == "BatchNormalization":
            as_convolution(head)
        elif node.op == "Gemm":
            alpha = np.float32(node.attrs.get("alpha", 1.0))
            values = values * alpha
            chosen = chosen if alpha == 1 else None
            node.attrs = {**node.attrs, "alpha": 1.0, "beta": 1.0}
        bias = None if bias is None else bias.astype(np.float32).reshape(-1)
        integers, scales = self._round(values, head.axis, chosen, bias, data_scale)
        axis = head.axis
        if form is not None:
            integers, axis = form.spread(integers), form.axis
            scales = form.channels(scales, 1.0)
            bias = None if bias is None else form.channels(bias, 0.0)
            changed = {**node.attrs, **form.attrs}
            node.attrs = {name: value for name, value in changed.items() if value is not None}
            node.op = form.op
        node.inputs[1] = self._writer.integer_weight(head.weight.name, integers, scales, axis)
        if bias is not None:
            name = f"{label(node)}_bias"
            node.inputs[2] = self._writer.integer_bias(name, bias, scales * data_scale)

    def _round(
        self,
        values: Array,
        axis: int,
        chosen: WeightCodes | None,
        bias: Array | None,
        data_scale: np.float32,
    ) -> tuple[Array, Array]:
        """Return int8 weight and its scales: as chosen where that fits, else to nearest."""
        if chosen is not None and int(np.abs(chosen.codes.astype(np.int16)).max()) <= self._levels:
            scales = chosen.scales
        else:
            chosen, scales = None, channel_scales(values, axis, self._levels)
        if bias is not None:
            wide = scales_for_bias(scales, bias, data_scale)
            chosen = chosen if np.array_equal(wide, scales) else None
            scales = wide
        if chosen is not None:
            return chosen.codes, scales
        return quantize_weight(values, scales, axis, self._levels), scales

    def carried(self, node: Node) -> None:
        """Write a node that is no head as the operator that has an integer kernel."""
        if node.op == "Sum":
            node.op = "Add"  # The same for two inputs, and Sum has no integer kernel.
        if node.op == "ReduceMean":
            flat = not node.attrs.get("keepdims", 1)
            data = node.inputs[0]
            node.inputs.clear()
            node.inputs.append(data)
            node.op, node.attrs = "GlobalAveragePool", {}
            if flat:
                self._behind[node.outputs[0].name] = (Move("Flatten"),)

    def tensors(self) -> None:
        """Quantize the tensors of the flow; heads and carried nodes are written already."""
        carried = {id(node) for node in self._flow.carried}
        float_heads = list(_float_heads(self._graph, self._flow))
        for tensor in self._flow.tensors:
            key = self._flow.groups.find(tensor.name)
            scale, zero_point = self._writer.parameters(key, *self._parameters[key])
            if not tensor.inputs:
                self._input(tensor, scale, zero_point)
                continue
            source = tensor.inputs[0]
            moves = plain_moves(source) if id(source) in carried else None
            if moves is not None:
                self._writer.move(tensor, moves)
            else:
                self._writer.split(tensor, scale, zero_point, self._behind.get(tensor.name, ()))
        for head in self._flow.heads:
            form = self._forms.get(id(head.node))
            if form is not None and form.before:
                data = head.node.inputs[0]
                head.node.inputs[0] = self._writer.moved(data, form.before, data.name)
        for output, after in self._float_outputs:
            self._writer.put_behind(output, after)
        for node, channels, axis in float_heads:
            node.inputs[0] = self._writer.dequantize_by_channel(node.inputs[0], channels, axis)

    def _input(self, tensor: Tensor, scale: Tensor, zero_point: Tensor) -> None:
        """Quantize a graph input for each integer node that reads it; others read it as it is."""
        readers = []
        for node in [head.node for head in self._flow.heads] + self._flow.carried:
            form = self._forms.get(id(node))
            if form is not None and form.block > 1 and node.inputs[0] is tensor:
                blocks = self._writer.blocks(tensor, form.block)
                node.inputs[0] = self._writer.pair(blocks, scale, zero_point)
            else:
                readers += [(node, i) for i, t in enumerate(data_inputs(node)) if t is tensor]
        if readers:
            self._writer.rewire(readers, self._writer.pair(tensor, scale, zero_point))


def channel_bias(head: Head) -> Array | None:
    """Return the bias as float32 ``[channels]``, times Gemm's beta; None where it is no such."""
    if head.bias is None:
        return None
    values = constant(head.bias)
    channels = head.values.shape[head.axis]
    if values is None or values.size not in (1, channels):
        return None
    if values.size == channels and values.shape not in ((channels,), (1, channels)):
        return None
    beta = float(head.node.attrs.get("beta", 1.0)) if head.node.op == "Gemm" else 1.0
    flat = values.astype(np.float32).reshape(-1) * np.float32(beta)
    return np.ascontiguousarray(np.broadcast_to(flat, (channels,)))


def _float_heads(graph: Graph, flow: IntegerFlow) -> Iterator[tuple[Node, int, int]]:
    """Yield the heads left in float that ONNX Runtime would quantize all the same.

    It gives a float weight between a DequantizeLinear and a QuantizeLinear one int8 scale *for
    the whole tensor*, which costs accuracy where a node was left in float to save it. It does so
    only behind a DequantizeLinear with a single scale.

    Yields:
        The node, the channels of its data and their axis.
    """
    integer = {id(head.node) for head in flow.heads}
    quantized = {tensor.name for tensor in flow.tensors}
    for node in graph.nodes:
        if not is_op(node, "Conv", "ConvTranspose", "Gemm") or id(node) in integer:
            continue
        data, weight = node.inputs[0], constant(node.inputs[1])
        if weight is None or data.name not in quantized or not data.inputs:
            continue
        output = node.outputs[0]
        while output.name not in quantized and len(output.outputs) == 1:
            if not is_op(output.outputs[0], "Relu", "Clip"):
                break
            output = output.outputs[0].outputs[0]
        if output.name not in quantized:
            continue
        if node.op == "Gemm":
            columns = weight.shape[1] if node.attrs.get("transB", 0) else weight.shape[0]
            yield node, int(columns), 0 if node.attrs.get("transA", 0) else 1
        else:
            groups = int(node.attrs.get("group", 1)) if node.op == "Conv" else 1
            yield node, int(weight.shape[1 if node.op == "Conv" else 0]) * groups, 1
