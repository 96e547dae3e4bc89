"""Flat figures: JSON for DVC and MLflow, or OpenMetrics text for GitLab's metrics report."""

from __future__ import annotations

import re
from pathlib import Path

from graphopt.files import dump_json
from graphopt.profiles.run import Run

TEXT = (".txt", ".prom", ".om")


def metrics(run: Run, path: Path) -> str:
    """Return a run's figures in the form that the name of their file asks for."""
    return openmetrics(run) if path.suffix.lower() in TEXT else dump_json(flat(run))


def flat(run: Run) -> dict[str, float]:
    """Return name -> number: each figure, the ends of its interval, and each gate's figure.

    Gates add ``gate_NAME``, what was found, and ``gate_NAME_passed``, 1 or 0.
    """
    found: dict[str, float] = {}
    for figure in run.figures:
        name = _name(figure.name)
        ends = {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        for key, value in ends.items():
            if value is not None:
                found.setdefault(key, value)
    for gate in run.gates:
        name = f"gate_{_name(gate.name)}"
        if gate.value is not None:
            found.setdefault(name, gate.value)
        found.setdefault(f"{name}_passed", float(gate.status == "pass"))
    return found


def openmetrics(run: Run) -> str:
    """Return OpenMetrics text: a gauge each, labelled with the subject.

    GitLab splits lines as a shell does and takes ``#`` for a comment wherever it stands, so the
    label holds neither.
    """
    subject = re.sub(r"[^\w.-]+", "_", run.subject, flags=re.ASCII)[:100]
    lines = []
    for name, value in flat(run).items():
        lines.append(f"# TYPE graphopt_{name} gauge")
        lines.append(f'graphopt_{name}{{subject="{subject}"}} {value:.10g}')
    return "\n".join([*lines, "# EOF"]) + "\n"


def _name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "figure"
