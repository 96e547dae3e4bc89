"""Layers with one operand quantized and the other not."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint.context import Context
from graphopt.lint.finding import WARNING, Finding


def check(context: Context) -> Iterator[Finding]:
    """Hold layers to "quantize all inputs of weighted operations": one alone makes no INT8 kernel.

    Weights alone are a way of their own for matrix products ("Weight-Only Quantization").
    """
    flow = context.own.flow
    found: dict[str, list[str]] = {}
    for kernel in context.heads():
        head = kernel.head
        if kernel.int8 or kernel.weight_only:
            continue
        operands = list(head.inputs[:2])
        quantized = [name in flow.int8 for name in operands]
        if not any(quantized):
            continue
        other = next((n for n, q in zip(operands, quantized, strict=True) if not q), "")
        if other in context.network.constants or not other:
            kind = "read quantized data, and their weight is not quantized"
        elif operands[quantized.index(True)] in context.network.constants:
            kind = "have a quantized weight, and their data is not quantized"
        else:
            kind = "multiply a quantized tensor by one that is not, and is no constant"
        found.setdefault(kind, []).append(head.name)
    for kind, where in found.items():
        yield Finding(
            "weight",
            WARNING,
            tuple(where),
            f"{len(where)} layers {kind}: they compute in float",
            "quantize both inputs, or neither",
        )
