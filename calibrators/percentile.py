"""A percentile of the magnitudes: rare outliers are clipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.calibrators.histogram import Histogram
from graphopt.errors import UsageError


@dataclass(frozen=True, slots=True)
class Percentile:
    """``amax`` is a percentile of |x|, linear inside its bin and never above the maximum.

    Attributes:
        percentile: of the values that are not clipped, in (0, 100]; 100 is :class:`MinMax`.
    """

    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise UsageError(f"a percentile lies in (0, 100], not {self.percentile}")

    def __call__(self, histogram: Histogram, /) -> float:
        """Return ``amax``; 0 for a tensor that is all zero, > 0 for any other."""
        largest = histogram.largest
        if largest == 0 or self.percentile == 100:
            return largest
        below = np.cumsum(histogram.counts)
        target = float(below[-1]) * self.percentile / 100.0
        bin_ = int(np.searchsorted(below, target, side="left"))
        inside = int(histogram.counts[bin_])
        part = (target - float(below[bin_] - inside)) / inside
        return min((bin_ + part) * histogram.width, largest)
