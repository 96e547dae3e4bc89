"""The ``onnxruntime`` dialect: uint8 activations everywhere, so that integer kernels run.

ONNX Runtime's CPU kernels want the opposite of TensorRT: asymmetric uint8 activations with the
Relu absorbed in the range, outputs quantized, both branches of an Add quantized, int8 weights per
channel, an int32 bias whose scale is the product of data and weight scale.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from graphopt.dialects.emit import Writer
from graphopt.dialects.heads import (
    Head,
    HeadRules,
    describe,
    find_heads,
    label,
    require_per_channel,
    require_unquantized,
    thin_conv,
)
from graphopt.dialects.integer_flow import IntegerFlow, data_inputs
from graphopt.dialects.kernels import beyond_clip, must_stay_float
from graphopt.dialects.scales import (
    affine,
    channel_scales,
    quantize_weight,
    require_ranges,
    scales_for_bias,
)
from graphopt.graph import Array, Graph, Node, Tensor, constant, is_op
from graphopt.passes.base import Change, Skip
from graphopt.profiles import host

if TYPE_CHECKING:
    from graphopt.calibrators import CalibrationTable
    from graphopt.dialects.codes import Codes, WeightCodes
    from graphopt.model import Model

_RULES = HeadRules(ops=frozenset({"Conv", "Gemm", "MatMul"}))
FULL_RANGE, REDUCED_RANGE = 127, 64


def saturates(machine: str, int8_flags: Collection[str]) -> bool:
    """Whether sums of two uint8 x int8 products may saturate on a CPU.

    x86 without VNNI or AMX adds pairs of products in 16 bits (vpmaddubsw).

    Args:
        machine: ``platform.machine()``.
        int8_flags: the instruction sets it has for integer dot products (``host.Cpu``).
    """
    return machine.lower() in ("x86_64", "amd64", "i386", "i686") and not int8_flags


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """Q/DQ where ONNX Runtime's optimizer turns it into integer kernels.

    Attributes:
        rules: where its integer kernels can win.
        thin_outputs: a Conv with fewer channels than this both in and out stays float where no
            other head comes behind it: quantizing the output of so small a layer costs accuracy
            and saves nothing. Inside the network a thin Conv keeps the chain of integers whole.
        reduce_range: whether weights take 7 bits instead of 8, so that uint8 x int8 does not
            saturate on an x86 CPU without VNNI; None looks at the CPU this runs on.
    """

    name: ClassVar[str] = "onnxruntime"
    rules: HeadRules = _RULES
    thin_outputs: int = 16
    reduce_range: bool | None = None

    @property
    def levels(self) -> int:
        """The greatest absolute value of an int8 weight."""
        reduce = self.reduce_range
        if reduce is None:
            reduce = saturates(platform.machine(), host.cpu().int8_flags)
        return REDUCED_RANGE if reduce else FULL_RANGE

    def _flow(self, model: Model, exclude: frozenset[str]) -> tuple[IntegerFlow, list[Skip]]:
        found, skipped = find_heads(model.graph, exclude, self.rules)
        inner = _before_another(model.graph, found)
        pools = must_stay_float(model.graph)
        heads = []
        for head in found:
            pool = pools.get(head.data.name)
            reason = self._refusal(head, pool, last=id(head.node) not in inner)
            if reason is None:
                heads.append(head)
            else:
                skipped.append(Skip(label(head.node), f"{head.node.op}: {reason}"))
        return IntegerFlow(model.graph, heads, exclude), skipped

    def _refusal(self, head: Head, pool: str | None, *, last: bool) -> str | None:
        if pool is not None:
            return f"it reads AveragePool '{pool}', whose int8 kernel computes something else"
        if head.bias is not None and _channel_bias(head) is None:
            return f"its bias of shape {tuple(head.bias.shape)} is not one value a channel"
        if last and head.node.op == "Conv":
            thin = thin_conv(head.node, head.values, self.thin_outputs)
            return f"{thin}, and it writes the model's output" if thin else None
        return None

    def wanted(self, model: Model, exclude: frozenset[str], /) -> list[str]:
        """Return the names of the tensors whose range is needed, in graph order.

        Raises:
            UnsupportedModelError: the model is quantized already, or a weight is not finite.
        """
        require_unquantized(model)
        flow, _ = self._flow(model, exclude)
        return [tensor.name for tensor in flow.tensors]

    def insert(
        self,
        model: Model,
        table: CalibrationTable,
        exclude: frozenset[str],
        codes: Codes,
        /,
    ) -> Iterator[Change | Skip]:
        """Insert Q/DQ in place; yield each node that now runs on integers and each that does not.

        Raises:
            UnsupportedModelError: the model is quantized already, is of an opset below 13, or a
                weight is not finite.
            UsageError: the table lacks a tensor.
        """
        require_unquantized(model)
        require_per_channel(model)
        flow, skipped = self._flow(model, exclude)
        names = [tensor.name for tensor in flow.tensors]
        require_ranges(table.ranges, names)
        writer = Writer(model.graph)
        tensors = dict(zip(names, flow.tensors, strict=True))
        parameters = {
            key: _range(table, [tensors[name] for name in members])
            for key, members in flow.groups.members(names).items()
        }
        # Heads first: they read the data's scale, and their inputs are renamed below.
        for head in flow.heads:
            data_scale, _ = parameters[flow.groups.find(head.data.name)]
            self._integer_head(writer, head, data_scale, codes.get(label(head.node)))
            yield Change("quantized", label(head.node), describe(head))
        for node in flow.carried:
            if node.op == "Sum":
                node.op = "Add"  # The same for two inputs, and Sum has no integer kernel.
            yield Change("quantized", label(node), f"{node.op}: runs on integers")
        float_heads = list(_float_heads(model.graph, flow))
        integer_nodes = [head.node for head in flow.heads] + flow.carried
        for tensor in flow.tensors:
            key = flow.groups.find(tensor.name)
            scale, zero_point = writer.parameters(key, *parameters[key])
            if tensor.inputs:
                writer.split(tensor, scale, zero_point)
            else:
                readers = [
                    (node, i)
                    for node in integer_nodes
                    for i, t in enumerate(data_inputs(node))
                    if t is tensor
                ]
                writer.rewire(readers, writer.pair(tensor, scale, zero_point))
        for node, channels, axis in float_heads:
            node.inputs[0] = writer.dequantize_by_channel(node.inputs[0], channels, axis)
        yield from skipped

    def _integer_head(
        self, writer: Writer, head: Head, data_scale: np.float32, chosen: WeightCodes | None
    ) -> None:
        """Give a head an int8 weight and an int32 bias; fold Gemm's alpha and beta into them."""
        node, values, bias = head.node, head.values, _channel_bias(head)
        if node.op == "Gemm":
            alpha = np.float32(node.attrs.get("alpha", 1.0))
            values = values * alpha
            chosen = chosen if alpha == 1 else None
            node.attrs = {**node.attrs, "alpha": 1.0, "beta": 1.0}
        if chosen is not None and self.levels == FULL_RANGE:
            scales = chosen.scales
        else:
            chosen, scales = None, channel_scales(values, head.axis, self.levels)
        if bias is not None and head.bias is not None:
            wide = scales_for_bias(scales, bias, data_scale)
            chosen = chosen if np.array_equal(wide, scales) else None
            scales = wide
            name = f"{label(node)}_bias"
            node.inputs[2] = writer.integer_bias(name, bias, scales * data_scale)
        if chosen is not None:
            integers = chosen.codes
        else:
            integers = quantize_weight(values, scales, head.axis, self.levels)
        node.inputs[1] = writer.integer_weight(head, integers, scales)


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


