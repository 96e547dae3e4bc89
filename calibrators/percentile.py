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

    @classmethod
    def from_option(cls, text: str) -> Percentile:
        """Read what stands behind the colon of ``percentile:99.9``.

        Raises:
            UsageError: it is no number in (0, 100].
        """
        try:
            return cls(float(text))
        except ValueError:
            raise UsageError(
                f"'{text}' is no percentile: write percentile:99.9, a number in (0, 100]"
            ) from None

    @property
    def option(self) -> str:
        """The percentile, spelled one way."""
        return f"{self.percentile!r}".removesuffix(".0")

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
