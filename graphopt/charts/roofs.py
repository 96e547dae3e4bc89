"""The roofline: what a device allows, and where each layer stands under it (Williams, 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.charts.frame import BOTTOM, LEFT, RIGHT, TOP, grid
from graphopt.charts.scale import Scale, brief, scale_of
from graphopt.charts.svg import PALETTE, Drawing, finite, nothing, shorten

_LABELS = 4
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

    A layer is a dot whose area grows with its time; the ``labels`` slowest bear their names.

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
    dense = [w.macs / w.moved for w in shown]
    ridges = [min(max(r.peak / r.bandwidth, 1e-300), 1e300) for r in roofs]
    x = scale_of([*dense, *[r * 4 for r in ridges], *[r / 4 for r in ridges]], LEFT + 8,
                 width - RIGHT, log=True)  # fmt: skip
    rates = [w.macs / w.ms * 1e3 for w in shown]
    low = [min(r.peak, r.bandwidth * x.low) for r in roofs]
    y = scale_of([*rates, *[r.peak for r in roofs], *low], height - BOTTOM, TOP, log=True)
    grid(drawing, x, y, x_label="MACs per byte moved", y_label="MACs per second")
    for i, roof in enumerate(sorted(roofs, key=lambda r: (r.peak, r.name))):
        _roof(drawing, roof, PALETTE[3 - i % 2], i, x, y)
    longest = max((w.ms for w in shown), default=1.0)
    order = sorted(range(len(shown)), key=lambda i: (-shown[i].ms, i))
    for i in order:
        one = shown[i]
        colour, hollow = _SIGNS.get(one.bound, ("soft", False))
        radius = 2.2 + 7 * (one.ms / longest) ** 0.5
        tip = f"{one.name}: {brief(one.ms)} ms, {one.bound or 'unknown'} bound"
        drawing.dot((x(dense[i]), y(rates[i])), radius, colour, opacity=0.55, name=tip,
                    hollow=hollow)  # fmt: skip
    _names(drawing, [(shown[i].name, x(dense[i]), y(rates[i])) for i in order[:labels]], x)
    return drawing.finish()


def _roof(drawing: Drawing, roof: Roof, colour: str, index: int, x: Scale, y: Scale) -> None:
    ridge = min(max(roof.peak / roof.bandwidth, x.low), x.high)
    slope_low = min(max(roof.bandwidth * x.low, y.low), roof.peak)
    start = max(slope_low / roof.bandwidth, x.low)
    top = y(roof.peak)
    drawing.path(
        [(x(start), y(slope_low)), (x(ridge), top), (x.end, top)], colour, thick=1.5,
        dash="" if index % 2 == 0 else "7 3",
    )  # fmt: skip
    drawing.text((x.end - 2, top - 5), roof.name, colour, anchor="end", size=11, bold=True)


def _names(drawing: Drawing, dots: Sequence[tuple[str, float, float]], x: Scale) -> None:
    """Name the slowest layers where their names do not lie on one another."""
    taken: list[tuple[float, float]] = []
    for name, across, down in dots:
        late = across > (x.start + x.end) / 2
        at = (across - 10 if late else across + 10, down + 4)
        if any(abs(at[1] - v) < 12 and abs(at[0] - u) < 150 for u, v in taken):
            continue
        taken.append(at)
        drawing.text(at, shorten(name, 22), "ink", anchor="end" if late else "start", size=11,
                     full=name)  # fmt: skip
