"""Uniform: the same ratio of every group."""

from __future__ import annotations

from dataclasses import replace

from graphopt.channels.allocation.problem import Decision, Problem
from graphopt.channels.allocation.search import Search
from graphopt.channels.allocation.tally import Ledger
from graphopt.channels.allocation.target import Target


def uniform(problem: Problem, target: Target, /) -> Decision:
    """Remove the same fraction of every group; for a cost, the least fraction that meets it.

    Widths change only where a ratio completes a channel of some group, at k of n, so the ratios
    to try are finitely many, and bisection among them is exact. At the one found many groups take
    a step at once, with a coarse ``--align`` a large one; they take it one by one, the least loss
    per cost saved first, and those that the target does not need do not. So the largest model is
    found that meets it: without the last step it is not met.
    """
    if target.kind == "ratio":
        return _at(problem, target.value)
    tally = problem.tally(target)
    goal = target.value * tally.of_model()
    free = {limit.width for limit in problem.limits if limit.free}
    ratios = sorted({k / width for width in free for k in range(width)} | {0.0})
    problem.check_reach(target, tally, _at(problem, ratios[-1]).after)
    low, high = -1, len(ratios) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if tally.at(_at(problem, ratios[middle]).after) <= goal:
            high = middle
        else:
            low = middle
    found = _at(problem, ratios[high])
    if not high:
        return found
    before = _at(problem, ratios[low]).after
    ledger = Ledger(tally, before)
    steps = {i: w for i, w in enumerate(zip(before, found.after, strict=True)) if w[0] > w[1]}
    Search(problem, ledger, steps).narrow_until(goal)
    return replace(found, after=tuple(ledger.kept))


def _at(problem: Problem, ratio: float) -> Decision:
    return Decision(
        ratio,
        tuple(limit.asked(ratio) for limit in problem.limits),
        tuple(limit.after(ratio) for limit in problem.limits),
    )
