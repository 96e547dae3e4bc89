"""What symmetric int8 does to the values of a histogram: the expected error of each threshold.

Inside a bin values are taken to lie evenly, so the sums over any interval are differences of
prefix sums, and each of the 127 levels is summed as it is: ``sum (x - k step)**2`` over the values
that round to ``k``, not ``step**2 / 12``, which fails where few levels hold many values.

Bin 0 counts as bin 1 does. It holds the zeros, which int8 keeps exactly and which therefore must
not dilute anything: a black image, or a Relu that is mostly closed, changes no threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.calibrators.histogram import Histogram

LEVELS = 127
"""Magnitudes above zero that symmetric int8 tells apart."""

# Thresholds below this many bins would have levels closer together than a quarter of a bin.
LEAST_BINS = 32
_COARSE = 1.01
_FINE = 1.0005
_AROUND = 1.012

Floats: TypeAlias = "npt.NDArray[np.float64]"


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Squared errors summed over all values, in squared widths of a bin, one a threshold.

    Attributes:
        rounding: of the values inside ±amax, float64 ``[thresholds]``.
        clipping: of the values beyond, float64 ``[thresholds]``.
    """

    rounding: Floats
    clipping: Floats


class Moments:
    """Prefix sums of a histogram: how many values lie below any point, their sum and squares."""

    def __init__(self, histogram: Histogram) -> None:
        self._bins = histogram.counts.astype(np.float64)
        self._bins[0] = self._bins[1]
        i = np.arange(self._bins.size, dtype=np.float64)
        powers = (np.ones_like(i), i + 0.5, i * i + i + 1 / 3)
        self._sums = [np.concatenate(([0.0], np.cumsum(self._bins * p))) for p in powers]

    @property
    def energy(self) -> float:
        """The sum of all squares, in squared widths of a bin."""
        return float(self._sums[2][-1])

    def below(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Return count, sum and sum of squares of the values below each point, in bins."""
        points = np.minimum(points, self._bins.size)  # there is nothing beyond the last
        bin_ = np.minimum(points.astype(np.int64), self._bins.size - 1)
        part, count = points - bin_, self._bins[bin_]
        inside = (part, part * (bin_ + part / 2), part * (bin_ * (bin_ + part) + part**2 / 3))
        first, second, third = (
            s[bin_] + count * p for s, p in zip(self._sums, inside, strict=True)
        )
        return first, second, third

    def errors(self, limits: Floats) -> Errors:
        """Return the errors of int8 for each threshold.

        Args:
            limits: ``amax`` in widths of a bin, float64 ``[thresholds]``, > 0.
        """
        step = (limits / LEVELS)[:, None]
        level = np.arange(LEVELS + 1)
        edges = np.concatenate(
            (np.zeros((limits.size, 1)), (level[:-1] + 0.5) * step, limits[:, None]), axis=1
        )
        sums = self.below(edges)
        count, first, second = (np.diff(s, axis=1) for s in sums)
        at = level * step
        rounding = (second - 2 * at * first + at**2 * count).sum(axis=1)
        over = [whole[-1] - s[:, -1] for whole, s in zip(self._sums, sums, strict=True)]
        clipping = over[2] - 2 * limits * over[1] + limits**2 * over[0]
        # Differences of large sums: a zero may come out just below.
        return Errors(np.maximum(rounding, 0.0), np.maximum(clipping, 0.0))


def least_error(histogram: Histogram, clipping_weight: float = 1.0) -> float:
    """Return the ``amax`` with the least ``rounding + clipping_weight * clipping``.

    Thresholds are tried 1 % apart, then 0.05 % apart around the best; the widest wins a tie.

    Args:
        histogram: the counts.
        clipping_weight: what a clipped value's squared error counts, beside a rounded one's.

    Returns:
        0 where every value is zero; never more than the greatest magnitude.
    """
    largest = histogram.largest
    if largest == 0:
        return 0.0
    top = largest / histogram.width
    moments = Moments(histogram)

    def best(limits: Floats) -> float:
        errors = moments.errors(limits)
        # From the widest down, so that argmin's first is the widest.
        return float(limits[int(np.argmin(errors.rounding + clipping_weight * errors.clipping))])

    coarse = best(_descending(top, min(LEAST_BINS, top), _COARSE))
    fine = best(_descending(min(coarse * _AROUND, top), coarse / _AROUND, _FINE))
    return min(fine * histogram.width, largest)


def expected_sqnr(histogram: Histogram, amax: float) -> float | None:
    """Return the expected signal to quantization noise of int8 in dB, or None for a dead tensor."""
    if amax <= 0 or histogram.largest == 0:
        return None
    moments = Moments(histogram)
    errors = moments.errors(np.array([amax / histogram.width]))
    noise = float(errors.rounding[0] + errors.clipping[0])
    # Values all in bin 0 or 1 leave no sum to speak of.
    if moments.energy <= 0 or noise <= 0:
        return None
    return 10 * math.log10(moments.energy / noise)


def _descending(top: float, bottom: float, ratio: float) -> Floats:
    count = math.ceil(math.log(top / bottom) / math.log(ratio)) if top > bottom else 0
    limits: Floats = top / ratio ** np.arange(count + 1, dtype=np.float64)
    return limits
