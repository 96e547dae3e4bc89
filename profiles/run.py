"""One measurement as a value: what a history keeps, what a gate judged, what a pipeline is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from graphopt.errors import UsageError

SCHEMA = 1
_KIND = "graphopt-run"

Status = Literal["pass", "fail", "inconclusive", "none"]
Better = Literal["lower", "higher", "neither"]
STATUSES: tuple[Status, ...] = ("pass", "fail", "inconclusive", "none")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure that was measured.

    Attributes:
        name: a stable key of lower-case words joined by ``_``: ``"latency_p50"``.
        value: finite.
        unit: ``"ms"``, ``"items/s"``, ``"bytes"``, ``"%"``, ``"dB"``, ``"W"``, ``"mJ"``; ``""``
            for a count.
        better: which way is better.
        low: lower end of its confidence interval, or None.
        high: upper end, or None.
        note: what a reader must know to use it.
    """

    name: str
    value: float
    unit: str = ""
    better: Better = "lower"
    low: float | None = None
    high: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        bounds = [v for v in (self.value, self.low, self.high) if v is not None]
        if not self.name or not all(math.isfinite(v) for v in bounds):
            raise ValueError(f"figure '{self.name}' needs a name and finite values")


@dataclass(frozen=True, slots=True)
class Gate:
    """One limit, and what came of it.

    Attributes:
        name: the option that sets it, without dashes: ``"max-regression"``.
        metric: what is judged, in words: ``"median latency"``.
        value: what was found, in ``unit``; None where it could not be.
        limit: what is allowed, in ``unit``.
        unit: ``"%"``, ``"points"``, ``"dB"``, ``"bytes"``, ``"ms"``.
        status: ``"inconclusive"``: the measurement cannot tell.
        low: lower end of the interval of ``value``, or None.
        high: upper end, or None.
        note: why, and what to do, where it did not pass.
    """

    name: str
    metric: str
    value: float | None
    limit: float
    unit: str
    status: Status
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a verb that measures: ``build``, ``profile`` or ``check``.

    Attributes:
        verb: which one.
        subject: what was measured, by the name its history goes under: most often a file's name.
        sha256: of the measured file; empty where there is none.
        model_digest: of the model as given (``Model.digest()``), shared by rebuilds; or empty.
        figures: what was measured, in the order to show it in.
        gates: the limits it was held to; empty where there was none.
        samples_ms: raw latencies, in the order they ran.
        batch: items in one run.
        fingerprint: what must agree for two runs to be comparable.
        environment: all that was recorded of the machine, the fingerprint included.
        commit: of the repository it ran in, or empty.
        branch: likewise.
        when: UTC, ``"2026-11-23T04:12:53Z"``; empty where it is not to be told.
        notes: lines for people: warnings, what was decided.
    """

    verb: str
    subject: str
    sha256: str = ""
    model_digest: str = ""
    figures: tuple[Figure, ...] = ()
    gates: tuple[Gate, ...] = ()
    samples_ms: tuple[float, ...] = ()
    batch: int = 1
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    branch: str = ""
    when: str = ""
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The verdict: a failed gate outweighs an inconclusive one; ``"none"`` without gates."""
        found = {gate.status for gate in self.gates}
        for status in ("fail", "inconclusive", "pass"):
            if status in found:
                return status
        return "none"

    def figure(self, name: str) -> Figure | None:
        """Return a figure by its name."""
        return next((f for f in self.figures if f.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "schema": SCHEMA,
            "kind": _KIND,
            "verb": self.verb,
            "subject": self.subject,
            "status": self.status,
            "sha256": self.sha256,
            "model_digest": self.model_digest,
            "figures": [_plain(figure) for figure in self.figures],
            "gates": [_plain(gate) for gate in self.gates],
            "samples_ms": list(self.samples_ms),
            "batch": self.batch,
            "fingerprint": dict(sorted(self.fingerprint.items())),
            "environment": dict(sorted(self.environment.items())),
            "commit": self.commit,
            "branch": self.branch,
            "when": self.when,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, raw: Any) -> Run:
        """Read what :meth:`to_json` gave.

        Raises:
            UsageError: it is no run.
        """
        if not isinstance(raw, dict) or raw.get("kind") != _KIND:
            raise UsageError("not a run written by graphopt")
        if raw.get("schema") != SCHEMA:
            raise UsageError(f"a run of schema {raw.get('schema')}; this graphopt reads {SCHEMA}")
        try:
            samples = tuple(float(s) for s in raw["samples_ms"])
            if not all(math.isfinite(s) and s >= 0 for s in samples):
                raise ValueError("samples must be finite and not negative")
            return cls(
                **{k: _text(raw[k]) for k in _TEXTS},
                figures=tuple(_figure(f) for f in raw["figures"]),
                gates=tuple(_gate(g) for g in raw["gates"]),
                samples_ms=samples,
                batch=int(raw["batch"]),
                fingerprint={_text(k): _text(v) for k, v in raw["fingerprint"].items()},
                environment={_text(k): _text(v) for k, v in raw["environment"].items()},
                notes=tuple(_text(n) for n in raw["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
            raise UsageError(f"not a valid run: {problem}") from problem


_TEXTS = ("verb", "subject", "sha256", "model_digest", "commit", "branch", "when")


def _plain(value: Figure | Gate) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__slots__}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _surely(value: Any) -> float:
    found = _number(value)
    if found is None:
        raise ValueError("a number is missing")
    return found


def _figure(raw: Any) -> Figure:
    if raw["better"] not in ("lower", "higher", "neither"):
        raise ValueError(f"'better' is {raw['better']!r}")
    return Figure(
        name=_text(raw["name"]),
        value=_surely(raw["value"]),
        unit=_text(raw["unit"]),
        better=raw["better"],
        low=_number(raw["low"]),
        high=_number(raw["high"]),
        note=_text(raw["note"]),
    )


def _gate(raw: Any) -> Gate:
    if raw["status"] not in STATUSES:
        raise ValueError(f"a gate's status is {raw['status']!r}")
    return Gate(
        name=_text(raw["name"]),
        metric=_text(raw["metric"]),
        value=_number(raw["value"]),
        limit=_surely(raw["limit"]),
        unit=_text(raw["unit"]),
        status=raw["status"],
        low=_number(raw["low"]),
        high=_number(raw["high"]),
        note=_text(raw["note"]),
    )
