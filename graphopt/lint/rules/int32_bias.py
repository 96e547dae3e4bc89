"""An int32 bias behind a DequantizeLinear."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint.context import Context
from graphopt.lint.finding import ERROR, Finding


def check(context: Context) -> Iterator[Finding]:
    """TensorRT takes the bias in float; ONNX Runtime's quantizer writes it as int32.

    Known as https://github.com/microsoft/onnxruntime/issues/14229.
    """
    where = [
        layer.name
        for layer in context.network.quantizers()
        if layer.quant is not None and layer.quant.dtype == "int32"
    ]
    if where:
        yield Finding(
            "int32-bias",
            ERROR,
            tuple(where),
            f"{len(where)} DQ of int32, which TensorRT's parser refuses: biases, as ONNX Runtime's "
            "quantizer writes them",
            "leave the bias in float (QuantizeBias: False), or quantize with graphopt",
        )