def _before_another(graph: Graph, heads: list[Head]) -> set[int]:
    """Return ``id`` of the nodes whose output reaches a head."""
    own = {id(head.node) for head in heads}
    reaching: set[int] = set()
    for node in reversed(graph.nodes):
        for tensor in node.outputs:
            if any(id(n) in own or id(n) in reaching for n in tensor.outputs):
                reaching.add(id(node))
    return reaching


def _channel_bias(head: Head) -> Array | None:
    """Return the bias as float32 ``[channels]``, times Gemm's beta; None where it is no such."""
    if head.bias is None:
        return None
    values = constant(head.bias)
    group = int(head.node.attrs.get("group", 1)) if head.node.op == "ConvTranspose" else 1
    channels = head.values.shape[head.axis] * group
    if values is None or values.size not in (1, channels):
        return None
    if values.size == channels and values.shape not in ((channels,), (1, channels)):
        return None
    beta = float(head.node.attrs.get("beta", 1.0)) if head.node.op == "Gemm" else 1.0
    flat = values.astype(np.float32).reshape(-1) * np.float32(beta)
    return np.ascontiguousarray(np.broadcast_to(flat, (channels,)))


def _range(table: CalibrationTable, tensors: list[Tensor]) -> tuple[np.float32, np.uint8]:
    """Return scale and zero-point that hold the clipped ranges of all these tensors."""
    lows, highs = [], []
    for tensor in tensors:
        found = table.ranges[tensor.name]
        low, high = max(found.low, -found.amax), min(found.high, found.amax)
        low, high = beyond_clip(tensor, low, high)
        lows.append(low)
        highs.append(high)
    return affine(min(lows), max(highs))
