from __future__ import annotations

import gc
from contextlib import contextmanager

import numpy as np
import pytest

from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles.interleave import Budget, Shape, gate, interleave, local, take_turns
from graphopt.profiles.regression import Verdict, judge


class Machine:
    """Time that passes only when something runs; what ran, and what was opened, is kept."""

    def __init__(self, *, noise=0.0, session=0.0, drift_per_s=0.0, seed=0):
        self.now, self.events = 0, []
        self.rng = np.random.default_rng(seed)
        self.noise, self.session, self.drift = noise, session, drift_per_s
        self.open_now = []

    def clock(self):
        return self.now

    def opener(self, name, ms):
        @contextmanager
        def opened():
            self.events.append(f"open {name}")
            self.open_now.append(name)
            own = ms * float(np.exp(self.session * self.rng.standard_normal()))
            try:
                yield Session(self, name, own)
            finally:
                self.open_now.remove(name)

        return opened


class Session:
    def __init__(self, machine, name, ms):
        self.machine, self.name, self.ms = machine, name, ms

    def round(self, runs):
        m = self.machine
        m.events.append(f"{self.name}{runs}")
        found = []
        for noise in m.rng.standard_normal(runs):
            ms = self.ms * float(np.exp(m.noise * noise)) * (1 + m.drift * m.now / 1e9)
            m.now += int(ms * 1e6)
            found.append(ms)
        return found


def checked(machine, a, b, **options):
    return gate(machine.opener("a", a), machine.opener("b", b), clock=machine.clock, **options)


def undecided(rounds):
    return Verdict("inconclusive", 0, -1, 1, 0.95, 0.02, len(rounds), 1, "")


@pytest.mark.parametrize(
    ("b", "status"), [(1.0, "pass"), (0.5, "pass"), (1.002, "pass"), (1.05, "fail"), (4.0, "fail")]
)
def test_clear_cases_are_decided_at_the_first_look(b, status):
    found = checked(Machine(noise=0.02, session=0.002), 1.0, b)
    assert found.verdict.status == status
    assert found.stopped == "decided"
    assert found.looks == 1
    assert len(found.rounds) == 16
    assert {r.opening for r in found.rounds} == set(range(8))


def test_a_steady_drift_is_nothing():
    # Each run is slower than the one before it: by 5 % from the first run to the last of a round.
    found = checked(Machine(drift_per_s=1.0), 1.0, 1.0)
    assert found.verdict.status == "pass"
    assert found.verdict.change == pytest.approx(0, abs=1e-3)


def test_rounds_are_added_until_the_openings_are_spent():
    machine = Machine(noise=0.02, session=0.01)
    found = checked(machine, 1.0, 1.02, budget=Budget(openings=20))
    assert found.verdict.status == "inconclusive"
    assert found.stopped == "openings"
    assert found.looks == len(Budget(openings=20).looks)
    assert found.verdict.openings == 20
    assert found.seconds == pytest.approx(machine.now / 1e9)


def test_the_data_is_judged_at_the_looks_alone():
    seen = []

    def decide(rounds):
        seen.append(max(r.opening for r in rounds) + 1)
        return undecided(rounds)

    machine = Machine()
    interleave(
        machine.opener("a", 1.0), machine.opener("b", 1.0), budget=Budget(), decide=decide,
        clock=machine.clock,
    )  # fmt: skip
    assert tuple(seen) == Budget().looks == (8, 12, 18, 27, 40, 60)


@pytest.mark.parametrize(
    ("openings", "looks"),
    [
        (1, (1,)),
        (7, (7,)),
        (8, (8,)),
        (11, (11,)),
        (12, (8, 12)),
        (40, (8, 12, 18, 40)),
        (41, (8, 12, 18, 27, 41)),
    ],
)
def test_looks_are_fixed_beforehand(openings, looks):
    assert Budget(openings=openings).looks == looks


def test_when_time_is_up_it_is_judged_once_more_and_never_more_often_than_looks():
    machine, seen = Machine(), []

    def decide(rounds):
        seen.append(len(rounds))
        return undecided(rounds)

    # 1 ms runs: an opening takes about 62 ms.
    found = interleave(
        machine.opener("a", 1.0), machine.opener("b", 1.0), budget=Budget(seconds=0.9),
        decide=decide, clock=machine.clock,
    )  # fmt: skip
    assert found.stopped == "seconds"
    assert 0.9 <= found.seconds < 1.1
    assert found.looks == len(seen) <= len(Budget().looks)
    assert seen[-1] == len(found.rounds)


