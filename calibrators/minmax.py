"""The whole range: nothing seen in calibration is clipped."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.calibrators.histogram import Histogram


@dataclass(frozen=True, slots=True)
class MinMax:
    """``amax`` is the greatest magnitude seen, exactly (no bin edge)."""

    def __call__(self, histogram: Histogram, /) -> float:
        """Return ``amax``; 0 for a tensor that is all zero."""
        return histogram.largest
