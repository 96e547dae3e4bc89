"""Scales for each channel, along an axis that has none of its own."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint import network as kinds
from graphopt.lint.context import Context
from graphopt.lint.finding import ERROR, WARNING, Finding
from graphopt.lint.network import Layer


def check(context: Context) -> Iterator[Finding]:
    """Hold per-channel scales to "per-tensor for activations, per-channel for weights".

    The axis of a weight must be that of its output channels ("Q/DQ Layer-Placement
    Recommendations"; ``IQuantizeLayer``): a sum over an axis with a scale for each index cannot
    be rescaled once at the end.
    """
    activations = [
        layer.name
        for layer in context.activations()
        if layer.quant is not None and not layer.quant.per_tensor
    ]
    if activations:
        yield Finding(
            "channel-axis",
            ERROR,
            tuple(activations),
            f"{len(activations)} Q/DQ give an activation a scale for each channel, and TensorRT "
            "has them for weights only",
            "one scale for each activation",
        )
    wrong = []
    for kernel in context.heads():
        for slot, name in enumerate(kernel.head.inputs[:2]):
            if name in context.network.constants and _wrong(context, kernel.head, slot, name):
                wrong.append(kernel.head.name)
    if wrong:
        yield Finding(
            "channel-axis",
            WARNING,
            tuple(wrong),
            f"{len(wrong)} weights have a scale for each index of another axis than that of the "
            "output channels: no INT8 kernel computes that",
            "axis 0 for Conv, 1 for ConvTranspose, that of the outputs for Gemm and MatMul",
        )


def _wrong(context: Context, head: Layer, slot: int, tensor: str) -> bool:
    source = context.own.flow.written_by(tensor)
    if source is None or source.quant is None or source.quant.per_tensor or source.quant.blocked:
        return False  # behind a copy the axis may have moved: not judged
    node = context.nodes.get(head.name)
    shape = context.network.shapes.get(tensor)
    axis = source.quant.axis
    if node is None or axis is None or shape is None:
        return False
    axis %= len(shape)
    if head.kind == kinds.CONV:
        return axis != 0
    if head.kind == kinds.DECONV:
        return axis != 1
    if node.op == "Gemm":
        transposed = bool(node.attrs.get("transB" if slot else "transA", 0))
        return axis != (0 if (slot == 1) == transposed else 1)
    return axis != len(shape) - (1 if slot == 1 else 2)
