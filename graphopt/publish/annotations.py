"""GitHub's workflow commands, by which a step puts errors and warnings on the page of its run."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.profiles.run import Gate, Run
from graphopt.publish.words import gate_words
from graphopt.wording import counted, one_line

PER_KIND = 10
"""Of errors, and of warnings: GitHub drops the rest of a step's without a word."""
_LONGEST = 1000


def annotate(run: Run) -> list[str]:
    """Return a line for each gate that did not pass, and for each note, as far as GitHub shows.

    Errors of failed gates, warnings of inconclusive ones, then notes as notices; none names a
    file, since a model has no lines to point at.
    """
    lines = []
    for kind, told in (
        ("error", [_gate(g) for g in run.gates if g.status == "fail"]),
        ("warning", [_gate(g) for g in run.gates if g.status == "inconclusive"]),
        ("notice", list(run.notes)),
    ):
        lines += [command(kind, _title(run), text) for text in _few(told)]
    return lines


def _few(told: list[str]) -> Iterator[str]:
    if len(told) <= PER_KIND:
        yield from told
        return
    yield from told[: PER_KIND - 1]
    yield f"and {counted(len(told) - PER_KIND + 1, 'more')}".removesuffix("s")


def _title(run: Run) -> str:
    return f"graphopt {run.verb}: {run.subject}"


def _gate(gate: Gate) -> str:
    return f"{gate.name} {gate.status}: {gate_words(gate)}"


def command(kind: str, title: str, message: str) -> str:
    """Return one workflow command, a line that no title or message can end or begin anew."""
    message = one_line(message, _LONGEST).replace("%", "%25")
    title = one_line(title, 200).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={title}::{message}"
