"""Q/DQ without a zero-point."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint.context import Context
from graphopt.lint.finding import NOTE, WARNING, Finding

_OPSET_OF_8_5 = 17


def check(context: Context) -> Iterator[Finding]:
    """TensorRT 8.5 reads exactly three inputs; later ones default the zero-point to 0."""
    where = [
        layer.name
        for layer in context.network.quantizers()
        if layer.quant is not None and not layer.quant.has_zero_point
    ]
    if not where:
        return
    device = context.device
    old = device is not None and (device.max_opset or 99) <= _OPSET_OF_8_5
    yield Finding(
        "three-inputs",
        WARNING if old else NOTE,
        tuple(where),
        f"{len(where)} Q/DQ have no zero-point, and TensorRT 8.5 wants three inputs",
        "write an int8 zero-point of 0",
    )
