"""Runs that lie in the folder: what profile and check measured, sweeps, times of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.charts import Bar, Mark, Samples, Series, bar_chart, distribution, line_chart
from graphopt.charts.distributions import percentile
from graphopt.errors import UsageError
from graphopt.html.blocks import Block, Details, Figure, Heading, Pill, Section, Table, Words
from graphopt.html.raw import Raw, read_json
from graphopt.html.source import Built
from graphopt.html.terms import in_unit, label, share, told
from graphopt.output import REPORT, TABLE
from graphopt.profiles.latency import LatencyProfile
from graphopt.profiles.run import Gate, Run
from graphopt.wording import counted, one_line

WIDTH = 460.0
_FILES, _BYTES, _SHOWN, _BARS, _ROWS = 64, 16 << 20, 6, 15, 60
_OURS = (REPORT, TABLE, "prune-plan.json")
_VERDICTS = {"pass": "passed", "fail": "FAILED", "inconclusive": "inconclusive", "none": "–"}
_PILLS = {
    "pass": Pill("passed", "pass"), "fail": Pill("FAILED", "fail"),
    "inconclusive": Pill("inconclusive"), "none": Pill("not judged"),
}  # fmt: skip
_LAYERS = "graphopt-layer-times"
_NOTES, _DRAWN = 12, 20_000
_NAMES = {"latency_p50": "median latency", "latency_p99": "99th percentile of latency",
          "sqnr": "SQNR", "top1_agreement": "top-1 agreement"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Point:
    p99: float
    rate: float
    batch: int
    streams: int
    p50: float | None
    best: bool


def section(built: Built) -> Section | None:
    """Return the section, or None where no such file lies there."""
    blocks: list[Block] = []
    runs: list[tuple[str, Run]] = []
    files = list(_found(built.folder))
    apart = any(value["kind"] == _LAYERS for _, value in files)
    for path, value in files:
        name = one_line(path.name, 80)
        try:
            kind = value["kind"]
            if apart and isinstance(value.get("layers"), dict):
                value = {**value, "layers": None}  # a file of its own tells them
            if kind == "graphopt-run":
                runs.append((name, Run.from_json(value)))
            elif kind == "graphopt-latency-sweep":
                blocks += _sweep(name, Raw(value, name), len(blocks))
            elif kind == "graphopt-latency-profile":
                blocks += _profile(name, value, len(blocks))
            elif kind == _LAYERS:
                blocks += _layers(name, Raw(value, name), len(blocks))
        except (UsageError, ValueError, OverflowError) as problem:
            blocks.append(Words(f"{name} is left out: {one_line(problem)}", soft=True))
    ordered = sorted(runs, key=lambda item: (item[1].when, item[0]), reverse=True)
    first = [block for name, run in ordered[:_SHOWN] for block in _run(name, run)]
    if len(ordered) > _SHOWN:
        first.append(Words(f"{counted(len(ordered) - _SHOWN, 'older run')} not shown.", soft=True))
    return Section("runs", "Runs", [*first, *blocks]) if first or blocks else None


def _found(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the JSON files of the folder that say what they are, by name."""
    paths = sorted(p for p in folder.glob("*.json") if p.name not in _OURS)
    for path in paths[:_FILES]:
        try:
            value = read_json(path, largest=_BYTES)
        except UsageError:
            continue  # somebody else's
        if isinstance(value, dict) and isinstance(value.get("kind"), str):
            yield path, value


def _run(name: str, run: Run) -> list[Block]:
    when = f", {one_line(run.when, 40)}" if run.when else ""
    commit = f", commit {one_line(run.commit, 12)}" if run.commit else ""
    title = f"{one_line(run.verb, 20)} of {one_line(run.subject, 80)}{when}{commit} ({name})"
    blocks: list[Block] = []
    gates = run.gates[:_ROWS]
    if gates:
        rows = [(one_line(g.metric, 80), *_found_and_allowed(g), one_line(g.note)) for g in gates]
        pills = {i: _PILLS[g.status] for i, g in enumerate(gates)}
        outline = ("limit on", "found", "interval", "allowed", "note")
        blocks.append(
            _bare(
                Table(
                    f"Limits: {_VERDICTS[run.status]}",
                    outline,
                    rows,
                    frozenset({1, 2, 3}),
                    pills=pills,
                )
            )
        )
    figures = _figures(run)
    if figures:
        head = ("figure", "value", "interval", "before", "note")
        table = _bare(Table("Figures", head, figures, frozenset({1, 2, 3})))
        blocks.append(Details("Figures", [table]) if gates else table)
    blocks += _notes([one_line(note) for note in run.notes])
    return [Heading(f"{title[:1].upper()}{title[1:]}"), *blocks]


