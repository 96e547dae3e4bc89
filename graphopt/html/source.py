"""The folder of a build, read: what its report says, and which other files lie beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError
from graphopt.html.raw import Raw, read_json
from graphopt.html.terms import BEFORE, FP32, columns
from graphopt.output import REPORT

_KIND, _SCHEMA = "graphopt-report", 1


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure at each step, as :class:`graphopt.report.Metric` wrote it."""

    name: str
    unit: str
    values: Mapping[str, float]
    note: str


@dataclass(frozen=True, slots=True)
class Built:
    """What a build left.

    Attributes:
        folder: where.
        raw: ``report.json``.
        metrics: its figures.
        columns: of the figures; the last is what ships.
    """

    folder: Path
    raw: Raw
    metrics: tuple[Metric, ...]
    columns: tuple[str, ...]

    @property
    def last(self) -> str:
        """The column of what ships."""
        return self.columns[-1] if self.columns else FP32

    def metric(self, name: str) -> Metric | None:
        """Return a figure by name."""
        return next((m for m in self.metrics if m.name == name), None)

    def pair(self, name: str) -> tuple[float, float] | None:
        """Return a figure as given and of what ships, where both were measured."""
        found = self.metric(name)
        if found is None or BEFORE not in found.values or self.last not in found.values:
            return None
        return found.values[BEFORE], found.values[self.last]

    def facts(self, stage: str) -> Raw | None:
        """Return the facts of the first stage whose name begins so."""
        for one in self.raw.objects("stages"):
            if one.text("name").startswith(stage):
                return one.inner("facts")
        return None


def read_build(folder: Path) -> Built:
    """Read the report of a build.

    Raises:
        UsageError: there is no such folder or report, or it is none that this graphopt reads.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: graphopt build -o makes one")
    path = folder / REPORT
    if not path.exists():
        raise UsageError(f"{folder} has no {REPORT}: give a folder that graphopt build made")
    value: Any = read_json(path)
    if not isinstance(value, dict) or value.get("kind") != _KIND:
        raise UsageError(f"{path} is not a report written by graphopt build")
    raw = Raw(value, str(path))
    if value.get("schema") != _SCHEMA:
        told = str(value.get("schema"))[:20]
        raise UsageError(f"{path} has schema {told}; this graphopt reads {_SCHEMA}")
    metrics = tuple(
        Metric(m.text("name"), m.text("unit"), m.numbers("values"), m.text("note"))
        for m in raw.objects("metrics")
    )
    return Built(folder, raw, metrics, tuple(columns([m.values for m in metrics])))
