"""What ``graphopt history`` does to runs: lists, shows, names, exports, imports, prunes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.errors import OutputExistsError, UsageError
from graphopt.files import atomic_path, dump_json
from graphopt.profiles.history import Column, Entry, History, Query
from graphopt.publish.words import amount
from graphopt.registry import did_you_mean
from graphopt.wording import counted, one_line

if TYPE_CHECKING:
    from graphopt.profiles.run import Run

FIGURE = "latency_p50"
_AGES = {"h": 1 / 24, "d": 1.0, "w": 7.0, "m": 30.0, "y": 365.0}


def run_list(file: Path, flags: Mapping[str, Any], ui: Console) -> None:
    """``graphopt history list``: the newest runs."""
    query = query_of(flags)
    with History.open(file, write=False) as history:
        entries = history.entries(query, limit=flags["limit"])
        figures = history.values(flags["figure"], [e.id for e in entries])
        if not figures and entries and flags["figure"] != FIGURE:
            raise no_figure(history, flags["figure"], query)
    if ui.json:
        rows = [
            {**asdict(e), "figure": flags["figure"], "value": figures.get(e.id, (None, ""))[0]}
            for e in entries
        ]
        ui.raw(dump_json(rows))
        return
    if not entries:
        ui.result(f"no such run in {file}")
        return
    head = ["run", "when", "verb", "subject", "branch", "commit", "status", flags["figure"]]
    ui.table("", [*head, "machine", "baseline"], [_row(e, figures) for e in entries])
    if len(entries) == flags["limit"]:
        ui.info(f"the newest {len(entries)}; --limit shows more")


def run_show(file: Path, ref: str, flags: Mapping[str, Any], ui: Console) -> None:
    """``graphopt history show``: all of one run."""
    with History.open(file, write=False) as history:
        number, run = history.baseline(_ref(ref), subject=flags["subject"])
    if ui.json:
        ui.raw(dump_json({**run.to_json(), "id": number}))
        return
    _show(number, run, ui)


def run_baseline(
    file: Path, name: str | None, ref: str | None, flags: Mapping[str, Any], ui: Console
) -> None:
    """``graphopt history baseline``: list baselines, set one, or forget one."""
    if ref is not None and (flags["remove"] or name is None):
        raise UsageError("--remove takes the NAME of a baseline only")
    with History.open(file, write=_existing(file, ref is not None or flags["remove"])) as history:
        if flags["remove"]:
            _forget_baseline(history, name, flags["subject"], ui)
        elif ref is not None and name is not None:
            number, run = history.baseline(_ref(ref), subject=flags["subject"])
            history.set_baseline(name, number)
            if ui.json:
                ui.raw(dump_json({"name": name, "subject": run.subject, "run": number}))
            else:
                ui.result(f"'{name}' of '{one_line(run.subject, 60)}' is run {number}")
        else:
            _list_baselines(history, name, flags["subject"], ui)


def _forget_baseline(history: History, name: str | None, subject: str | None, ui: Console) -> None:
    if name is None:
        raise UsageError("--remove needs the NAME of a baseline")
    gone = history.drop_baseline(name, subject)
    if not gone:
        known = [n for n, _, _ in history.baselines()]
        raise UsageError(
            f"no baseline '{one_line(name, 60)}' in {history.path}{did_you_mean(name, known)}"
        )
    if ui.json:
        ui.raw(dump_json({"name": name, "removed": gone}))
    else:
        ui.result(f"'{one_line(name, 60)}' is no baseline any more; its run stays")


def _list_baselines(history: History, name: str | None, subject: str | None, ui: Console) -> None:
    found = [
        (n, s, run)
        for n, s, run in history.baselines()
        if name in (None, n) and subject in (None, s)
    ]
    if ui.json:
        ui.raw(dump_json([{"name": n, "subject": s, "run": run} for n, s, run in found]))
    elif found:
        rows = [[one_line(n, 60), one_line(s, 60), str(run)] for n, s, run in found]
        ui.table("", ["baseline", "subject", "run"], rows)
    else:
        ui.result(
            f"no baseline in {history.path}; set one: graphopt history baseline FILE NAME RUN"
        )


def _ref(text: str) -> str:
    """Return what a history calls it: a bare number is that of a run."""
    return f"run:{text}" if text.isdecimal() else text


def run_export(file: Path, flags: Mapping[str, Any], ui: Console) -> None:
    """``graphopt history export``: runs as JSON Lines or CSV."""
    from graphopt.profiles.history.export import csv_lines, json_lines

    out: Path | None = flags["output"]
    suffix = "" if out is None else out.suffix.lower()
    if suffix not in ("", ".csv", ".json", ".jsonl", ".ndjson"):
        raise UsageError(f"an export ends in .csv or .jsonl, not in {suffix}")
    kind = {"": flags["format"] or "json", ".csv": "csv"}.get(suffix, "json")
    if flags["format"] not in (None, kind):
        raise UsageError(f"--format {flags['format']} and {one_line(out)} are at odds: leave one")
    refuse_overwrite(out, flags["force"])
    with History.open(file, write=False) as history:
        lines: Iterable[str]
        if kind == "csv":
            lines = csv_lines(history, query_of(flags))
        else:
            lines = json_lines(history, query_of(flags))
        if out is None:
            for line in lines:
                ui.raw(line)
            return
        with atomic_path(out) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
            # A branch's name may hold what is no UTF-8; JSON has it escaped already.
            for line in lines:
                stream.write(line.encode("utf-8", "backslashreplace").decode())
    if ui.json:
        ui.raw(dump_json({"output": str(out)}))
    else:
        ui.result(f"wrote {out}")


def run_import(file: Path, sources: Sequence[Path], ui: Console) -> None:
    """``graphopt history import``: add the runs of other histories that are not there yet."""
    from graphopt.profiles.history.export import is_history, read_runs

    for source in sources:  # before a file is made
        if not source.is_file():
            raise UsageError(f"no such file: {one_line(source)}")
        if file.exists() and source.samefile(file):
            raise UsageError(f"{one_line(source)} is the history itself")
    added = present = 0
    with History.open(file) as history:
        for source in sources:
            new, old = history.add_missing(read_runs(source))
            added, present = added + new, present + old
    if ui.json:
        ui.raw(dump_json({"added": added, "present": present}))
    else:
        ui.result(f"added {counted(added, 'run')} to {file}; {present} were there")
    for source in sources:
        if is_history(source):
            with History.open(source, write=False) as other:
                named = other.baselines()
            if named:
                told = ", ".join(
                    f"'{one_line(n, 40)}' (run {run} there)" for n, _, run in named[:5]
                )
                ui.info(
                    f"baselines of {one_line(source)} were not taken: {told}; "
                    "set them by graphopt history baseline"
                )


def run_prune(file: Path, flags: Mapping[str, Any], ui: Console) -> None:
    """``graphopt history prune``: remove old runs."""
    before = None if flags["older_than"] is None else _before(flags["older_than"])
    with History.open(file, write=_existing(file, True)) as history:
        gone = history.prune(keep=flags["keep"], before=before, dry_run=flags["dry_run"])
        left = history.count() - (len(gone) if flags["dry_run"] else 0)
    if ui.json:
        ui.raw(dump_json({"removed": gone, "left": left, "dry_run": flags["dry_run"]}))
        return
    verb = "would remove" if flags["dry_run"] else "removed"
    ui.result(f"{verb} {counted(len(gone), 'run')} of {file}; {left} are left")


def run_verify(file: Path, ui: Console) -> None:
    """``graphopt history verify``: every page, every reference, every run's digest."""
    with History.open(file, write=False) as history:
        found, count = history.check(), history.count()
    if ui.json:
        ui.raw(dump_json({"runs": count, "problems": found}))
    for line in found:
        ui.warn(one_line(line))
    if found:
        raise UsageError(f"{file} is damaged: {counted(len(found), 'problem')}")
    if not ui.json:
        ui.result(f"{file} is whole: {counted(count, 'run')}, each as it was added")


