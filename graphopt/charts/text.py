"""A plot of successive values for a terminal: dots of braille, or of ASCII where those lack."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.charts.scale import Scale
from graphopt.wording import counted, one_line

# Bits of a braille character, by column and row of its eight dots; U+2800 has none.
_BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_FEWEST = 20  # values from which a spike is cut off
_LEAST_WIDTH, _LEAST_HEIGHT = 24, 3


def text_plot(
    values: Sequence[float],
    *,
    title: str = "",
    unit: str = "",
    begin: str = "",
    end: str = "",
    marks: Sequence[int] = (),
    width: int = 80,
    height: int = 12,
    ascii_only: bool = False,
) -> str:
    """Return lines that plot ``values``, oldest to the left, each ended by a newline.

    Where there are more values than dots, a column of dots spans all that fall into it: no spike
    is lost by its place. Spikes that would flatten all the rest are cut off, and counted below.

    Args:
        values: finite.
        title: the first line.
        unit: of the values.
        begin: says what the first value is, under it.
        end: likewise the last.
        marks: positions of values to point at from below.
        width: of the whole, in characters; 24 at least.
        height: of the dots, in lines; 3 at least.
        ascii_only: use nothing but ASCII.

    Raises:
        ValueError: a value is not finite.
    """
    if not all(math.isfinite(v) for v in values):
        raise ValueError("only finite values can be plotted")
    head = [one_line(title, max(width, _LEAST_WIDTH))] if title else []
    if not values:
        return "\n".join([*head, "  nothing to plot", ""])
    width, height = max(width, _LEAST_WIDTH), max(height, _LEAST_HEIGHT)
    low, high = without_spikes(values)
    labels = _labels(low, high, height, one_line(unit, 12))
    gutter = max(len(label) for label in labels.values())
    inner = width - gutter - 2
    across, down = (1, 2) if ascii_only else (2, 4)
    rows = _dots(values, low, high, inner * across, height * down)
    bar, corner, dash, tick = ("|", "+", "-", "+") if ascii_only else ("│", "└", "─", "┤")
    lines = list(head)
    for row in range(height):
        cells = "".join(
            _cell(rows, column * across, row * down, ascii_only) for column in range(inner)
        )
        label = labels.get(row, "")
        lines.append(f"{label:>{gutter}} {tick if label else bar}{cells}".rstrip())
    lines.append(f"{'':{gutter}} {corner}{dash * inner}")
    left = gutter + 2
    if marks:
        pointed = [" "] * inner
        for mark in marks:
            pointed[_place(mark, len(values), inner)] = "^"
        lines.append((" " * left + "".join(pointed)).rstrip())
    first = one_line(begin, max(inner // 2 - 1, 1))
    last = one_line(end, max(inner - len(first) - 1, 1))
    if first or last:
        lines.append(f"{'':{left}}{first}{last:>{inner - len(first)}}".rstrip())
    over, under = sum(v > high for v in values), sum(v < low for v in values)
    for count, where, most in (
        (over, "above: up", max(values)),
        (under, "below: down", min(values)),
    ):
        if count:
            lines.append(f"{'':{left}}{counted(count, 'value')} {where} to {most:.4g}")
    return "\n".join([*lines, ""])


def without_spikes(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and greatest value to show: none that would flatten all the rest."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if len(values) >= _FEWEST:
        inner_low = ordered[len(values) // 50]
        inner_high = ordered[-1 - len(values) // 50 - (len(values) < 50)]
        room = 2 * (inner_high - inner_low)
        if room > 0:
            high = high if high <= inner_high + room else inner_high + room / 8
            low = low if low >= inner_low - room else inner_low - room / 8
    if high <= low:
        spread = abs(low) * 0.01 or 1.0
        low, high = low - spread, high + spread
    return low, high


def _labels(low: float, high: float, height: int, unit: str) -> dict[int, str]:
    """Return what stands at the axis, by line."""
    found: dict[int, str] = {}
    for tick in Scale(low, high, 0, 1).ticks(max(2, height // 3)):
        if low <= tick <= high:
            row = min(height - 1, int((high - tick) / (high - low) * height))
            text = f"{tick:.6g}"
            found[row] = f"{text} {unit}" if unit and not found else text
    return found or {0: f"{high:.6g}", height - 1: f"{low:.6g}"}


def _place(index: int, count: int, columns: int) -> int:
    """Return the column of a value: they fill the width, but are never further apart than 4."""
    used = min(columns, 4 * max(count - 1, 0) + 1)
    return min(columns - 1, index * (used - 1) // max(count - 1, 1)) if count > 1 else 0


def _dots(
    values: Sequence[float], low: float, high: float, columns: int, rows: int
) -> list[list[bool]]:
    """Return the dots, by row from the top: each column from its least to its greatest value."""
    spans: dict[int, tuple[float, float]] = {}
    for index, value in enumerate(values):
        column = _place(index, len(values), columns)
        least, most = spans.get(column, (value, value))
        spans[column] = (min(least, value), max(most, value))
    dots = [[False] * columns for _ in range(rows)]

    def row(value: float) -> int:
        share = (high - min(max(value, low), high)) / (high - low)
        return min(rows - 1, int(share * rows))

    for column, (least, most) in spans.items():
        for at in range(row(most), row(least) + 1):
            dots[at][column] = True
    return dots


def _cell(dots: Sequence[Sequence[bool]], column: int, row: int, ascii_only: bool) -> str:
    if ascii_only:
        return " '.:"[dots[row][column] + 2 * dots[row + 1][column]]
    bits = sum(
        bit
        for x, bits in enumerate(_BRAILLE)
        for y, bit in enumerate(bits)
        if dots[row + y][column + x]
    )
    return chr(0x2800 + bits) if bits else " "
