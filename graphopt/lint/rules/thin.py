"""Layers too thin for INT8 to win."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphopt.dialects.heads import thin_conv
from graphopt.lint import network as kinds
from graphopt.lint.context import Context
from graphopt.lint.finding import WARNING, Finding
from graphopt.lint.kernels import Kernel

LEAST = 16


def check(context: Context) -> Iterator[Finding]:
    """INT8 kernels work on channels by the 16 and 32: thinner layers compute padding."""
    where = [
        kernel.head.name for kernel in context.heads() if kernel.int8 and _thin(context, kernel)
    ]
    if where:
        yield Finding(
            "thin",
            WARNING,
            tuple(where),
            f"{len(where)} layers in INT8 are too thin to win (fewer than {LEAST} channels)",
            "leave them in float, unless that makes an island",
        )


def _thin(context: Context, kernel: Kernel) -> bool:
    node = context.nodes.get(kernel.head.name)
    if node is None or len(kernel.head.inputs) < 2:
        return False
    weight = next(
        (name for name in kernel.head.inputs[:2] if name in context.network.constants), ""
    )
    shape = context.network.shapes.get(weight)
    if shape is None or any(d is None for d in shape):
        return False
    if kernel.head.kind == kinds.MATMUL:
        return len(shape) == 2 and min(d or 0 for d in shape) < LEAST
    stand_in = np.broadcast_to(np.int8(0), [d or 0 for d in shape])
    return len(shape) > 2 and thin_conv(node, stand_in, LEAST) is not None
