"""How gates are written in the terminal: what was found, what is allowed, and the reasons."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.profiles.run import Gate, Status
from graphopt.wording import one_line

_FORMS = {"%": "+.2f", "ms": ".4g"}


def found(gate: Gate) -> str:
    """Return what was found, with its interval."""
    if gate.name == "outputs":
        return {"pass": "alike", "fail": "other"}.get(gate.status, "-")
    if gate.value is None:
        return gate.note if gate.note == "identical" else "-"
    form = _FORMS.get(gate.unit, ".2f")
    text = f"{gate.value:{form}} {gate.unit}"
    if gate.low is None and gate.high is None:
        return text
    ends = ["?" if v is None else f"{v:{form}}" for v in (gate.low, gate.high)]
    return f"{text} ({ends[0]} to {ends[1]})"


def allowed(gate: Gate) -> str:
    """Return what is allowed."""
    if gate.name == "outputs":
        return "alike"
    sign = "-" if gate.name == "max-throughput-drop" else ""
    bound = "at least " if gate.name == "min-sqnr" else ""
    unit = "point" if gate.unit == "points" and gate.limit == 1 else gate.unit
    return f"{bound}{sign}{gate.limit:g} {unit}".rstrip()


def told(gate: Gate) -> str:
    """Return a gate in words: ``median latency +6.94 % (+6.50 to +7.59), limit 2 %``."""
    if gate.name == "outputs" or gate.value is None:
        return gate.note or gate.metric
    return f"{gate.metric} {found(gate)}, limit {allowed(gate)}"


def reasons(gates: Sequence[Gate], status: Status) -> str:
    """Return the gates of a status, each with figures and limit, in one line."""
    return "; ".join(f"{g.name}: {one_line(told(g))}" for g in gates if g.status == status)


def advice(gates: Sequence[Gate], status: Status) -> str:
    """Return what to do about the gates of a status, a line each, without repetition."""
    notes = [g.note for g in gates if g.status == status and g.value is not None and g.note]
    return "\n".join(dict.fromkeys(one_line(note) for note in notes))
