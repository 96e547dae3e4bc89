"""Axes: values to positions, and ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.charts.svg import finite

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear or logarithmic axis.

    Attributes:
        low, high: the ends of the axis, ``low < high``; both > 0 where it is logarithmic.
        start, end: where they are drawn.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return where a value is drawn, kept within the axis."""
        return self.start + self.share(value) * (self.end - self.start)

    def share(self, value: float) -> float:
        """Return how far along the axis a value lies, in [0, 1]."""
        if self.log:
            if value <= self.low:
                return 0.0
            span = math.log10(self.high) - math.log10(self.low)
            found = (math.log10(value) - math.log10(self.low)) / span
        else:
            # Halves, because the span of two huge values overflows.
            found = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return min(max(found, 0.0), 1.0)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values within the axis, at most about ``most``."""
        return (
            _decades(self.low, self.high, most) if self.log else _steps(self.low, self.high, most)
        )


def scale_of(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    zero: bool = False,
    margin: float = 0.04,
) -> Scale:
    """Return an axis that shows all values.

    Args:
        values: finite; on a logarithmic axis those <= 0 are left out.
        start: where the low end is drawn.
        end: where the high end is.
        log: a logarithmic axis.
        zero: whether a linear axis begins (or ends) at zero.
        margin: the share of the span to leave free at each end that is not zero.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    found = finite(values)
    if log:
        found = [v for v in found if v > 0] or [1.0]
        low, high = min(found), max(found)
        room = max((math.log10(high) - math.log10(low)) * margin, 0.05)
        low = 10.0 ** min(max(math.log10(low) - room, -320), 307)
        high = 10.0 ** min(math.log10(high) + room, 308)
        return Scale(max(low, 5e-324), high, start, end, log=True)
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high or high / 2 - low / 2 < abs(high) * 1e-12:
        room = abs(low) * 0.5 or 0.5
        low, high = (low - room, high + room) if not zero else (min(low, 0.0), high + room)
    else:
        room = (high / 2 - low / 2) * 2 * margin if high / 2 - low / 2 < 4e307 else 0.0
        low = low if zero and low == 0 else low - room
        high = high if zero and high == 0 else high + room
    bound = 1.7e308
    return Scale(max(low, -bound), min(high, bound), start, end)


def _steps(low: float, high: float, most: int) -> list[float]:
    half = (high / 2 - low / 2) / max(most, 1)
    if half <= 0 or not math.isfinite(half):
        return []
    power = math.floor(math.log10(half * 2 if half < 8e307 else half))
    if power < -300:
        return []
    step = next((m * 10.0**power for m in (1, 2, 5) if m * 10.0**power >= half * 2), None)
    step = 10.0 ** min(power + 1, 308) if step is None else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if abs(first) > 1e15:  # neighbouring ticks would be the same float
        return []
    return [i * step for i in range(first, min(last, first + 4 * most) + 1)]


def _decades(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = last - first + 1
    if decades <= max(most // 2, 2):
        leads: tuple[int, ...] = (1, 2, 5) if decades > 1 else (1, 2, 3, 5, 7)
        found = [m * 10.0**p for p in range(max(first, -307), min(last, 307) + 1) for m in leads]
        found = [t for t in found if low <= t <= high]
        if 2 <= len(found) <= 2 * most:
            return found
    every = max(1, math.ceil(decades / most))
    powers = [p for p in range(max(first, -307), min(last, 308) + 1) if p % every == 0]
    return [10.0**p for p in powers if low <= 10.0**p <= high]


def brief(value: float) -> str:
    """Write a value for a tick or a label: three digits, and k, M, G, T."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e15 or size < 1e-3:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    for unit, letter in _PREFIXES:
        if size >= unit * (10 if unit == 1e3 else 1):
            return f"{_three(value / unit)}{letter}"
    return f"{value:,.0f}" if size >= 999.5 else _three(value)


def _three(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
