"""Writes QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.dialects.codes import WeightCodes
from graphopt.dialects.heads import Head
from graphopt.dialects.ort_moves import Move
from graphopt.dialects.scales import channel_scales, dequantize_weight, quantize_weight
from graphopt.graph import Array, Graph, Names, Tensor, disconnect


class Writer:
    """Adds Q/DQ nodes to one graph under free names.

    A weight that several nodes share is quantized once for each (axis, scales) it is used with;
    whoever else reads it goes on reading the float32 initializer.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._names = Names(graph)
        self._parameters: dict[str, tuple[Tensor, Tensor]] = {}
        self._dequantized: dict[tuple[object, ...], Tensor] = {}
        self._weights: dict[tuple[str, int, tuple[int, ...], bytes], Tensor] = {}

    def parameters(
        self, key: str, scale: np.float32, zero_point: np.int8 | np.uint8
    ) -> tuple[Tensor, Tensor]:
        """Return the scalar scale and zero-point initializers of a group of tensors."""
        if key not in self._parameters:
            self._parameters[key] = (
                self._constant(f"{key}_scale", np.asarray(scale, dtype=np.float32)),
                self._constant(f"{key}_zero_point", np.asarray(zero_point)),
            )
        return self._parameters[key]

    def pair(self, tensor: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Quantize and dequantize ``tensor``; return the dequantized one. Readers stay."""
        return self._pair(tensor, scale, zero_point, {}, None)

    def split(
        self, tensor: Tensor, scale: Tensor, zero_point: Tensor, moves: Sequence[Move] = ()
    ) -> None:
        """Put Q/DQ between the node that writes ``tensor`` and everyone who reads it.

        The dequantized tensor keeps object and name, so graph outputs and sub-graphs follow.

        Args:
            tensor: what to quantize.
            scale: of the pair.
            zero_point: of the pair.
            moves: what happens to the quantized values before they are ``tensor``.
        """
        source = tensor.inputs[0]
        index = next(i for i, t in enumerate(source.outputs) if t is tensor)
        shape = None if moves else tensor.shape
        raw = gs.Variable(self._names.fresh(f"{tensor.name}_float"), np.float32, shape)
        source.outputs[index] = raw
        self._pair(raw, scale, zero_point, {}, tensor, moves)

    def move(self, tensor: Tensor, moves: Sequence[Move]) -> None:
        """Write a tensor by moves of the quantized values its one producer reads.

        The producer, whose first input is dequantized, is taken out of the graph.
        """
        node = tensor.inputs[0]
        quantized, scale, zero_point = node.inputs[0].inputs[0].inputs
        disconnect(node)
        self._graph.nodes = [other for other in self._graph.nodes if other is not node]
        moved = self._moved(quantized, moves, zero_point, tensor.name)
        self._dequantize(moved, scale, zero_point, {}, tensor)

    def moved(self, tensor: Tensor, moves: Sequence[Move], base: str) -> Tensor:
        """Return moves of a dequantized tensor, made before it is dequantized."""
        quantized, scale, zero_point = tensor.inputs[0].inputs
        key = (quantized.name, *(move.key for move in moves))
        if key not in self._dequantized:
            moved = self._moved(quantized, moves, zero_point, base)
            output = self._variable(f"{base}_moved_dequantized", None)
            self._dequantized[key] = self._dequantize(moved, scale, zero_point, {}, output)
        return self._dequantized[key]

    def put_behind(self, tensor: Tensor, moves: Sequence[Move]) -> None:
        """Make the float values that one node writes ``tensor`` by moves."""
        source = tensor.inputs[0]
        index = next(i for i, t in enumerate(source.outputs) if t is tensor)
        raw = self._variable(f"{tensor.name}_flat", None)
        source.outputs[index] = raw
        last = self._moved(raw, moves, None, tensor.name)
        node = last.inputs[0]
        node.outputs.clear()
        node.outputs.append(tensor)

    def blocks(self, tensor: Tensor, size: int) -> Tensor:
        """Return SpaceToDepth of a float tensor."""
        output = self._variable(f"{tensor.name}_blocks", None)
        self._graph.nodes.append(
            gs.Node(
                "SpaceToDepth",
                self._names.fresh(f"{tensor.name}_SpaceToDepth"),
                {"blocksize": size},
                [tensor],
                [output],
            )
        )
        return output

    def dequantize_by_channel(self, tensor: Tensor, channels: int, axis: int) -> Tensor:
        """Dequantize a :meth:`split` tensor once more, with its one scale said for each channel."""
        quantized, scale, zero_point = tensor.inputs[0].inputs
        return self._dequantize(
            quantized,
            self._constant(f"{tensor.name}_channel_scale", np.full(channels, scale.values)),
            self._constant(
                f"{tensor.name}_channel_zero_point", np.full(channels, zero_point.values)
            ),
            {"axis": axis},
            self._variable(f"{tensor.name}_dequantized", tensor.shape),
        )

    def float_weight(self, head: Head, chosen: WeightCodes | None = None) -> Tensor:
        """Return fp32 weight -> Q -> DQ, one scale for each output channel.

        Args:
            head: whose weight.
            chosen: its rounding; the float32 weight then holds what the codes stand for.
        """
        name, codes = head.weight.name, b"" if chosen is None else chosen.codes.tobytes()
        key = (name, head.axis, head.values.shape, codes)
        if key not in self._weights:
            weight, scales = head.weight, channel_scales(head.values, head.axis)
            if chosen is not None:
                scales = chosen.scales
                values = dequantize_weight(chosen.codes, scales, head.axis)
                weight = self._constant(f"{name}_rounded", values)
            self._weights[key] = self._pair(
                weight,
                self._constant(f"{name}_scale", scales),
                self._constant(f"{name}_zero_point", np.zeros(len(scales), np.int8)),
                {"axis": head.axis},
                None,
            )
        return self._weights[key]

    def stored_weight(self, head: Head, chosen: WeightCodes | None = None) -> Tensor:
        """Return int8 weight -> DQ: the numbers of :meth:`float_weight` in a quarter of the bytes.

        Args:
            head: whose weight.
            chosen: its rounding.
        """
        if chosen is not None:
            codes, scales = chosen.codes, chosen.scales
        else:
            scales = channel_scales(head.values, head.axis)
            codes = quantize_weight(head.values, scales, head.axis)
        return self.integer_weight(head.weight.name, codes, scales, head.axis)

    def integer_weight(self, base: str, codes: Array, scales: Array, axis: int) -> Tensor:
        """Return int8 initializer -> DQ, one scale for each output channel along ``axis``."""
        key = (base, axis, codes.shape, scales.tobytes() + codes.tobytes())
        if key not in self._weights:
            self._weights[key] = self._dequantize(
                self._constant(f"{base}_quantized", codes),
                self._constant(f"{base}_scale", scales),
                self._constant(f"{base}_zero_point", np.zeros(len(scales), np.int8)),
                {"axis": axis},
                self._variable(f"{base}_dequantized", list(codes.shape)),
            )
        return self._weights[key]

    def integer_bias(self, name: str, bias: Array, scales: Array) -> Tensor:
        """Return int32 initializer -> DQ, scales float32 ``[channels]``."""
        steps = np.rint(bias.astype(np.float64) / scales.astype(np.float64))
        limit = np.iinfo(np.int32).max
        return self._dequantize(
            self._constant(f"{name}_quantized", np.clip(steps, -limit, limit).astype(np.int32)),
            self._constant(f"{name}_scale", scales),
            self._constant(f"{name}_zero_point", np.zeros(len(scales), np.int32)),
            {"axis": 0},
            self._variable(f"{name}_dequantized", list(bias.shape)),
        )

    def rewire(self, readers: list[tuple[gs.Node, int]], tensor: Tensor) -> None:
        """Make the given (node, input index) read ``tensor``."""
        for node, index in readers:
            node.inputs[index] = tensor

    def _pair(
        self,
        tensor: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        attrs: dict[str, int],
        output: Tensor | None,
        moves: Sequence[Move] = (),
    ) -> Tensor:
        base = output.name if output is not None else tensor.name
        quantized = gs.Variable(
            self._names.fresh(f"{base}_quantized"), zero_point.values.dtype, tensor.shape
        )
        self._graph.nodes.append(
            gs.Node(
                "QuantizeLinear",
                self._names.fresh(f"{base}_QuantizeLinear"),
                dict(attrs),
                [tensor, scale, zero_point],
                [quantized],
            )
        )
        if output is None:
            output = self._variable(f"{base}_dequantized", tensor.shape)
        moved = self._moved(quantized, moves, zero_point, base)
        return self._dequantize(moved, scale, zero_point, attrs, output)

    def _moved(
        self, quantized: Tensor, moves: Sequence[Move], zero_point: Tensor | None, base: str
    ) -> Tensor:
        dtype = np.float32 if zero_point is None else zero_point.values.dtype
        for move in moves:
            inputs = [quantized] * move.copies
            inputs += [self._constant(f"{base}_{move.op}_input", v) for v in move.constants]
            if move.op == "Pad":
                inputs.append(zero_point)
            quantized = gs.Variable(self._names.fresh(f"{base}_{move.op}_out"), dtype, None)
            name = self._names.fresh(f"{base}_{move.op}")
            self._graph.nodes.append(gs.Node(move.op, name, dict(move.attrs), inputs, [quantized]))
        return quantized

    def _dequantize(
        self,
        quantized: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        attrs: dict[str, int],
        output: Tensor,
    ) -> Tensor:
        self._graph.nodes.append(
            gs.Node(
                "DequantizeLinear",
                self._names.fresh(f"{output.name.removesuffix('_dequantized')}_DequantizeLinear"),
                dict(attrs),
                [quantized, scale, zero_point],
                [output],
            )
        )
        return output

    def _constant(self, name: str, values: Array) -> Tensor:
        return gs.Constant(self._names.fresh(name), values)

    def _variable(self, name: str, shape: list[int | str | None] | None) -> Tensor:
        return gs.Variable(self._names.fresh(name), np.float32, shape)
