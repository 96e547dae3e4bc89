"""Which points are measured: each batch on each number of streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.errors import UsageError
from graphopt.wording import spell

MOST = 64


@dataclass(frozen=True, slots=True)
class Point:
    """One point; ``batch`` None for the model's own, or 1."""

    batch: int | None
    streams: int


def other_batch(name: str, given: Sequence[int], batch: int) -> str:
    """Say that ``--opt-shapes`` has another batch than ``--batch``."""
    return (
        f"--batch {batch}: --opt-shapes has {given[0]} in {spell(given)} of '{name}': "
        "leave one of the two out"
    )


def points(batches: Sequence[int] | None, streams: Sequence[int] | None) -> tuple[Point, ...]:
    """Return every batch on every number of streams, batches first.

    Raises:
        UsageError: those are too many.
    """
    found = tuple(Point(b, s) for s in streams or (1,) for b in batches or (None,))
    if len(found) > MOST:
        raise UsageError(
            f"--batch and --streams make {len(found)} points: {MOST} are the most in one run"
        )
    return found
