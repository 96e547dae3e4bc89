"""Lines and dots over two axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.charts.frame import BOTTOM, LEFT, RIGHT, TOP, grid, spread
from graphopt.charts.scale import Scale, scale_of
from graphopt.charts.svg import PALETTE, Drawing, extent, finite, nothing, shorten

_DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 2", "1 3")
_MOST_LABELS = 40


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one name.

    Attributes:
        name: written beside its end.
        points: (x, y), finite, in the order to join them in.
        labels: one for each point, or none.
        band: (low, high) of each point, or none: its interval.
        colour: a name of :data:`graphopt.charts.svg.COLOURS`; chosen by position where empty.
    """

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    band: Sequence[tuple[float, float]] = ()
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place worth pointing at.

    Attributes:
        value: on the horizontal axis, or with ``across`` on the vertical one.
        label: in words.
        across: whether the line lies across the chart.
    """

    value: float
    label: str
    across: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    desc: str = "",
    x_label: str = "",
    y_label: str = "",
    x_log: bool = False,
    y_log: bool = False,
    y_zero: bool = False,
    marks: Sequence[Mark] = (),
    width: float = 640,
    height: float = 320,
    ident: str = "",
    alone: bool = False,
) -> str:
    """Return a chart of joined points, a dash pattern a series, names at their ends.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    return _chart(
        series, marks, (title, desc, x_label, y_label), (x_log, y_log, y_zero),
        (width, height), ident, alone,
    )  # fmt: skip


def _chart(
    series: Sequence[Series],
    marks: Sequence[Mark],
    words: tuple[str, str, str, str],
    kinds: tuple[bool, bool, bool],
    size: tuple[float, float],
    ident: str,
    alone: bool,
) -> str:
    title, desc, x_label, y_label = words
    x_log, y_log, y_zero = kinds
    width, height = size
    points = [p for s in series for p in s.points]
    ends = [v for s in series for pair in s.band for v in pair]
    finite([v for p in points for v in p] + ends + [m.value for m in marks])
    if not points:
        return nothing(width, title, desc, ident, alone=alone)
    drawing = Drawing(width, height, title, desc, ident, alone)
    names = [shorten(s.name, 24) for s in series]
    beside = max((extent(n) for n in names), default=0) + 10 if len(series) > 1 else 0
    x = scale_of(
        [p[0] for p in points] + [m.value for m in marks if not m.across],
        LEFT, width - RIGHT - min(beside, width / 3), log=x_log,
    )  # fmt: skip
    y = scale_of(
        [p[1] for p in points] + ends + [m.value for m in marks if m.across],
        height - BOTTOM, TOP, log=y_log, zero=y_zero,
    )  # fmt: skip
    grid(drawing, x, y, x_label=x_label, y_label=y_label)
    _marks(drawing, marks, x, y)
    last = [y(s.points[-1][1]) if s.points else y.start for s in series]
    places = spread(last, 14, TOP, height - BOTTOM)
    for i, one in enumerate(series):
        colour = one.colour or PALETTE[i % len(PALETTE)]
        _draw(drawing, one, colour, i, x, y)
        if len(series) > 1:
            drawing.text((x.end + 6, places[i] + 4), names[i], colour, bold=True, full=one.name)
    return drawing.finish()


def _marks(drawing: Drawing, marks: Sequence[Mark], x: Scale, y: Scale) -> None:
    for mark in marks:
        if mark.across:
            at = y(mark.value)
            drawing.line((x.start, at), (x.end, at), "warn", dash="4 3")
            drawing.text((x.end - 2, at - 4), mark.label, "warn", anchor="end", size=11)
        else:
            at = x(mark.value)
            drawing.line((at, y.start), (at, y.end), "warn", dash="4 3")
            after = at < (x.start + x.end) / 2
            anchor, side = ("start", 4) if after else ("end", -4)
            drawing.text((at + side, y.end + 11), mark.label, "warn", anchor=anchor, size=11)


def _draw(drawing: Drawing, one: Series, colour: str, index: int, x: Scale, y: Scale) -> None:
    if one.band and len(one.band) == len(one.points):
        up = [(x(p[0]), y(b[1])) for p, b in zip(one.points, one.band, strict=True)]
        down = [(x(p[0]), y(b[0])) for p, b in zip(one.points, one.band, strict=True)]
        drawing.path(up + down[::-1], colour, filled=0.15)
    at = [(x(a), y(b)) for a, b in one.points]
    if len(at) > 1:
        drawing.path(at, colour, dash=_DASHES[index % len(_DASHES)])
    labelled = one.labels if len(one.labels) == len(at) else [""] * len(at)
    if len(at) > _MOST_LABELS:
        return
    for place, label in zip(at, labelled, strict=True):
        drawing.dot(place, 3, colour, name=label)
    for i, (place, label) in enumerate(zip(at, labelled, strict=True)):
        if label:
            late = place[0] > (x.start + x.end) / 2
            anchor, side = ("end", -6) if late else ("start", 6)
            # Above the dot, or below where the line to the next one rises through there.
            beside = at[max(i - 1, 0)] if late else at[min(i + 1, len(at) - 1)]
            below = (beside[1] < place[1] - 1) and place[1] + 22 < y.start
            drawing.text(
                (place[0] + side, place[1] + (15 if below else -6)), shorten(label, 28), "soft",
                anchor=anchor, size=11, full=label,
            )  # fmt: skip
