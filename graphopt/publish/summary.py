"""A run as Markdown: what GitHub shows of a step, and anybody may paste into a comment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from graphopt.console import Console
from graphopt.errors import OutputError
from graphopt.files import output_error
from graphopt.profiles.run import Run
from graphopt.publish.words import (
    BEFORE,
    MARKS,
    amount,
    change,
    found_words,
    interval_words,
    limit_words,
)
from graphopt.wording import one_line

MOST = 1 << 20
"""Bytes GitHub takes as the summary of one step: a longer one is refused whole."""
_CELL = 300
_SHORTENED = "\n*Shortened: the rest is in the report.*\n"
_SPECIAL = re.compile(r"[\\`*\[\]{}<>|~&$#]|(?<!\w)_|_(?!\w)")
_LINK = re.compile(r"(?i)(?:https?|ftp):|www\.|@")


def summary(run: Run, most: int = MOST) -> str:
    """Return a run as Markdown of at most ``most`` bytes; what does not fit is cut off in rows."""
    room = most - len(_SHORTENED.encode())
    pieces: list[str] = []
    for piece in _pieces(run):
        room -= len(piece.encode())
        if room < 0:
            pieces.append(_SHORTENED)
            break
        pieces.append(piece)
    return "".join(pieces) if sum(len(p.encode()) for p in pieces) <= most else ""


def _pieces(run: Run) -> Iterator[str]:
    """Yield blocks and rows, what matters most first; each can be the last."""
    verdict = f": {MARKS[run.status]}" if run.gates else ""
    yield f"### graphopt {safe(run.verb)}{verdict} ({safe(run.subject)})\n"
    if run.gates:
        yield _head(["Gate", "Verdict", "Found", "Interval", "Limit", ""])
        for gate in run.gates:
            yield _row(
                [
                    f"{gate.metric} ({gate.name})",
                    MARKS[gate.status],
                    found_words(gate),
                    interval_words(gate),
                    limit_words(gate),
                    gate.note,
                ]
            )
    yield from _figures(run)
    if run.notes:
        yield "\n"
        for note in run.notes:
            yield f"- {_no_block(safe(note))}\n"
    yield from _details(run)


def _figures(run: Run) -> Iterator[str]:
    before = {
        figure.name.removesuffix(BEFORE): figure
        for figure in run.figures
        if figure.name.endswith(BEFORE)
    }
    shown = [figure for figure in run.figures if not figure.name.endswith(BEFORE)]
    alone = [figure for name, figure in before.items() if run.figure(name) is None]
    if not shown and not alone:
        return
    if before:
        yield _head(["Figure", "Before", "After", "Change", "Interval"])
    else:
        yield _head(["Figure", "Value", "Interval"])
    for figure in shown:
        was = before.get(figure.name)
        told = "" if was is None else change(was, figure)
        cells = [figure.name.replace("_", " "), amount(figure.value, figure.unit)]
        if before:
            cells.insert(1, "" if was is None else amount(was.value, was.unit))
            cells.append(told)
        yield _row([*cells, interval_words(figure)])
    for figure in alone:
        name = figure.name.removesuffix(BEFORE).replace("_", " ")
        yield _row([name, amount(figure.value, figure.unit), "", "", interval_words(figure)])


def _details(run: Run) -> Iterator[str]:
    facts = {
        "commit": run.commit,
        "branch": run.branch,
        "file": run.sha256,
        "model": run.model_digest,
        "when": run.when,
        **dict(sorted(run.environment.items())),
    }
    # Counters are there to be subtracted from later ones.
    shown = {n: text for n, text in facts.items() if text and not n.startswith("counter_")}
    rows = [_row([name.replace("_", " "), text]) for name, text in shown.items()]
    if rows:
        # In one piece: a summary cut off within <details> would swallow what follows.
        head = "\n<details><summary>Machine and origin</summary>\n"
        yield f"{head}{_head(['', ''])}{''.join(rows)}\n</details>\n"


def _head(names: Sequence[str]) -> str:
    return f"\n{_row(names)}|{'---|' * len(names)}\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(safe(cell) for cell in cells)} |\n"


def safe(text: str) -> str:
    """Return a text in one line that is nothing but text in GitHub's Markdown, tables included."""
    line = _SPECIAL.sub(lambda m: f"\\{m[0]}", one_line(text, _CELL))
    # Bare addresses and @names become links; an empty comment within keeps them text.
    return _LINK.sub(lambda m: f"{m[0]}<!-- -->", line)


def _no_block(line: str) -> str:
    """Return a line of safe text that begins no list, rule or heading."""
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", line)


def append_summary(run: Run, path: Path, ui: Console) -> None:
    """Add a run's summary to a file, whose folders are made.

    Raises:
        OutputError: it cannot be written, or is full: GitHub would take none of it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.stat().st_size if path.is_file() else 0
        text = summary(run, MOST - there - 1)
        if not text:
            raise OutputError(f"{one_line(path)} is full: GitHub takes 1 MiB for a step's summary")
        with path.open("ab") as stream:  # in one write, so that two steps at once do not mix
            stream.write((("\n" if there else "") + text).encode())
    except OSError as problem:
        raise output_error(path, problem) from problem
    ui.info(f"added a summary to {one_line(path)}")
