"""Every figure, before and after."""

from __future__ import annotations

from graphopt.html.blocks import Block, Section, Table, Words
from graphopt.html.source import Built, Metric
from graphopt.html.terms import BEFORE, change, label, told


def section(built: Built, baseline: Built | None = None) -> Section | None:
    """Return the section, or None where nothing was measured.

    Args:
        built: the build.
        baseline: another one, shown in a column of its own.
    """
    if not built.metrics:
        return None
    head = ["", *(label(c) for c in built.columns), "change"]
    if baseline is not None:
        head += ["the other build", "against it"]
    rows = []
    for metric in built.metrics:
        cells = [
            told(metric.values[c], metric.unit) if c in metric.values else "–"
            for c in built.columns
        ]
        both = BEFORE in metric.values and built.last in metric.values
        moved = ""
        if both and built.last != BEFORE:
            moved = change(metric.unit, metric.values[BEFORE], metric.values[built.last])
        row = [metric.name, *cells, moved]
        if baseline is not None:
            row += _against(built, baseline, metric.name)
        rows.append(row)
    blocks: list[Block] = [
        Table(
            "Every figure that was measured, step by step",
            head,
            rows,
            frozenset(range(1, len(head))),
        )
    ]
    notes = [f"{m.name}: {m.note}" for m in built.metrics if m.note and not _elsewhere(built, m)]
    blocks += [Words(f"{note}.", soft=True) for note in notes]
    return Section("figures", "Before and after", blocks)


def _elsewhere(built: Built, metric: Metric) -> bool:
    """Whether another section shows what a figure's note says."""
    return metric.name == "latency" and "latency" in built.raw


def _against(built: Built, baseline: Built, name: str) -> list[str]:
    here, there = built.metric(name), baseline.metric(name)
    if there is None or baseline.last not in there.values:
        return ["–", ""]
    first = there.values[baseline.last]
    shown = told(first, there.unit)
    if here is None or built.last not in here.values or here.unit != there.unit:
        return [shown, ""]
    return [shown, change(here.unit, first, here.values[built.last])]
