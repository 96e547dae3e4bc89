"""Latency: raw samples, their statistics, and the loop that takes them."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Any

from graphopt.errors import UsageError

SCHEMA = 2
"""2 adds rounds, streams and the time on the clock; 1 is still read."""
_READ = (1, 2)
_KIND = "graphopt-latency-profile"
# Warm-up ends when the medians of two windows of this many runs agree this well ...
_WINDOW = 5
_STABLE = 0.05
# ... or after this many times the asked warm-up: a machine that never settles is still measured.
_PATIENCE = 5.0
ROUNDS = 10
"""Rounds that a measurement is split into: their scatter tells how well the median is known."""
_RESAMPLES = 2000
_GRID = 4096  # points of a cumulative distribution; its steps are far finer than the interval
_FEWEST = 5  # rounds, or pieces, below which resampling them says nothing
_PIECES = 20


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """The time that runs of one batch took.

    Attributes:
        samples_ms: every measured run in the order they ran, in milliseconds; warm-up left out.
            With several streams: round by round, and in a round stream by stream.
        batch: items in one run.
        environment: what it was measured on: results of different ones are not comparable.
        starts: where in ``samples_ms`` each round begins: 0 first, ascending.
        streams: runs that were in flight at a time.
        wall_ms: the time on the clock that all rounds took, in milliseconds; None where runs
            followed one another, and the samples tell it.
    """

    samples_ms: tuple[float, ...]
    batch: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    starts: tuple[int, ...] = (0,)
    streams: int = 1
    wall_ms: float | None = None

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise ValueError("a latency profile needs at least one sample")
        if not all(math.isfinite(s) and s >= 0 for s in self.samples_ms):
            raise ValueError("samples must be finite and not negative")
        if self.batch < 1:
            raise ValueError(f"a batch holds at least one item, not {self.batch}")
        if self.streams < 1:
            raise ValueError(f"there is at least one stream, not {self.streams}")
        if self.starts[:1] != (0,) or any(a >= b for a, b in pairwise(self.starts)):
            raise ValueError("rounds must begin with the first sample, and ascend")
        if self.starts[-1] >= len(self.samples_ms):
            raise ValueError("every round holds at least one sample")
        if self.wall_ms is not None and not (math.isfinite(self.wall_ms) and self.wall_ms >= 0):
            raise ValueError("the time on the clock must be finite and not negative")

    def percentile(self, q: float) -> float:
        """Return the ``q``-th percentile, 0 <= q <= 100, in ms.

        Interpolated linearly between the two nearest samples, as NumPy does by default.

        Raises:
            ValueError: ``q`` is no percentile.
        """
        if not 0 <= q <= 100:
            raise ValueError(f"a percentile is between 0 and 100, not {q}")
        ordered = sorted(self.samples_ms)
        position = (len(ordered) - 1) * q / 100
        below = int(position)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (position - below)

    @property
    def mean(self) -> float:
        """The mean, in ms."""
        return math.fsum(self.samples_ms) / len(self.samples_ms)

    @property
    def p50(self) -> float:
        """The median, in ms."""
        return self.percentile(50)

    @property
    def p90(self) -> float:
        """The 90th percentile, in ms."""
        return self.percentile(90)

    @property
    def p95(self) -> float:
        """The 95th percentile, in ms."""
        return self.percentile(95)

    @property
    def p99(self) -> float:
        """The 99th percentile, in ms."""
        return self.percentile(99)

    @property
    def minimum(self) -> float:
        """The fastest run, in ms."""
        return min(self.samples_ms)

    @property
    def maximum(self) -> float:
        """The slowest run, in ms."""
        return max(self.samples_ms)

    @property
    def deviation(self) -> float:
        """The standard deviation of single runs, in ms, from n - 1; 0 for one run."""
        mean, count = self.mean, len(self.samples_ms)
        if count < 2:
            return 0.0
        return math.sqrt(math.fsum((s - mean) ** 2 for s in self.samples_ms) / (count - 1))

    @property
    def throughput(self) -> float:
        """Items (not runs) a second; inf where no time passed.

        All items over the time on the clock; where that was not kept, runs followed one another.
        """
        total = math.fsum(self.samples_ms) if self.wall_ms is None else self.wall_ms
        return 1000 * self.batch * len(self.samples_ms) / total if total else math.inf

    @property
    def rounds(self) -> tuple[tuple[float, ...], ...]:
        """The samples of each round."""
        ends = (*self.starts[1:], len(self.samples_ms))
        return tuple(self.samples_ms[a:b] for a, b in zip(self.starts, ends, strict=True))

    @property
    def drift(self) -> float | None:
        """By what share the last third of the rounds was slower than the first third.

        The medians of the two thirds' round medians; None with fewer than three rounds, or where
        no time passed.
        """
        medians = [median(each) for each in self.rounds]
        third = len(medians) // 3
        if not third or not (first := median(medians[:third])):
            return None
        return median(medians[-third:]) / first - 1

    def median_interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Return an interval for the median, in ms: a bootstrap over rounds.

        Runs of a round share its disturbances, so whole rounds are drawn, with replacement; fewer
        than five rounds are cut into 20 pieces, each of consecutive runs. Always the same for the
        same samples. It tells what a repetition *in this session* would give: another process
        places its memory anew, which no number of rounds can tell.

        Args:
            confidence: such as 0.95.

        Returns:
            Its two ends; None for fewer than five samples.
        """
        import numpy as np

        edges = np.asarray(self.starts)
        count = len(self.samples_ms)
        if len(edges) < _FEWEST:
            if count < _FEWEST:
                return None
            edges = np.linspace(0, count, min(count, _PIECES), endpoint=False).astype(int)
        samples = np.asarray(self.samples_ms)
        grid = np.sort(samples)
        if count > _GRID:
            grid = grid[np.linspace(0, count - 1, _GRID).astype(int)]
        parts = np.split(samples, edges[1:])
        below = np.stack([np.searchsorted(np.sort(p), grid, side="right") for p in parts])
        sizes = np.array([len(p) for p in parts])
        random = np.random.default_rng(0)
        picks = random.multinomial(len(parts), np.full(len(parts), 1 / len(parts)), _RESAMPLES)
        medians = np.empty(_RESAMPLES)
        for at in range(0, _RESAMPLES, 250):
            some = picks[at : at + 250].astype(float)
            reached = (some @ below) * 2 >= (some @ sizes)[:, None]
            medians[at : at + 250] = grid[reached.argmax(axis=1)]
        # Drawn rounds scatter less than real ones, by (n - 1) / n in variance.
        centre, wider = self.p50, math.sqrt(len(parts) / (len(parts) - 1))
        low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
        return (
            centre - wider * max(0.0, centre - float(low)),
            centre + wider * max(0.0, float(high) - centre),
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values; the statistics are there for readers only."""
        interval = self.median_interval()
        return {
            "schema": SCHEMA,
            "kind": _KIND,
            "batch": self.batch,
            "streams": self.streams,
            "environment": dict(sorted(self.environment.items())),
            "samples_ms": list(self.samples_ms),
            "starts": list(self.starts),
            "wall_ms": self.wall_ms,
            "mean_ms": self.mean,
            "p50_ms": self.p50,
            "p50_interval_ms": None if interval is None else list(interval),
            "p90_ms": self.p90,
            "p95_ms": self.p95,
            "p99_ms": self.p99,
            "min_ms": self.minimum,
            "max_ms": self.maximum,
            "standard_deviation_ms": self.deviation,
            "throughput": self.throughput if math.isfinite(self.throughput) else None,
        }

    @classmethod
    def from_json(cls, raw: Any) -> LatencyProfile:
        """Read what :meth:`to_json` gave.

        Raises:
            UsageError: it is no latency profile.
        """
        if not isinstance(raw, dict) or raw.get("kind") != _KIND:
            raise UsageError("not a latency profile written by graphopt")
        if raw.get("schema") not in _READ:
            raise UsageError(
                f"a latency profile of schema {raw.get('schema')}; this graphopt reads up to "
                f"{SCHEMA}"
            )
        try:
            return cls(
                samples_ms=tuple(float(s) for s in raw["samples_ms"]),
                batch=int(raw["batch"]),
                environment={str(k): str(v) for k, v in raw["environment"].items()},
                starts=tuple(int(s) for s in raw.get("starts", (0,))),
                streams=int(raw.get("streams", 1)),
                wall_ms=None if raw.get("wall_ms") is None else float(raw["wall_ms"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
            raise UsageError(f"not a valid latency profile: {problem}") from problem


def measure(
    run: Callable[[], object],
    *,
    batch: int = 1,
    warmup_s: float = 0.2,
    min_s: float = 1.0,
    min_runs: int = 30,
    environment: Mapping[str, str] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> LatencyProfile:
    """Time ``run`` by the wall clock; see :func:`sample` for the arguments."""

    def timed() -> float:
        start = clock()
        run()
        return (clock() - start) / 1e6

    return sample(
        timed,
        batch=batch,
        warmup_s=warmup_s,
        min_s=min_s,
        min_runs=min_runs,
        environment=environment,
        clock=clock,
    )


def sample(
    timed: Callable[[], float],
    *,
    batch: int = 1,
    warmup_s: float = 0.2,
    min_s: float = 1.0,
    min_runs: int = 30,
    environment: Mapping[str, str] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> LatencyProfile:
    """Collect samples from ``timed``, which runs once and returns its time in ms by its own clock.

    The garbage collector is off meanwhile.

    Args:
        timed: runs one batch; returns how long it took, in ms (CUDA events, wall clock).
        batch: items in one run.
        warmup_s: seconds of dropped runs, at least one run; more, up to five times as long, until
            the last five runs are as fast as the five before them.
        min_s: measure for at least this many seconds ...
        min_runs: ... and at least this many runs.
        environment: what to record; :func:`environment` by default.
        clock: nanoseconds, for tests.

    Raises:
        UsageError: no run is asked for, or a time is negative.
    """
    if min_runs < 1 or min_s < 0 or warmup_s < 0:
        raise UsageError("timing needs at least one run, and times that are not negative")
    where = _recorded(environment)
    samples: list[float] = []
    starts = [0]
    with no_garbage_collection():
        warm_up(timed, warmup_s, clock)
        start = clock()
        while True:
            elapsed = clock() - start
            if len(samples) >= min_runs and elapsed >= min_s * 1e9:
                break
            due = elapsed * ROUNDS >= len(starts) * min_s * 1e9 > 0
            if due and len(starts) < ROUNDS and len(samples) > starts[-1]:
                starts.append(len(samples))
            samples.append(timed())
    return LatencyProfile(tuple(samples), batch, where, tuple(starts))


def environment() -> dict[str, str]:
    """Return what a measurement on this machine depends on, as it is now; only reads."""
    from graphopt.profiles.state import read_state

    return read_state()


_PASSING = ("counter_",)  # keys of a state that count up, for ``throttled`` alone


def with_state(
    profile: LatencyProfile, before: Mapping[str, str], after: Mapping[str, str]
) -> LatencyProfile:
    """Return a profile with the machine's state in its environment.

    Args:
        profile: what it has in its environment already stays.
        before: the state right before the measurement.
        after: the same right after it: what has changed is kept as ``after_`` and its key.
    """

    def lasting(state: Mapping[str, str]) -> dict[str, str]:
        return {k: v for k, v in state.items() if not k.startswith(_PASSING)}

    changed = {f"after_{k}": v for k, v in lasting(after).items() if before.get(k) != v}
    return replace(profile, environment={**lasting(before), **changed, **profile.environment})


def _recorded(given: Mapping[str, str] | None) -> dict[str, str]:
    return dict(environment() if given is None else given)


def warm_up(timed: Callable[[], float], warmup_s: float, clock: Callable[[], int]) -> bool:
    """Run until the times are stable; return whether they became so.

    Args:
        timed: runs once; returns how long it took, in ms.
        warmup_s: for at least so long, and at most five times as long.
        clock: nanoseconds.
    """
    times: list[float] = []
    start = clock()
    while True:
        times.append(timed())
        elapsed = (clock() - start) / 1e9
        if elapsed < warmup_s:
            continue
        if elapsed >= warmup_s * _PATIENCE:
            return warmup_s == 0
        if len(times) >= 2 * _WINDOW:
            before, last = median(times[-2 * _WINDOW : -_WINDOW]), median(times[-_WINDOW:])
            if abs(last - before) <= _STABLE * before:
                return True


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the garbage collector off, and leave it as it was."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
