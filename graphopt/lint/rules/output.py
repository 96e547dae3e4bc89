"""Q/DQ on a tensor that only leaves the network."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint import network as kinds
from graphopt.lint.context import Context
from graphopt.lint.finding import WARNING, Finding


def check(context: Context) -> Iterator[Finding]:
    """Nobody inside reads it in INT8: it costs accuracy and a kernel, and wins nothing."""
    flow, outputs = context.own.flow, context.network.outputs
    only_leaves: set[str] = set()
    for layer in reversed(context.network.layers):
        for name in layer.outputs:
            readers = [context.network.layers[i] for i, _ in flow.readers.get(name, ())]
            moved = [out for reader in readers for out in reader.outputs]
            if (
                (name in outputs or readers)
                and all(reader.kind == kinds.COPY for reader in readers)
                and all(out in only_leaves for out in moved)
            ):
                only_leaves.add(name)
    where = [
        layer.name
        for layer in context.activations()
        if layer.kind == kinds.DEQUANTIZE and layer.outputs[0] in only_leaves
    ]
    if where:
        yield Finding(
            "output",
            WARNING,
            tuple(where),
            f"{len(where)} DQ write what only leaves the network: rounded for nobody",
            "no Q/DQ on outputs",
        )