def query_of(flags: Mapping[str, Any]) -> Query:
    """Return which runs the options of a verb ask for."""
    return Query(
        flags["subject"], flags["branch"], flags["verb"], flags.get("status"), flags["machine"]
    )


def no_figure(history: History, figure: str, query: Query) -> UsageError:
    """Say what there is instead of what was asked for."""
    known = [name for name, _ in history.measured(query)]
    if known:
        hint = did_you_mean(figure, known)
        names = ", ".join(one_line(name, 40) for name in known[:20])
        return UsageError(f"no run has the figure '{one_line(figure, 60)}'{hint}; known: {names}")
    columns: tuple[Column, ...] = ("subject", "branch", "machine")
    for what in columns:
        wanted = getattr(query, what)
        values = history.distinct(what)
        if wanted is not None and wanted not in values:
            hint = did_you_mean(wanted, values)
            return UsageError(f"no run of the {what} '{one_line(wanted, 60)}'{hint}")
    return UsageError(f"no such run in {history.path} has figures")


def _existing(file: Path, write: bool) -> bool:
    """Return ``write``, but False where there is no file: opening says so, and makes none."""
    return write and file.exists()


def _row(entry: Entry, figures: Mapping[int, tuple[float, str]]) -> list[str]:
    value = figures.get(entry.id)
    return [
        str(entry.id),
        one_line(entry.when, 20) or "-",
        one_line(entry.verb, 12),
        one_line(entry.subject, 40),
        one_line(entry.branch, 24) or "-",
        one_line(entry.commit, 9) or "-",
        entry.status if entry.status != "none" else "-",
        _with_unit(*value) if value else "-",
        entry.machine[:6],
        one_line(" ".join(entry.baselines), 40),
    ]


