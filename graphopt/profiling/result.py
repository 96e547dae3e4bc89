"""What a profile found, as one value: for JSON, for a history, for a gate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.profiles.run import Figure, Run
from graphopt.profiles.state import fingerprint
from graphopt.profiles.sweep import Sweep, spell_point

if TYPE_CHECKING:
    from graphopt.profiles import LatencyProfile
    from graphopt.profiles.layer_times import LayerTimes
    from graphopt.profiles.power import PowerResult

UNSETTLED = 0.05
"""A drift from the first rounds to the last that is more than this share is warned of."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found.

    Attributes:
        sweep: the latencies; of one point where no other was asked for.
        layers: the time of each layer, at the first point; None where it was not asked for.
        power: at the first point; likewise.
        warnings: what the state of the machine says against the figures, a line each.
        memory: bytes of the device that a run takes, without weights, where the engine tells it.
    """

    sweep: Sweep
    layers: LayerTimes | None = None
    power: PowerResult | None = None
    warnings: tuple[str, ...] = ()
    memory: int | None = None

    @property
    def first(self) -> LatencyProfile:
        """The point that stands for the run: the first that was asked for and measured."""
        return self.sweep.points[0]

    def all_warnings(self) -> list[str]:
        """Return a line for all that makes the figures less than they seem."""
        unsettled = self._unsettled()
        notes = () if self.power is None else self.power.notes
        return [*([unsettled] if unsettled else []), *self.warnings, *notes]

    def _unsettled(self) -> str:
        drifts = [(abs(p.drift), p.drift, p) for p in self.sweep.points if p.drift is not None]
        far, drift, point = max(drifts, key=lambda d: d[0], default=(0.0, 0.0, self.first))
        if far <= UNSETTLED:
            return ""
        where = f"{spell_point(point.batch, point.streams)}: " if len(self.sweep.points) > 1 else ""
        way = "slower" if drift > 0 else "faster"
        return (
            f"{where}the last rounds were {100 * far:.1f} % {way} than the first: the machine had "
            "not settled; stop what else runs, and give it longer (--warm-up 2000 --duration 10)"
        )

    def to_json(self, *, max_latency_ms: float | None = None, many: bool = False) -> dict[str, Any]:
        """Return plain values: a latency profile, or a sweep, with what else was measured.

        Args:
            max_latency_ms: the limit that the best point is to meet.
            many: a sweep was asked for.
        """
        one = not many and len(self.sweep.points) == 1
        value = self.first.to_json() if one else self.sweep.to_json()
        value["warnings"] = self.all_warnings()
        if not one or max_latency_ms is not None:
            value |= {"best": self.sweep.best(max_latency_ms), "max_latency_ms": max_latency_ms}
        if self.layers is not None:
            value["layers"] = self.layers.to_json()
        if self.power is not None:
            value["power"] = self.power.to_json()
        return value

    def run(self, path: Path) -> Run:
        """Return it as a run; figures of further points end with their batch and streams.

        Args:
            path: of what was measured.
        """
        from graphopt.check.artifacts import external_bytes
        from graphopt.engines.header import is_engine
        from graphopt.files import sha256

        first, further = self.first, self.sweep.points[1:]
        figures = [*figures_of(first)]
        for point in further:
            end = f"_batch_{point.batch}" + (f"_streams_{point.streams}" * (point.streams > 1))
            figures += figures_of(point, end)
        if self.power is not None:
            figures += self.power.figures()
        size = path.stat().st_size + (0 if is_engine(path) else external_bytes(path))
        figures.append(Figure("size", size, "bytes"))
        if self.memory is not None:
            note = "as the engine tells it, without weights"
            figures.append(Figure("peak_memory", self.memory, "bytes", note=note))
        return Run(
            verb="profile",
            subject=path.name,
            sha256=sha256(path),
            model_digest=_digest(path),
            figures=tuple(figures),
            samples_ms=first.samples_ms,
            batch=first.batch,
            fingerprint=fingerprint(first.environment),
            environment=first.environment,
            notes=(*self.all_warnings(), *self.sweep.notes),
        )


def figures_of(profile: LatencyProfile, end: str = "") -> Iterator[Figure]:
    """Yield the figures of a point.

    Args:
        profile: the point.
        end: added to each name; with one, only those that a sweep's table shows.
    """
    low, high = profile.median_interval() or (None, None)
    note = "bootstrap over rounds, 95 %" if low is not None else ""
    if not end:
        yield Figure("latency_mean", profile.mean, "ms")
    yield Figure(f"latency_p50{end}", profile.p50, "ms", low=low, high=high, note=note)
    if not end:
        yield Figure("latency_p90", profile.p90, "ms")
        yield Figure("latency_p95", profile.p95, "ms")
    yield Figure(f"latency_p99{end}", profile.p99, "ms")
    if math.isfinite(profile.throughput):
        yield Figure(f"throughput{end}", profile.throughput, "items/s", "higher")


def _digest(path: Path) -> str:
    """Return the digest of a model; of an engine, that of the model it was built from."""
    from graphopt.engines.header import is_engine
    from graphopt.engines.sidecar import find_sidecar
    from graphopt.errors import GraphoptError
    from graphopt.model import Model

    try:
        told: Mapping[str, Any] = find_sidecar(path) or {}
        if told.get("source_digest"):
            return str(told["source_digest"])
        return "" if is_engine(path) else Model.load(path).digest()
    except GraphoptError:
        return ""
