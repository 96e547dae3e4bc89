"""Small files and other programs, read without ever raising, hanging, or printing what is in them.

What a machine tells of itself is hostile until read: lengths and times are bounded, and every text
comes back on one line of printable characters.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from graphopt.files import uninterrupted
from graphopt.wording import one_line

_MOST_BYTES = 1 << 18
_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said.

    Attributes:
        status: its exit status; None where there is none, it could not be started, or hung.
        text: what it printed, stdout and stderr as one.
    """

    status: int | None
    text: str = ""


def ask(*words: str, limit_s: float = _LIMIT_S) -> Answer:
    """Run a program of PATH; whatever it starts is gone when this returns. Never raises."""
    program = shutil.which(words[0])
    if program is None:
        return Answer(None)
    # A file and not a pipe: a child of a program that was ended may hold a pipe for ever.
    try:
        with tempfile.TemporaryFile() as out:
            with uninterrupted():
                child = subprocess.Popen(
                    [program, *words[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, "LC_ALL": "C"},
                )
            try:
                status: int | None = child.wait(limit_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                end(child)
            out.seek(0)
            return Answer(status, out.read(_MOST_BYTES).decode(errors="replace"))
    except (OSError, ValueError):
        return Answer(None)


def end(child: subprocess.Popen[bytes], grace_s: float = 0.0) -> None:
    """End a program that leads a session of its own, with all it started there."""
    with uninterrupted():
        if grace_s and child.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(grace_s)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def file_text(path: Path, most: int = _MOST_BYTES) -> str:
    """Return the beginning of a file's text, or an empty string. Never raises."""
    try:
        with path.open("rb") as stream:
            return stream.read(most).decode(errors="replace")
    except (OSError, ValueError):
        return ""


def line(path: Path) -> str:
    """Return a small file's text in one line of at most 120 characters, or an empty string."""
    return one_line(file_text(path, 4096).replace("\0", " "), 120)


def matches(folder: Path, pattern: str, most: int = 4096) -> list[Path]:
    """Return what matches a pattern in a folder, in the order of the numbers in the names."""
    try:
        found = list(folder.glob(pattern))[:most]
    except OSError:
        return []
    return sorted(found, key=lambda p: ([int(n) for n in re.findall(r"[0-9]{1,9}", p.name)], p))


def number(text: str) -> float | None:
    """Return a finite number of plain digits, or None: ``"[N/A]"``, ``"1e999"``, ``"٣"``."""
    text = text.strip()
    if not re.fullmatch(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?", text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def spelled(value: float, digits: int = 1) -> str:
    """Return a number as it is recorded: rounded, without zeros at its end."""
    text = f"{round(value, digits):.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
