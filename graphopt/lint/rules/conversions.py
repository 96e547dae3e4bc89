"""Conversions between INT8 and float at run time."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.lint.context import Context
from graphopt.lint.finding import NOTE, Finding
from graphopt.lint.fusion import BOUNDARY


def check(context: Context) -> Iterator[Finding]:
    """Count the kernels that only convert, and memory passes with them."""
    accounting = context.accounting
    total = accounting.conversions()
    border = accounting.counts()[BOUNDARY]
    if total > border:
        yield Finding(
            "conversions",
            NOTE,
            (),
            f"{total} kernels only convert between INT8 and float: {border} where the network "
            f"begins or ends, {total - border} inside",
            "each reads and writes a whole activation",
        )
