"""What the tests of the gate share: rounds that were never run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.profiles.interleave import Budget, Outcome
from graphopt.profiles.regression import Round, Verdict


def rounds(
    ratio: float, *, openings: int = 12, noise: float = 0.002, runs: int = 50, seed: int = 0
) -> tuple[Round, ...]:
    """Make rounds, two an opening, of a candidate ``ratio`` times as slow."""
    rng = np.random.default_rng(seed)
    found = []
    for opening in range(openings):
        for _ in range(2):
            base = 1 + noise * rng.normal(size=runs)
            cand = ratio * (1 + noise * rng.normal(size=runs))
            found.append(Round(tuple(base.tolist()), tuple(cand.tolist()), opening))
    return tuple(found)


def interleaved(made: Sequence[Round]) -> Callable[..., Outcome]:
    """Stand in for ``interleave``: every round is there at once, and judged once."""

    def interleave(
        _base: Any,
        _cand: Any,
        *,
        budget: Budget,
        decide: Callable[[Sequence[Round]], Verdict],
        **_: Any,
    ) -> Outcome:
        assert budget.seconds > 0
        verdict = decide(tuple(made))
        stopped = "seconds" if verdict.status == "inconclusive" else "decided"
        return Outcome(tuple(made), verdict, 5, 1.0, 1, stopped)

    return interleave
