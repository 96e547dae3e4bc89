"""The report: what was done, what it cost, and where it lies; ``report.json`` and a summary."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import graphopt
from graphopt.files import dump_json, sha256, write_text
from graphopt.machine import installed_version
from graphopt.output import RECIPE, REPORT, TABLE
from graphopt.passes.base import PassResult
from graphopt.profiles import LatencyProfile

SCHEMA = 1
KINDS = (
    "onnx-fp32",
    "onnx-int8",
    "onnx-fp16",
    "onnx-int8+fp16",
    "onnx-w4",
    "onnx-w8",
    "onnx-w4+fp16",
    "onnx-w8+fp16",
    "onnx-simulated",
    "calibration-table",
    "calibration-cache",
    "engine",
    "sidecar",
    "latency",
    "layers",
    "layer-times",
    "engine-log",
    "prune-plan",
    "contact-sheet",
    "recipe",
)


@dataclass(slots=True)
class Stage:
    """One step: what it changed, what it refused and why, and how long it took."""

    name: str
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    changes: list[dict[str, str]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def record(self, result: PassResult) -> None:
        """Take over what a pass says of itself."""
        self.counts = result.counts()
        self.changes = [
            {"kind": c.kind, "where": c.where, "detail": c.detail} for c in result.changes
        ]
        self.skipped = [{"where": s.where, "reason": s.reason} for s in result.skipped]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 4),
            "counts": self.counts,
            "changes": self.changes,
            "refusals": self.skipped,
            **({"facts": self.facts} if self.facts else {}),
        }


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure at each step of the way: as given, optimized fp32, and in fewer bits.

    Attributes:
        name: a stable key: ``"accuracy"``.
        unit: ``"%"``, ``"ms"``, ``"bytes"``, ``""`` for counts.
        values: ``"before"``, ``"fp32"``, then ``"int8"``, ``"fp16"``, ``"int8+fp16"``, ``"w4"`` …
            -> figure; a missing key was not measured.
        note: what a reader must know to use the figure.
    """

    name: str
    unit: str
    values: Mapping[str, float | int]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = dict(self.values)
        return {"name": self.name, "unit": self.unit, "values": values, "note": self.note}


@dataclass(slots=True)
class Report:
    """Grows while the pipeline runs; written even when a gate fails."""

    source: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    decisions: list[dict[str, str]] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    dla: dict[str, Any] = field(default_factory=dict)
    lint: dict[str, Any] = field(default_factory=dict)
    fidelity: dict[str, Any] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    latency: dict[str, Any] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)
    roofline: dict[str, Any] = field(default_factory=dict)
    gates: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    synthetic: bool = False

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a step and keep what it says."""
        stage = Stage(name)
        self.stages.append(stage)
        start = time.perf_counter()
        try:
            yield stage
        finally:
            stage.seconds = time.perf_counter() - start

    def decide(self, what: str, value: str, reason: str) -> None:
        """Record what the tool decided for the user, and why."""
        self.decisions.append({"what": what, "value": value, "reason": reason})

    def add_artifact(self, kind: str, path: Path) -> None:
        """List a finished file of the output folder."""
        self.artifacts.append({"kind": kind, "path": path.name, "sha256": sha256(path)})

    def metric(self, name: str) -> Metric | None:
        """Return a metric by name."""
        return next((m for m in self.metrics if m.name == name), None)

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate["status"] == "pass" for gate in self.gates)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the same build gives the same values, timings apart."""
        return {
            "schema": SCHEMA,
            "kind": "graphopt-report",
            "status": "pass" if self.passed else "fail",
            "synthetic": self.synthetic,
            "source": self.source,
            "recipe": self.recipe,
            "decisions": self.decisions,
            "stages": [stage.to_json() for stage in self.stages],
            "metrics": [m.to_json() for m in self.metrics],
            "dla": self.dla,
            "lint": self.lint,
            "fidelity": self.fidelity,
            "layers": self.layers,
            "latency": self.latency,
            **({"comparison": self.comparison} if self.comparison else {}),
            **({"roofline": self.roofline} if self.roofline else {}),
            "gates": self.gates,
            "artifacts": self.artifacts,
            "warnings": self.warnings,
            "versions": versions(),
        }

    def save(self, folder: Path) -> Path:
        """Write ``report.json`` into ``folder``."""
        return write_text(folder / REPORT, dump_json(self.to_json()))


def versions() -> dict[str, str]:
    """Return the versions that decide what comes out."""
    found = {"graphopt": graphopt.__version__, "python": platform.python_version()}
    for name in (
        "numpy",
        "onnx",
        "onnx-graphsurgeon",
        "onnxruntime",
        "polygraphy",
        "tensorrt",
        "tensorrt-rtx",
        "pillow",
    ):
        version = installed_version(name)
        if version is not None:
            found[name] = version
    found["platform"] = f"{sys.platform}-{platform.machine()}"
    return found


def engine_latency(profile: LatencyProfile, column: str, *, also: str = "") -> Metric:
    """Return what an engine took on its own device, as a figure of the report."""
    where = profile.environment
    note = (
        f"{where.get('gpu', 'the device')}, TensorRT {where.get('engine_version', 'unknown')}, "
        f"{where.get('clock', '')}, median, batch {profile.batch}{also}"
    )
    return Metric("engine latency", "ms", {column: profile.p50}, note)


def origin(
    folder: Path, onnx: Path, source: Mapping[str, Any], *, synthetic: bool
) -> dict[str, Any]:
    """Return what an engine was built from, for its sidecar.

    Args:
        folder: the output, whose recipe and table it was.
        onnx: the model that ships.
        source: the report's.
        synthetic: whether the calibration data was made up.
    """
    table, recipe = folder / TABLE, folder / RECIPE
    return {
        "source": source.get("name"),
        "source_digest": source.get("digest"),
        "onnx_sha256": sha256(onnx),
        "calibration_sha256": sha256(table) if table.is_file() else None,
        "recipe_sha256": sha256(recipe) if recipe.is_file() else None,
        "preprocessing": source.get("preprocessing"),
        "synthetic": synthetic,
        "versions": versions(),
    }


def human(value: float, unit: str) -> str:
    """Write a figure the way the summary shows it."""
    if unit == "bytes":
        return f"{value / 1e6:.2f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"
    if unit == "%":
        return f"{value:.2f} %"
    if unit == "ms":
        return f"{value:.3f} ms"
    if unit == "dB":
        return f"{value:.1f} dB"
    if value >= 1e9:
        return f"{value / 1e9:.3f} G"
    if value >= 1e6:
        return f"{value / 1e6:.3f} M"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3f}"


def summary_rows(metrics: Sequence[Metric], columns: Sequence[str]) -> list[list[str]]:
    """Return the rows of the summary table: a metric a row, a step a column, then the change."""
    rows = []
    for metric in metrics:
        cells = [
            human(metric.values[c], metric.unit) if c in metric.values else "-" for c in columns
        ]
        rows.append([metric.name, *cells, _change(metric, columns)])
    return rows


def _change(metric: Metric, columns: Sequence[str]) -> str:
    present = [metric.values[c] for c in columns if c in metric.values]
    if len(present) < 2 or "before" not in metric.values:
        return ""
    first, last = present[0], present[-1]
    if first == last:
        return "same"
    if metric.unit == "%":
        return f"{last - first:+.2f} points"
    if metric.unit == "dB":
        return f"{last - first:+.1f} dB"
    if not first:
        return ""
    if metric.unit == "ms" and last:
        return f"{first / last:.2f}x faster" if last <= first else f"{last / first:.2f}x slower"
    return f"{100 * (last / first - 1):+.1f} %"
