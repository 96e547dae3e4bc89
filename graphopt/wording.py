"""How counts, shapes and other people's errors are written in a message of one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

# ECMA-48: control sequences, operating system commands, and the short ones.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -~])")


def spell(shape: Iterable[Any] | None) -> str:
    """Return a shape as people write it: ``Nx3x224x224``; ``scalar``; ``of unknown shape``.

    A dimension is a number, a name, or None, written ``?``.
    """
    if shape is None:
        return "of unknown shape"
    return "x".join("?" if d is None else str(d) for d in shape) or "scalar"


def counted(number: int, noun: str) -> str:
    """Return a number with what it counts: ``1 tensor``, ``2 tensors``; the plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def one_of(names: Sequence[str]) -> str:
    """Return ``a``, ``a or b`` or ``a, b or c``."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def one_line(text: object, most: int = 300) -> str:
    """Return an error, or a text from elsewhere, in one line that does nothing to a terminal.

    What comes from a model, a file or another machine may hold anything. Escape sequences, with
    which it could rewrite the terminal, are left out; other control characters and what cannot be
    encoded become ``?``; it ends after ``most`` characters. An error without a message is told by
    its type.
    """
    bare = _ESCAPES.sub("", str(text)[: 4 * most])
    line = "".join(c if c.isprintable() else "?" for c in " ".join(bare.split()))[:most]
    return line or (type(text).__name__ if isinstance(text, BaseException) else "")
