"""Where the layers stand under the roofline of the device: an estimate, and called one."""

from __future__ import annotations

from graphopt.charts import Roof, Work, roofline
from graphopt.errors import GraphoptError
from graphopt.html.blocks import Block, Details, Figure, Section, Table, Words
from graphopt.html.raw import Raw
from graphopt.html.source import Built
from graphopt.html.terms import share, short, told
from graphopt.profiles.device import DeviceProfile, devices, is_path, load_device
from graphopt.wording import counted

WIDTH = 460.0
_DOTS, _ROWS = 600, 200
_BOUND = {"compute": "computing", "memory": "moving data", "floor": "starting kernels"}
_LIMITED = (
    ("compute", "computing limits"),
    ("memory", "moving data limits"),
    ("floor", "are so small that starting them takes longest"),
)
_NEARLY_ALL = 0.95


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
    blocks += [Words(f"{note}.", soft=True) for note in _notes(raw)]
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
    caption += _above(raw) if roofs else ""
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
    text = f"Estimated, not measured: {short(total, 'ms')} for a run"
    if low is not None and high is not None:
        text += f", likely between {short(low, 'ms')} and {short(high, 'ms')}"
    text += f" on {raw.text('device', 'the device')}."
    by = {name: sum(w.ms for w in works if w.bound == name) / total for name in _BOUND}
    return f"{text} {_limits(by)} {_outstanding(works, total)}".rstrip()


def _limits(by: dict[str, float]) -> str:
    """Say what limits it, and where that is starting kernels what would help."""
    help_ = "a larger batch, or fewer layers, would help; narrower layers hardly would"
    if by["floor"] >= _NEARLY_ALL:
        return (
            "The kernels are so small that starting them takes "
            f"{'all' if by['floor'] > 0.9995 else 'nearly all'} of the time: {help_}."
        )
    parts = [f"{share(by[name])} in layers that {what}" for name, what in _LIMITED if by[name] > 0]
    if not parts:
        return ""
    text = f"Of that time {', '.join(parts)}"
    return f"{text}: {help_}." if by["floor"] >= 0.5 else f"{text}."


def _outstanding(works: list[Work], total: float) -> str:
    most = max(works, key=lambda work: work.ms)
    if len(works) > 3 and most.ms < 1.2 * total / len(works):
        return f"No layer stands out: each of {len(works)} takes about {share(1 / len(works), 1)}."
    return ""


def _notes(raw: Raw) -> list[str]:
    """Return what the estimate says of itself, but for what is told here in other words."""
    notes = [one for one in raw.texts("notes") if "kernels that have too little to do" not in one]
    unknown = len(raw.items("unknown"))
    if unknown:
        notes.append(f"{counted(unknown, 'layer')} of unknown shape left out")
    return notes


def _above(raw: Raw) -> str:
    """Explain the lines, and why a dot may lie above them."""
    text = " Lines: what the device can do at most, by its data sheet."
    nominal = _nominal(raw.text("device"))
    rates = [
        one.sure("bytes") / one.sure("memory_ms") / 1e6
        for one in raw.objects("layers")
        if one.number("memory_ms")
    ]
    ratio = max(rates) / nominal if rates and nominal else 0.0
    if not 1.02 < ratio < 100:
        return text
    return (
        f"{text} The estimate moves data {ratio:.3g} times as fast as the memory does, "
        "since caches serve some of it: a dot may lie above the slope."
    )


def _device(name: str) -> DeviceProfile | None:
    """Return a device that we know; the file's word for it is never a path."""
    try:
        known = name.partition(":")[0] in devices() and not is_path(name)
        return load_device(name) if known else None
    except GraphoptError:
        return None


def _nominal(name: str) -> float | None:
    device = _device(name)
    return None if device is None else device.bandwidth_gbs


def _roofs(raw: Raw) -> list[Roof]:
    device = _device(raw.text("device"))
    if device is None or not device.bandwidth_gbs:
        return []
    used = {one.text("precision") for one in raw.objects("layers")}
    kept = {p: peak for p, peak in device.peaks.items() if p in used and peak > 0}
    # A multiply-accumulate is two operations of the peak.
    return [Roof(p, peak * 5e11, device.bandwidth_gbs * 1e9) for p, peak in kept.items()]
