"""A build's report as a run, and what every run is stamped with."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from graphopt.errors import UsageError
from graphopt.profiles.run import Better, Figure, Gate, Run
from graphopt.profiles.state import fingerprint
from graphopt.vcs import now, place

BEFORE, FP32 = "before", "fp32"
# As the report names metrics -> as a history and a dashboard know them, and which way is better.
_STABLE: Mapping[str, tuple[str, Better]] = {
    "latency": ("latency_p50", "lower"),
    "engine latency": ("engine_latency_p50", "lower"),
    "top-1 agreement": ("top1_agreement", "higher"),
    "accuracy": ("accuracy", "higher"),
    "SQNR": ("sqnr", "higher"),
}
_PERCENTILES = ("p90", "p95", "p99")


def stamped(run: Run) -> Run:
    """Return the run with commit, branch and time (UTC), where they are missing."""
    commit, branch = (run.commit, run.branch) if run.commit and run.branch else place()
    return replace(
        run,
        commit=run.commit or commit,
        branch=run.branch or branch,
        when=run.when or now(),
    )


def run_of_report(report: Mapping[str, Any], *, verb: str = "build") -> Run:
    """Return what a build measured: the figures of what it ships, and its gates.

    A figure of the model as given is called ``NAME_before``. Samples and percentiles are of the
    model that ships, on the CPU; of the engine on its device where only that was timed.

    Args:
        report: ``Report.to_json()``, or a ``report.json``.
        verb: which verb made it.

    Raises:
        UsageError: it is no report.
    """
    try:
        return _run(report, verb)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise UsageError(f"not a valid report: {problem}") from problem


def _run(report: Mapping[str, Any], verb: str) -> Run:
    if report["kind"] != "graphopt-report":
        raise ValueError("it is of another kind")
    ships = shipped(report)
    timed = report["latency"].get(ships) or report["latency"].get("engine") or {}
    figures = {figure.name: figure for figure in _figures(report, ships)}
    for column, prefix in ((ships, ""), ("engine", "engine_")):
        for figure in _more(report["latency"].get(column) or {}, f"{prefix}latency", prefix):
            figures.setdefault(figure.name, figure)
    for figure in _certain(report.get("comparison") or {}):
        figures.setdefault(figure.name, figure)
    environment = {str(k): str(v) for k, v in timed.get("environment", {}).items()}
    notes = list(report["warnings"])
    if report["synthetic"]:
        notes.insert(0, "SYNTHETIC calibration data: accuracy means nothing, do not ship this")
    return Run(
        verb=verb,
        subject=report["source"]["name"],
        sha256=_digest(report, ships),
        model_digest=report["source"].get("digest", ""),
        figures=tuple(figures.values()),
        gates=tuple(_gate(gate) for gate in report["gates"]),
        samples_ms=tuple(timed.get("samples_ms", ())),
        batch=int(timed.get("batch", 1)),
        fingerprint=fingerprint(environment) if environment else {},
        environment=environment,
        notes=tuple(notes),
    )


def shipped(report: Mapping[str, Any]) -> str:
    """Return the column of what a build ships: the one that is neither as given nor in fp32."""
    columns = {name for metric in report["metrics"] for name in metric["values"]}
    return next(iter(sorted(columns - {BEFORE, FP32})), FP32)


def _figures(report: Mapping[str, Any], ships: str) -> Iterator[Figure]:
    """Yield each metric of what ships, then, where it was measured too, as it was before."""
    for metric in report["metrics"]:
        name, better = _STABLE.get(metric["name"], (_name(metric["name"]), "lower"))
        values = metric["values"]
        if ships in values:
            yield Figure(
                name, float(values[ships]), metric["unit"], better, note=metric.get("note", "")
            )
        if BEFORE in values:
            yield Figure(f"{name}_{BEFORE}", float(values[BEFORE]), metric["unit"], better)


def _more(profile: Mapping[str, Any], name: str, prefix: str) -> Iterator[Figure]:
    """Yield what a latency profile tells beyond its median, which is a metric of the report."""
    for percentile in _PERCENTILES:
        value = profile.get(f"{percentile}_ms")
        if value is not None:
            yield Figure(f"{name}_{percentile}", float(value), "ms")
    if profile.get("throughput"):
        yield Figure(f"{prefix}throughput", float(profile["throughput"]), "items/s", "higher")


def _certain(comparison: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield by how much what ships is slower than the model as given, with its interval."""
    found = comparison.get("before_to_last")
    if found is not None:
        low, high = (None if (v := found.get(n)) is None else 100 * v for n in ("low", "high"))
        note = f"{100 * found['confidence']:g} %" if found.get("confidence") else ""
        yield Figure("latency_change", 100 * found["change"], "%", low=low, high=high, note=note)


def _gate(gate: Mapping[str, Any]) -> Gate:
    value = gate["value"]
    return Gate(
        name=gate["name"],
        metric=gate["metric"],
        value=float(value) if value is not None and math.isfinite(value) else None,
        limit=float(gate["limit"]),
        unit=gate["unit"],
        status=gate["status"],
        low=gate.get("low"),
        high=gate.get("high"),
        note=gate.get("note", ""),
    )


def _digest(report: Mapping[str, Any], ships: str) -> str:
    """Return the SHA-256 of what ships: the engine, else the ONNX model of that column."""
    found = {artifact["kind"]: artifact["sha256"] for artifact in report["artifacts"]}
    return str(found.get("engine") or found.get(f"onnx-{ships}") or "")


def _name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
