"""Channel counts that leave part of a kernel idle."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint import network as kinds
from graphopt.lint.context import Context
from graphopt.lint.finding import NOTE, Finding
from graphopt.lint.rules.thin import LEAST


def check(context: Context) -> Iterator[Finding]:
    """Compare the channels that INT8 layers write with the multiple that wastes nothing."""
    device = context.device
    if device is None or "int8" not in device.channel_multiple:
        return
    multiple = device.multiple("int8")
    where = []
    for kernel in context.heads():
        shape = context.network.shapes.get(kernel.head.outputs[0])
        if not kernel.int8 or shape is None or len(shape) < 2:
            continue
        channels = shape[-1 if kernel.head.kind == kinds.MATMUL else 1]
        if channels is not None and channels > LEAST and channels % multiple:
            where.append(kernel.head.name)
    if where:
        yield Finding(
            "multiple",
            NOTE,
            tuple(where),
            f"{len(where)} INT8 layers write channels that are no multiple of {multiple}, which "
            f"{device.title or device.name} pads to",
            "prune, or widen, to a multiple",
        )
