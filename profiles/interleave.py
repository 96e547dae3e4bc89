"""Two models run by turns until the gate knows, or what it may spend is spent.

Each *opening* opens both models anew, the one first and the other first by turns, because where a
session lies in memory is an offset that no number of runs averages out. Each opening takes two
*rounds* A B B A (then B A A B), each of those a block of runs of which the first are dropped: they
still suffer from the other model's caches and threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Protocol, TypeAlias

from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles.latency import no_garbage_collection
from graphopt.profiles.regression import CONFIDENCE, LIMIT, Round, Verdict, judge
from graphopt.wording import counted

# Looks at the data: after this many openings, then after half as many again, and so on.
_FIRST, _GROWTH = 8, 1.5
_OPENINGS = 60
# A block of runs takes at least this long, and has at least so many runs, unless one run is long.
_BLOCK_MS, _BLOCK_RUNS, _LONG_BLOCK_MS = 5.0, 5, 100.0
_TAIL_BLOCK_MS = 250.0
# Runs dropped before a block, where a run takes less than so many ms: the longer it takes, the less
# of it other caches cost.
_DROPPED = ((20.0, 2), (250.0, 1))
_ROUNDS = 2
# A round that takes longer than this is the only one of its opening: openings tell more.
_LONG_ROUND_MS = 500.0
# Warm-up: windows of runs, until two in a row agree this well, or for so long: one long run will do
_WINDOW, _STABLE, _WARM_MS = 3, 0.05, 250.0


class Timed(Protocol):
    """An open model that can time itself."""

    def round(self, runs: int, /) -> Sequence[float]:
        """Run so often, one after the other; return how long each took, in ms."""
        ...


Open: TypeAlias = Callable[[], AbstractContextManager[Timed]]
OpenRun: TypeAlias = Callable[[], AbstractContextManager[Callable[[], object]]]


def local(open_run: OpenRun, *, clock: Callable[[], int] = time.perf_counter_ns) -> Open:
    """Time by the wall clock what is run by a function.

    Args:
        open_run: gives a context manager whose value is a function that runs one batch.
        clock: nanoseconds.
    """

    @contextmanager
    def opened() -> Iterator[Timed]:
        with open_run() as run:
            yield _Local(run, clock)

    return opened


class _Local:
    def __init__(self, run: Callable[[], object], clock: Callable[[], int]) -> None:
        self._run, self._clock = run, clock

    def round(self, runs: int, /) -> list[float]:
        run, clock = self._run, self._clock
        found = []
        for _ in range(runs):
            start = clock()
            run()
            found.append((clock() - start) / 1e6)
        return found


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent before it stays inconclusive.

    Attributes:
        seconds: no opening begins after this long.
        openings: at most so many pairs of sessions, two rounds each.

    Raises:
        UsageError: it is not above zero.
    """

    seconds: float = 60.0
    openings: int = _OPENINGS

    def __post_init__(self) -> None:
        if not self.seconds > 0 or self.openings < 1:
            raise UsageError("a budget is of more than 0 seconds and at least one opening")

    @classmethod
    def of(cls, seconds: float, usual: float) -> Budget:
        """Return a budget whose openings grow with the time, from what is usual on.

        Args:
            seconds: what may be spent.
            usual: what is, where nobody says otherwise.
        """
        if not seconds <= 1e6:
            raise UsageError("a budget is of less than a million seconds")
        return cls(seconds, max(_OPENINGS, int(_OPENINGS * seconds / usual)))

    @property
    def looks(self) -> tuple[int, ...]:
        """After how many openings the data is judged: fixed beforehand, never "once more"."""
        found: list[int] = []
        at = _FIRST
        # A look at nearly all costs as much confidence as any, and tells little.
        while at * _GROWTH <= self.openings:
            found.append(at)
            at = int(at * _GROWTH)
        return (*found, self.openings)


DEFAULT = Budget()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured, and what came of it.

    Attributes:
        rounds: all of them, in order, raw samples included.
        verdict: the last one.
        runs: in a block; a round has two blocks of each model.
        seconds: all of it, opening and warm-up too.
        looks: how often the data was judged.
        stopped: ``"decided"``, ``"openings"`` or ``"seconds"`` (the budget was spent).
    """

    rounds: tuple[Round, ...]
    verdict: Verdict
    runs: int
    seconds: float
    looks: int
    stopped: str

    @property
    def base_ms(self) -> tuple[float, ...]:
        """All runs of the baseline, in the order they ran, in ms."""
        return tuple(s for r in self.rounds for s in r.base_samples)

    @property
    def cand_ms(self) -> tuple[float, ...]:
        """All runs of the candidate, in the order they ran, in ms."""
        return tuple(s for r in self.rounds for s in r.cand_samples)


def gate(
    open_base: Open,
    open_cand: Open,
    limit: float = LIMIT,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    budget: Budget = DEFAULT,
    clock: Callable[[], int] = time.perf_counter_ns,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Interleave two models until their median latency is judged; see :func:`interleave`."""
    decide = partial(judge, limit=limit, confidence=confidence, seed=seed, looks=len(budget.looks))
    return interleave(open_base, open_cand, budget=budget, decide=decide, clock=clock, say=say)


