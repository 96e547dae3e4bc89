"""The roofline: what a device allows, and where each layer stands under it (Williams, 2009)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.charts.frame import BOTTOM, LEFT, RIGHT, TOP, grid
from graphopt.charts.labels import Box, name_dot
from graphopt.charts.scale import Scale, brief, scale_of
from graphopt.charts.svg import PALETTE, Drawing, extent, finite, nothing

_LABELS = 3
# A name is for a layer that stands out: so many times as long as the layer in the middle.
_STANDS_OUT = 1.2
# Layers so far below nearly all of the time would only stretch the axes: they are told, not drawn.
_BELOW = 30.0
# What limits a layer, by a sign of its own.
_SIGNS = {"compute": ("after", False), "memory": ("warn", True), "floor": ("before", False)}


@dataclass(frozen=True, slots=True)
class Roof:
    """What a device can do at one precision.

    Attributes:
        name: ``int8``.
        peak: MACs per second, > 0.
        bandwidth: bytes per second, > 0.
    """

    name: str
    peak: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Work:
    """One layer.

    Attributes:
        name: of the layer.
        macs: how many it takes, > 0 to be drawn.
        moved: bytes read and written, > 0 to be drawn.
        ms: how long it takes, > 0 to be drawn.
        bound: ``compute``, ``memory`` or ``floor``.
    """

    name: str
    macs: float
    moved: float
    ms: float
    bound: str = ""


def roofline(
    roofs: Sequence[Roof],
    works: Sequence[Work],
    *,
    title: str,
    desc: str = "",
    width: float = 640,
    height: float = 380,
    labels: int = _LABELS,
    ident: str = "",
    alone: bool = False,
) -> str:
    """Return roofs and layers, both axes logarithmic: MACs a byte against MACs a second.

    A layer is a dot whose area grows with its time. Of those that take longer than most, the
    ``labels`` slowest bear their names, where there is room for them. Layers far beyond those
    that take 95 % of the time lie outside of the axes, and the chart says how many.

    Raises:
        ValueError: a value is NaN or infinite, or a roof is not > 0.
    """
    finite([v for r in roofs for v in (r.peak, r.bandwidth)])
    finite([v for w in works for v in (w.macs, w.moved, w.ms)])
    if any(r.peak <= 0 or r.bandwidth <= 0 for r in roofs):
        raise ValueError("a roof must be greater than 0")
    shown = [w for w in works if w.macs > 0 and w.moved > 0 and w.ms > 0]
    shown = [w for w in shown if 1e-300 < w.macs / w.moved < 1e300 and w.macs / w.ms < 1e300]
    if not shown and not roofs:
        return nothing(width, title, desc, ident, alone=alone)
    drawing = Drawing(width, height, title, desc, ident, alone)
    inside = _inside(shown)
    dense = [w.macs / w.moved for w in inside]
    rates = [w.macs / w.ms * 1e3 for w in inside]
    ridges = [min(max(r.peak / r.bandwidth, 1e-300), 1e300) for r in roofs]
    x = scale_of([*dense, *[r * 2 for r in ridges], *[r / 4 for r in ridges]], LEFT + 8,
                 width - RIGHT, log=True)  # fmt: skip
    y = scale_of([*rates, *[r.peak for r in roofs], *[r.peak / 100 for r in roofs]],
                 height - BOTTOM, TOP, log=True)  # fmt: skip
    grid(drawing, x, y, x_label="MACs per byte moved", y_label="MACs per second")
    taken: list[Box] = []
    for i, roof in enumerate(sorted(roofs, key=lambda r: (r.peak, r.name))):
        taken.append(_roof(drawing, roof, PALETTE[3 - i % 2], i, x, y))
    longest = max((w.ms for w in inside), default=1.0)
    order = sorted(range(len(inside)), key=lambda i: (-inside[i].ms, i))
    dots = []
    for i in order:
        one = inside[i]
        colour, hollow = _SIGNS.get(one.bound, ("soft", False))
        radius = 1.5 + 4.5 * (one.ms / longest) ** 0.5
        tip = f"{one.name}: {brief(one.ms)} ms, {one.bound or 'unknown'} bound"
        at = (x(dense[i]), y(rates[i]))
        drawing.dot(at, radius, colour, opacity=0.4, name=tip, hollow=hollow)
        dots.append((*at, radius))
    middle = inside[order[len(order) // 2]].ms if order else 0.0
    named = [k for k, i in enumerate(order[:labels])
             if len(order) <= labels or inside[i].ms >= _STANDS_OUT * middle]  # fmt: skip
    dots += [spot for roof in roofs for spot in _spots(roof, x, y)]
    for k in named:
        name_dot(drawing, inside[order[k]].name, k, dots, taken,
                 (x.start, y.end, x.end, y.start))  # fmt: skip
    if len(inside) < len(shown):
        left = f"{len(shown) - len(inside)} small, outside of the axes"
        drawing.text((x.end - 2, y.start - 6), left, "soft", anchor="end", size=11)
    return drawing.finish()


def _rate(work: Work) -> float:
    return work.macs / work.ms


def _density(work: Work) -> float:
    return work.macs / work.moved


def _inside(works: Sequence[Work]) -> list[Work]:
    """Return the layers that the axes are to hold: all but far ones that take no time."""
    kept = list(works)
    for value in (_rate, _density):
        least, spent, total = 0.0, 0.0, sum(w.ms for w in works)
        for one in sorted(kept, key=value):
            least, spent = value(one), spent + one.ms
            if spent > 0.05 * total:
                break
        kept = [w for w in kept if value(w) >= least / _BELOW]
    return kept


def _spots(roof: Roof, x: Scale, y: Scale) -> list[tuple[float, float, float]]:
    """Return places along a roof, for names to keep off."""
    steps = 40
    found = []
    for i in range(steps + 1):
        dense = math.exp(math.log(x.low) + i / steps * (math.log(x.high) - math.log(x.low)))
        rate = min(roof.peak, dense * roof.bandwidth)
        if rate > y.low:
            found.append((x(dense), y(rate), 1.0))
    return found


def _roof(drawing: Drawing, roof: Roof, colour: str, index: int, x: Scale, y: Scale) -> Box:
    """Draw a roof and its name; return where the name stands."""
    ridge = min(max(roof.peak / roof.bandwidth, x.low), x.high)
    slope_low = min(max(roof.bandwidth * x.low, y.low), roof.peak)
    start = max(slope_low / roof.bandwidth, x.low)
    top = y(roof.peak)
    drawing.path(
        [(x(start), y(slope_low)), (x(ridge), top), (x.end, top)], colour, thick=1.5,
        dash="" if index % 2 == 0 else "7 3",
    )  # fmt: skip
    drawing.text((x.end - 2, top - 5), roof.name, colour, anchor="end", size=11, bold=True)
    return (x.end - 2 - extent(roof.name, 11), top - 14, x.end, top)