def _found_and_allowed(gate: Gate) -> tuple[str, str, str]:
    """Write what was found, its interval, and the limit."""
    unit = one_line(gate.unit, 12)
    found = "–" if gate.value is None else f"{gate.value:.4g} {unit}"
    interval = "" if gate.low is None or gate.high is None else (
        f"{gate.low:.4g} to {gate.high:.4g} {unit}"
    )  # fmt: skip
    # A limit without unit is one of kind, not of size: that outputs are alike.
    allowed = f"{gate.limit:.4g} {unit}" if unit or gate.limit else ""
    return found.strip(), interval.strip(), allowed


def _figures(run: Run) -> Sequence[Sequence[str]]:
    """Return the rows of figures; that of a baseline stands beside the one it is of."""
    by_name = {f.name: f for f in run.figures}
    rows = []
    for one in run.figures[: 2 * _ROWS]:
        stem, _, kind = one.name.rpartition("_")
        if kind == "before" and stem in by_name:
            continue
        before = by_name.get(f"{one.name}_before")
        unit = one_line(one.unit, 12)
        rows.append((
            _NAMES.get(one.name) or one_line(one.name.replace("_", " "), 60),
            told(one.value, unit),
            "" if one.low is None or one.high is None
            else f"{told(one.low, unit)} to {told(one.high, unit)}",
            "" if before is None else told(before.value, one_line(before.unit, 12)),
            one_line(one.note),
        ))  # fmt: skip
    return rows[:_ROWS]


def _bare(table: Table) -> Table:
    """Leave out the columns in which no row says anything."""
    kept = [i for i in range(len(table.head)) if not i or any(row[i] for row in table.rows)]
    place = {old: new for new, old in enumerate(kept)}
    return Table(
        table.caption,
        [table.head[i] for i in kept],
        [[row[i] for i in kept] for row in table.rows],
        frozenset(place[i] for i in table.figures if i in place),
        frozenset(place[i] for i in table.code if i in place),
        table.pills,
    )


def _notes(lines: Sequence[str]) -> list[Block]:
    # A note that begins with a file's name keeps its first letter.
    told = [n if "." in n.split(" ")[0] else f"{n[:1].upper()}{n[1:]}" for n in lines[:_NOTES]]
    return [Words(f"{note}.", soft=True) for note in told]


