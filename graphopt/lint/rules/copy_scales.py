"""Different scales on the two sides of layers that only move values."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint import network as kinds
from graphopt.lint.context import Context
from graphopt.lint.finding import WARNING, Finding


def check(context: Context) -> Iterator[Finding]:
    """A copy of INT8 keeps its scale; another scale behind it is a conversion."""
    flow, where = context.own.flow, []
    for layer in context.activations():
        if layer.kind != kinds.QUANTIZE or layer.quant is None:
            continue
        source = flow.written_by(layer.inputs[0])
        if source is None or source.kind != kinds.COPY:
            continue
        before = flow.int8.get(layer.inputs[0])
        if before is not None and before != layer.quant.key:
            where.append(layer.name)
    if where:
        yield Finding(
            "copy-scales",
            WARNING,
            tuple(where),
            f"{len(where)} Q give a tensor another scale than it had before max pools, reshapes "
            "or other copies",
            "one scale on both sides, or no Q/DQ behind the copy",
        )
