from __future__ import annotations

import gc
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.profiles import LatencyProfile, measure
from graphopt.profiles.latency import environment, sample

REPEATABLE = settings(settings.get_profile("repeatable"), max_examples=60)


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def runs_of(durations_ms, clock):
    """A function whose n-th run takes the n-th duration, the last for ever, and its count."""
    ran = []

    def run():
        ms = durations_ms[min(len(ran), len(durations_ms) - 1)]
        ran.append(ms)
        clock.now += int(ms * 1e6)

    return run, ran


@REPEATABLE
@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
    st.floats(0, 100),
    st.integers(1, 64),
)
def test_statistics_are_those_of_numpy(samples, q, batch):
    profile = LatencyProfile(tuple(samples), batch)
    assert profile.percentile(q) == pytest.approx(np.percentile(samples, q), rel=1e-9, abs=1e-9)
    assert profile.mean == pytest.approx(np.mean(samples), rel=1e-9, abs=1e-9)
    assert min(samples) <= profile.p50 <= profile.p90 <= profile.p99 <= max(samples)
    assert LatencyProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_throughput_counts_items_and_not_runs():
    assert LatencyProfile((2.0, 6.0), batch=8).throughput == pytest.approx(2000)
    assert LatencyProfile((0.0,)).throughput == math.inf


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples_ms": ()},
        {"samples_ms": (math.nan,)},
        {"samples_ms": (math.inf,)},
        {"samples_ms": (-1.0,)},
        {"samples_ms": (1.0,), "batch": 0},
    ],
)
def test_no_profile_of_nothing(wrong):
    with pytest.raises(ValueError, match=r"sample|batch"):
        LatencyProfile(**wrong)
    with pytest.raises(ValueError, match="between 0 and 100"):
        LatencyProfile((1.0,)).percentile(101)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"schema": 2},
        {"samples_ms": []},
        {"samples_ms": None},
        {"samples_ms": ["a"]},
        {"batch": None},
        {"environment": []},
    ],
)
def test_what_is_no_profile_is_told(change):
    raw = {**LatencyProfile((1.0,)).to_json(), **change}
    with pytest.raises(UsageError):
        LatencyProfile.from_json(raw)
    with pytest.raises(UsageError):
        LatencyProfile.from_json([])


def test_warm_up_is_dropped_and_every_other_run_kept():
    clock = Clock()
    run, ran = runs_of([50, 20, *range(100, 200)], clock)
    profile = measure(
        run, warmup_s=0.06, min_s=0, min_runs=4, environment={"a": "b"}, clock=clock, batch=3
    )
    dropped = len(ran) - 4
    assert dropped >= 2
    assert profile.samples_ms == tuple(float(ms) for ms in ran[dropped:])
    assert (profile.batch, profile.environment) == (3, {"a": "b"})


def test_warm_up_goes_on_until_the_times_are_stable():
    clock = Clock()
    falling = [100 * 0.7**i for i in range(12)]
    run, _ = runs_of([*falling, *[1.0] * 200], clock)
    profile = measure(run, warmup_s=0.1, min_s=0, min_runs=5, environment={}, clock=clock)
    assert profile.samples_ms == (1.0,) * 5


def test_warm_up_of_what_never_settles_ends():
    clock = Clock()
    run, ran = runs_of([float(2**i) for i in range(40)], clock)
    measure(run, warmup_s=0.1, min_s=0, min_runs=1, environment={}, clock=clock)
    # 0.1 s asked, 0.5 s at most: 1 + 2 + ... + 256 ms are more than that.
    assert len(ran) == 9 + 1


def test_both_the_least_time_and_the_least_number_of_runs_are_kept():
    for ms, count in ((10.0, 100), (1000.0, 7)):
        clock = Clock()
        run, _ = runs_of([ms], clock)
        profile = measure(run, warmup_s=0, min_s=1.0, min_runs=7, environment={}, clock=clock)
        assert len(profile.samples_ms) == count


def test_samples_can_come_from_another_clock():
    clock, given = Clock(), iter(range(1, 100))
    profile = sample(
        lambda: float(next(given)), warmup_s=0, min_s=0, min_runs=3, environment={}, clock=clock
    )
    assert profile.samples_ms == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("wrong", [{"min_runs": 0}, {"min_s": -1}, {"warmup_s": -1}])
def test_impossible_requests_are_told(wrong):
    with pytest.raises(UsageError):
        measure(lambda: None, **wrong)


def test_the_garbage_collector_is_off_meanwhile_and_as_before_after():
    seen = []

    def run():
        seen.append(gc.isenabled())

    for before in (True, False):
        (gc.enable if before else gc.disable)()
        try:
            measure(run, warmup_s=0, min_s=0, min_runs=2, environment={})
            assert gc.isenabled() is before
        finally:
            gc.enable()

    def fails():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        measure(fails, environment={})
    assert gc.isenabled()
    assert set(seen) == {False}


def test_the_environment_is_recorded_and_repeatable():
    assert environment() == environment()
    assert {"cpu", "cores", "governor", "onnxruntime", "python", "system"} == set(environment())
    profile = measure(lambda: None, warmup_s=0, min_s=0, min_runs=1)
    assert profile.environment == environment()
