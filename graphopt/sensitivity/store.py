"""Figures in a file while they are measured, so that a run that was stopped goes on from there."""

from __future__ import annotations

import json
import time
from pathlib import Path

from graphopt.errors import OutputExistsError, UsageError
from graphopt.files import dump_json, read_text, write_text
from graphopt.sensitivity.values import Sensitivity, Subject

SECONDS = 2.0  # between two writes


def load(path: Path) -> Sensitivity:
    """Read figures.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{path} holds no sensitivities measured by graphopt") from problem
    return Sensitivity.from_json(value, where=str(path))


def known_from(path: Path, subject: Subject) -> Sensitivity | None:
    """Return the figures that a file holds of this subject; None where there is no file.

    Raises:
        OutputExistsError: it holds something else, or figures of another subject.
    """
    if not path.exists():
        return None
    try:
        found = load(path)
    except UsageError as problem:
        raise OutputExistsError(f"{problem}; use --force or another name") from problem
    other = found.subject.differs(subject)
    if other:
        raise OutputExistsError(
            f"{path} holds figures of another run (asked for now: {other}); "
            "use --force to start over, or another name"
        )
    return found


class Journal:
    """Writes figures to a file, all of them each time, so that it is whole at any time.

    Args:
        path: the file; replaced by what is kept.

    Attributes:
        wrote: whether it has been written to.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.wrote = path, False
        self._latest: Sensitivity | None = None
        self._written = -float("inf")

    def __call__(self, found: Sensitivity) -> None:
        """Keep what there is; it is written at once, or with what comes within two seconds."""
        self._latest = found
        if time.monotonic() - self._written >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is kept and not yet written.

        Raises:
            OutputError: the disk is full, or the folder may not be written.
        """
        if self._latest is not None:
            latest, self._latest = self._latest, None
            write_text(self.path, dump_json(latest.to_json()))
            self._written, self.wrote = time.monotonic(), True
