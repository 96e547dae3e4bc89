"""How long a run takes, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from graphopt.charts import Samples, distribution
from graphopt.charts.distributions import percentile
from graphopt.errors import UsageError
from graphopt.html.blocks import Block, Details, Figure, Section, Table, Words
from graphopt.html.glance import compared
from graphopt.html.raw import Raw
from graphopt.html.source import Built
from graphopt.html.terms import BEFORE, NBSP, in_unit, label, share, told
from graphopt.profiles.latency import LatencyProfile

Ends: TypeAlias = "tuple[float, float] | None"
WIDTH = 460.0
# A chart needs no more; every n-th sample is taken, and the figures are of all of them.
_DRAWN = 20_000


def section(built: Built) -> Section | None:
    """Return the section, or None where nothing was timed."""
    stored = built.raw.inner("latency")
    timed: dict[str, list[float]] = {}
    batch: dict[str, int] = {}
    for name in [c for c in (*built.columns, "engine") if c in stored.data]:
        one = stored.inner(name)
        samples = one.samples("samples_ms")
        if samples:
            timed[name], batch[name] = samples, max(one.count("batch"), 1)
    if not timed:
        return None
    here = {name: values for name, values in timed.items() if name != "engine"}
    ends = {name: _interval(stored.inner(name)) for name in timed}
    blocks: list[Block] = _words(built) if len(here) > 1 else []
    if here:
        blocks.append(_chart(here, ends, "latency-cpu", "Latency on this build's CPU"))
    if "engine" in timed:
        only = {"engine": timed["engine"]}
        blocks.append(_chart(only, ends, "latency-engine", "Latency of the engine on its device"))
    blocks.append(_table(timed, batch, ends))
    blocks += [
        _environment(built, name)
        for name in dict.fromkeys((next(iter(timed)), "engine"))
        if name in timed
    ]
    return Section("latency", "Latency", blocks)


def _interval(raw: Raw) -> Ends:
    """Return the interval of a median, in ms; None where the samples do not tell."""
    try:
        return LatencyProfile.from_json(raw.data).median_interval()
    except (UsageError, ValueError, TypeError, OverflowError):
        return None


def _words(built: Built) -> list[Block]:
    metric, found = built.metric("latency"), compared(built)
    note = "" if metric is None or not metric.note else f"Measured so: {metric.note}."
    if found is None:
        return [Words(note, soft=True)] if note else []
    low, high = (f"{100 * (1 / ratio - 1):+.1f}{NBSP}%" for ratio in (found.most, found.least))
    text = (
        f"From {label(BEFORE)} to {label(built.last)} the median changes by {low} to {high} "
        f"({share(found.confidence)} interval, from interleaved runs). {note}"
    )
    return [Words(text.strip())]


def _chart(
    timed: Mapping[str, list[float]], ends: Mapping[str, Ends], ident: str, title: str
) -> Figure:
    rows, words = [], []
    for name, values in timed.items():
        step = max(1, -(-len(values) // _DRAWN))
        rows.append(Samples(label(name), values[::step], ends[name]))
        ordered = sorted(values)
        words.append(f"{label(name)}: median {told(percentile(ordered, 50), 'ms')}, "
                     f"99th percentile {told(percentile(ordered, 99), 'ms')}")  # fmt: skip
    svg = distribution(
        rows, title=title, desc=". ".join(words) + ".", unit="ms", width=WIDTH, ident=ident
    )
    caption = "Each hill is where the runs lie: solid line the median, dashed the 99th percentile"
    caption += ", shaded the 95 % interval of the median." if any(r.interval for r in rows) else "."
    return Figure(svg, caption)


def _table(
    timed: Mapping[str, list[float]], batch: Mapping[str, int], ends: Mapping[str, Ends]
) -> Table:
    rows = []
    by, unit = in_unit(percentile(sorted(values), 50) for values in timed.values())
    for name, values in timed.items():
        ordered = sorted(values)
        mean = sum(values) / len(values)
        rate = f"{1000 * batch[name] / mean:,.1f}" if mean > 0 else ""
        middle, *figures = [f"{by * percentile(ordered, q):.3f}" for q in (50, 90, 95, 99)]
        found = ends[name]
        interval = "" if found is None else f"{by * found[0]:.3f} to {by * found[1]:.3f}"
        rows.append(
            (label(name), middle, interval, *figures, f"{by * mean:.3f}", rate, f"{len(values):,}")
        )
    measured = [f"{name} {unit}" for name in ("p90", "p95", "p99", "mean")]
    head = ("", f"p50 {unit}", "its 95 % interval", *measured, "items/s", "runs")
    return Table("Latency of one run, and items a second", head, rows, frozenset(range(1, 9)))


def _environment(built: Built, name: str) -> Details:
    where = built.raw.inner("latency").inner(name).words("environment")
    rows = [(key, value) for key, value in list(where.items())[:80] if value]
    what = "the engine's device" if name == "engine" else "the machine it was timed on"
    return Details(f"What is known of {what}", [Table("As it was measured", ("", ""), rows)])
