from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles.bursts import Threads, out_of_memory, together


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def test_a_burst_keeps_to_the_time_and_the_runs():
    clock = Clock()

    def run():
        clock.now += 10_000_000

    timer = Threads(run, clock=clock)
    assert timer.burst(0, 1).samples_ms == (10.0,)
    assert timer.burst(0, 0).samples_ms == (10.0,)
    assert timer.burst(0, 4).samples_ms == (10.0,) * 4
    long = timer.burst(0.05, 2)
    assert (long.samples_ms, long.wall_ms) == ((10.0,) * 5, 50.0)


def test_streams_run_at_the_same_time():
    meeting = threading.Barrier(3, timeout=20)
    # Each run waits for one of every other stream: alone, or in turn, none would end.
    burst = Threads(meeting.wait, streams=3).burst(0, 4)
    assert len(burst.samples_ms) == 12
    assert burst.wall_ms > 0


def test_what_a_thread_raises_is_raised_here_once_all_have_ended():
    ended = []

    def work():
        try:
            if threading.current_thread().name == first[0]:
                raise EnvironmentProblem("no")
        finally:
            ended.append(1)

    first = []

    def named():
        first.append(threading.current_thread().name)
        work()

    with pytest.raises(EnvironmentProblem, match="no"):
        together(3, named)
    assert len(ended) == 3


def test_streams_end_with_the_one_that_fails_or_when_interrupted():
    chosen = []
    inside = []

    def run():
        chosen.append(threading.current_thread())
        if chosen[0] is threading.current_thread():
            raise EnvironmentProblem("no")
        time.sleep(0.001)

    timer = Threads(run, streams=2)
    with pytest.raises(EnvironmentProblem, match="no"):
        timer.burst(60, 1)

    once = [signal.SIGINT]

    def interrupts():
        inside.append(1)
        if once:
            os.kill(os.getpid(), once.pop())
        time.sleep(0.05)
        inside.pop()

    with pytest.raises(KeyboardInterrupt):
        Threads(interrupts, streams=2).burst(60, 1)
    assert not inside


def test_too_many_streams_are_told_and_none_is_left_waiting(monkeypatch):
    before, real, started = threading.active_count(), threading.Thread.start, []

    def start(self):
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(self)
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(EnvironmentProblem, match=r"5 streams: .* no more than 3 threads"):
        Threads(time.sleep, streams=5).burst(1, 1)
    for thread in started:
        thread.join(20)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("problem", "is_memory"),
    [
        (MemoryError(), True),
        (EnvironmentProblem("CUDA: out of memory"), True),
        (UsageError("ONNX Runtime could not run these inputs: std::bad_alloc"), True),
        (EnvironmentProblem("Failed to allocate memory for requested buffer of size 9"), True),
        (UsageError("the model's batch is fixed at 4"), False),
        (None, False),
    ],
)
def test_running_out_of_memory_is_told_by_its_words(problem, is_memory):
    assert out_of_memory(problem) is is_memory
    if problem is not None:
        outer = UsageError("could not")
        outer.__cause__ = problem
        assert out_of_memory(outer) is is_memory
