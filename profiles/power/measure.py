"""Power, as a pass of its own: reading a meter takes time from the machine that is measured.

First the machine idles for a while, then the workload runs in a loop while a meter is read in the
background. Nothing is set: no limit, no clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles.power.meters import Meter, Of, Reading, find_meter
from graphopt.profiles.run import Figure

# Fewer readings than this are no sound mean.
_FEW = 10
_IDLE_S = 2.0


@dataclass(frozen=True, slots=True)
class PowerResult:
    """What a workload draws.

    Attributes:
        source: the meter.
        idle_w: mean power before the workload, in W; None where no reading came.
        mean_w: mean power under it.
        peak_w: the highest reading under it.
        gross_mj: energy of one item, all that the meter sees, in mJ.
        net_mj: the same above idle; None where idle is not known.
        rails: mean power of each rail under the workload, in W.
        polls: readings that ``mean_w`` is of.
        seconds: how long the workload was measured.
        runs: how many runs of it that were.
        batch: items in one run.
        notes: what a reader must know to use it.
    """

    source: str
    idle_w: float | None
    mean_w: float
    peak_w: float
    gross_mj: float
    net_mj: float | None
    rails: Mapping[str, float]
    polls: int
    seconds: float
    runs: float
    batch: int = 1
    notes: tuple[str, ...] = ()

    def figures(self) -> tuple[Figure, ...]:
        """Return it as figures: ``power_mean`` … in W, ``energy_gross`` … in mJ of one item."""
        found = [
            Figure("power_mean", self.mean_w, "W", note=self.source),
            Figure("power_peak", self.peak_w, "W", note=f"highest of {self.polls} readings"),
            Figure("energy_gross", self.gross_mj, "mJ", note="of one item, all that is metered"),
        ]
        if self.idle_w is not None:
            found.append(Figure("power_idle", self.idle_w, "W", "neither"))
        if self.net_mj is not None:
            found.append(Figure("energy_net", self.net_mj, "mJ", note="of one item, above idle"))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "rails": dict(sorted(self.rails.items())), "notes": list(self.notes)}


def power_pass(
    run: Callable[[], object],
    *,
    batch: int,
    seconds: float,
    meter: Meter | None = None,
    of: Of = "any",
    idle_s: float = _IDLE_S,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> PowerResult:
    """Measure what ``run`` draws.

    Args:
        run: runs one batch and waits for it. What it raises goes through.
        batch: items in one run.
        seconds: run it for so long, after the time over which the meter lags.
        meter: what tells power; by default what this machine has.
        of: what ``run`` runs on, to choose the meter: ``"cpu"`` for ONNX Runtime's processor
            provider, whose power nvidia-smi does not see.
        idle_s: listen to the idle machine for so long before.
        clock: seconds, for tests.
        pause: waits, for tests.

    Raises:
        UsageError: no time, or no item.
        EnvironmentProblem: nothing here tells power, or the meter told nothing.
    """
    if batch < 1 or not seconds > 0 or idle_s < 0:
        raise UsageError("measuring power needs at least one item, and some time")
    meter = meter or find_meter(of)
    with meter.record() as readings:
        begun = clock()
        pause(idle_s)
        start = clock()
        count, until = 0, start + meter.settle_s
        # From the end of one run to that of another: whole runs.
        while True:
            run()
            now = clock()
            if now >= until:
                break
        first = now
        while now < first + seconds:
            run()
            count += 1
            now = clock()
        kept = list(readings)
    return summarize(
        kept,
        idle=(min(begun + meter.settle_s, start), start),
        load=(first, now),
        runs=count,
        batch=batch,
        source=meter.source,
        interval_s=meter.interval_s,
    )


def summarize(
    readings: Sequence[Reading],
    *,
    idle: tuple[float, float],
    load: tuple[float, float],
    runs: float,
    batch: int,
    source: str,
    interval_s: float,
) -> PowerResult:
    """Return what readings tell of two spans of time, each from and to.

    Args:
        readings: in the order of time; each holds from the one before it on.
        idle: when nothing ran.
        load: when the workload ran.
        runs: how often it ran in that time.
        batch: items in one run.
        source: the meter.
        interval_s: seconds between two readings, as the meter was asked.

    Raises:
        EnvironmentProblem: no reading under the workload.
    """
    during = _within(readings, load)
    seconds = load[1] - load[0]
    if not during or not seconds > 0 or not runs > 0:
        raise EnvironmentProblem(
            f"{source} told nothing in the {max(seconds, 0.0):.2g} s that the workload ran: "
            "measure for longer"
        )
    mean = _mean(readings, load, lambda r: r.watts)
    before = _within(readings, idle)
    still = _mean(readings, idle, lambda r: r.watts) if before else None
    items = runs * batch
    names = sorted({name for reading in during for name in reading.rails})
    return PowerResult(
        source=source,
        idle_w=still,
        mean_w=mean,
        peak_w=max(reading.watts for reading in during),
        gross_mj=1000 * mean * seconds / items,
        net_mj=None if still is None else 1000 * (mean - still) * seconds / items,
        rails={name: _mean(readings, load, _rail(name)) for name in names},
        polls=len(during),
        seconds=seconds,
        runs=runs,
        batch=batch,
        notes=tuple(_notes(len(during), len(before), seconds, interval_s, mean, still)),
    )


def _notes(
    polls: int, before: int, seconds: float, interval_s: float, mean: float, still: float | None
) -> list[str]:
    notes = []
    if seconds < 2 * interval_s:
        notes.append(
            f"the workload was measured for {seconds:.2g} s, and the meter is read every "
            f"{interval_s:g} s: measure for longer"
        )
    elif polls < _FEW:
        notes.append(f"only {polls} readings in {seconds:.2g} s: measure for longer")
    if still is None:
        notes.append("no reading while the machine was idle: energy above idle is not known")
    elif before < _FEW:
        notes.append(f"idle power is of {before} readings only")
    if still is not None and mean <= 1.02 * still:
        notes.append(
            "it draws no more than the idle machine did: something else ran before, or the meter "
            "does not see what the workload runs on"
        )
    return notes


def _rail(name: str) -> Callable[[Reading], float]:
    return lambda reading: reading.rails.get(name, 0.0)


def _within(readings: Sequence[Reading], span: tuple[float, float]) -> list[Reading]:
    return [r for r in readings if span[0] < r.at <= span[1]]


def _mean(
    readings: Sequence[Reading], span: tuple[float, float], value: Callable[[Reading], float]
) -> float:
    """Return the mean over a span with a reading in it: each holds from the one before on.

    The last one also holds to the span's end.
    """
    begin, stop = span
    area, last = 0.0, begin
    inside = [r for r in readings if begin < r.at <= stop]
    for reading in inside:
        area += value(reading) * (reading.at - last)
        last = reading.at
    area += value(inside[-1]) * (stop - last)
    return area / (stop - begin)