def test_one_opening_of_long_runs_is_told_to_be_too_little():
    found = checked(Machine(), 5000.0, 50000.0, budget=Budget(seconds=1.0))
    assert found.stopped == "seconds"
    assert found.verdict.status == "inconclusive"
    assert "at least 5 openings" in found.verdict.why


def test_both_are_opened_anew_and_first_by_turns():
    machine = Machine()
    checked(machine, 1.0, 1.0)
    opened = [e[-1] for e in machine.events if e.startswith("open")]
    assert opened == list("abba" * 4)
    assert machine.open_now == []


def test_rounds_are_abba_and_baab_in_each_opening():
    machine = Machine()
    checked(machine, 1.0, 1.0)
    blocks = [e for e in machine.events if e[1:] == "7"]  # 2 dropped, 5 kept
    assert "".join(e[0] for e in blocks[:16]) == "abbabaab" * 2
    assert "".join(e[0] for e in blocks[16:32]) == "baababba" * 2


def test_the_first_runs_of_a_block_are_dropped():
    class Cold(Session):
        def round(self, runs):
            return [*[99.0, 99.0][:runs], *super().round(runs)[2:]]

    machine = Machine()

    @contextmanager
    def opened():
        yield Cold(machine, "a", 1.0)

    _, turns = take_turns([opened, opened], 0, Shape(5, 2, 2))
    assert all(ms < 2 for turn in turns for side in turn for ms in side)
    assert all(len(side) == 10 for turn in turns for side in turn)


@pytest.mark.parametrize(
    ("ms", "shape"),
    [
        (0.01, Shape(500, 2, 2)),
        (0.5, Shape(10, 2, 2)),
        (3.0, Shape(5, 2, 2)),
        (30.0, Shape(3, 1, 2)),
        (1000.0, Shape(1, 0, 1)),
    ],
)
def test_blocks_are_as_long_as_runs_ask_for(ms, shape):
    assert Shape.of(ms) == shape


def test_three_models_take_turns_at_every_place():
    machine = Machine()
    openers = [machine.opener(name, 1.0) for name in "abc"]
    for opening in range(6):
        take_turns(openers, opening, Shape(5, 2, 1))
    blocks = "".join(e[0] for e in machine.events if e[1:] == "7")
    assert blocks == "abccba" * 2 + "bcaacb" * 2 + "cabbac" * 2


def test_warm_up_goes_on_until_runs_agree():
    machine, times = Machine(), iter([9.0, 9, 9, 5, 5, 5, 2, 2, 2])

    class Settling(Session):
        def round(self, runs):
            machine.events.append(runs)
            return [next(times, 1.0) for _ in range(runs)]

    @contextmanager
    def opened():
        yield Settling(machine, "a", 1.0)

    shape, turns = take_turns([opened], 0)
    assert machine.events[:6] == [1, 2, 3, 3, 3, 3]
    assert shape == Shape(5, 2, 2)
    assert all(ms == 1.0 for turn in turns for ms in turn[0])


def test_what_never_settles_is_measured_all_the_same():
    machine, times = Machine(), iter([x for k in range(10**4) for x in [1.0 + 9 * (k % 2)] * 3])

    class Restless(Session):
        def round(self, runs):
            return [next(times) for _ in range(runs)]

    @contextmanager
    def opened():
        yield Restless(machine, "a", 1.0)

    _, turns = take_turns([opened], 0)
    assert turns


@pytest.mark.parametrize("answer", [[], [1.0], [1.0] * 99, [float("nan")] * 3, [-1.0] * 3])
def test_a_list_of_other_than_times_is_refused(answer):
    class Broken:
        def round(self, runs):
            return answer

    @contextmanager
    def opened():
        yield Broken()

    with pytest.raises(EnvironmentProblem, match="no such list"):
        take_turns([opened, opened], 0)


def test_what_takes_no_time_is_refused():
    with pytest.raises(EnvironmentProblem, match="less time than the clock can tell"):
        checked(Machine(), 0.0, 1.0)


