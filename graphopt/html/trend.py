"""The builds before this one, from a history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphopt.charts import Series, line_chart
from graphopt.errors import UsageError
from graphopt.html.blocks import Figure, Gallery, Section, Table, Words
from graphopt.html.source import Built
from graphopt.html.terms import told
from graphopt.profiles.history import History, Point, Query
from graphopt.registry import did_you_mean
from graphopt.wording import counted, one_line

_WIDTH, _RUNS, _ROWS = 460.0, 60, 12
# Figure -> what it is called, and whether it is only told of one machine.
_FIGURES = {
    "engine_latency_p50": ("median latency of the engine", True),
    "latency_p50": ("median latency", True),
    "accuracy": ("accuracy", False),
    "sqnr": ("SQNR", False),
    "weights": ("weights", False),
}


def section(built: Built, history: Path, subject: str | None = None) -> Section:
    """Return the last builds of a subject, a chart for each figure.

    Args:
        built: the build that is reported on; its model's name is the subject where none is given.
        history: the file of :class:`graphopt.profiles.history.History`.
        subject: the name that its builds go under there.

    Raises:
        UsageError: there is no such history, or no build of that name in it.
    """
    name = subject or built.raw.inner("source").text("name")
    query = Query(subject=name, verb="build")
    with History.open(history, write=False) as opened:
        newest = next(iter(opened.entries(query, limit=1)), None)
        if newest is None:
            known = opened.distinct("subject")
            raise UsageError(
                f"no build of '{one_line(name, 60)}' in {history}{did_you_mean(name, known)}; "
                "--label says what its builds are called there"
            )
        found = {}
        for figure, (_, bound) in _FIGURES.items():
            asked = Query(subject=name, verb="build", machine=newest.machine if bound else None)
            points = opened.series(figure, asked, limit=_RUNS)
            same = [p for p in points if not bound or p.batch == newest.batch]
            if same:
                found[figure] = same
    charts = [_chart(figure, points) for figure, points in found.items() if len(points) > 1]
    title = "Builds before"
    if not charts:
        return Section(
            "trend", title, [Words(f"This is the only build of {one_line(name)} so far.")]
        )
    runs = max(len(points) for points in found.values())
    words = (
        f"The last {counted(runs, 'build')} of {one_line(name, 80)}, oldest first; latencies are "
        "of one machine, so that they can be compared. graphopt history shifts finds where a "
        "level changed."
    )
    return Section("trend", title, [Words(words), Gallery(charts), _table(found)])


def _chart(figure: str, points: Sequence[Point]) -> Figure:
    name, unit = _FIGURES[figure][0], points[-1].unit
    values = [p.value / 1e6 if unit == "bytes" else p.value for p in points]
    svg = line_chart(
        [Series(name, [(float(i + 1), value) for i, value in enumerate(values)])],
        title=f"{name[:1].upper()}{name[1:]} of the last builds",
        desc=f"From {told(points[0].value, unit)} to {told(points[-1].value, unit)}.",
        x_label="build",
        y_label=f"{name}, {'MB' if unit == 'bytes' else unit}",
        width=_WIDTH,
        height=220,
        ident=f"trend-{figure}",
    )
    last = f"{told(points[-1].value, unit)} in the last, {told(points[-2].value, unit)} before it"
    return Figure(svg, f"{name[:1].upper()}{name[1:]}: {last}.")


def _table(found: dict[str, list[Point]]) -> Table:
    """Return the newest builds with their figures."""
    runs = {p.id: p for points in found.values() for p in points}
    newest = sorted(runs, reverse=True)[:_ROWS]
    cells = {name: {p.id: told(p.value, p.unit) for p in points} for name, points in found.items()}
    rows = [
        (
            f"run {number}",
            one_line(runs[number].when, 40),
            one_line(runs[number].commit, 12),
            *(cells[name].get(number, "–") for name in found),
        )
        for number in newest
    ]
    head = ("", "when (UTC)", "commit", *(_FIGURES[name][0] for name in found))
    figures = frozenset(range(3, len(head)))
    return Table(f"The newest {len(rows)}", head, rows, figures, frozenset({2}))
