from __future__ import annotations

import json

import pytest

from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles import LatencyProfile
from graphopt.profiles.bursts import Burst
from graphopt.profiles.sweep import Sweep, measure_points, spell_point


class Machine:
    """A clock that runs, and what ran on it: (batch, streams), a letter for each burst."""

    def __init__(self) -> None:
        self.now = 0
        self.bursts: list[int] = []

    def clock(self) -> int:
        return self.now


class Point:
    """Takes a ms an item, and on several streams no longer; may run out of memory."""

    def __init__(self, machine, batch, streams=1, *, fails_at=None, problem=None, ms=None):
        self.environment = {"engine": "fake"}
        self.machine, self.batch, self.streams = machine, batch, streams
        self.fails_at, self.problem, self.ms = fails_at, problem, ms or (lambda: float(batch))
        self.count = 0

    def burst(self, seconds, runs):
        self.count += 1
        if self.fails_at is not None and self.count >= self.fails_at:
            raise self.problem
        self.machine.bursts.append(self.batch)
        start, found = self.machine.now, []
        while len(found) < max(runs, 1) or self.machine.now - start < seconds * 1e9:
            ms = self.ms()
            self.machine.now += int(ms * 1e6)
            found.append(ms)
        samples = tuple(found) * self.streams
        return Burst(samples, (self.machine.now - start) / 1e6)


def swept(machine, *points, **how):
    how = {"warmup_s": 0, "min_s": 1.0, "min_runs": 1, "recorded": {"a": "b"}} | how
    return measure_points(points, clock=machine.clock, **how)


def test_points_take_turns_there_and_back():
    machine = Machine()
    points = [Point(machine, n) for n in (8, 1, 32)]
    warm = [1, 8, 32]
    found = swept(machine, *points, min_s=0.3, rounds=3)
    # From the second round on each is run once first: another had the caches.
    rounds = [[8, 1, 32], [32, 32, 1, 1, 8, 8], [8, 8, 1, 1, 32, 32]]
    after = machine.bursts
    assert after[-15:] == [b for each in rounds for b in each]
    assert sorted(set(after[:-15])) == warm
    assert [p.batch for p in found.points] == [8, 1, 32]
    for point in found.points:
        assert len(point.starts) == 3
        assert point.environment == {"a": "b", "engine": "fake"}
        assert point.wall_ms is None
        assert sum(point.samples_ms) >= 300


def test_a_drift_meets_all_alike():
    machine = Machine()
    # The machine slows down for good while it is measured, for the two points alike.
    points = [Point(machine, 1, ms=lambda: 1 + machine.now / 1e10) for _ in range(2)]
    first, second = swept(machine, *points).points
    assert second.p50 / first.p50 == pytest.approx(1, abs=0.01)
    assert first.drift > 0.05 < second.drift


def test_with_streams_the_clock_counts():
    machine = Machine()
    (point,) = swept(machine, Point(machine, 4, 3)).points
    assert (point.streams, point.batch) == (3, 4)
    assert point.throughput == pytest.approx(3 * 1000)
    assert point.wall_ms == pytest.approx(sum(point.samples_ms) / 3)


def test_few_runs_are_taken_in_few_rounds():
    machine = Machine()
    (point,) = swept(machine, Point(machine, 1), min_s=0, min_runs=3).points
    assert point.samples_ms == (1.0,) * 3
    assert point.starts == (0, 1, 2)


@pytest.mark.parametrize("fails_at", [1, 3, 15])
def test_what_runs_out_of_memory_is_left_out_with_what_is_larger(fails_at):
    machine, said = Machine(), []
    problem = EnvironmentProblem("CUDA: out of memory")
    points = [
        Point(machine, 64),
        Point(machine, 32, fails_at=fails_at, problem=problem),
        Point(machine, 1),
    ]
    found = swept(machine, *points, say=said.append)
    assert [p.batch for p in found.points] == [1]
    assert len(found.points[0].starts) == 10
    assert (
        sorted(said)
        == sorted(found.notes)
        == [
            "batch 32 is left out: it ran out of memory",
            "batch 64 is left out: as large as what ran out of memory",
        ]
    )


def test_other_problems_and_a_first_point_too_large_end_it():
    machine = Machine()
    large = Point(machine, 2, fails_at=2, problem=EnvironmentProblem("the GPU is lost"))
    with pytest.raises(EnvironmentProblem, match="the GPU is lost"):
        swept(machine, Point(machine, 1), large)
    small = Point(machine, 1, fails_at=2, problem=MemoryError())
    with pytest.raises(EnvironmentProblem, match="batch 1 runs out of memory"):
        swept(machine, small, Point(machine, 2))


@pytest.mark.parametrize("wrong", [{"min_runs": 0}, {"min_s": -1}, {"warmup_s": -1}, {"rounds": 0}])
def test_impossible_requests_are_told(wrong):
    machine = Machine()
    with pytest.raises(UsageError):
        swept(machine, Point(machine, 1), **wrong)
    with pytest.raises(UsageError):
        swept(machine)


def test_the_best_has_the_most_items_of_those_within_the_limit():
    points = tuple(
        LatencyProfile((ms,) * 3, batch) for batch, ms in ((1, 1.0), (8, 4.0), (32, 9.0))
    )
    sweep = Sweep(points)
    assert sweep.best() == 2
    assert sweep.best(9.0) == 2
    assert sweep.best(8.9) == 1
    assert sweep.best(0.5) is None
    assert Sweep((points[0], points[0])).best() == 0


def test_a_sweep_is_written_and_read():
    sweep = Sweep((LatencyProfile((1.0,)), LatencyProfile((2.0,), 8)), ("batch 9 is left out",))
    assert Sweep.from_json(json.loads(json.dumps(sweep.to_json()))) == sweep
    with pytest.raises(ValueError, match="at least one point"):
        Sweep(())


@pytest.mark.parametrize(
    "change", [{"kind": "x"}, {"schema": 2}, {"points": []}, {"points": 3}, {"points": [1]},
               {"notes": 3}]
)  # fmt: skip
def test_what_is_no_sweep_is_told(change):
    raw = {**Sweep((LatencyProfile((1.0,)),)).to_json(), **change}
    with pytest.raises(UsageError):
        Sweep.from_json(raw)
    with pytest.raises(UsageError):
        Sweep.from_json([])


def test_points_are_spelled():
    assert spell_point(8, 1) == "batch 8"
    assert spell_point(8, 2) == "batch 8 on 2 streams"
