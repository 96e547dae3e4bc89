"""Histograms of |x| that are the same for any order, batch size or split of the same values.

The range is always a power of two, ``[0, 2**exponent)``, with a fixed number of bins, so a wider
range is reached by adding pairs of neighbouring bins: exactly, whenever it happens. The bin of a
value is ``floor(|x| * BINS / 2**exponent)``, a product with a power of two, so it is exact too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.errors import DataError

Counts: TypeAlias = "npt.NDArray[np.int64]"
Array: TypeAlias = "npt.NDArray[Any]"

BIN_BITS = 12
BINS = 1 << BIN_BITS
# A tensor whose values all lie below 2**-100 keeps this range; it also is where zeros alone lie.
# Its scale factor, 2**112, and that of the widest float32 range, 2**-116, are normal float32s.
MIN_EXPONENT = -100

# Small enough that the buffers of one chunk stay in a core's L2 cache, large enough that the calls
# cost little beside the work.
_CHUNK = 1 << 15
_LANES = 4


def exponent_of(largest: float) -> int:
    """Return the least ``k >= MIN_EXPONENT`` with ``largest < 2**k``."""
    return MIN_EXPONENT if largest == 0 else max(MIN_EXPONENT, math.frexp(largest)[1])


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of |x| of one tensor, an immutable value.

    Two histograms are equal when every field is; equal values in any order give equal histograms.

    Attributes:
        counts: int64 [BINS], read-only; bin ``i`` covers ``[i, i + 1) * width``.
        exponent: the range is ``[0, 2**exponent)``, the least such that holds every value.
        low: the least value, signed and exact; 0 where there are none.
        high: the greatest value, signed and exact; 0 where there are none.
    """

    counts: Counts
    exponent: int = MIN_EXPONENT
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        counts = np.array(self.counts, dtype=np.int64)
        if counts.shape != (BINS,) or bool(np.any(counts < 0)):
            raise ValueError(f"counts must be {BINS} numbers >= 0")
        counts.setflags(write=False)
        object.__setattr__(self, "counts", counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        mine = (self.exponent, self.low, self.high)
        same = mine == (other.exponent, other.low, other.high)
        return same and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(cls, *arrays: Array, name: str = "the tensor") -> Histogram:
        """Return the histogram of everything in ``arrays``.

        Raises:
            DataError: a value is NaN or infinite, or the values are no floating-point numbers.
        """
        accumulator = Accumulator(name)
        for array in arrays:
            accumulator.add(array)
        return accumulator.histogram()

    @property
    def count(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """The width of a bin, a power of two."""
        return math.ldexp(1.0, self.exponent - BIN_BITS)

    @property
    def largest(self) -> float:
        """The greatest magnitude seen, exact."""
        return max(abs(self.low), abs(self.high))

    def occupied(self) -> int:
        """Return the number of bins up to and including the last that holds a value."""
        filled = np.flatnonzero(self.counts)
        return int(filled[-1]) + 1 if filled.size else 0


def merge(*histograms: Histogram) -> Histogram:
    """Return the histogram of all the values of all of these: the same for any order or grouping.

    With no argument it is the histogram of nothing, which changes nothing it is merged with.
    """
    return reduce(_merge, histograms, Histogram(np.zeros(BINS, np.int64)))


def _merge(a: Histogram, b: Histogram) -> Histogram:
    if not a.count or not b.count:
        return a if a.count else b
    exponent = max(a.exponent, b.exponent)
    return Histogram(
        widen(a.counts, exponent - a.exponent) + widen(b.counts, exponent - b.exponent),
        exponent,
        min(a.low, b.low),
        max(a.high, b.high),
    )


def stride_of(size: int, positions: int) -> int:
    """Return the greatest stride that leaves ``positions`` of ``size`` values and hits no pattern.

    It is coprime to ``size``, and so to each dimension: it meets every row and column alike.
    """
    step = max(size // positions, 1)
    while math.gcd(step, size) != 1:
        step -= 1
    return step


def _chunks(values: Array) -> Iterator[Array]:
    for start in range(0, values.size, _CHUNK):
        yield values[start : start + _CHUNK]


def widen(counts: Counts, doublings: int) -> Counts:
    """Return the same counts over a range ``2**doublings`` times as wide."""
    if doublings == 0:
        return counts
    wide = np.zeros_like(counts)
    ratio = 1 << min(doublings, BIN_BITS)
    wide[: BINS // ratio] = counts.reshape(-1, ratio).sum(axis=1)
    return wide


@dataclass(frozen=True, slots=True)
class Scratch:
    """Buffers of the counting loop. Accumulators of one thread share them."""

    magnitude: Array = field(default_factory=lambda: np.empty(_CHUNK, np.float32))
    bins: Array = field(default_factory=lambda: np.empty(_CHUNK, np.int32))
    index: Array = field(default_factory=lambda: np.empty(_CHUNK, np.intp))
    # Neighbours in memory go to different rows of ``lanes``: after a Relu every other value is 0,
    # and an addition waits for the one before it where both go to the same address.
    lanes: Counts = field(default_factory=lambda: np.zeros((_LANES, BINS), np.int64))
    row: Array = field(
        default_factory=lambda: np.tile(np.arange(_LANES, dtype=np.int32) * BINS, _CHUNK // _LANES)
    )


class Accumulator:
    """Counts the values of one tensor as they come; 32 KB, however many there are."""

    def __init__(
        self,
        name: str = "the tensor",
        scratch: Scratch | None = None,
        *,
        floor: float | None = None,
    ) -> None:
        self._name = name
        self._floor = floor  # no value can be less: once met, lower ones are not looked for
        self._scratch = scratch or Scratch()
        self._counts: Counts = np.zeros(BINS, np.int64)
        self._exponent = MIN_EXPONENT
        self._low = math.inf
        self._high = -math.inf
        self._spread = False  # whether the lanes hold counts of this tensor

    def add(self, array: Array, positions: int | None = None) -> None:
        """Take in every value of an array of any shape, and count all or a sample of them.

        Extremes are of all values in any case. Which are counted depends on the shape without
        axis 0 alone: of each sample, laid out in a row, every ``stride_of(size, positions)``-th.

        Args:
            array: float16, float32 or float64; samples along axis 0.
            positions: count that many of each sample at least; 0 for none, None for all.

        Raises:
            DataError: a value is NaN or infinite, or the values are no floating-point numbers.
        """
        values = np.asarray(array)
        if values.dtype == np.float16:
            values = values.astype(np.float32)
        elif values.dtype not in (np.float32, np.float64):
            raise DataError(
                f"tensor '{self._name}' holds {values.dtype}: only floating point has a range"
            )
        size = math.prod(values.shape[1:])
        step = 1 if not positions or values.ndim < 2 else stride_of(size, positions)
        try:
            if positions == 0:
                for chunk in _chunks(values.reshape(-1)):
                    self._reach(chunk)
            elif step == 1:
                for chunk in _chunks(values.reshape(-1)):
                    self._reach(chunk)
                    self._count(chunk)
            else:
                self._sample(values.reshape(-1, size), step)
        finally:
            self._gather()

    def _sample(self, rows: Array, step: int) -> None:
        """Take in all of float [rows, size], and count every ``step``-th of each row."""
        kept = -(-rows.shape[1] // step)
        at_once = max(_CHUNK // max(kept, rows.shape[1] // 4), 1)
        for start in range(0, len(rows), at_once):
            block = rows[start : start + at_once]
            for chunk in _chunks(block.reshape(-1)):
                self._reach(chunk)
            picked = block[:, step // 2 :: step]
            for first in range(0, picked.shape[1], _CHUNK):
                self._count(picked[:, first : first + _CHUNK])

    def histogram(self) -> Histogram:
        """Return what was counted so far."""
        if self._low > self._high:
            return Histogram(self._counts)
        # Adding zero makes one zero of -0.0 and 0.0: which is met first depends on the order.
        return Histogram(self._counts, self._exponent, self._low + 0.0, self._high + 0.0)

    def _reach(self, values: Array) -> None:
        """Widen the range to these values, one at least."""
        high = float(np.maximum.reduce(values))
        low = self._low if self._low == self._floor else float(np.minimum.reduce(values))
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN wins both min and max
            what = "NaN" if math.isnan(high) else "an infinite value"
            raise DataError(
                f"tensor '{self._name}' holds {what}: check the calibration data and its "
                "preprocessing, or exclude the node that makes it"
            )
        self._low, self._high = min(self._low, low), max(self._high, high)
        exponent = exponent_of(max(-low, high))
        if exponent > self._exponent:
            self._gather()
            self._counts = widen(self._counts, exponent - self._exponent)
            self._exponent = exponent

    def _count(self, values: Array) -> None:
        """Count a chunk, of one or two dimensions, that lies in the range."""
        size = values.size
        bins, index = self._scratch.bins[:size], self._scratch.index[:size]
        # float64 is rare: it takes a buffer of its own, and the same steps.
        single = values.dtype == np.float32
        magnitude = self._scratch.magnitude[:size] if single else np.empty(size)
        factor = values.dtype.type(math.ldexp(1.0, BIN_BITS - self._exponent))
        np.multiply(values, factor, out=magnitude.reshape(values.shape))
        if self._low < 0:
            np.abs(magnitude, out=magnitude)
        # Truncation is floor here, >= 0. By way of int32, for which there are vector instructions.
        np.copyto(bins, magnitude, casting="unsafe")
        lanes = self._low >= 0 and size > BINS
        if lanes:
            np.add(bins, self._scratch.row[:size], out=bins)
        np.copyto(index, bins)
        np.add.at(self._scratch.lanes.reshape(-1) if lanes else self._counts, index, 1)
        self._spread |= lanes

    def _gather(self) -> None:
        if self._spread:
            self._counts += self._scratch.lanes.sum(axis=0)
            self._scratch.lanes.fill(0)
            self._spread = False
