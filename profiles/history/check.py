"""What is wrong with a history: every page, index and reference, and every run as it was added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.errors import UsageError
from graphopt.profiles.history.pack import figure_rows
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.profiles.history.store import History
    from graphopt.profiles.run import Run

_MOST = 20  # lines of a kind


def problems(history: History) -> list[str]:
    """Return a line for each thing that is wrong; see :meth:`History.check`."""
    lines = [str(row[0]) for row in history.rows(f"PRAGMA integrity_check({_MOST})")]
    lines = [line for line in lines if line != "ok"]
    broken = history.rows("PRAGMA foreign_key_check")
    lines += [f"{row[0]} {row[1]} refers to a run that is not there" for row in broken[:_MOST]]
    for (number,) in history.rows("SELECT id FROM runs ORDER BY id"):
        try:
            lines += _of_figures(history, number, history.get(number))
        except UsageError as problem:
            lines.append(str(problem))
    strays = history.rows(
        "SELECT name, run FROM baselines JOIN runs ON runs.id = run "
        "WHERE runs.subject <> baselines.subject ORDER BY name"
    )
    lines += [f"baseline '{one_line(name, 60)}' is of another subject than run {run}, which it is"
              for name, run in strays[:_MOST]]  # fmt: skip
    return lines


def _of_figures(history: History, number: int, run: Run) -> list[str]:
    """Compare the figures that lists and plots read with those of the run's own record."""
    rows = history.rows("SELECT name, value, unit FROM figures WHERE run = ?", (number,))
    if sorted(map(tuple, rows), key=repr) == sorted(figure_rows(run), key=repr):
        return []
    return [f"run {number} of {history.path} is damaged: its figures differ from its record"]
