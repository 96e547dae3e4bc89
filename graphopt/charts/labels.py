"""Names beside dots, where they cover neither each other nor many dots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from graphopt.charts.svg import Drawing, extent, shorten

Box: TypeAlias = "tuple[float, float, float, float]"
"""Left, top, right, bottom."""

_SIZE, _LONGEST = 11.0, 24
# How far off a name may stand, and in which directions, those nearest at hand first.
_REACHES = (0.0, 14.0, 30.0, 50.0, 75.0, 105.0)
_WAYS = ((1, 0), (-1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1), (0, -1), (0, 1))


def name_dot(
    drawing: Drawing,
    name: str,
    index: int,
    dots: Sequence[tuple[float, float, float]],
    taken: list[Box],
    within: Box,
) -> bool:
    """Write a name where it covers least, with a line to its dot where it stands off.

    Args:
        drawing: what to write on.
        name: of the dot.
        index: which of the dots it is.
        dots: (x, y, radius) of all, and of what else is better not covered.
        taken: where names stand already; this one is added.
        within: where names may stand.

    Returns:
        Whether there was room: nothing is written where it would lie on another name.
    """
    text = shorten(name, _LONGEST)
    x, y, radius = dots[index]
    best: tuple[float, Box, float] | None = None
    for reach in _REACHES:
        for way in _WAYS:
            box = _place((x, y, radius), extent(text, _SIZE), reach, way)
            if not _holds(within, box) or any(_meet(box, other) for other in taken):
                continue
            covered = sum(_meet(box, (u - r, v - r, u + r, v + r)) for u, v, r in dots)
            cost = covered + reach / 60
            if best is None or cost < best[0] - 1e-9:
                best = (cost, box, reach)
    if best is None:
        return False
    _, box, reach = best
    taken.append(box)
    # It ends where its dot is: how wide it is drawn is only known about.
    after = (box[0] + box[2]) / 2 < x
    at = (box[2] - 1 if after else box[0] + 1, box[3] - 3)
    if reach:
        end = (at[0] + (2 if after else -2), min(max(y, box[1] + 2), box[3] - 2))
        length = max(((end[0] - x) ** 2 + (end[1] - y) ** 2) ** 0.5, 1e-9)
        start = x + (end[0] - x) * radius / length, y + (end[1] - y) * radius / length
        drawing.line(start, end, "soft", thick=0.8)
    drawing.text(at, text, "ink", anchor="end" if after else "start", size=_SIZE, full=name)
    return True


def _place(dot: tuple[float, float, float], wide: float, reach: float, way: tuple[int, int]) -> Box:
    (x, y, radius), (across, down) = dot, way
    off = radius + 3 + reach
    middle = y + down * (reach + (0 if across else radius + 8))
    left = x - wide / 2 if not across else x + off if across > 0 else x - off - wide
    return left, middle - 7, left + wide + 2, middle + 7


def _holds(outer: Box, inner: Box) -> bool:
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and inner[2] <= outer[2]
        and inner[3] <= outer[3]
    )


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
