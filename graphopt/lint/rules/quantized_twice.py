"""One tensor, several scales."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint import network as kinds
from graphopt.lint.context import Context
from graphopt.lint.finding import WARNING, Finding


def check(context: Context) -> Iterator[Finding]:
    """Find tensors, a shortcut's for one, that different readers quantize differently.

    Told of the tensor where the ways part, copies and Concat looked through.
    """
    flow, where = context.own.flow, []
    for name, sink in flow.sinks.items():
        if not sink.other or name in context.network.constants:
            continue
        below = [
            out
            for index, _ in flow.readers.get(name, ())
            if context.network.layers[index].kind in (kinds.COPY, kinds.CONCAT)
            for out in context.network.layers[index].outputs
        ]
        if not any(flow.sink(out).other for out in below):
            where.append(name)
    if where:
        where.reverse()  # sinks are found from the network's end
        yield Finding(
            "quantized-twice",
            WARNING,
            tuple(where),
            f"{len(where)} tensors are quantized with different scales for different readers",
            "one scale for each tensor: then one Q serves all its readers",
        )
