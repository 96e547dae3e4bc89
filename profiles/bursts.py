"""A point to measure: one batch on some streams, ready to run, and runs of it in bursts."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from graphopt.errors import EnvironmentProblem
from graphopt.files import uninterrupted

# ONNX Runtime's, CUDA's, PyCUDA's, TensorRT's and C++'s words for it.
_MEMORY = re.compile(
    r"out of memory|out.?of.?memory|bad_alloc|bad allocation|failed to allocate|"
    r"unable to allocate|cannot allocate memory|memory allocation (?:failed|error)|MemoryError",
    re.IGNORECASE,
)
Clock = Callable[[], int]
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Burst:
    """Runs that were taken one after the other, on each stream.

    Attributes:
        samples_ms: how long each took, stream by stream.
        wall_ms: the time on the clock that all of them took together.
    """

    samples_ms: tuple[float, ...]
    wall_ms: float


class Timer(Protocol):
    """A point, ready to be measured.

    Attributes:
        batch: items in one run.
        streams: runs in flight at a time.
        environment: what it runs on, besides the machine: engine, threads, clock.
    """

    batch: int
    streams: int
    environment: Mapping[str, str]

    def burst(self, seconds: float, runs: int, /) -> Burst:
        """Run for at least so long, and so many times on each stream; at least once."""


@dataclass(slots=True)
class Threads:
    """A point that is run by a thread for each stream, timed by the clock.

    Attributes:
        run: runs one batch and waits for it; may be called by several threads at once.
        batch: items in one run.
        streams: threads.
        environment: what it runs on.
        clock: nanoseconds.
    """

    run: Callable[[], object]
    batch: int = 1
    streams: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = time.perf_counter_ns

    def burst(self, seconds: float, runs: int, /) -> Burst:
        """See :class:`Timer`; what a thread raises is raised here, once all have ended."""
        stop = threading.Event()
        start = self.clock()
        found = together(self.streams, lambda: self._one(seconds, runs, stop), stop)
        wall = (self.clock() - start) / 1e6
        return Burst(tuple(s for each in found for s in each), wall)

    def _one(self, seconds: float, runs: int, stop: threading.Event) -> list[float]:
        run, clock, times, stopped = self.run, self.clock, list[float](), stop.is_set
        begun = now = clock()
        while not times or ((len(times) < runs or now - begun < seconds * 1e9) and not stopped()):
            before = clock()
            run()
            now = clock()
            times.append((now - before) / 1e6)
        return times


def together(
    count: int, work: Callable[[], Answer], stop: threading.Event | None = None
) -> Sequence[Answer]:
    """Call ``work`` in so many threads that begin at once; here, where it is one.

    No thread outlives the call, or it would run on in a runtime that is being closed.

    Args:
        count: threads.
        work: what each does.
        stop: set once one of them has failed, or this thread was interrupted.

    Raises:
        EnvironmentProblem: the system starts no more threads.
        BaseException: the first that one of them raised, after all have ended.
    """
    if count == 1:
        return [work()]
    stop = stop or threading.Event()
    gate = threading.Barrier(count)
    answers: list[Answer] = []
    problems: list[BaseException] = []

    def begin(ended: threading.Event) -> None:
        try:
            gate.wait()
            answers.append(work())
        except BaseException as problem:  # noqa: BLE001 - raised again, in the thread that asked
            problems.append(problem)
            stop.set()
        finally:
            ended.set()

    # Not join(): until Python 3.13, once interrupted it takes a running thread for one that ended.
    running: list[threading.Event] = []
    try:
        # An interrupt between a start and its entry here would leave a thread behind.
        with uninterrupted():
            for _ in range(count):
                ended = threading.Event()
                threading.Thread(target=begin, args=(ended,), daemon=True).start()
                running.append(ended)
        for ended in running:
            ended.wait()
    except RuntimeError as problem:
        raise EnvironmentProblem(
            f"{count} streams: this system starts no more than {len(running)} threads; take fewer"
        ) from problem
    finally:
        stop.set()
        if len(running) < count:
            gate.abort()
        for ended in running:
            ended.wait()
    if problems:
        raise problems[0]
    return answers


def out_of_memory(problem: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that the memory was not enough."""
    while problem is not None:
        text = f"{type(problem).__name__}: {problem}"
        if isinstance(problem, MemoryError) or _MEMORY.search(text):
            return True
        problem = problem.__cause__
    return False
