"""Every figure, before and after."""

from __future__ import annotations

from graphopt.html.blocks import Block, Pill, Section, Table, Words
from graphopt.html.source import Built, Metric
from graphopt.html.terms import BEFORE, ESTIMATED, change, label, told


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
    # What was estimated stands below what was found, and is marked.
    ordered = sorted(built.metrics, key=_estimated)
    rows = []
    for metric in ordered:
        cells = [
            told(metric.values[c], metric.unit) if c in metric.values else "–"
            for c in built.columns
        ]
        both = BEFORE in metric.values and built.last in metric.values
        moved = ""
        if both and built.last != BEFORE:
            moved = change(metric.unit, metric.values[BEFORE], metric.values[built.last])
        row = [_name(built, metric), *cells, moved]
        if baseline is not None:
            row += _against(built, baseline, metric.name)
        rows.append(row)
    pills = {i: Pill("estimate") for i, metric in enumerate(ordered) if _estimated(metric)}
    marked = ", step by step; what is marked an estimate was measured nowhere"
    caption = f"Every figure{marked}" if pills else "Every figure, step by step"
    figures = frozenset(range(1, len(head)))
    blocks: list[Block] = [Table(caption, head, rows, figures, pills=pills)]
    notes = [
        f"{_name(built, m)}{' (estimate)' if _estimated(m) else ''}: {m.note}"
        for m in ordered
        if m.note and not _elsewhere(built, m)
    ]
    blocks += [Words(f"{note}.", soft=True) for note in notes]
    return Section("figures", "Before and after", blocks)


def _estimated(metric: Metric) -> bool:
    return metric.name == ESTIMATED


def _name(built: Built, metric: Metric) -> str:
    if not _estimated(metric):
        return metric.name
    device = built.raw.inner("roofline").text("device")
    return f"latency on {device}" if device else "latency"


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
