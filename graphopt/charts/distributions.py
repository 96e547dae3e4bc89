"""Distributions above one another, with what is quoted of them: median and 99th percentile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.charts.frame import along
from graphopt.charts.scale import Scale, brief, scale_of
from graphopt.charts.svg import Drawing, extent, finite, nothing, shorten

_ROW, _BINS, _TOP = 64.0, 160, 6.0


@dataclass(frozen=True, slots=True)
class Samples:
    """What was measured of one thing.

    Attributes:
        name: of the row.
        values: raw, finite.
        interval: (low, high) of the median, or None.
        colour: a name of :data:`graphopt.charts.svg.COLOURS`; the last row's is ``after``, that
            of the others ``before``, where it is empty.
    """

    name: str
    values: Sequence[float]
    interval: tuple[float, float] | None = None
    colour: str = ""


def distribution(
    rows: Sequence[Samples],
    *,
    title: str,
    desc: str = "",
    unit: str = "ms",
    width: float = 640,
    ident: str = "",
    alone: bool = False,
) -> str:
    """Return a row of density for each, on one axis that begins at zero.

    The axis ends a little beyond the greatest 99th percentile; how many values lie beyond it is
    written in their row. The height of a row is its own: areas are not comparable, places are.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    kept = [row for row in rows if row.values]
    for row in kept:
        finite([*row.values, *(row.interval or ())])
    if not kept:
        return nothing(width, title, desc, ident, alone=alone)
    sorted_rows = [sorted(map(float, row.values)) for row in kept]
    bottom = 40.0
    drawing = Drawing(width, _TOP + _ROW * len(kept) + bottom, title, desc, ident, alone)
    ends = [percentile(values, 99) for values in sorted_rows]
    ends += [end for row in kept for end in row.interval or ()]
    least = [values[0] for values in sorted_rows]
    x = scale_of([*ends, *least], 8, width - 16, zero=True, margin=0.12)
    floor = _TOP + _ROW * len(kept)
    along(drawing, x, floor, _TOP, label=unit)
    for i, (row, values) in enumerate(zip(kept, sorted_rows, strict=True)):
        colour = row.colour or ("after" if i == len(kept) - 1 else "before")
        _row(drawing, row, values, colour, _TOP + _ROW * (i + 1), x, unit)
    return drawing.finish()


def _row(
    drawing: Drawing,
    row: Samples,
    values: Sequence[float],
    colour: str,
    floor: float,
    x: Scale,
    unit: str,
) -> None:
    """Draw one density with its median, its interval and its 99th percentile."""
    tall = _ROW - 34
    outline = _density(values, x)
    peak = max(outline) or 1.0
    step = (x.end - x.start) / len(outline)
    points = [(x.start + step * (i + 0.5), floor - tall * v / peak) for i, v in enumerate(outline)]
    first = next((i for i, v in enumerate(outline) if v > peak * 1e-3), 0)
    last = max((i for i, v in enumerate(outline) if v > peak * 1e-3), default=0)
    shown = points[first : last + 1]
    drawing.path([(shown[0][0], floor), *shown, (shown[-1][0], floor)], colour, filled=0.28)
    drawing.path(shown, colour, thick=1.3)
    p50, p99 = percentile(values, 50), percentile(values, 99)
    if row.interval is not None:
        low, high = sorted(row.interval)
        drawing.rect(x(low), floor - tall, max(x(high) - x(low), 1), tall, colour, opacity=0.25)
    drawing.line((x(p50), floor), (x(p50), floor - tall - 4), colour, thick=2)
    drawing.line((x(p99), floor), (x(p99), floor - tall * 0.45), colour, dash="2 2")
    beyond = sum(v > x.high for v in values)
    told = f"p50 {brief(p50)} · p99 {brief(p99)} {unit}"
    told += f" · {beyond} beyond" if beyond else ""
    text = f"{shorten(row.name, 28)}: {told}"
    at = max(min(x(p50) - 6, drawing.width - extent(text) - 2), 2)
    drawing.text((at, floor - tall - 9), text, full=row.name if row.name not in text else "")


def percentile(values: Sequence[float], q: float) -> float:
    """Return a percentile of sorted values, interpolated between neighbours."""
    place = (len(values) - 1) * q / 100
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    share = place - low
    return values[low] * (1 - share) + values[high] * share


def _density(values: Sequence[float], x: Scale) -> list[float]:
    """Return a smoothed histogram along the axis; values beyond it are left out."""
    counts = [0.0] * _BINS
    for value in values:
        if x.low <= value <= x.high:
            counts[min(int(x.share(value) * _BINS), _BINS - 1)] += 1
    kernel = [math.exp(-((i / 1.4) ** 2) / 2) for i in range(-4, 5)]
    total = sum(kernel)
    return [
        sum(kernel[k + 4] / total * counts[i + k] for k in range(-4, 5) if 0 <= i + k < _BINS)
        for i in range(_BINS)
    ]
