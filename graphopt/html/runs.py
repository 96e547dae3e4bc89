"""Runs that lie in the folder: what profile and check measured, sweeps, times of layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphopt.charts import Bar, Series, bar_chart, line_chart
from graphopt.errors import UsageError
from graphopt.html.blocks import Block, Figure, Section, Table, Words
from graphopt.html.raw import Raw, read_json
from graphopt.html.source import Built
from graphopt.html.terms import label, share, told
from graphopt.output import REPORT, TABLE
from graphopt.profiles.run import Run
from graphopt.wording import counted, one_line

WIDTH = 460.0
_FILES, _BYTES, _SHOWN, _BARS, _ROWS = 64, 16 << 20, 6, 15, 60
_OURS = (REPORT, TABLE, "prune-plan.json")
_VERDICTS = {"pass": "passed", "fail": "FAILED", "inconclusive": "inconclusive", "none": "–"}


def section(built: Built) -> Section | None:
    """Return the section, or None where no such file lies there."""
    blocks: list[Block] = []
    runs: list[tuple[str, Run]] = []
    for path, value in _found(built.folder):
        name = one_line(path.name, 80)
        try:
            kind = value["kind"]
            if kind == "graphopt-run":
                runs.append((name, Run.from_json(value)))
            elif kind == "graphopt-latency-sweep":
                blocks += _sweep(name, Raw(value, name), len(blocks))
            elif kind == "graphopt-layer-times":
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
    figures = [
        (one_line(f.name.replace("_", " "), 60), told(f.value, one_line(f.unit, 12)),
         "" if f.low is None or f.high is None
         else f"{told(f.low, f.unit)} to {told(f.high, f.unit)}", one_line(f.note))
        for f in run.figures[:_ROWS]
    ]  # fmt: skip
    if figures:
        head = ("figure", "value", "interval", "note")
        blocks.append(Table(title, head, figures, frozenset({1, 2})))
    limits = [
        (one_line(g.metric, 80), _VERDICTS[g.status],
         "–" if g.value is None else f"{g.value:.4g} {one_line(g.unit, 12)}",
         f"{g.limit:.4g} {one_line(g.unit, 12)}", one_line(g.note))
        for g in run.gates[:_ROWS]
    ]  # fmt: skip
    if limits:
        outline = ("limit on", "verdict", "found", "allowed", "note")
        blocks.append(Table(f"Limits of {title}", outline, limits, frozenset({2, 3})))
    return blocks or [Words(title)]


def _sweep(name: str, raw: Raw, index: int) -> list[Block]:
    points = []
    for one in raw.objects("points")[:200]:
        p99, rate, batch = one.number("p99_ms"), one.number("throughput"), one.count("batch")
        if p99 is not None and rate is not None:
            points.append((p99, rate, batch, max(one.count("streams"), 1)))
    if not points:
        return []
    streams = sorted({point[3] for point in points})
    series = []
    for number in streams:
        own = sorted(p for p in points if p[3] == number)
        series.append(Series(
            counted(number, "stream"), [(p[0], p[1]) for p in own],
            [f"batch {p[2]}" for p in own],
        ))  # fmt: skip
    svg = line_chart(series, title=f"Throughput against latency ({name})", x_label="p99, ms",
                     desc="Each point is a batch size.", y_label="items/s", y_zero=True,
                     width=WIDTH, height=300, ident=f"sweep-{index}")  # fmt: skip
    rows = [(f"batch {p[2]}, {counted(p[3], 'stream')}", f"{p[0]:.3f}", f"{p[1]:,.1f}")
            for p in points]  # fmt: skip
    table = Table(f"Batches and streams ({name})", ("", "p99 ms", "items/s"), rows,
                  frozenset({1, 2}))  # fmt: skip
    return [Figure(svg, f"Throughput against latency, {name}."), table]


def _layers(name: str, raw: Raw, index: int) -> list[Block]:
    found = [(one.text("name"), one.text("op"), one.sure("median_ms"))
             for one in raw.objects("layers")]  # fmt: skip
    total = sum(ms for _, _, ms in found)
    if total <= 0 or any(ms < 0 for _, _, ms in found):
        return []
    order = sorted(found, key=lambda one: (-one[2], one[0]))[:_BARS]
    bars = [Bar(n, ms, None, f"{told(ms, 'ms')}, {share(ms / total)}") for n, _, ms in order]
    svg = bar_chart(bars, title=f"The {len(bars)} slowest layers ({name})", x_label="ms, median",
                    width=WIDTH, label_most=22, ident=f"layer-times-{index}")  # fmt: skip
    note = raw.text("note")
    caption = f"The slowest of {counted(len(found), 'layer')}, measured by "
    caption += raw.text("source", label("engine")) + (f"; {note}" if note else "") + "."
    return [Figure(svg, caption)]
