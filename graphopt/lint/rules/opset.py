"""An opset or a precision that the device does not have."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint.context import Context
from graphopt.lint.finding import ERROR, WARNING, Finding


def check(context: Context) -> Iterator[Finding]:
    """Compare with the newest opset that the device's newest TensorRT parses."""
    device, opset = context.device, context.model.opset
    if device is not None and device.max_opset is not None and opset > device.max_opset:
        yield Finding(
            "opset",
            ERROR,
            (),
            f"opset {opset}, and the newest TensorRT for {device.title or device.name} parses up "
            f"to {device.max_opset}",
            "export the float model with an older opset and quantize that",
        )
    if device is not None and device.sm is not None and "int8" not in device.precisions:
        yield Finding(
            "opset",
            WARNING,
            (),
            f"{device.title or device.name} has no INT8 in hardware",
            "leave the model in float",
        )
    many = [
        layer.name
        for layer in context.network.quantizers()
        if layer.quant is not None and not layer.quant.per_tensor
    ]
    if many and opset < 13:
        yield Finding(
            "opset",
            ERROR,
            tuple(many),
            f"a scale for each channel in opset {opset}, which has it from 13",
            "raise the opset before quantizing",
        )