def interleave(
    open_base: Open,
    open_cand: Open,
    *,
    budget: Budget = DEFAULT,
    decide: Callable[[Sequence[Round]], Verdict],
    clock: Callable[[], int] = time.perf_counter_ns,
    say: Callable[[str], None] = lambda _: None,
    tail: bool = False,
) -> Outcome:
    """Run two models by turns until ``decide`` says pass or fail, or the budget is spent.

    The garbage collector is off meanwhile. Sessions are closed and the collector is on again
    however it ends.

    Args:
        open_base: opens the baseline, anew each time.
        open_cand: opens the candidate.
        budget: what may be spent.
        decide: judges all rounds so far; called at each of ``budget.looks`` and, where time runs
            out between two of them, once then. Never more often than there are looks.
        clock: nanoseconds, for the budget.
        say: takes a line about how far it is.
        tail: whether ``decide`` looks at a high percentile, which needs many runs: blocks of long
            runs have more of them.

    Raises:
        EnvironmentProblem: a run takes no time that can be told, or none that is a number.
    """
    rounds: list[Round] = []
    shape: Shape | None = None
    verdict: Verdict | None = None
    looked, stopped = 0, "openings"
    start = clock()
    with no_garbage_collection():
        for opening in range(budget.openings):
            shape, turns = take_turns((open_base, open_cand), opening, shape, tail=tail)
            rounds += [_paired(base, cand, opening) for base, cand in turns]
            spent = (clock() - start) / 1e9
            late = spent >= budget.seconds
            if opening + 1 not in budget.looks and not late:
                continue
            verdict, looked = decide(tuple(rounds)), looked + 1
            if verdict.status != "inconclusive":
                stopped = "decided"
                break
            say(f"{counted(opening + 1, 'opening')}, {spent:.1f} s: not decided: {verdict.why}")
            if late:
                stopped = "seconds"
                break
    assert verdict is not None and shape is not None  # The last opening is always a look.
    return Outcome(tuple(rounds), verdict, shape.runs, (clock() - start) / 1e9, looked, stopped)


@dataclass(frozen=True, slots=True)
class Shape:
    """How long blocks are, fixed at the first opening for all of them.

    Attributes:
        runs: kept, of a block.
        dropped: before those.
        rounds: in an opening.
    """

    runs: int
    dropped: int
    rounds: int

    @classmethod
    def of(cls, run_ms: float, *, tail: bool = False) -> Shape:
        """Choose by how long a run of the slowest model takes, and whether its tail counts."""
        runs = max(_BLOCK_RUNS, math.ceil(_BLOCK_MS / run_ms))
        runs = max(1, min(runs, int((_TAIL_BLOCK_MS if tail else _LONG_BLOCK_MS) / run_ms)))
        dropped = min(runs, next((count for below, count in _DROPPED if run_ms < below), 0))
        long = 4 * (runs + dropped) * run_ms > _LONG_ROUND_MS
        return cls(runs, dropped, 1 if long else _ROUNDS)


def take_turns(
    openers: Sequence[Open], opening: int, shape: Shape | None = None, *, tail: bool = False
) -> tuple[Shape, list[tuple[list[float], ...]]]:
    """Open models anew, warm them up and time them by turns, there and back: A B C C B A.

    Args:
        openers: one a model.
        opening: counted from 0; every other one opens and times them the other way round.
        shape: as the first opening returned it; None there.
        tail: as in :func:`interleave`.

    Returns:
        The shape, and for each round the runs of each model, in ms, in the order they ran.

    Raises:
        EnvironmentProblem: a run takes no time that can be told, or none that is a number.
    """
    there = list(range(len(openers)))
    with ExitStack() as stack:
        sessions: dict[int, Timed] = {}
        for index in there if opening % 2 == 0 else reversed(there):
            sessions[index] = stack.enter_context(openers[index]())
        warm = [_warm_up(sessions[index]) for index in there]
        shape = shape or Shape.of(max(warm), tail=tail)
        found = []
        for turn in range(shape.rounds):
            # Whoever is last runs twice in a row, with warm caches: each is so in its turn, and
            # not in step with who is opened first, or the two would be mistaken for each other.
            shift = (opening // 2 + turn) % len(there)
            order = there[shift:] + there[:shift]
            samples: tuple[list[float], ...] = tuple([] for _ in there)
            for index in (*order, *reversed(order)):
                times = _times(sessions[index], shape.dropped + shape.runs)
                samples[index].extend(times[shape.dropped :])
            found.append(samples)
        sessions.clear()
    return shape, found


def _paired(base: Sequence[float], cand: Sequence[float], opening: int) -> Round:
    try:
        return Round(tuple(base), tuple(cand), opening)
    except ValueError as problem:
        raise EnvironmentProblem(f"cannot time this: {problem}") from problem


def _warm_up(timed: Timed) -> float:
    """Run until the times agree; return how long a run takes, in ms."""
    times = _times(timed, 1)
    if times[0] < _WARM_MS:
        times += _times(timed, _WINDOW - 1)
    spent, last = 0.0, math.inf
    while True:
        now = median(times)
        if now <= 0:
            raise EnvironmentProblem(
                "a run takes less time than the clock can tell; use a larger batch or model"
            )
        spent += sum(times)
        # Slow once, slow twice: what never settles is measured all the same.
        if abs(now - last) <= _STABLE * now or spent >= _WARM_MS:
            return now
        last = now
        times = _times(timed, _WINDOW)


def _times(timed: Timed, runs: int) -> list[float]:
    found = [float(ms) for ms in timed.round(runs)]
    if len(found) != runs or not all(math.isfinite(ms) and ms >= 0 for ms in found):
        raise EnvironmentProblem(f"asked for the times of {runs} runs, got no such list")
    return found
