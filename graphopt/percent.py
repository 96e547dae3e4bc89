"""A limit in percent, as people write it."""

from __future__ import annotations

import math
import re

_PERCENT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", re.ASCII)
MOST = 10_000.0


def parse_percent(text: str | float, *, most: float = MOST) -> float:
    """Return ``"3%"``, ``"3"`` or the number 3 as 3.0.

    A bare number below 1 is refused: ``0.03`` is 3 % to some and 0.03 % to others.

    Args:
        text: what was written; a number as a recipe may hold it.
        most: the greatest that makes sense.

    Raises:
        ValueError: it is no percentage; the message says what to write.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError("must be a percentage, like '3%'")
    match = _PERCENT.fullmatch(str(text).strip())
    value = float(match[1]) if match else math.nan
    if not match or not math.isfinite(value):
        raise ValueError(f"'{str(text)[:40]}' is no percentage: write it like 3%")
    if 0 < value < 1 and not match[2]:
        raise ValueError(
            f"{text} may mean {spell_percent(value)} or {spell_percent(100 * value)}: "
            "write which, with the sign"
        )
    if value > most:
        raise ValueError(f"{spell_percent(value)} is too much: at most {spell_percent(most)}")
    return value


def spell_percent(value: float) -> str:
    """Return a percentage as :func:`parse_percent` reads it back."""
    return f"{value:.10f}".rstrip("0").rstrip(".") + "%"
