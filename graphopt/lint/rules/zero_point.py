"""Zero-points that are not zero."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint.context import Context
from graphopt.lint.finding import ERROR, Finding


def check(context: Context) -> Iterator[Finding]:
    """TensorRT quantizes symmetrically only ("Introduction to Quantization"): its parser refuses.

    ONNX Runtime's quantizer chooses zero-points freely unless told ``ActivationSymmetric``.
    """
    where = [
        layer.name
        for layer in context.network.quantizers()
        if layer.quant is not None and layer.quant.asymmetric
    ]
    if where:
        yield Finding(
            "zero-point",
            ERROR,
            tuple(where),
            f"{len(where)} zero-points are not 0, which TensorRT's parser refuses",
            "calibrate symmetrically",
        )
