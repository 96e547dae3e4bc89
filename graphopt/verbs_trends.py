"""What ``graphopt history`` does to series of runs: plots them, finds where a level changed."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from graphopt.charts.text import text_plot, without_spikes
from graphopt.console import Console
from graphopt.files import dump_json, write_text
from graphopt.profiles.history import History, Point
from graphopt.verbs_history import no_figure, query_of, refuse_overwrite
from graphopt.wording import counted, one_line

PANELS = 4  # series that are shown, those with the newest runs
_LABELLED = 200  # points of a series, more have no words of their own
_MARKED = 5  # shifts in a drawing, the newest
DRAWN = 2000  # points of a series in a drawing; more are not told apart
_COMMIT = re.compile("[0-9a-f]{7,64}")  # a line to copy holds nothing that a shell reads
Key = tuple[str, str, str, int]  # subject, machine, verb, batch


def run_plot(file: Path, flags: Mapping[str, Any], ui: Console) -> None:
    """``graphopt history plot``: one figure over the runs, in the terminal or drawn."""
    query, figure = query_of(flags), flags["figure"]
    out: Path | None = flags["output"]
    refuse_overwrite(out, flags["force"])
    with History.open(file, write=False) as history:
        points = history.series(figure, query, limit=flags["limit"])
        if not points:
            raise no_figure(history, figure, query)
    every = _by_series(points)
    shown = every[:PANELS]
    if len(every) > PANELS:
        ui.warn(
            f"{len(every)} series; the {PANELS} with the newest runs are shown: "
            "choose by --subject, --machine, --verb or --branch"
        )
    if out is not None:
        write_text(out, _draw(shown, figure))
        if ui.json:
            ui.info(f"wrote {out}")
        else:
            ui.result(f"wrote {out}")
    if ui.json:
        ui.raw(dump_json([_series_json(key, found, figure) for key, found in every]))
    elif out is None:
        for key, found in shown:
            ui.raw(_plot(key, found, figure, flags["ascii"] or not _unicode(ui)))


def run_shifts(file: Path, flags: Mapping[str, Any], ui: Console) -> None:
    """``graphopt history shifts``: where the level of a figure changed, a series at a time."""
    query, figure = query_of(flags), flags["figure"]
    with History.open(file, write=False) as history:
        every = _by_series(history.series(figure, query))
        if not every:
            raise no_figure(history, figure, query)
    rows = [
        _shift_json(key, figure, found, points)
        for key, points in every
        for found in _shifts(points, flags["limit"])
        if abs(found.change) >= (flags["least"] or 0.0)
    ]
    if ui.json:
        ui.raw(dump_json(rows))
        return
    runs = sum(len(points) for _, points in every)
    if not rows:
        ui.result(f"no shift of {figure} in {counted(runs, 'run')}")
    for row in rows:
        _tell_shift(row, ui)


class _Shift(NamedTuple):
    """A shift in the figures of a series: positions in it, and its size in ``unit``."""

    at: int
    first: int
    last: int
    change: float
    low: float
    high: float
    unit: str
    p: float

    @property
    def words(self) -> str:
        """Its size, as it is told."""
        digits = ".1f" if self.unit == "%" else ".4g"
        return f"{self.change:+{digits}} {self.unit}".rstrip()


def _shifts(points: Sequence[Point], limit: int | None = None) -> list[_Shift]:
    """Return the shifts among the newest ``limit`` points of a series."""
    from graphopt.profiles.history.shifts import WINDOW, shifts

    skipped = max(0, len(points) - (limit or WINDOW))
    values = [p.value for p in points[skipped:]]
    relative = min(values) > 0 and points[-1].unit not in ("dB", "%", "points")
    scale, unit = (100.0, "%") if relative else (1.0, points[-1].unit)
    return [
        _Shift(
            found.index + skipped,
            found.first + skipped,
            found.last + skipped,
            found.change * scale,
            found.low * scale,
            found.high * scale,
            unit,
            found.p,
        )
        for found in shifts(values, relative=relative)
    ]


def _shift_json(key: Key, figure: str, found: _Shift, points: Sequence[Point]) -> dict[str, Any]:
    return {
        **_key_json(key),
        "figure": figure,
        "change": found.change,
        "low": found.low,
        "high": found.high,
        "unit": found.unit,
        "p": found.p,
        "last_before": _place(points[found.at - 1]),
        "first_after": _place(points[found.at]),
        "earliest": points[found.first].id,
        "latest": points[found.last].id,
    }


def _by_series(points: Iterable[Point]) -> list[tuple[Key, list[Point]]]:
    """Return what can be compared, oldest first, apart; the series with the newest run first."""
    found: dict[Key, list[Point]] = {}
    for point in points:
        key = (point.subject, point.machine, point.verb, point.batch)
        found.setdefault(key, []).append(point)
    return sorted(found.items(), key=lambda item: -item[1][-1].id)


def _named(key: Key) -> str:
    subject, machine, verb, batch = key
    return f"{one_line(subject, 60)}, {one_line(verb, 12)}, batch {batch}, machine {machine[:6]}"


def _key_json(key: Key) -> dict[str, Any]:
    return dict(zip(("subject", "machine", "verb", "batch"), key, strict=True))


def _series_json(key: Key, points: Sequence[Point], figure: str) -> dict[str, Any]:
    return {
        **_key_json(key),
        "figure": figure,
        "unit": points[-1].unit,
        "points": [{**_place(p), "value": p.value} for p in points],
    }


def _place(entry: Point) -> dict[str, Any]:
    return {"run": entry.id, "commit": entry.commit, "when": entry.when}


def _told(place: Mapping[str, Any]) -> str:
    commit, when = one_line(place["commit"], 12), one_line(place["when"], 20)
    more = ", ".join(text for text in (f"commit {commit}" if commit else "", when) if text)
    return f"run {place['run']}" + (f" ({more})" if more else "")


def _dated(entry: Point) -> str:
    day = one_line(entry.when, 10)
    return f"run {entry.id}{f', {day}' if day else ''}"


def _tell_shift(row: Mapping[str, Any], ui: Console) -> None:
    digits = ".1f" if row["unit"] == "%" else ".4g"
    low, high = f"{row['low']:+{digits}}", f"{row['high']:+{digits}}"
    key = (row["subject"], row["machine"], row["verb"], row["batch"])
    unit = one_line(row["unit"], 12)
    ui.result(
        f"{one_line(row['figure'], 60)} {row['change']:+{digits}}{unit and f' {unit}'} "
        f"(95 %: {low} to {high}) from {_told(row['first_after'])}: {_named(key)}"
    )
    ui.result(f"  last before it: {_told(row['last_before'])}")
    old, new = row["last_before"]["commit"], row["first_after"]["commit"]
    if _COMMIT.fullmatch(old) and _COMMIT.fullmatch(new) and old != new:
        ui.result(f"  git log {old}..{new}")
    if row["earliest"] != row["latest"]:
        ui.result(f"  it may have begun in any of runs {row['earliest']} to {row['latest']}")


def _plot(key: Key, points: Sequence[Point], figure: str, ascii_only: bool) -> str:
    size = shutil.get_terminal_size((80, 24))
    found = _shifts(points)
    drawn = text_plot(
        [p.value for p in points],
        title=f"{one_line(figure, 40)} of {_named(key)}: {counted(len(points), 'run')}",
        unit=points[-1].unit,
        begin=_dated(points[0]),
        end=_dated(points[-1]) if len(points) > 1 else "",
        marks=[shift.at for shift in found],
        width=min(size.columns, 160),
        height=max(4, min(size.lines - 8, 14)),
        ascii_only=ascii_only,
    )
    told = [f"  ^ {one_line(s.words, 40)} from run {points[s.at].id}" for s in found]
    return "\n".join([drawn.rstrip("\n"), *told, ""])


def _draw(every: Sequence[tuple[Key, list[Point]]], figure: str) -> str:
    from graphopt.charts import Mark, Series, line_chart

    unit = one_line(every[0][1][-1].unit, 12)
    series, marks, cut = [], [], []
    for key, points in every:
        kept = _thinned(points)
        low, high = without_spikes([p.value for p in kept])
        cut += [p.value for p in points if not low <= p.value <= high]
        series.append(
            Series(
                _apart(key, [k for k, _ in every]),
                [(float(p.id), min(max(p.value, low), high)) for p in kept],
                [f"{p.value:.5g} {unit}, {_told(_place(p))}" for p in kept]
                if len(kept) <= _LABELLED
                else (),
            )
        )
        marks += [
            Mark(float(points[shift.at].id), f"{one_line(shift.words, 20)} from run "
                 f"{points[shift.at].id}")
            for shift in (_shifts(points) if len(every) == 1 else ())
        ]  # fmt: skip
    what = f"run of {_named(every[0][0])}" if len(every) == 1 else "run"
    spikes = f"; {counted(len(cut), 'spike')} cut off, the farthest {_farthest(cut, every):.4g}"
    return line_chart(
        series,
        title=one_line(figure, 60),
        desc=f"{one_line(figure, 60)} of each run, a line for each series",
        x_label=f"{what}{f'{spikes} {unit}'.rstrip() if cut else ''}",
        y_label=f"{one_line(figure, 60)}{f', {unit}' if unit else ''}",
        marks=marks[-_MARKED:],
        alone=True,
    )


def _farthest(values: Sequence[float], every: Sequence[tuple[Key, list[Point]]]) -> float:
    """Return the value that lies farthest from the middle of all."""
    shown = sorted(p.value for _, points in every for p in points)
    return max(values, key=lambda v: abs(v - shown[len(shown) // 2]), default=math.nan)


def _apart(key: Key, every: Sequence[Key]) -> str:
    """Return what tells a series from the others, as short as it can be."""
    subject, machine, verb, batch = key
    words = (subject, f"machine {machine[:6]}", verb, f"batch {batch}")
    told = [
        one_line(word, 60)
        for word, values in zip(words, zip(*every, strict=True), strict=True)
        if len(set(values)) > 1
    ]
    return ", ".join(told) or one_line(subject, 60)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Return the least and the greatest of equal parts: their outline stays."""
    if len(points) <= DRAWN:
        return list(points)
    part = -(-len(points) // (DRAWN // 2))
    kept = []
    for start in range(0, len(points), part):
        some = points[start : start + part]
        ends = {min(some, key=_value).id, max(some, key=_value).id}
        kept += [p for p in some if p.id in ends]
    return kept


def _value(point: Point) -> float:
    return point.value


def _unicode(ui: Console) -> bool:
    return "utf" in (ui.out.encoding or "").lower()
