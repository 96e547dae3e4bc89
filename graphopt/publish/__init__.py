"""A run told to pipelines: test reports, summaries, annotations, flat figures, a history.

:func:`check_outputs` comes before any work, :func:`publish` after a verb's own output and before
a gate's error leaves. A figure ``NAME_before`` is what ``NAME`` was before: of the model as given,
or of the baseline; tables show the two in one row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt import output
from graphopt.console import Console
from graphopt.errors import GraphoptError, OutputExistsError, UsageError
from graphopt.files import is_stream, output_error, scratch_beside, write_text
from graphopt.profiles.run import Run
from graphopt.publish.bmf import bmf
from graphopt.publish.ci import system, tell
from graphopt.publish.junit import junit
from graphopt.publish.metrics import metrics
from graphopt.publish.summary import append_summary
from graphopt.runs import stamped
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.profiles.history import History

_FILES: Mapping[str, Callable[[Run, Path], str]] = {
    "junit": lambda run, _: junit(run),
    "metrics": metrics,
    "bmf": lambda run, _: bmf(run),
}
_WRITTEN = ("junit", "metrics", "bmf", "summary", "history")
_OF_A_BUILD = frozenset(
    (
        output.REPORT,
        output.RECIPE,
        output.TABLE,
        output.CACHE,
        output.CONTACT_SHEET,
        "prune-plan.json",
    )
)
_LONGEST_LABEL = 200
_OTHERS = ("output", "plot", "layers", "save")


def check_outputs(
    flags: Mapping[str, Any], *, inputs: Iterable[Path | None] = (), folder: Path | None = None
) -> None:
    """Refuse, before any work, what :func:`publish` could not do afterwards.

    Args:
        flags: of a verb, those of ``PUBLISH`` among them; other outputs by their usual names.
        inputs: files the verb reads; None is passed over.
        folder: where a build puts its results, or None; what a build names itself is refused.

    Raises:
        UsageError: ``--ci`` names nothing known, ``--label`` is no name, ``--history`` a file that
            is none, two outputs name one file, or one is a build's own.
        OutputExistsError: an output is an input, or a folder.
        OutputError: an output cannot be written.
    """
    system(flags.get("ci"), {})
    _check_label(flags.get("label"))
    named = {name: Path(flags[name]) for name in _WRITTEN if flags.get(name) is not None}
    others = {
        name: Path(flags[name])
        for name in _OTHERS
        if isinstance(flags.get(name), str | os.PathLike)
    }
    read = [Path(path) for path in inputs if path is not None]
    taken: dict[str, str] = {}
    for name, path in {**others, **named}.items():
        first = taken.setdefault(_identity(path), name)
        if first != name and {first, name} & named.keys():
            raise UsageError(f"--{first} and --{name} name one file: {one_line(path)}")
    for name, path in named.items():
        _check_output(name, path, read)
        if name == "history" and path.is_file():
            with _history(path):  # one of ours, that can be written
                pass
        if folder is not None and _of_a_build(path, folder):
            raise UsageError(
                f"--{name}: {one_line(path)} is what the build itself calls so: use another name"
            )


def _check_label(label: str | None) -> None:
    if label is not None and not (label.isprintable() and len(label) <= _LONGEST_LABEL):
        raise UsageError(
            f"--label '{one_line(label, 40)}' is no name: write at most {_LONGEST_LABEL} letters, "
            "all of which can be seen"
        )


def _of_a_build(path: Path, folder: Path) -> bool:
    named = path.name.startswith("model.") or path.name in _OF_A_BUILD
    return named and _identity(path.parent) == _identity(folder)


def _check_output(name: str, path: Path, read: Iterable[Path]) -> None:
    try:
        if path.is_dir():
            raise OutputExistsError(f"--{name}: {one_line(path)} is a folder: name a file in it")
        if any(_identity(path) == _identity(other) for other in read):
            raise OutputExistsError(
                f"--{name}: {one_line(path)} is what is read: use another name for the output"
            )
        if name != "history" and is_stream(path):
            return
        with scratch_beside(path):
            pass
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as problem:
        raise output_error(path, problem) from problem


def _identity(path: Path) -> str:
    """Return what two names of one file share: links resolved, hard links included."""
    try:
        found = path.stat()
        return f"{found.st_dev}:{found.st_ino}"
    except OSError:
        return os.path.realpath(path)


def publish(run: Run, flags: Mapping[str, Any], ui: Console) -> int | None:
    """Do all that the flags of ``PUBLISH`` ask for; commit, branch and time are filled in.

    What can be written is, even where something else cannot.

    Args:
        run: what was measured and judged.
        flags: ``history``, ``label``, ``junit``, ``metrics``, ``bmf``, ``summary``, ``ci``; each
            may be missing.
        ui: told what was written.

    Returns:
        The run's number in its history; None where it was not added.

    Raises:
        GraphoptError: the first that could not be done; where a gate of the run did not pass it
            is a warning, since the gate's own error is about to be raised.
    """
    asked = any(flags.get(name) is not None for name in _WRITTEN)
    if not asked and system(flags.get("ci"), os.environ) == "off":
        return None
    run = stamped(run)
    if flags.get("label"):
        run = replace(run, subject=flags["label"])
    steps: list[Callable[[], object]] = []
    numbers: list[int] = []
    for name, text in _FILES.items():
        if flags.get(name) is not None:
            steps.append(partial(_write, Path(flags[name]), run, text, ui))
    where = flags.get("summary")
    if where is not None:
        steps.append(lambda: append_summary(run, where, ui))
    if flags.get("history") is not None:
        steps.append(lambda: numbers.append(_remember(run, flags["history"], ui)))
    steps.append(lambda: tell(run, flags.get("ci"), os.environ, ui, summary=where))
    problems: list[GraphoptError] = []
    for step in steps:
        try:
            step()
        except GraphoptError as problem:
            problems.append(problem)
    judged = run.status in ("fail", "inconclusive")
    for late in problems if judged else problems[1:]:
        ui.warn(str(late))
    if problems and not judged:
        raise problems[0]
    return numbers[0] if numbers else None


def _write(path: Path, run: Run, text: Callable[[Run, Path], str], ui: Console) -> None:
    write_text(path, text(run, path))
    ui.info(f"wrote {one_line(path)}")


def _history(path: Path) -> History:
    from graphopt.profiles.history import History

    return History.open(path)


def _remember(run: Run, path: Path, ui: Console) -> int:
    with _history(path) as history:
        number = history.add(run)
    ui.info(f"added to {one_line(path)} as run {number}")
    return number
