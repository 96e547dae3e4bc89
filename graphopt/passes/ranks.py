"""Which layers become two, and at which rank: the least loss for a number of operations.

Losses add up as ``-log(variance kept)``, that is, the product of what layers keep is made as great
as it can be (Zhang et al., arXiv:1505.06798, section 3.4). A layer that stays as it is loses
nothing; a rank too high to save anything is no choice. So the choices are no curve but points, and
a price on operations (a Lagrange multiplier) picks one of each layer; what the price leaves over
is then spent where it wins most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.passes.factors import Factors

LEAST_KEPT = 1e-9


@dataclass(frozen=True, slots=True)
class Choice:
    """What a layer may become.

    Attributes:
        macs: multiply-accumulates.
        loss: ``-log`` of the variance of its output that is kept.
        rank: between the factors; 0 where it stays as it is.
        factors: which; None where it stays as it is.
    """

    macs: int
    loss: float
    rank: int = 0
    factors: Factors | None = None


def choices(dense: int, costs: Sequence[tuple[Factors, int]], *, align: int) -> list[Choice]:
    """Return what a layer may become, itself first.

    Args:
        dense: its multiply-accumulates.
        costs: its factors, each with the multiply-accumulates of one rank.
        align: ranks are multiples of it.
    """
    found = [Choice(dense, 0.0)]
    for factors, each in costs:
        for rank in range(align, len(factors.second) + 1, align):
            if rank * each >= dense:
                break
            kept = max(1 - float(factors.left[rank]), LEAST_KEPT)
            found.append(Choice(rank * each, -math.log(kept), rank, factors))
    return found


def allocate(layers: Sequence[Sequence[Choice]], budget: int) -> list[Choice] | None:
    """Pick one choice of each layer so that together they cost no more than ``budget``.

    Returns None where even the cheapest cost more.
    """
    if sum(min(c.macs for c in each) for each in layers) > budget:
        return None
    if sum(each[0].macs for each in layers) <= budget:
        return [each[0] for each in layers]
    low, high = 0.0, 1.0
    while _macs(_priced(layers, high)) > budget and high < 1e12:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if _macs(_priced(layers, middle)) > budget:
            low = middle
        else:
            high = middle
    picked = _priced(layers, high)
    if _macs(picked) > budget:
        picked = [min(each, key=lambda c: (c.macs, c.loss)) for each in layers]
    return _spend(layers, picked, budget)


def _priced(layers: Sequence[Sequence[Choice]], price: float) -> list[Choice]:
    scale = 1 / max(sum(each[0].macs for each in layers), 1)
    return [min(each, key=lambda c: (c.loss + price * scale * c.macs, c.macs)) for each in layers]


def _macs(picked: Sequence[Choice]) -> int:
    return sum(choice.macs for choice in picked)


def _spend(layers: Sequence[Sequence[Choice]], picked: list[Choice], budget: int) -> list[Choice]:
    """Give what is left to whoever gains most for it."""
    picked = list(picked)
    free = budget - _macs(picked)
    while True:
        gains = [
            ((picked[i].loss - c.loss) / (c.macs - picked[i].macs), -i, c)
            for i, each in enumerate(layers)
            for c in each
            if 0 < c.macs - picked[i].macs <= free and c.loss < picked[i].loss
        ]
        if not gains:
            return picked
        _, at, choice = max(gains, key=lambda g: (g[0], g[1], -g[2].macs))
        free -= choice.macs - picked[-at].macs
        picked[-at] = choice
