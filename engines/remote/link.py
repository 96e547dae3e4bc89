"""A link to the machine that does the work: another one over ssh, or this one.

Everything is said in POSIX sh, which a Jetson, a server and a container all have. Words reach the
far side as parameters of a script (``"$1"``), never pasted into it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from graphopt.errors import EnvironmentProblem

Progress = Callable[[int, int], None]
"""Told how many bytes of how many are there."""

# Linux takes 128 KiB as one word of a command line.
LONGEST = 120_000
# What every login shell (sh, csh, fish) takes literally between single quotes.
_UNSAFE = re.compile(rb"[^ -&(-\[\]-~]|!")


class LinkLost(EnvironmentProblem):
    """The link broke: what runs over there may go on. Trying again may help."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a script: its exit status and what it printed."""

    status: int
    stdout: str
    stderr: str


class Link(Protocol):
    """One machine. Paths over there are absolute texts; scripts are POSIX sh.

    Every method raises :class:`LinkLost` where the link breaks or its time limit passes, and
    :class:`EnvironmentProblem` where it cannot be made at all (unknown host, a key that changed).
    """

    where: str
    """What a person calls it: ``"user@jetson"``, ``"this machine"``."""

    def run(
        self, script: str, *words: str, stdin: bytes | None = None, limit_s: float = 60.0
    ) -> Done:
        """Run ``script`` with ``words`` as its parameters; its exit status raises nothing.

        Of more output than :data:`~graphopt.engines.remote.talk.KEPT` bytes the last are kept,
        after a line that says so.
        """

    def stream(
        self, script: str, *words: str, on_line: Callable[[str], None], limit_s: float
    ) -> int:
        """Run ``script``; hand over each line it prints on stdout as it comes.

        Returns its exit status. What it prints on stderr is dropped: write ``2>&1`` to have it.
        Lines have lost their end, and may hold control characters:
        :func:`~graphopt.wording.one_line` is for display.
        """

    def put(
        self, local: Path, remote: str, /, *, progress: Progress | None = None, limit_s: float
    ) -> None:
        """Copy a file there, going on where an earlier copy to ``remote`` broke off.

        The bytes are checked by their SHA-256, and ``remote`` appears only when whole.
        """

    def get(
        self, remote: str, local: Path, /, *, progress: Progress | None = None, limit_s: float
    ) -> None:
        """Copy a file here, checked and whole or not at all, as :meth:`put` does."""

    def close(self) -> None:
        """End the connection; nothing over there is touched."""

    def __enter__(self) -> Link:
        """Return itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""


def quoted(script: str, words: Sequence[str]) -> str:
    r"""Return one line that any login shell hands to sh unchanged, with ``words`` as parameters.

    Quotes, backslashes, newlines and ``!`` mean something else to each of sh, csh and fish even
    between single quotes, so they go as ``\0ooo``, which printf of POSIX turns back.

    Raises:
        ValueError: a word holds a NUL, which no parameter can.
    """
    whole = f"set -- {' '.join(shlex.quote(w) for w in words)}\n{script}"
    if "\0" in whole:
        raise ValueError("a word for a shell holds a NUL")
    told = _UNSAFE.sub(lambda m: b"\\0%03o" % m[0][0], os.fsencode(whole)).decode()
    if len(told) > LONGEST:
        raise ValueError(f"{len(told)} bytes are too long for one command")
    return f"exec sh -c 'eval \"$(printf %b \"$1\")\"' sh '{told}'"
