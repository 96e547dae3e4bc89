"""What it cost: fidelity against the model as given, and latency, before and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.engines.feeds import batch_of
from graphopt.errors import UnsupportedModelError
from graphopt.machine import cpu_count
from graphopt.model import Feeds, Model
from graphopt.profiles import LatencyProfile
from graphopt.profiles.interleave import Open, Shape, local, take_turns
from graphopt.profiles.latency import environment, no_garbage_collection
from graphopt.profiles.regression import CONFIDENCE, Round, Verdict, judge
from graphopt.runtime import open_session, timing_options
from graphopt.verify import Fidelity, compare, opened
from graphopt.wording import one_line

ROUNDS = 8
"""How often the models are opened anew to be timed."""
SECONDS = 0.15
"""How long each of them runs in each of those rounds."""
# Opening large models takes longer than running them: after this many times as long it ends.
_PATIENCE = 2.5


def fidelity(
    before: Model | Path, after: Model, data: Dataset, ui: Console, *, exact: bool, what: str
) -> Fidelity:
    """Compare two models on the same samples.

    Args:
        before: the reference.
        after: the candidate.
        data: samples, with labels where there are any.
        ui: shows progress.
        exact: run the candidate as written (no rewrites), so that Q/DQ placed for another
            runtime is emulated faithfully instead of being fused the way ONNX Runtime would.
        what: named in the progress line.
    """
    with ExitStack() as stack:
        run_a = stack.enter_context(opened(before))
        run_b = stack.enter_context(opened(after, optimize=not exact))
        advance = stack.enter_context(ui.progress(f"verifying {what}", len(data)))
        return compare(run_a, run_b, data, progress=advance)


@dataclass(frozen=True, slots=True)
class Timings:
    """Several models timed by turns.

    Attributes:
        profiles: name -> the runs of all rounds.
        turns: the opening of each round, and each model's runs in it, in ms, in the order of
            ``profiles``.
    """

    profiles: dict[str, LatencyProfile]
    turns: tuple[tuple[int, tuple[tuple[float, ...], ...]], ...]

    def compare(
        self, before: str, after: str, *, confidence: float = CONFIDENCE, seed: int = 0
    ) -> Verdict | None:
        """Return how much slower ``after`` is, with its interval; its status is of no limit.

        Returns:
            None where the models were opened less than twice, which gives no interval.

        Raises:
            KeyError: there is no model of that name.
        """
        names = list(self.profiles)
        if not {before, after} <= set(names):
            raise KeyError(f"not timed: {before}, {after}")
        a, b = names.index(before), names.index(after)
        rounds = [Round(turn[a], turn[b], opening) for opening, turn in self.turns]
        if len({r.opening for r in rounds}) < 2:
            return None
        return judge(rounds, 0.0, confidence=confidence, seed=seed)


def timings(
    candidates: Mapping[str, Model | Path], feeds: Feeds, *, threads: int | None = None
) -> Timings:
    """Time several models on this CPU by turns, opened anew several times.

    Turns, so that drift hits all alike; anew, because where a session lies in memory makes it a
    little faster or slower for as long as it is open.

    Args:
        candidates: name -> model.
        feeds: one batch, the batch along axis 0.
        threads: cores to use; all by default.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses a model, or fails while running it.
        EnvironmentProblem: a run takes less time than the clock can tell.
    """
    batch = batch_of(feeds)
    openers = [_opener(model, feeds, threads) for model in candidates.values()]
    turns: list[tuple[int, tuple[tuple[float, ...], ...]]] = []
    start = time.perf_counter()
    with no_garbage_collection():
        shape: Shape | None = None
        for opening in range(ROUNDS if openers else 0):
            shape, found = take_turns(openers, opening, shape)
            turns += [(opening, tuple(tuple(times) for times in turn)) for turn in found]
            if opening == 0:
                shape = _lasting(shape, found)
            if time.perf_counter() - start > _PATIENCE * ROUNDS * SECONDS * len(openers):
                break
    where = {
        **environment(),
        "runtime": "onnxruntime, CPU",
        "threads": str(threads or cpu_count()),
        "interleaved_rounds": str(len(turns)),
        "openings": str(len({opening for opening, _ in turns})),
    }
    profiles = {
        name: LatencyProfile(tuple(ms for _, turn in turns for ms in turn[k]), batch, where)
        for k, name in enumerate(candidates)
    }
    return Timings(profiles, tuple(turns))


def _lasting(shape: Shape, turns: Sequence[Sequence[Sequence[float]]]) -> Shape:
    """Take as many rounds an opening as fill ``SECONDS`` of each model, on average."""
    spent = [ms for turn in turns for times in turn for ms in times]
    each = max(1e-6, sum(spent) / len(spent)) * 2 * (shape.runs + shape.dropped)
    return replace(shape, rounds=max(1, round(SECONDS * 1000 / each)))


def _opener(model: Model | Path, feeds: Feeds, threads: int | None) -> Open:
    @contextmanager
    def opened_anew() -> Iterator[Callable[[], object]]:
        with open_session(model, options=timing_options(threads)) as session:
            ready = dict(feeds)
            try:
                session.run(None, ready)
            except Exception as problem:  # ONNX Runtime's have no base class of their own.
                raise UnsupportedModelError(
                    f"ONNX Runtime cannot run the model: {one_line(problem)}"
                ) from problem
            yield lambda: session.run(None, ready)

    return local(opened_anew)
