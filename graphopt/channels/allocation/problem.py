"""What an allocation is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from graphopt.channels.allocation.costs import CostModel
from graphopt.channels.allocation.limits import Limit
from graphopt.channels.allocation.tally import Extent, Product, Tally
from graphopt.channels.allocation.target import Target
from graphopt.errors import UsageError
from graphopt.graph import Array

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Problem:
    """How many channels may each group keep, what does losing them do, and what does it save?

    Attributes:
        limits: which widths each group may be given, in the order of the analysis.
        scores: group name -> importance of its channels, shape ``(width,)``.
        estimates: whether scores are error estimates that can be compared between groups: the sum
            of the n least is the relative error, energy over energy, of removing those n, summed
            over the layers that read them.
        readers: how many weights read the channels of each group.
        costs: makes the cost model; called only where the target is a cost.
    """

    limits: tuple[Limit, ...]
    scores: Mapping[str, Array]
    estimates: bool
    readers: tuple[int, ...]
    costs: Callable[[], CostModel]

    def tally(self, target: Target) -> Tally:
        """Return what the target bounds, for a ratio the channels of the groups that are free.

        Raises:
            UsageError: the cost is not known.
        """
        if target.kind != "ratio":
            return self.costs().tally(target.kind)
        widths = tuple(limit.width for limit in self.limits)
        extents = tuple(Extent(w, ((g, 1),)) for g, w in enumerate(widths))
        free = tuple(Product(1, (g,)) for g, limit in enumerate(self.limits) if limit.free)
        return Tally(widths, extents, free)

    def loss(self, group: int) -> Floats:
        """Return the loss of removing the 0, 1, ... ``width`` least important channels of a group.

        The loss curve, times the number of layers that read the group: what they miss is one and
        the same signal, so that errors that follow from it add up as amplitudes, and the square
        of a sum of n is up to n times the sum of the squares. Without this a residual stream,
        which every block reads, is pruned far too soon (ResNet-56 on CIFAR-10 at half the
        multiply-accumulates, obs and least squares: 83.9 instead of 90.7 % top-1).

        Raises:
            UsageError: the group has no usable scores.
        """
        limit = self.limits[group]
        scores = checked_scores(self.scores, limit.name, limit.width)
        return max(self.readers[group], 1) * loss_curve(scores, estimates=self.estimates)

    def check_reach(self, target: Target, tally: Tally, least: Sequence[int]) -> None:
        """Refuse a target that cannot be met even at the least widths.

        Raises:
            UsageError: it cannot be met, and how far one gets.
        """
        whole = tally.of_model()
        if tally.at(least) > target.value * whole:
            raise UsageError(
                f"{target} is out of reach: with every group at its least width "
                f"{tally.at(least) / whole:.3f} of the model's {target.kind} remains; lower "
                "--align or the floor, name fewer groups in --keep, or ask for less"
            )


@dataclass(frozen=True, slots=True)
class Decision:
    """How many channels each group keeps, in the order of the limits.

    Attributes:
        ratio: the fraction of channels to remove: of each group that is free where the
            allocation is uniform, of all those together where it is not.
        asked: before alignment and floor.
        after: what is kept.
    """

    ratio: float
    asked: tuple[int, ...]
    after: tuple[int, ...]


class Allocation(Protocol):
    """Decides how many channels each group keeps so that a target is met."""

    def __call__(self, problem: Problem, target: Target, /) -> Decision:
        """Return the decision.

        Raises:
            UsageError: the target cannot be met, or its cost is not known.
        """


def checked_scores(scores: Mapping[str, Array], name: str, width: int) -> Floats:
    """Return the scores of a group as float64.

    Raises:
        UsageError: they are missing, of another shape, or not finite.
    """
    values = np.asarray(scores.get(name, ()), dtype=np.float64)
    if values.shape != (width,) or not np.isfinite(values).all():
        found = "NaN or infinite somewhere" if values.shape == (width,) else f"{values.shape}"
        raise UsageError(
            f"the importance of group '{name}' must be {width} numbers, and is {found}"
        )
    return values


def loss_curve(scores: Floats, *, estimates: bool) -> Floats:
    """Return what it costs in fidelity to remove the n least important channels, n = 0 ... width.

    First the relative error E(n) of what reads the channels. Where scores estimate it, it is their
    running sum. Otherwise a score is taken for a magnitude, as norms are: with channels that are
    uncorrelated and of like variance, removing some takes the share ``sum of their squares / sum
    of all squares`` of the energy away.

    Then the loss ``-T log(1 - E / T)`` with ``T = E(width)``. It is E while that is small, and
    grows without bound as a group nears being emptied, however little its scores say. This is
    what keeps a global allocation from collapsing one layer; with squared magnitudes its slope is
    the score of LAMP (Lee et al., *Layer-adaptive sparsity for the magnitude-based pruning*, ICLR
    2021, arXiv:2010.07611): a weight's square over the sum of those not smaller.

    Args:
        scores: shape ``(width,)``, finite.
        estimates: whether they are error estimates that can be compared between groups.

    Returns:
        Shape ``(width + 1,)``, from 0, increasing, convex; the last is infinite, unless scores are
        all zero.
    """
    ordered = np.maximum(np.sort(scores), 0.0)
    if not estimates and ordered[-1] > 0:
        ordered = np.square(ordered / ordered[-1])
        ordered /= ordered.sum()
    # What stays, summed from the largest down: a difference from the whole would cancel.
    stays = np.concatenate([np.cumsum(ordered[::-1])[::-1], [0.0]])
    whole = float(stays[0])
    if whole <= 0:
        return np.zeros_like(stays)
    with np.errstate(divide="ignore"):
        loss: Floats = -whole * np.log(stays / whole)
    return loss + 0.0
