"""What one layer is asked to give back, and on which rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.graph import Array
from graphopt.statistics.layers import Layer

Matrix: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one batch: ``x W + b + beside`` should be ``wanted``.

    Attributes:
        x: what the layer reads now, shape ``(groups, rows, features)``.
        wanted: what the original gave, shortcut included, shape ``(groups, rows, outputs)``.
        beside: what the shortcut adds now, of the same shape, or 0.
    """

    x: Array
    wanted: Array
    beside: Array | float

    @property
    def target(self) -> Array:
        """What ``x W + b`` itself should be."""
        left: Array = self.wanted - self.beside
        return left


@dataclass(frozen=True, slots=True)
class Problem:
    """One layer to solve.

    Attributes:
        layer: of the model that is being recovered.
        weights: its ``[W; b]`` as it is, shape ``(groups, features + 1, outputs)``, float64.
        bias: whether it can be given another bias.
        rectified: whether a Relu follows, so that below zero every value is as good.
        rows: yields the rows, batch by batch; may be called again.
        few: the same, with about as many rows as asked for in all, evenly chosen: for those who
            look at few, so that the others need not be made.
    """

    layer: Layer
    weights: Matrix
    bias: bool
    rectified: bool
    rows: Callable[[], Iterator[Rows]]
    few: Callable[[int], Iterator[Rows]] | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    """New weights for one layer.

    Attributes:
        weights: ``[W; b]``, shape ``(groups, features + 1, outputs)``, float64.
        before: squared error with the old weights over the energy of the target, on the rows seen.
        after: the same with the new ones.
        note: how it was found, for the report: ``"ridge 0.001"``.
    """

    weights: Matrix
    before: float
    after: float
    note: str = ""


def rectified(wanted: Array, beside: Array | float, now: Array) -> Array:
    """Return what ``x W + b`` should be if a Relu reads the sum: as wanted, or anything below zero.

    Args:
        wanted: what the original gave before the Relu, shortcut included.
        beside: what the shortcut adds now.
        now: what ``x W + b`` is now; below zero it may stay.
    """
    found: Array = np.where(wanted > 0, wanted, np.minimum(now + beside, 0)) - beside
    return found


Solver: TypeAlias = "Callable[[Problem], Solution | None]"
"""Returns None where the weights are best left as they are."""


def without_shortcuts(solver: Solver) -> Solver:
    """Mark a solver whose target is what the original layer itself gave.

    What a shortcut lacks beside a layer is for least squares to make up; it says nothing of how
    the layer's own output should be spread.
    """
    solver.__dict__["shortcuts"] = False
    return solver
