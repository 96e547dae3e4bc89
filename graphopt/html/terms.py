"""The words of a page: what columns are called, how figures and changes are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from graphopt.charts.scale import brief
from graphopt.report import human

NBSP = "\N{NO-BREAK SPACE}"
BEFORE, FP32 = "before", "fp32"
ESTIMATED = "ESTIMATED latency"
_LABELS = {
    "before": "as given",
    "fp32": "optimized, fp32",
    "int8": "INT8",
    "fp16": "FP16",
    "w4": "INT4 weights",
    "w8": "INT8 weights",
    "engine": "the engine",
}
# Whether more of it is better.
_MORE = {"accuracy": True, "top-1 agreement": True, "SQNR": True}


def label(column: str) -> str:
    """Return what people call a column of the report."""
    return _LABELS.get(column) or " + ".join(_LABELS.get(part, part) for part in column.split("+"))


def columns(values: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the columns that figures have: as given, fp32, then the others as they come."""
    found = dict.fromkeys(name for row in values for name in row)
    first = [name for name in (BEFORE, FP32) if name in found]
    return [*first, *(name for name in found if name not in first)]


def told(value: float, unit: str) -> str:
    """Write a figure with its unit."""
    if unit == "ms" and 0 < abs(value) < 0.1:
        text = f"{value * 1000:.1f} µs"
    elif unit == "" and abs(value) >= 1e6:
        text = brief(value)  # nine digits of MACs say no more than three
    elif unit in ("bytes", "%", "ms", "dB", ""):
        text = human(value, unit)
    else:
        text = f"{value:.4g} {unit}"
    return text.replace(" ", NBSP)


def share(value: float, digits: int = 0) -> str:
    """Write a share in per cent; a share so small that it would read 0 says so."""
    percent = 100 * value
    least = 10.0**-digits
    if 0 < percent < least / 2:
        return f"<{NBSP}{least:.{digits}f}{NBSP}%"
    return f"{percent:.{digits}f}{NBSP}%"


def short(value: float, unit: str) -> str:
    """Write a figure in three digits, for prose; shares keep their decimals: answers are counts."""
    if unit == "ms" and 0.1 <= abs(value) < 1e6:
        digits = f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"
        return f"{digits}{NBSP}ms"
    return told(value, unit) if unit else brief(value)


def in_unit(medians_ms: Iterable[float]) -> tuple[float, str]:
    """Return what times of a table in ms are multiplied by, and its unit, to keep three digits."""
    return (1.0, "ms") if max(medians_ms, default=1.0) >= 0.1 else (1000.0, "µs")


def times(ratio: float) -> str:
    """Write a factor in three digits at most: ``3.40x``, ``17x``."""
    if ratio < 9.995:
        return f"{ratio:.2f}x"
    return f"{ratio:.3g}x" if ratio < 999.5 else f"{ratio:,.0f}x"


def factor(first: float, last: float, *, brief: bool = False) -> str:
    """Write how much faster or slower: ``3.40x faster``; ``brief`` in three digits at most."""
    if first <= 0 or last <= 0:
        return ""
    ratio = first / last
    most = max(ratio, 1 / ratio)
    if f"{most:.2f}" == "1.00":
        return "as fast"
    return f"{times(most) if brief else f'{most:.2f}x'} {'faster' if ratio > 1 else 'slower'}"


def change(unit: str, first: float, last: float) -> str:
    """Write the change of a figure, in the words that fit it."""
    if first == last:
        return "same"
    if unit == "%":
        return f"{last - first:+.2f} points"
    if unit == "dB":
        return f"{last - first:+.1f} dB"
    if unit == "ms":
        return factor(first, last)
    if first <= 0:
        return ""
    percent = 100 * (last / first - 1)
    return f"{percent:+.1f} %" if math.isfinite(percent) else ""


def better(name: str, first: float, last: float) -> bool | None:
    """Return whether a figure got better; None where it stayed the same."""
    if first == last:
        return None
    return (last > first) == _MORE.get(name, False)


def by_chance(lost: int, won: int) -> float:
    """Return the two-sided exact sign test of paired answers: McNemar's test.

    The probability that answers which turn wrong and right with even odds come out as far from
    even as ``lost`` to ``won``, or further.
    """
    total, fewer = lost + won, min(lost, won)
    if not total:
        return 1.0
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        for k in range(fewer + 1)
    ]
    top = max(logs)
    tail = top + math.log(math.fsum(math.exp(v - top) for v in logs)) - total * math.log(2)
    return min(1.0, 2 * math.exp(tail))
