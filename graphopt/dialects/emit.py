"""Writes QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.dialects.codes import WeightCodes
from graphopt.dialects.heads import Head
from graphopt.dialects.scales import channel_scales, dequantize_weight
from graphopt.graph import Array, Graph, Names, Tensor


class Writer:
    """Adds Q/DQ nodes to one graph under free names.

    A weight that several nodes share is quantized once for each (axis, scales) it is used with;
    whoever else reads it goes on reading the float32 initializer.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._names = Names(graph)
        self._parameters: dict[str, tuple[Tensor, Tensor]] = {}
        self._weights: dict[tuple[str, int, bytes], Tensor] = {}

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

    def split(self, tensor: Tensor, scale: Tensor, zero_point: Tensor) -> None:
        """Put Q/DQ between the node that writes ``tensor`` and everyone who reads it.

        The dequantized tensor keeps object and name, so graph outputs and sub-graphs follow.
        """
        source = tensor.inputs[0]
        index = next(i for i, t in enumerate(source.outputs) if t is tensor)
        raw = gs.Variable(self._names.fresh(f"{tensor.name}_float"), np.float32, tensor.shape)
        source.outputs[index] = raw
        self._pair(raw, scale, zero_point, {}, tensor)

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
        key = (name, head.axis, codes)
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

    def integer_weight(self, head: Head, codes: Array, scales: Array) -> Tensor:
        """Return int8 initializer -> DQ, one scale for each output channel."""
        key = (head.weight.name, head.axis, scales.tobytes() + codes.tobytes())
        if key not in self._weights:
            base = head.weight.name
            self._weights[key] = self._dequantize(
                self._constant(f"{base}_quantized", codes),
                self._constant(f"{base}_scale", scales),
                self._constant(f"{base}_zero_point", np.zeros(len(scales), np.int8)),
                {"axis": head.axis},
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
        return self._dequantize(quantized, scale, zero_point, attrs, output)

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
