"""Latency: raw samples, their statistics, and the loop that takes them."""

from __future__ import annotations

import gc
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from graphopt.errors import UsageError
from graphopt.machine import installed_version

SCHEMA = 1
_KIND = "graphopt-latency-profile"
# Warm-up ends when the medians of two windows of this many runs agree this well ...
_WINDOW = 5
_STABLE = 0.05
# ... or after this many times the asked warm-up: a machine that never settles is still measured.
_PATIENCE = 5.0
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """The time that runs of one batch took.

    Attributes:
        samples_ms: every measured run in the order they ran, in milliseconds; warm-up left out.
        batch: items in one run.
        environment: what it was measured on: results of different ones are not comparable.
    """

    samples_ms: tuple[float, ...]
    batch: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise ValueError("a latency profile needs at least one sample")
        if not all(math.isfinite(s) and s >= 0 for s in self.samples_ms):
            raise ValueError("samples must be finite and not negative")
        if self.batch < 1:
            raise ValueError(f"a batch holds at least one item, not {self.batch}")

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
    def throughput(self) -> float:
        """Items (not runs) a second, one run after the other; inf where no time passed."""
        return 1000 * self.batch / self.mean if self.mean else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values; the statistics are there for readers only."""
        return {
            "schema": SCHEMA,
            "kind": _KIND,
            "batch": self.batch,
            "environment": dict(sorted(self.environment.items())),
            "samples_ms": list(self.samples_ms),
            "mean_ms": self.mean,
            "p50_ms": self.p50,
            "p90_ms": self.p90,
            "p95_ms": self.p95,
            "p99_ms": self.p99,
            "throughput": self.throughput if self.mean else None,
        }

    @classmethod
    def from_json(cls, raw: Any) -> LatencyProfile:
        """Read what :meth:`to_json` gave.

        Raises:
            UsageError: it is no latency profile.
        """
        if not isinstance(raw, dict) or raw.get("kind") != _KIND:
            raise UsageError("not a latency profile written by graphopt")
        if raw.get("schema") != SCHEMA:
            raise UsageError(
                f"a latency profile of schema {raw.get('schema')}; this graphopt reads {SCHEMA}"
            )
        try:
            return cls(
                samples_ms=tuple(float(s) for s in raw["samples_ms"]),
                batch=int(raw["batch"]),
                environment={str(k): str(v) for k, v in raw["environment"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
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
    with _no_garbage_collection():
        _warm_up(timed, warmup_s, clock)
        start = clock()
        while len(samples) < min_runs or clock() - start < min_s * 1e9:
            samples.append(timed())
    return LatencyProfile(tuple(samples), batch, where)


def environment() -> dict[str, str]:
    """Return what a measurement on this machine's processor depends on; only reads."""
    from graphopt.profiles.host import cpu

    processor = cpu()
    return {
        "cores": str(processor.cores),
        "cpu": processor.model,
        "governor": _governor(),
        "onnxruntime": installed_version("onnxruntime") or "none",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _recorded(given: Mapping[str, str] | None) -> dict[str, str]:
    return dict(environment() if given is None else given)


def _warm_up(timed: Callable[[], float], warmup_s: float, clock: Callable[[], int]) -> None:
    times: list[float] = []
    start = clock()
    while True:
        times.append(timed())
        elapsed = (clock() - start) / 1e9
        if elapsed < warmup_s:
            continue
        if elapsed >= warmup_s * _PATIENCE:
            return
        if len(times) >= 2 * _WINDOW:
            before, last = median(times[-2 * _WINDOW : -_WINDOW]), median(times[-_WINDOW:])
            if abs(last - before) <= _STABLE * before:
                return


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _governor() -> str:
    try:
        return _GOVERNOR.read_text(encoding="ascii", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"