def _profile(name: str, value: dict[str, Any], index: int) -> list[Block]:
    """Show one measurement: how its runs are spread, and its figures."""
    raw = Raw(value, name)
    samples, batch = raw.samples("samples_ms"), max(raw.count("batch"), 1)
    if not samples:
        return []
    ends = LatencyProfile.from_json(value).median_interval()
    ordered = sorted(samples)
    p50, p99 = percentile(ordered, 50), percentile(ordered, 99)
    title = f"Latency, batch {batch} ({name})"
    step = max(1, -(-len(samples) // _DRAWN))
    svg = distribution([Samples(f"batch {batch}", samples[::step], ends)], title=title,
                       desc=f"Median {told(p50, 'ms')}, 99th percentile {told(p99, 'ms')}.",
                       unit="ms", width=WIDTH, ident=f"profile-{index}")  # fmt: skip
    mean = sum(samples) / len(samples)
    rate = raw.number("throughput") or (1000 * batch / mean if mean > 0 else 0.0)
    by, unit = in_unit([p50])
    interval = "" if ends is None else f"{by * ends[0]:.3f} to {by * ends[1]:.3f}"
    row = (f"batch {batch}", f"{by * p50:.3f}", interval, f"{by * p99:.3f}", f"{rate:,.1f}",
           f"{len(samples):,}")  # fmt: skip
    head = ("", f"p50 {unit}", "its 95 % interval", f"p99 {unit}", "items/s", "runs")
    table = Table("Latency of one run, and items a second", head, [row], frozenset(range(1, 6)))
    inner = _layers(name, raw.inner("layers"), index) if "layers" in raw else []
    figure = Figure(svg, f"Where {len(samples):,} runs lie: solid line the median, dashed the 99th "
                    "percentile.")  # fmt: skip
    return [Heading(f"Profile ({name})"), figure, _bare(table),
            *_notes(raw.texts("warnings")), *inner]  # fmt: skip


def _sweep(name: str, raw: Raw, index: int) -> list[Block]:
    points, best = [], raw.number("best")
    for i, one in enumerate(raw.objects("points")[:200]):
        p99, rate, batch = one.number("p99_ms"), one.number("throughput"), one.count("batch")
        if p99 is not None and rate is not None:
            streams = max(one.count("streams"), 1)
            points.append(_Point(p99, rate, batch, streams, one.number("p50_ms"), i == best))
    if not points:
        return []
    series = []
    for number in sorted({point.streams for point in points}):
        own = sorted((p for p in points if p.streams == number), key=lambda p: (p.batch, p.p99))
        labels = [f"batch {p.batch}{' (best)' if p.best else ''}" for p in own]
        series.append(Series(counted(number, "stream"), [(p.p99, p.rate) for p in own], labels))
    limit = raw.number("max_latency_ms")
    marks = [] if limit is None else [Mark(limit, f"limit {told(limit, 'ms')}")]
    svg = line_chart(series, title=f"Throughput against latency ({name})", x_label="p99, ms",
                     desc="Each point is a batch size.", y_label="items/s", y_zero=True,
                     marks=marks, width=WIDTH, height=300, ident=f"sweep-{index}")  # fmt: skip
    by, unit = in_unit(p.p99 for p in points)
    rows = [
        (f"batch {p.batch}, {counted(p.streams, 'stream')}",
         "" if p.p50 is None else f"{by * p.p50:.3f}", f"{by * p.p99:.3f}", f"{p.rate:,.1f}")
        for p in points
    ]  # fmt: skip
    pills = {i: Pill("best") for i, p in enumerate(points) if p.best}
    table = Table("Batches and streams", ("", f"p50 {unit}", f"p99 {unit}", "items/s"), rows,
                  frozenset({1, 2, 3}), pills=pills)  # fmt: skip
    within = "within the limit" if limit is not None else "of all"
    caption = f"Throughput against latency; best: the most items a second {within}."
    inner = _layers(name, raw.inner("layers"), index) if "layers" in raw else []
    lines = [*raw.texts("notes"), *raw.texts("warnings")]
    return [Heading(f"Sweep ({name})"), Figure(svg, caption), _bare(table), *_notes(lines), *inner]


def _layers(name: str, raw: Raw, index: int) -> list[Block]:
    found = [(one.text("name"), one.text("op"), one.sure("median_ms"))
             for one in raw.objects("layers")]  # fmt: skip
    total = sum(ms for _, _, ms in found)
    if total <= 0 or any(ms < 0 for _, _, ms in found):
        return []
    order = sorted(found, key=lambda one: (-one[2], one[0]))[:_BARS]
    bars = [Bar(n, ms, None, f"{told(ms, 'ms')}, {share(ms / total)}") for n, _, ms in order]
    svg = bar_chart(bars, title=f"The {len(bars)} slowest layers ({name})", x_label="ms, median",
                    label_most=30, width=520, ident=f"layer-times-{index}")  # fmt: skip
    note = raw.text("note")
    caption = f"The slowest of {counted(len(found), 'layer')}, measured by "
    caption += raw.text("source", label("engine")) + (f"; {note}" if note else "") + "."
    return [Heading(f"Times of layers ({name})"), Figure(svg, caption)]
