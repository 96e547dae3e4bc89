"""The time of each layer, in one form for every engine that can tell it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

SCHEMA = 1
_KIND = "graphopt-layer-times"


@dataclass(frozen=True, slots=True)
class LayerTime:
    """The time of one layer, as the engine names it: often of several nodes fused.

    Attributes:
        name: as the engine tells it.
        op: the operator; ``""`` where it is not told.
        median_ms: the median over runs, in ms; where a layer runs several times in a run (the
            body of a Loop), of their sum.
        share: of the sum over all layers, 0 to 1.
        count: runs that the median is of.
    """

    name: str
    op: str
    median_ms: float
    share: float
    count: int


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """The times of all layers, in the order that they run.

    Attributes:
        layers: each.
        source: what told them: ``"ONNX Runtime's profiler"``.
        note: what a reader must know to use them.
    """

    layers: tuple[LayerTime, ...]
    source: str
    note: str = ""

    def slowest(self, count: int) -> list[LayerTime]:
        """Return the slowest, slowest first; of equal ones the first."""
        return sorted(self.layers, key=lambda layer: -layer.median_ms)[:count]

    @property
    def total_ms(self) -> float:
        """The sum of the medians, in ms."""
        return math.fsum(layer.median_ms for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "schema": SCHEMA,
            "kind": _KIND,
            "source": self.source,
            "note": self.note,
            "total_ms": self.total_ms,
            "layers": [
                {
                    "name": each.name,
                    "op": each.op,
                    "median_ms": each.median_ms,
                    "share": each.share,
                    "count": each.count,
                }
                for each in self.layers
            ],
        }


def of_runs(
    runs: Sequence[Mapping[Any, float]], named: Mapping[Any, tuple[str, str]]
) -> tuple[LayerTime, ...]:
    """Return the median of each layer over runs; where a run has it not, its time there is 0.

    Args:
        runs: for each run, key of a layer -> its time, in ms.
        named: key -> name and operator, in the order they run.
    """
    medians = {key: median([run.get(key, 0.0) for run in runs]) for key in named} if runs else {}
    return shared((*named[key], value, len(runs)) for key, value in medians.items())


def shared(layers: Iterable[tuple[str, str, float, int]]) -> tuple[LayerTime, ...]:
    """Return layers, each (name, operator, median in ms, runs), with their shares."""
    found = list(layers)
    total = math.fsum(ms for _, _, ms, _ in found)
    return tuple(
        LayerTime(name, op, ms, ms / total if total else 0.0, count)
        for name, op, ms, count in found
    )
