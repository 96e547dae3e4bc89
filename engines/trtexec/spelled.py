"""Names, shapes and paths as words of trtexec's command line.

How trtexec reads a shape (``samples/common/sampleOptions.cpp``, alike from 8.5 to 11): the list is
split at each comma, each part at its *last* colon, and single quotes are taken out of the name. So
colons, spaces and ``x`` in names need no care, while commas and quotes cannot be said at all; from
10 on ``*`` is a wildcard.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import UsageError
from graphopt.wording import one_line

_SHAPE_PROBLEMS = {",": "a comma", "'": "a single quote", "*": "an asterisk"}


def path_word(text: str) -> str:
    """Return a path.

    Raises:
        UsageError: trtexec cannot be told it.
    """
    if not text or any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise UsageError(f"{text!r} is no path that trtexec can be told")
    return text


def shape_spec(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return shapes as trtexec reads them: ``x:1x3x8x8,mask:1x8``.

    Raises:
        UsageError: a name cannot be said, or a shape is that of a scalar.
    """
    parts = []
    for name, shape in shapes.items():
        shown = _sayable(name, "a shape for")
        if not shape:
            raise UsageError(f"input '{shown}' is a scalar: it has no shape to tell trtexec")
        if any(d < 0 for d in shape):
            raise UsageError(f"input '{shown}': a dimension cannot be negative")
        parts.append(f"{name}:{'x'.join(map(str, shape))}")
    return ",".join(parts)


def feed_spec(feeds: Mapping[str, str]) -> str:
    """Return files as trtexec reads them: ``x:x.bin,mask:mask.bin``, split as shapes are.

    Raises:
        UsageError: a name or a path cannot be said.
    """
    parts = []
    for name, path in feeds.items():
        _sayable(name, "the values of")
        if any(sign in path for sign in ",:'"):
            raise UsageError(f"{path!r} is no path that trtexec can be told values in")
        parts.append(f"{name}:{path_word(path)}")
    return ",".join(parts)


def _sayable(name: str, what: str) -> str:
    """Return a name of an input for messages, if trtexec can be told it.

    Raises:
        UsageError: it cannot.
    """
    wrong = next((why for sign, why in _SHAPE_PROBLEMS.items() if sign in name), None)
    if not name or name != name.strip() or any(ord(sign) < 32 for sign in name):
        wrong = wrong or "nothing, control characters, or white space at its ends"
    shown = one_line(name, 80)
    if wrong:
        raise UsageError(
            f"input '{shown}': trtexec cannot be told {what} a name with {wrong}: rename the input"
        )
    return shown