@pytest.mark.parametrize("wrong", [KeyboardInterrupt, EnvironmentProblem])
def test_whatever_stops_it_sessions_are_closed_and_the_collector_is_on(wrong):
    machine = Machine()
    assert gc.isenabled()

    def decide(rounds):
        assert not gc.isenabled()
        raise wrong("stop")

    with pytest.raises(wrong):
        interleave(
            machine.opener("a", 1.0), machine.opener("b", 1.0), budget=Budget(), decide=decide,
            clock=machine.clock,
        )  # fmt: skip
    assert gc.isenabled()

    class Stopped(Session):
        def round(self, runs):
            raise wrong("stop")

    @contextmanager
    def opened():
        machine.open_now.append("c")
        try:
            yield Stopped(machine, "c", 1.0)
        finally:
            machine.open_now.remove("c")

    with pytest.raises(wrong):
        interleave(machine.opener("a", 1.0), opened, budget=Budget(), decide=decide)
    assert machine.open_now == []
    assert gc.isenabled()


def test_a_function_is_timed_by_the_clock():
    machine = Machine()

    @contextmanager
    def opened():
        def run():
            machine.now += 2_500_000

        yield run

    with local(opened, clock=machine.clock)() as timed:
        assert timed.round(3) == [2.5, 2.5, 2.5]


def test_the_raw_samples_are_kept():
    found = checked(Machine(noise=0.01), 1.0, 1.0)
    assert len(found.base_ms) == len(found.cand_ms) == 16 * 2 * found.runs
    assert found.base_ms[:3] == found.rounds[0].base_samples[:3]


def test_the_same_machine_gives_the_same_verdict():
    one, other = (checked(Machine(noise=0.05, session=0.01, seed=4), 1.0, 1.01) for _ in "ab")
    assert one == other


def test_progress_is_said():
    said = []
    machine = Machine(noise=0.02, session=0.01)
    checked(machine, 1.0, 1.02, budget=Budget(openings=12), say=said.append)
    assert len(said) == 2
    assert said[0].startswith("8 openings, ")


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"seconds": float("nan")}, {"openings": 0}])
def test_a_budget_of_nothing_is_refused(wrong):
    with pytest.raises(UsageError, match="budget"):
        Budget(**wrong)


@pytest.mark.parametrize(
    ("change", "allowed"),
    [(0.0, {"pass"}), (0.02, {"pass", "fail", "inconclusive"}), (0.05, {"fail"})],
)
def test_verdicts_at_the_promised_rates(change, allowed):
    """12 machines with session offsets of 0.5 %, drifting; at the limit hardly any false alarm."""
    found = [
        checked(
            Machine(noise=0.03, session=0.005, drift_per_s=0.05, seed=seed), 1.0, 1.0 + change,
            seed=seed,
        ).verdict
        for seed in range(12)
    ]  # fmt: skip
    assert {v.status for v in found} <= allowed
    held = [v.low <= change <= v.high for v in found]
    # 95 % is promised: 3 misses of 12 have a probability of 2 %.
    assert sum(held) >= 10


def test_judge_is_what_gate_uses():
    found = checked(Machine(noise=0.02, session=0.003), 1.0, 1.0, limit=0.05, confidence=0.99)
    looks = len(Budget().looks)
    assert found.verdict == judge(found.rounds, 0.05, confidence=0.99, looks=looks)


@pytest.mark.parametrize(("ms", "runs"), [(0.5, 10), (20.0, 5), (50.0, 5), (100.0, 2), (2000.0, 1)])
def test_blocks_for_a_tail_have_more_of_long_runs(ms, runs):
    assert Shape.of(ms, tail=True).runs == runs


def test_one_long_run_warms_up():
    machine = Machine()
    opened = machine.opener("a", 2000.0)
    take_turns([opened, opened], 0)
    # One to warm up, two blocks of one run, none dropped; of each.
    assert machine.now / 1e9 == pytest.approx(2 * 3 * 2.0, rel=0.2)


def test_more_time_than_usual_has_more_openings():
    assert Budget.of(60.0, 60.0) == Budget()
    assert Budget.of(10.0, 60.0).openings == 60
    assert Budget.of(600.0, 60.0).openings == 600
    assert Budget.of(600.0, 600.0).openings == 60
    assert Budget.of(120.0, 60.0).looks == (8, 12, 18, 27, 40, 60, 120)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="budget"):
            Budget.of(seconds, 60.0)
