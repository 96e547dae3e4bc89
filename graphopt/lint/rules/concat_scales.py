"""A Concat whose tensors have scales of their own."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint import network as kinds
from graphopt.lint.context import Context
from graphopt.lint.finding import WARNING, Finding


def check(context: Context) -> Iterator[Finding]:
    """A Concat moves INT8 only where all its inputs and its output share one scale."""
    flow, where = context.own.flow, []
    for layer in context.network.layers:
        if layer.kind != kinds.CONCAT:
            continue
        sink = flow.sink(layer.outputs[0])
        keys = [flow.int8[name] for name in flow.dynamic(layer) if name in flow.int8]
        keys += [] if sink.key is None else [sink.key]
        if len(set(keys)) > 1:
            where.append(layer.name)
    if where:
        yield Finding(
            "concat-scales",
            WARNING,
            tuple(where),
            f"{len(where)} Concat join tensors of different scales: each is converted",
            "give all inputs and the output the largest of the ranges",
        )
