"""The frame of a chart with two axes: grid, ticks, the names of the axes."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.charts.scale import Scale, brief
from graphopt.charts.svg import Drawing

LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 26.0, 42.0


def grid(
    drawing: Drawing,
    x: Scale,
    y: Scale,
    *,
    x_label: str = "",
    y_label: str = "",
    x_text: Callable[[float], str] = brief,
    y_text: Callable[[float], str] = brief,
    y_ticks: int = 5,
) -> None:
    """Draw the lines at ticks, their values, and what the axes are, in words."""
    floor, left, right = y.start, x.start, x.end
    for tick in y.ticks(y_ticks):
        at = y(tick)
        drawing.line((left, at), (right, at), "grid")
        drawing.text((left - 6, at + 4), y_text(tick), "soft", anchor="end", size=11)
    along(drawing, x, floor, y.end, label=x_label, text=x_text)
    if y_label:
        drawing.text((4, 14), y_label, "soft", size=11)


def along(
    drawing: Drawing,
    x: Scale,
    floor: float,
    ceiling: float | None = None,
    *,
    label: str = "",
    text: Callable[[float], str] = brief,
    most: int = 6,
) -> None:
    """Draw the horizontal axis at ``floor``; lines at its ticks up to ``ceiling``."""
    drawing.line((x.start, floor), (x.end, floor), "soft")
    for tick in x.ticks(most):
        at = x(tick)
        if ceiling is not None:
            drawing.line((at, floor), (at, ceiling), "grid")
        drawing.line((at, floor), (at, floor + 4), "soft")
        drawing.text((at, floor + 17), text(tick), "soft", anchor="middle", size=11)
    if label:
        middle = (x.start + x.end) / 2
        drawing.text((middle, floor + 34), label, "soft", anchor="middle", size=11)


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart: positions in the given order, ``gap`` between neighbours."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    placed: list[float] = []
    for index in order:
        least = placed[-1] + gap if placed else low
        placed.append(max(wanted[index], least))
    beyond = (placed[-1] - high) if placed else 0.0
    limit = high
    if beyond > 0:
        for i in range(len(placed) - 1, -1, -1):
            placed[i] = min(placed[i], limit)
            limit = placed[i] - gap
    found = [0.0] * len(wanted)
    for position, index in zip(placed, order, strict=True):
        found[index] = position
    return found
