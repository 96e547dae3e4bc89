"""Where the layers stand under the roofline of the device: an estimate, and called one."""

from __future__ import annotations

from graphopt.charts import Roof, Work, roofline
from graphopt.errors import GraphoptError
from graphopt.html.blocks import Block, Details, Figure, Section, Table, Words
from graphopt.html.raw import Raw
from graphopt.html.source import Built
from graphopt.html.terms import share, told
from graphopt.profiles.device import devices, load_device

WIDTH = 460.0
_DOTS, _ROWS = 600, 200
_BOUND = {"compute": "computing", "memory": "moving data", "floor": "starting kernels"}


def section(built: Built) -> Section | None:
    """Return the section, or None where there is no estimate."""
    if "roofline" not in built.raw:
        return None
    raw = built.raw.inner("roofline")
    works = [
        Work(one.text("name"), one.sure("macs"), one.sure("bytes"), one.sure("ms"),
             one.text("bound"))
        for one in raw.objects("layers")
    ]  # fmt: skip
    total = raw.number("ms") or sum(work.ms for work in works)
    if not works or total <= 0:
        return None
    order = sorted(range(len(works)), key=lambda i: (-works[i].ms, i))
    blocks: list[Block] = [Words(_words(raw, works, total))]
    few = [works[i] for i in order[:_DOTS]]
    roofs = _roofs(raw)
    svg = roofline(
        roofs, few, title=f"Roofline of {raw.text('device', 'the device')}, an estimate",
        desc=_words(raw, works, total), width=WIDTH, height=340, ident="roofline-chart",
    )  # fmt: skip
    caption = (
        "A dot is a layer, larger where it takes longer. Blue: computing limits it; orange ring: "
        "moving data; grey: starting the kernel takes longer than either."
    )
    caption += " Lines: what the device can do at most." if roofs else ""
    blocks.append(Figure(svg, caption))
    rows = []
    for i in order[:_ROWS]:
        one = works[i]
        bound = _BOUND.get(one.bound, one.bound)
        rows.append((one.name, told(one.ms, "ms"), share(one.ms / total, 1), bound,
                     f"{one.macs:,.0f}", told(one.moved, "bytes")))  # fmt: skip
    more = f", the {_ROWS} slowest" if len(works) > _ROWS else ""
    head = ("layer", "time", "share", "limited by", "MACs", "moved")
    table = Table(f"Estimated time of every layer{more}", head, rows, frozenset({1, 2, 4, 5}),
                  frozenset({0}))  # fmt: skip
    blocks.append(Details(f"All {len(works)} layers{more}", [table]))
    return Section("roofline", "Roofline (estimate)", blocks)


def _words(raw: Raw, works: list[Work], total: float) -> str:
    low, high = raw.number("low_ms"), raw.number("high_ms")
    text = f"Estimated, not measured: {told(total, 'ms')} for a run"
    if low is not None and high is not None:
        text += f", likely between {told(low, 'ms')} and {told(high, 'ms')}"
    text += f" on {raw.text('device', 'the device')}."
    by = {name: sum(w.ms for w in works if w.bound == name) / total for name in _BOUND}
    parts = [f"{share(by[name])} by {_BOUND[name]}" for name in _BOUND if by[name] > 0]
    return f"{text} Of that time layers are limited {', '.join(parts)}." if parts else text


def _roofs(raw: Raw) -> list[Roof]:
    """Return the roofs of a device that we know; the file's word for it is never a path."""
    name = raw.text("device")
    if name not in devices():
        return []
    try:
        device = load_device(name)
    except GraphoptError:
        return []
    if not device.bandwidth_gbs:
        return []
    used = {one.text("precision") for one in raw.objects("layers")}
    kept = {p: peak for p, peak in device.peaks.items() if p in used and peak > 0}
    # A multiply-accumulate is two operations of the peak.
    return [Roof(p, peak * 5e11, device.bandwidth_gbs * 1e9) for p, peak in kept.items()]
