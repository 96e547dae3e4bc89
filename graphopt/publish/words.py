"""How a gate and a figure are written for people, wherever a run is published."""

from __future__ import annotations

from graphopt.profiles.run import Figure, Gate, Status

BEFORE = "_before"
MARKS: dict[Status, str] = {
    "pass": "✅ pass",
    "fail": "❌ fail",
    "inconclusive": "⚠️ inconclusive",
    "none": "➖ not judged",
}
_PRECISION = {"%": ".2f", "points": ".2f", "dB": ".1f"}


def amount(value: float, unit: str) -> str:
    """Return a figure with its unit, as precise as a reader needs it."""
    if unit == "bytes":
        for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if abs(value) >= size:
                return f"{value / size:.2f} {name}"
        return f"{value:.0f} bytes"
    if float(value).is_integer() and not unit:
        return f"{value:,.0f}"
    return f"{value:{_PRECISION.get(unit, '.4g')}} {unit}".rstrip()


def found_words(gate: Gate) -> str:
    """Return what a gate found."""
    return "-" if gate.value is None else amount(gate.value, gate.unit)


def limit_words(gate: Gate) -> str:
    """Return what a gate allows; one without a unit judges no figure, but yes or no."""
    if not gate.unit:
        return "-"
    # What was found is the change of throughput, so its limit is one below zero.
    sign = -1.0 if gate.name == "max-throughput-drop" else 1.0
    return amount(sign * gate.limit, gate.unit)


def gate_words(gate: Gate) -> str:
    """Return a gate in one sentence: what was found, what is allowed, what to do."""
    parts = [gate.metric]
    if gate.value is not None:
        parts[0] += f": {found_words(gate)}{interval_words(gate)}"
    if gate.unit:
        parts.append(f"limit {limit_words(gate)}")
    found = ", ".join(parts)
    return f"{found}; {gate.note}" if gate.note else found


def interval_words(value: Gate | Figure) -> str:
    """Return `` [low, high]``, or nothing where there is no interval."""
    if value.low is None and value.high is None:
        return ""
    low = "-∞" if value.low is None else f"{value.low:.4g}"
    high = "∞" if value.high is None else f"{value.high:.4g}"
    return f" [{low}, {high}]"


def change(before: Figure, after: Figure) -> str:
    """Return how a figure changed, in the unit in which that is told."""
    if before.value == after.value:
        return "same"
    difference = after.value - before.value
    if after.unit == "%":
        return f"{difference:+.2f} points"
    if after.unit == "dB":
        return f"{difference:+.1f} dB"
    return f"{100 * difference / before.value:+.1f} %" if before.value else ""
