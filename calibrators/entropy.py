"""The threshold that loses the least information: Kullback-Leibler divergence.

S. Migacz, "8-bit Inference with TensorRT", GTC 2017, session S7310. For every candidate number of
bins ``i``::

    P = bins[:i], with everything beyond added to P[i - 1]
    Q = bins[:i], merged to 128 levels, each level spread evenly over its occupied bins
    the candidate's cost is KL(P / sum P || Q / sum Q), and amax = (argmin i + 0.5) * width

The lecture's loop takes O(bins) for each candidate. Here every sum over a level is a difference of
prefix sums. With ``T`` the total, ``S`` the sum of bins[:i], ``O = T - S``, and ``L``, ``c`` a
level's sum and its number of occupied bins::

    T * KL = sum P log P - sum_levels L log(L / c) - O log(L_last / c_last) + T log(S / T)

which is O(levels) for a candidate, whatever the number of bins, and the same number to rounding.

The divergence does not know how far away the values are that it clips: where a few large ones carry
the signal (the heads of detectors), the lecture's rule drops them. So a candidate must also have an
expected squared error no greater than that of clipping nothing (docs/decisions/006).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.calibrators.histogram import Histogram
from graphopt.errors import UsageError

LEVELS = 128
"""Magnitudes that symmetric int8 tells apart."""

Floats: TypeAlias = "npt.NDArray[np.float64]"
Ints: TypeAlias = "npt.NDArray[np.int64]"


@dataclass(frozen=True, slots=True)
class Entropy:
    """``amax`` minimizes the KL divergence between the values and their quantized form.

    Bin 0 counts as bin 1 does: it holds the zeros, which quantization keeps exactly, and after a
    Relu they would outweigh everything. On a tie the widest range wins.

    Attributes:
        stride: bins between two candidates. 1 is the lecture's; the occupied part of the range
            always is more than half of it, so a step of 4 is less than 0.2 % of ``max|x|``.
        bounded: leave out candidates that lose more, in squared error, than the whole range does;
            False is the lecture's rule.
    """

    stride: int = 4
    bounded: bool = True

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise UsageError(f"the stride of the entropy calibrator is at least 1: {self.stride}")

    def __call__(self, histogram: Histogram, /) -> float:
        """Return ``amax``; 0 for a tensor that is all zero, > 0 for any other."""
        sizes = candidates(histogram, self.stride)
        if not sizes.size:  # Too few bins to lose anything.
            return histogram.largest
        costs = divergences(histogram, sizes)
        if self.bounded:
            errors = squared_errors(histogram, sizes)
            costs = np.where(errors <= errors[-1], costs, np.inf)
        # The last candidate, the whole range, always stays: it has a finite cost.
        best = sizes.size - 1 - int(np.argmin(costs[::-1]))
        return float(thresholds(histogram, sizes)[best]) * histogram.width


def thresholds(histogram: Histogram, sizes: Ints) -> Floats:
    """Return amax for each number of bins, in widths of a bin, never above ``max|x|``."""
    limits: Floats = np.minimum(sizes + 0.5, histogram.largest / histogram.width)
    return limits


def candidates(histogram: Histogram, stride: int = 1) -> Ints:
    """Return the numbers of bins to try, ascending: each ``stride``, and all occupied ones last."""
    occupied = histogram.occupied()
    if occupied <= LEVELS:
        return np.zeros(0, np.int64)
    return np.append(np.arange(LEVELS, occupied, stride, dtype=np.int64), occupied)


def divergences(histogram: Histogram, sizes: Ints) -> Floats:
    """Return KL(P || Q) in nats for each number of bins in ``sizes``; inf where Q misses values.

    Args:
        histogram: the counts; bin 0 is taken as bin 1.
        sizes: int64 [candidates], each in [LEVELS, occupied].
    """
    bins = histogram.counts.astype(np.float64)
    bins[0] = bins[1]
    total = bins.sum()
    mass = _prefix(bins)
    filled = _prefix((bins > 0).astype(np.float64))
    plogp = _prefix(_xlogx(bins))

    # Level l of candidate i holds the bins from ceil(l * i / LEVELS) on.
    edges = (np.arange(LEVELS + 1, dtype=np.int64) * sizes[:, None] + LEVELS - 1) // LEVELS
    level = np.diff(mass[edges], axis=1)
    share = level / np.maximum(np.diff(filled[edges], axis=1), 1.0)
    log_share = np.log(share, out=np.zeros_like(share), where=share > 0)

    kept = mass[sizes]
    beyond = total - kept
    last = bins[sizes - 1]
    p_log_p = plogp[sizes] - _xlogx(last) + _xlogx(last + beyond)
    p_log_q = (level * log_share).sum(axis=1) + beyond * log_share[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = (p_log_p - p_log_q) / total + np.log(kept / total)
    # An empty last bin takes in the values beyond in P alone.
    return np.where((kept > 0) & ((last > 0) | (beyond == 0)), cost, np.inf)


def squared_errors(histogram: Histogram, sizes: Ints) -> Floats:
    """Return the expected squared error of each number of bins, in squared widths of a bin.

    A value under half a step becomes 0, one above ``amax`` becomes ``amax``, and rounding adds
    ``step**2 / 12`` to any other. Values lie in the middle of their bins; bin 0 counts as bin 1,
    for zeros have no error.
    """
    bins = histogram.counts.astype(np.float64)
    bins[0] = bins[1]
    middle = np.arange(bins.size) + 0.5
    mass, first, second = (_prefix(bins * middle**power) for power in (0, 1, 2))
    amax = thresholds(histogram, sizes)
    step = amax / (LEVELS - 1)
    lost = np.rint(step / 2).astype(np.int64)
    clipped = (
        (second[-1] - second[sizes])
        - 2 * amax * (first[-1] - first[sizes])
        + amax**2 * (mass[-1] - mass[sizes])
    )
    rounded = second[lost] + (mass[sizes] - mass[lost]) * step**2 / 12
    errors: Floats = rounded + np.maximum(clipped, 0.0)
    return errors


def _prefix(values: Floats) -> Floats:
    return np.concatenate(([0.0], np.cumsum(values)))


def _xlogx(values: Floats) -> Floats:
    return values * np.log(values, out=np.zeros_like(values), where=values > 0)
