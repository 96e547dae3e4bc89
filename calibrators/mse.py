"""The threshold with the least squared error: rounding and clipping weigh the same."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.calibrators.errors import least_error
from graphopt.calibrators.histogram import Histogram


@dataclass(frozen=True, slots=True)
class MeanSquaredError:
    """``amax`` minimizes the expected squared error of symmetric int8."""

    def __call__(self, histogram: Histogram, /) -> float:
        """Return ``amax``; 0 for a tensor that is all zero, > 0 for any other."""
        return least_error(histogram)
