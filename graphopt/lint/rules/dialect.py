"""A model written for another runtime."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.graph import QUANTIZE_OPS, is_standard, walk
from graphopt.lint.context import Context
from graphopt.lint.finding import ERROR, Finding
from graphopt.lint.recognize import ONNXRUNTIME, OPERATORS, recognize


def check(context: Context) -> Iterator[Finding]:
    """Say it once, with what gives it away, instead of a finding for each node."""
    if recognize(context.model, context.network) != ONNXRUNTIME:
        return
    operators = [
        n
        for n in walk(context.model.graph)
        if n.op in OPERATORS or (n.op in QUANTIZE_OPS and not is_standard(n))
    ]
    unsigned = sum(
        layer.quant is not None and layer.quant.dtype not in ("int8", "int4")
        for layer in context.activations()
    )
    bias = sum(
        layer.quant is not None and layer.quant.dtype == "int32"
        for layer in context.network.quantizers()
    )
    signs = [
        text
        for count, text in (
            (unsigned, f"{unsigned} Q/DQ of activations are not int8"),
            (bias, f"{bias} biases are int32 behind a DQ"),
            (len(operators), f"{len(operators)} integer operators such as {_first(operators)}"),
        )
        if count
    ]
    yield Finding(
        "dialect",
        ERROR,
        (),
        f"written for ONNX Runtime, not for TensorRT: {', '.join(signs)}",
        "run it on ONNX Runtime, or quantize the float model for TensorRT",
    )


def _first(nodes: list[object]) -> str:
    return str(getattr(nodes[0], "op", "")) if nodes else ""
