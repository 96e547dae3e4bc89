"""A histogram with the thresholds that were chosen on it; counts on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.charts.frame import along
from graphopt.charts.scale import scale_of
from graphopt.charts.svg import Drawing, finite, nothing

_MOST_BINS = 96


@dataclass(frozen=True, slots=True)
class Threshold:
    """A line across a histogram.

    Attributes:
        value: where, in the unit of the horizontal axis.
        label: in words: ``amax 3.2``.
    """

    value: float
    label: str


def histogram(
    counts: Sequence[float],
    width_of_bin: float,
    *,
    title: str,
    desc: str = "",
    thresholds: Sequence[Threshold] = (),
    x_label: str = "",
    width: float = 320,
    height: float = 150,
    ident: str = "",
    alone: bool = False,
) -> str:
    """Return a histogram over ``[0, len(counts) * width_of_bin)``; what clips is another colour.

    Args:
        counts: of each bin, >= 0; more bins than can be told apart are added up.
        width_of_bin: > 0.
        title: the chart's name.
        desc: what it shows, in words.
        thresholds: drawn in order; beyond the greatest of them values are clipped.
        x_label: what is counted.
        width: in user units.
        height: in user units.
        ident: unique within a page.
        alone: for a file.

    Raises:
        ValueError: a value is NaN or infinite, a count is negative, or a bin has no width.
    """
    found = finite(counts, "a count")
    finite([width_of_bin, *(t.value for t in thresholds)])
    if width_of_bin <= 0 or any(c < 0 for c in found):
        raise ValueError("counts must not be negative, and a bin must have a width")
    last = max((i for i, c in enumerate(found) if c > 0), default=-1)
    if last < 0:
        return nothing(width, title, desc, ident, alone=alone)
    merged, wide = _merged(found[: last + 1], width_of_bin)
    drawing = Drawing(width, height, title, desc, ident, alone)
    bottom = 24 + (14 if x_label else 0)
    floor, top = height - bottom, 22.0
    ends = [0.0, min(len(merged) * wide, 1.7e308), *(t.value for t in thresholds)]
    x = scale_of(ends, 8, width - 8, zero=True, margin=0.01)
    peak = math.log10(1 + max(merged))
    limit = max((t.value for t in thresholds), default=math.inf)
    for i, count in enumerate(merged):
        if count <= 0:
            continue
        tall = max((floor - top) * math.log10(1 + count) / peak, 1.0)
        left, right = x(i * wide), x(min((i + 1) * wide, 1.7e308))
        # The bin that the threshold falls into is clipped in part: it keeps the colour of most.
        clipped = (i + 0.5) * wide > limit
        drawing.rect(
            left, floor - tall, max(right - left - 0.4, 0.6), tall, "warn" if clipped else "before"
        )
    along(drawing, x, floor, label=x_label, most=4)
    for i, one in enumerate(thresholds):
        at = x(one.value)
        drawing.line((at, floor), (at, top - 6), "after", thick=1.6, dash="" if i == 0 else "4 3")
        late = at > width / 2
        anchor, side = ("end", -4) if late else ("start", 4)
        drawing.text(
            (at + side, top - 8 + 13 * i), one.label, "after", anchor=anchor, size=11, bold=True
        )
    return drawing.finish()


def _merged(counts: Sequence[float], wide: float) -> tuple[list[float], float]:
    """Add neighbouring bins up until there are few enough."""
    ratio = max(1, math.ceil(len(counts) / _MOST_BINS))
    if not math.isfinite(wide * ratio * (len(counts) // ratio + 1)):
        raise ValueError("the histogram is too wide to draw")
    return [math.fsum(counts[i : i + ratio]) for i in range(0, len(counts), ratio)], wide * ratio
