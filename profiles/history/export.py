"""A history's runs as other programs read them, JSON Lines and CSV, and JSON Lines read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from graphopt.errors import UsageError
from graphopt.profiles.history.query import Entry, Query
from graphopt.profiles.history.store import History
from graphopt.profiles.run import Run

_COLUMNS = ("id", "when", "verb", "subject", "branch", "commit", "status", "machine", "batch")
# What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection").
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_LONGEST_LINE = 512 << 20


def json_lines(history: History, query: Query | None = None) -> Iterator[str]:
    """Yield runs as lines of JSON, oldest first, raw samples and ``id`` included."""
    for entry in reversed(history.entries(query)):
        raw = {**history.get(entry.id).to_json(), "id": entry.id}
        yield json.dumps(raw, sort_keys=True, allow_nan=False) + "\n"


def csv_lines(history: History, query: Query | None = None) -> Iterator[str]:
    """Yield runs as lines of CSV (RFC 4180), oldest first, a column for each figure there is.

    A text that a spreadsheet would run as a formula has an apostrophe before it.
    """
    entries = history.entries(query)[::-1]
    names = sorted({name for name, _ in history.measured(query)})
    figures: dict[int, dict[str, float]] = {}
    for name in names:
        for number, (value, _) in history.values(name, [e.id for e in entries]).items():
            figures.setdefault(number, {})[name] = value
    yield _line([*_COLUMNS, "samples", "baselines", *(_guarded(name) for name in names)])
    for entry in entries:
        found = figures.get(entry.id, {})
        cells = [_guarded(str(getattr(entry, name))) for name in _COLUMNS]
        values = [repr(found[name]) if name in found else "" for name in names]
        yield _line([*cells, str(entry.samples), _baselines(entry), *values])


def is_history(path: Path) -> bool:
    """Return whether a file is an SQLite file, rather than an export.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(16) == b"SQLite format 3\0"
    except OSError as problem:
        raise UsageError(f"cannot read {path}: {problem.strerror or problem}") from problem


def read_runs(path: Path) -> Iterator[Run]:
    """Yield the runs of a JSON Lines file, or of another history.

    Raises:
        UsageError: it is neither, or holds something that is no run.
    """
    if is_history(path):
        with History.open(path, write=False) as history:
            for entry in reversed(history.entries()):
                yield history.get(entry.id)
        return
    try:
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(_LONGEST_LINE):
                number += 1
                if line.strip():
                    yield _run(line, f"{path}, line {number}")
    except OSError as problem:
        raise UsageError(f"cannot read {path}: {problem.strerror or problem}") from problem


def _run(line: bytes, where: str) -> Run:
    try:
        return Run.from_json(json.loads(line))
    except (UsageError, ValueError, OverflowError, RecursionError) as problem:
        why = problem if isinstance(problem, UsageError) else "not JSON"
        raise UsageError(f"{where}: {why}") from problem


def _baselines(entry: Entry) -> str:
    return _guarded(" ".join(entry.baselines))


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _line(cells: list[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerow(cells)
    return stream.getvalue()
