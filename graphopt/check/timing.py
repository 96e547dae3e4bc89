"""Opening artifacts anew, as often as the interleaved rounds ask."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from graphopt.check.gates import TimeGate, latency_gate, means
from graphopt.engines import Session
from graphopt.engines.onnxruntime import OnnxRuntimeSession
from graphopt.model import Feeds
from graphopt.opening import opened
from graphopt.profiles.bursts import Timer
from graphopt.profiles.interleave import Open, Timed, local
from graphopt.profiles.regression import (
    CONFIDENCE,
    Round,
    Verdict,
    judge,
    judge_percentile,
)
from graphopt.runtime import open_session, timing_options
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.engines.trtexec.engine import Trtexec

THREADS = 1
"""Of ONNX Runtime by default: threads that wait for each other drown a change of a few percent."""
REMOTE_WARMUP_MS, REMOTE_SECONDS = 200, 1
_REMOTE_RUNS = 50


def opener(path: Path, feeds: Feeds, session: Session, *, threads: int) -> Open:
    """Return what opens an artifact anew and times it.

    A model on ONNX Runtime is timed by the wall clock; an engine by its session's own.

    Args:
        path: of the artifact, which has been opened (and so checked) once.
        feeds: one batch.
        session: that first one: tells the runtime.
        threads: of ONNX Runtime.
    """
    if isinstance(session, OnnxRuntimeSession):
        return local(partial(_model, path, dict(feeds), threads))
    return partial(_engine, path, feeds)


@contextmanager
def _model(path: Path, feeds: dict[str, Any], threads: int) -> Iterator[Callable[[], object]]:
    with open_session(path, options=timing_options(threads)) as session:
        yield partial(session.run, None, feeds)


@contextmanager
def _engine(path: Path, feeds: Feeds) -> Iterator[Timed]:
    with opened(path) as session:
        timer = getattr(session, "timer", None)
        yield _Timer(timer(feeds)) if timer is not None else _Session(session, feeds)


class _Timer:
    """An engine that times its runs one by one, by CUDA events."""

    def __init__(self, timer: Timer) -> None:
        self._timer = timer

    def round(self, runs: int, /) -> Sequence[float]:
        return self._timer.burst(0.0, runs).samples_ms[:runs]


class _Session:
    """A session of another distribution, which can do no more than a Session must."""

    def __init__(self, session: Session, feeds: Feeds) -> None:
        self._session, self._feeds = session, feeds

    def round(self, runs: int, /) -> Sequence[float]:
        profile = self._session.time(self._feeds, warmup_s=0.0, min_s=0.0, min_runs=runs)
        return profile.samples_ms[:runs]


def recorded(session: Session, feeds: Feeds, *, threads: int) -> dict[str, str]:
    """Return what a session tells of itself (engine, clock, streams), with the threads to be used.

    Raises:
        UsageError: it does not take this batch.
    """
    timer = getattr(session, "timer", None)
    if timer is not None:
        told = dict(timer(feeds).environment)
    else:
        told = dict(session.time(feeds, warmup_s=0.0, min_s=0.0, min_runs=1).environment)
    if "threads" in told:
        told["threads"] = str(threads)
    return told


class RemoteTimer:
    """An engine timed by trtexec: each run of it loads the engine anew, and is one opening.

    What one run of trtexec measured is handed out in the order it was measured, and another is
    made when that is used up.

    Attributes:
        environment: what the last run recorded.
    """

    def __init__(
        self,
        tool: Trtexec,
        path: Path,
        sizes: Mapping[str, tuple[int, ...]],
        say: Callable[[str], None],
    ) -> None:
        self._tool, self._path, self._sizes, self._say = tool, path, sizes, say
        self._left: deque[float] = deque()
        self.environment: Mapping[str, str] = {}
        self._runs = 0
        self._warned: dict[str, tuple[str, int]] = {}

    def warnings(self) -> list[str]:
        """Return what the machine's states said against the figures, each thing once."""
        name, runs = one_line(self._path.name, 60), self._runs
        return [f"{line} ({name}: {n} of {runs} runs)" for line, n in self._warned.values()]

    @contextmanager
    def open(self) -> Iterator[Timed]:
        """Begin a new run of trtexec."""
        self._left.clear()
        yield self

    def round(self, runs: int, /) -> Sequence[float]:
        """Return the next so many GPU compute times, in ms.

        Raises:
            EnvironmentProblem: trtexec measures nothing, or cannot be run.
        """
        while len(self._left) < runs:
            self._left.extend(self.once(runs))
        return [self._left.popleft() for _ in range(runs)]

    def once(self, runs: int = 1) -> tuple[float, ...]:
        """Run trtexec once; return all it measured, in ms, of so many runs at least."""
        from graphopt.engines.trtexec.engine import Timing

        asked = Timing(REMOTE_WARMUP_MS, REMOTE_SECONDS, max(_REMOTE_RUNS, runs))
        timed = self._tool.time(self._path, self._sizes, asked, say=self._say)
        self._runs += 1
        for line in timed.warnings:
            # How long clocks were held, or how busy others were, differs from run to run.
            kind = re.sub(r"[\d.]+", "#", line)
            first, times = self._warned.get(kind, (line, 0))
            self._warned[kind] = (first, times + 1)
        self.environment = timed.latency.environment
        return timed.latency.samples_ms


def verdict_on(gate: TimeGate, rounds: Sequence[Round], *, seed: int, looks: int) -> Verdict:
    """Judge interleaved rounds for one limit."""
    if gate.kind == "p99":
        return judge_percentile(
            rounds, gate.limit, q=99.0, confidence=CONFIDENCE, seed=seed, looks=looks
        )
    used = means(rounds) if gate.kind == "mean" else rounds
    return judge(used, gate.limit, confidence=CONFIDENCE, seed=seed, looks=looks)


def opening_medians(rounds: Sequence[Round]) -> tuple[float, ...]:
    """Return the candidate's median of each opening, in ms."""
    openings: dict[int, list[float]] = {}
    for each in rounds:
        openings.setdefault(each.opening, []).extend(each.cand_samples)
    return tuple(median(openings[number]) for number in sorted(openings))


def decide(
    gates: Sequence[TimeGate],
    rounds: Sequence[Round],
    *,
    seed: int,
    looks: int,
    max_latency: float | None = None,
) -> Verdict:
    """Return the weightiest verdict: rounds are added until each is decided, or one fails.

    Args:
        gates: limits on times that are compared.
        rounds: all so far.
        seed: of the bootstrap.
        looks: how often in all this is asked.
        max_latency: what the candidate's own median may be, in ms; None for no limit.
    """
    found = [verdict_on(gate, rounds, seed=seed, looks=looks) for gate in gates]
    if max_latency is not None:
        alone = latency_gate(
            max_latency, opening_medians(rounds), confidence=CONFIDENCE, looks=looks
        )
        if alone.status in ("fail", "inconclusive"):
            why = f"--max-latency: {alone.note}"
            found.append(replace(found[0], status=alone.status, why=why, reason=why))
    for status in ("fail", "inconclusive"):
        for verdict in found:
            if verdict.status == status:
                return verdict
    return found[0]
