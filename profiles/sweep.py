"""Several points of one model, a batch and a number of streams each, measured round by round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles.bursts import Clock, Timer, out_of_memory
from graphopt.profiles.latency import (
    ROUNDS,
    LatencyProfile,
    environment,
    no_garbage_collection,
    warm_up,
)

SCHEMA = 1
_KIND = "graphopt-latency-sweep"
# Another point ran meanwhile and has the caches: so long, and one run at least, is dropped.
_AGAIN_S = 0.02


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was measured at each point.

    Attributes:
        points: in the order that was asked for.
        notes: points that are missing, and why, a line each.
    """

    points: tuple[LatencyProfile, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a sweep needs at least one point")

    def best(self, max_latency_ms: float | None = None) -> int | None:
        """Return which point has the best throughput, of those within a limit.

        Args:
            max_latency_ms: what the 99th percentile may be; None for no limit.

        Returns:
            An index of ``points``, the first of equal ones; None where none is within the limit.
        """
        within = [
            (-point.throughput, index)
            for index, point in enumerate(self.points)
            if max_latency_ms is None or point.p99 <= max_latency_ms
        ]
        return min(within)[1] if within else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "schema": SCHEMA,
            "kind": _KIND,
            "points": [point.to_json() for point in self.points],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, raw: Any) -> Sweep:
        """Read what :meth:`to_json` gave.

        Raises:
            UsageError: it is no sweep.
        """
        if not isinstance(raw, dict) or raw.get("kind") != _KIND:
            raise UsageError("not a latency sweep written by graphopt")
        if raw.get("schema") != SCHEMA:
            raise UsageError(
                f"a latency sweep of schema {raw.get('schema')}; this graphopt reads {SCHEMA}"
            )
        points, notes = raw.get("points"), raw.get("notes", [])
        if not isinstance(points, list) or not points or not isinstance(notes, list):
            raise UsageError("not a valid latency sweep: it has no points")
        return cls(tuple(LatencyProfile.from_json(p) for p in points), tuple(map(str, notes)))


def spell_point(batch: int, streams: int) -> str:
    """Return ``batch 8`` or ``batch 8 on 2 streams``."""
    return f"batch {batch}" + (f" on {streams} streams" if streams > 1 else "")


def measure_points(
    timers: Sequence[Timer],
    *,
    warmup_s: float = 0.2,
    min_s: float = 3.0,
    min_runs: int = 10,
    rounds: int = ROUNDS,
    recorded: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> Sweep:
    """Measure points by turns: a round of each, then the next of each, in the other direction.

    What drifts (heat, a neighbour) then meets all of them alike. The garbage collector is off
    meanwhile. A point that runs out of memory is left out, and so is every later one of at least
    its items in flight; what is measured already of others stays.

    Args:
        timers: the points.
        warmup_s: seconds of dropped runs of each point; up to five times as long, until stable.
        min_s: measure each point for at least this many seconds ...
        min_runs: ... and at least this many runs.
        rounds: how many; fewer where ``min_runs`` and ``min_s`` are small.
        recorded: of the machine; :func:`graphopt.profiles.latency.environment` by default.
        say: is told of each point left out.
        clock: nanoseconds, for tests.

    Raises:
        UsageError: no point, no run, or a time below zero.
        EnvironmentProblem: the smallest point ran out of memory.
        GraphoptError: one failed in another way, as its timer says.
    """
    if not timers or min_runs < 1 or min_s < 0 or warmup_s < 0 or rounds < 1:
        raise UsageError("timing needs at least one run, and times that are not negative")
    where = dict(environment() if recorded is None else recorded)
    points = [_Point(timer) for timer in timers]
    taking = _Taking(points, say or (lambda _: None))
    rounds = rounds if min_s else min(rounds, min_runs)
    with no_garbage_collection():
        # By size: what the small ones need is there before a large one may fail.
        for point in sorted(points, key=lambda p: p.items):
            taking.attempt(point, partial(point.warm_up, warmup_s, clock))
        for turn in range(rounds):
            order = points if turn % 2 == 0 else points[::-1]
            for point in order:
                if len(points) > 1 and turn:
                    taking.attempt(point, partial(point.timer.burst, min(warmup_s, _AGAIN_S), 1))
                share = math.ceil(min_runs / rounds / point.timer.streams)
                taking.attempt(point, partial(point.take, min_s / rounds, share))
    return Sweep(
        tuple(point.profile(where) for point in points if not point.gone), tuple(taking.notes)
    )


class _Point:
    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        self.items = timer.batch * timer.streams
        self.samples: list[float] = []
        self.starts: list[int] = []
        self.wall = 0.0
        self.gone = False

    def warm_up(self, seconds: float, clock: Clock) -> None:
        warm_up(lambda: median(self.timer.burst(0, 1).samples_ms), seconds, clock)

    def take(self, seconds: float, runs: int) -> None:
        burst = self.timer.burst(seconds, runs)
        self.starts.append(len(self.samples))
        self.samples += burst.samples_ms
        self.wall += burst.wall_ms

    def profile(self, where: Mapping[str, str]) -> LatencyProfile:
        timer = self.timer
        return LatencyProfile(
            tuple(self.samples),
            timer.batch,
            {**where, **timer.environment},
            tuple(self.starts),
            timer.streams,
            self.wall if timer.streams > 1 else None,
        )


class _Taking:
    """Does something with a point; what the memory does not suffice for is left out."""

    def __init__(self, points: Sequence[_Point], say: Callable[[str], None]) -> None:
        self.points, self.say = points, say
        self.notes: list[str] = []

    def attempt(self, point: _Point, work: Callable[[], object]) -> None:
        if point.gone:
            return
        try:
            work()
        except Exception as problem:
            if not out_of_memory(problem):
                raise
            if point.items <= min(p.items for p in self.points):
                name = spell_point(point.timer.batch, point.timer.streams)
                raise EnvironmentProblem(f"{name} runs out of memory") from problem
            self._leave_out(point)

    def _leave_out(self, failed: _Point) -> None:
        for point in self.points:
            if point.gone or point.items < failed.items:
                continue
            point.gone = True
            name = spell_point(point.timer.batch, point.timer.streams)
            why = "it ran" if point is failed else "as large as what ran"
            self.notes.append(f"{name} is left out: {why} out of memory")
            self.say(self.notes[-1])
