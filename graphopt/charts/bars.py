"""Horizontal bars: one value a row, or two, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.charts.frame import along
from graphopt.charts.scale import Scale, brief, scale_of
from graphopt.charts.svg import Drawing, extent, finite, nothing, tell_apart

_ROW, _TOP, _BOTTOM = 22.0, 8.0, 24.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A row.

    Attributes:
        label: what it is of.
        value: the length of the bar.
        before: what it was, drawn as an outline behind; None for one value.
        text: written at its end; the value where it is empty.
        warn: whether it stands out; ``text`` should say why.
    """

    label: str
    value: float
    before: float | None = None
    text: str = ""
    warn: bool = False


def bar_chart(
    bars: Sequence[Bar],
    *,
    title: str,
    desc: str = "",
    x_label: str = "",
    log: bool = False,
    least: float = 0.0,
    width: float = 640,
    label_most: int = 30,
    room: Sequence[str] = (),
    ident: str = "",
    alone: bool = False,
) -> str:
    """Return rows of bars, in the order given; a linear axis begins at zero.

    Args:
        bars: the rows.
        title: the chart's name.
        desc: what it shows, in words.
        x_label: what the length is.
        log: a logarithmic axis: then a length means little, its end what it stands at.
        least: the axis reaches at least this far: for several charts on one scale.
        width: in user units; the height follows from the rows.
        label_most: characters of a label; longer ones lose their middle.
        room: labels of other charts, to leave as much room for: their axes then begin alike.
        ident: unique within a page.
        alone: for a file.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    values = (
        [b.value for b in bars]
        + [least] * (not log)
        + [b.before for b in bars if b.before is not None]
    )
    finite(values)
    if not bars:
        return nothing(width, title, desc, ident, alone=alone)
    labels = tell_apart([b.label for b in bars], label_most)
    texts = [b.text or brief(b.value) for b in bars]
    others = tell_apart(room, label_most)
    left = min(max(extent(label, 11.5) for label in [*labels, *others]) + 10, width * 0.45)
    right = min(max(extent(text, 11) for text in texts) + 10, width * 0.35)
    bottom = _BOTTOM + (16 if x_label else 0)
    height = _TOP + _ROW * len(bars) + bottom
    drawing = Drawing(width, height, title, desc, ident, alone)
    x = scale_of(values, left, width - right, log=log, zero=not log, margin=0.0)
    floor = _TOP + _ROW * len(bars)
    along(drawing, x, floor, _TOP, label=x_label, most=5)
    for i, bar in enumerate(bars):
        _row(drawing, bar, labels[i], texts[i], _TOP + _ROW * i, x)
    return drawing.finish()


def _row(drawing: Drawing, bar: Bar, label: str, text: str, top: float, x: Scale) -> None:
    zero = x(0.0) if not x.log else x.start
    middle, colour = top + _ROW / 2, "warn" if bar.warn else "after"
    drawing.text((x.start - 6, middle + 4), label, anchor="end", size=11.5, full=bar.label)
    end = x(bar.value)
    ends = [end]
    if bar.before is not None:
        was = x(bar.before)
        ends.append(was)
        drawing.rect(min(zero, was), top + 4, abs(was - zero), _ROW - 8, "before", opacity=0.35)
        drawing.line((was, top + 3), (was, top + _ROW - 3), "before", thick=1.5)
    drawing.rect(min(zero, end), top + 6, max(abs(end - zero), 1), _ROW - 12, colour)
    drawing.text((max(*ends, zero) + 5, middle + 4), text, "warn" if bar.warn else "ink", size=11)
