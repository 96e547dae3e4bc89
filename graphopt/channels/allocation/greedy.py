"""Global: where a channel costs most and matters least, it goes first, across all groups.

The knapsack of HALP (Shen et al., *Structural pruning via latency-saliency knapsack*, NeurIPS
2022, arXiv:2210.06659), solved greedily and without its table: the saving of a step is not fixed
beforehand but taken at the present widths of all neighbours, because the multiply-accumulates of a
layer are a product of what it reads and what it writes.
"""

from __future__ import annotations

from graphopt.channels.allocation.problem import Decision, Problem
from graphopt.channels.allocation.search import Search
from graphopt.channels.allocation.tally import Ledger
from graphopt.channels.allocation.target import Target


def globally(problem: Problem, target: Target, /) -> Decision:
    """Narrow groups step by step, always where the loss per cost saved is least.

    It is the loss curve (:func:`graphopt.channels.allocation.problem.loss_curve`) that keeps any
    group from being emptied, beside the floor. A cost is met from above, and then what a last
    large step saved too much is given back where that helps most, so that no single group could
    be a step wider. A ratio is of the channels of all free groups together and, as with the
    uniform allocation, never exceeded.
    """
    options = [limit.options() for limit in problem.limits]
    ledger = Ledger(problem.tally(target), [widths[0] for widths in options])
    goal = target.value * ledger.tally.of_model()
    if target.kind != "ratio":
        problem.check_reach(target, ledger.tally, [widths[-1] for widths in options])
    search = Search(problem, ledger, dict(enumerate(options)))
    if target.kind == "ratio":
        # The rounding of the product forgiven, as in asked_width.
        search.narrow_while(ledger.tally.of_model() - goal - 1e-9)
    else:
        search.narrow_until(goal)
        search.give_back(goal)
    kept = tuple(ledger.kept)
    free = [(n.width, k) for n, k in zip(problem.limits, kept, strict=True) if n.free]
    before, after = (sum(pair[i] for pair in free) for i in (0, 1))
    return Decision((before - after) / before if before else 0.0, kept, kept)
