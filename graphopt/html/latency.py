"""How long a run takes, before and after."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.charts import Samples, distribution
from graphopt.charts.distributions import percentile
from graphopt.html.blocks import Block, Details, Figure, Section, Table, Words
from graphopt.html.glance import compared
from graphopt.html.source import Built
from graphopt.html.terms import BEFORE, label, share, told

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
    blocks: list[Block] = [_words(built)] if len(here) > 1 else []
    if here:
        blocks.append(_chart(built, here, "latency-cpu", "Latency on this build's CPU"))
    if "engine" in timed:
        only = {"engine": timed["engine"]}
        blocks.append(_chart(built, only, "latency-engine", "Latency of the engine on its device"))
    blocks.append(_table(timed, batch))
    blocks += [_environment(built, name) for name in (next(iter(timed)), "engine") if name in timed]
    return Section("latency", "Latency", blocks)


def _words(built: Built) -> Words:
    metric, found = built.metric("latency"), compared(built)
    note = "" if metric is None or not metric.note else f"Measured so: {metric.note}."
    if found is None:
        return Words(note, soft=True)
    low, high, confidence = found
    change = f"{100 * low:+.1f} % to {100 * high:+.1f} %"
    return Words(
        f"From {label(BEFORE)} to {label(built.last)} the median changes by {change} "
        f"({share(confidence)} interval, from interleaved runs). {note}".strip()
    )


def _chart(built: Built, timed: Mapping[str, list[float]], ident: str, title: str) -> Figure:
    rows, words = [], []
    found = compared(built)
    for name, values in timed.items():
        interval = None
        if found is not None and name == built.last and BEFORE in timed:
            middle = percentile(sorted(timed[BEFORE]), 50)
            interval = (middle * (1 + found[0]), middle * (1 + found[1]))
        step = max(1, -(-len(values) // _DRAWN))
        rows.append(Samples(label(name), values[::step], interval))
        ordered = sorted(values)
        words.append(f"{label(name)}: median {told(percentile(ordered, 50), 'ms')}, "
                     f"99th percentile {told(percentile(ordered, 99), 'ms')}")  # fmt: skip
    svg = distribution(
        rows, title=title, desc=". ".join(words) + ".", unit="ms", width=WIDTH, ident=ident
    )
    caption = "Each hill is where the runs lie: solid line the median, dashed the 99th percentile"
    caption += ", shaded the interval of the median." if any(r.interval for r in rows) else "."
    return Figure(svg, caption)


def _table(timed: Mapping[str, list[float]], batch: Mapping[str, int]) -> Table:
    rows = []
    for name, values in timed.items():
        ordered = sorted(values)
        mean = sum(values) / len(values)
        rate = f"{1000 * batch[name] / mean:,.1f}" if mean > 0 else ""
        figures = [f"{percentile(ordered, q):.3f}" for q in (50, 90, 95, 99)]
        rows.append((label(name), *figures, f"{mean:.3f}", rate, f"{len(values):,}"))
    head = ("", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "mean ms", "items/s", "runs")
    return Table("Latency of one run, and items a second", head, rows, frozenset(range(1, 8)))


def _environment(built: Built, name: str) -> Details:
    where = built.raw.inner("latency").inner(name).words("environment")
    rows = [(key, value) for key, value in list(where.items())[:80] if value]
    what = "the engine's device" if name == "engine" else "the machine it was timed on"
    return Details(f"What is known of {what}", [Table("As it was measured", ("", ""), rows)])