def _with_unit(value: float, unit: str) -> str:
    if unit in ("bytes", "%", "points", "dB"):
        return amount(value, unit)
    return f"{value:.5g} {one_line(unit, 12)}".strip()  # of latencies the fifth digit still tells


def _show(number: int, run: Run, ui: Console) -> None:
    from graphopt.profiles.latency import LatencyProfile

    facts = {
        "when": run.when, "verb": run.verb, "subject": run.subject, "branch": run.branch,
        "commit": run.commit, "status": run.status, "sha256": run.sha256,
        "model": run.model_digest,
    }  # fmt: skip
    ui.result(f"run {number}")
    for name, value in facts.items():
        if value:
            ui.result(f"  {name}: {one_line(value)}")
    rows = [
        [one_line(f.name, 60), _with_unit(f.value, f.unit), _interval(f.low, f.high),
         one_line(f.note, 80)]
        for f in run.figures
    ]  # fmt: skip
    if rows:
        ui.table("figures", ["figure", "value", "95 %", "note"], rows)
    if run.samples_ms:
        profile = LatencyProfile(run.samples_ms, max(run.batch, 1), run.environment)
        names = ("mean", "p50", "p90", "p95", "p99")
        values = ", ".join(f"{name} {getattr(profile, name):.4g}" for name in names)
        ui.result(f"{counted(len(run.samples_ms), 'raw sample')} of batch {run.batch}: {values} ms")
    if run.gates:
        gates = [
            [one_line(g.name, 40), one_line(g.metric, 40),
             "-" if g.value is None else _with_unit(g.value, g.unit), _interval(g.low, g.high),
             _with_unit(g.limit, g.unit), g.status, one_line(g.note, 80)]
            for g in run.gates
        ]  # fmt: skip
        ui.table("gates", ["gate", "of", "found", "95 %", "limit", "status", "note"], gates)
    for note in run.notes:
        ui.result(f"note: {one_line(note)}")
    machine = run.environment or run.fingerprint
    if machine:
        compared = set(run.fingerprint)
        rows = [
            [one_line(k, 40), one_line(v, 80), "yes" if k in compared else ""]
            for k, v in sorted(machine.items())
        ]
        ui.table("machine", ["what", "value", "compared"], rows)


def _interval(low: float | None, high: float | None) -> str:
    ends = ["…" if end is None else f"{end:.4g}" for end in (low, high)]
    return "-" if low is None and high is None else " to ".join(ends)


def refuse_overwrite(out: Path | None, force: bool) -> None:
    """Refuse to write over what exists, unless ``force`` allows it.

    Raises:
        UsageError: it is a folder.
        OutputExistsError: it exists.
    """
    if out is not None and out.is_dir():
        raise UsageError(f"{out} is a folder")
    if out is not None and out.exists() and not force:
        raise OutputExistsError(f"{out} exists; use --force or another -o")


def _before(age: str) -> str:
    """Return the time (UTC) that is ``age`` ago, such as ``90d``."""
    found = re.fullmatch(r"(\d{1,6})([hdwmy])", age.strip())
    if not found:
        raise UsageError(f"'{one_line(age, 40)}' is no age: write 12h, 90d, 8w, 6m or 2y")
    days = min(int(found[1]) * _AGES[found[2]], 365_000)
    try:
        moment = datetime.now(timezone.utc) - timedelta(days=days)
    except OverflowError:
        return "0001-01-01T00:00:00Z"
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
