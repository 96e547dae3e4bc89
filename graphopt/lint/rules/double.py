"""Q/DQ straight behind Q/DQ."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint import network as kinds
from graphopt.lint.context import Context
from graphopt.lint.finding import NOTE, WARNING, Finding


def check(context: Context) -> Iterator[Finding]:
    """A second pair of the same scale does nothing; of another scale it rounds again."""
    flow = context.own.flow
    same: list[str] = []
    other: list[str] = []
    for layer in context.network.quantizers():
        if layer.kind != kinds.QUANTIZE or layer.quant is None:
            continue
        source = flow.written_by(layer.inputs[0])
        if source is not None and source.quant is not None and source.kind == kinds.DEQUANTIZE:
            (same if source.quant.key == layer.quant.key else other).append(layer.name)
    if other:
        yield Finding(
            "double",
            WARNING,
            tuple(other),
            f"{len(other)} tensors are quantized again with another scale: rounded twice",
            "quantize the float model, not one that is quantized",
        )
    if same:
        yield Finding(
            "double",
            NOTE,
            tuple(same),
            f"{len(same)} Q undo the DQ in front of them",
            "TensorRT drops such pairs",
        )
