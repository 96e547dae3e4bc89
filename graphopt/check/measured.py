"""The measurement itself: both by turns, here or by trtexec, or the candidate alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

from graphopt.check.artifacts import Item
from graphopt.check.gates import TimeGate
from graphopt.check.memory import Memory, peak_memory
from graphopt.check.outputs import Answers, answers
from graphopt.check.request import Request, common_inputs, one_batch, samples
from graphopt.check.timing import (
    THREADS,
    RemoteTimer,
    decide,
    opener,
    opening_medians,
    recorded,
)
from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.engines.feeds import batch_of
from graphopt.errors import DataError, UsageError
from graphopt.fidelity import Top1
from graphopt.opening import opened
from graphopt.profiles.interleave import Open, Outcome, interleave
from graphopt.profiles.state import read_state, throttled
from graphopt.verify import BATCH, Runner, evaluate

_OPENINGS, _OPENING_S, _WARM_S, _LEAST_RUNS = 10, 0.5, 0.1, 10
# Of a model that takes microseconds more tell nothing, and all are kept.
_MOST_RUNS = 2000
_REMOTE_SAMPLES, _REMOTE_OPENINGS = 64, 6


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured.

    Attributes:
        batch: items in one run.
        base_ms: the baseline's runs; empty where it was measured before.
        cand_ms: the candidate's runs, in the order they ran.
        medians: the candidate's median of each opening, in ms.
        outcome: the interleaved rounds, or None.
        looks: how often they may have been judged.
        answers: how the outputs compare, or None.
        top1: how many samples the candidate alone has right, or None.
        memory: of baseline and candidate, or None each.
        environment: all that is known of the machine.
        notes: what to know of it.
        synthetic: whether samples were made up.
        samples: how many samples outputs were compared on.
    """

    batch: int
    cand_ms: tuple[float, ...]
    medians: tuple[float, ...]
    environment: Mapping[str, str]
    base_ms: tuple[float, ...] = ()
    outcome: Outcome | None = None
    looks: int = 1
    answers: Answers | None = None
    top1: Top1 | None = None
    memory: tuple[Memory | None, Memory | None] = (None, None)
    notes: tuple[str, ...] = field(default=())
    synthetic: bool = False
    samples: int = 0


def pair_here(
    base: Item, cand: Item, request: Request, gates: tuple[TimeGate, ...], ui: Console
) -> Measured:
    """Compare the answers of two artifacts on this machine, then time them by turns."""
    threads = request.threads or THREADS
    with ExitStack() as stack:
        base_session = stack.enter_context(opened(base.path, faithful=True, warn=ui.warn))
        cand_session = stack.enter_context(opened(cand.path, faithful=True, warn=ui.warn))
        inputs = common_inputs(base_session.inputs(), cand_session.inputs())
        data = samples(request, inputs)
        feeds = one_batch(request, data)
        found = None
        if request.outputs:
            found = _answers(base_session.run, cand_session.run, data, BATCH, ui)
        opens = [
            opener(item.path, feeds, session, threads=threads)
            for item, session in ((base, base_session), (cand, cand_session))
        ]
        told = recorded(cand_session, feeds, threads=threads)
    memory: tuple[Memory | None, Memory | None] = (None, None)
    if request.recipe.gate.max_memory is not None:
        ui.info("memory: each in three processes of its own")
        memory = (
            peak_memory(base.path, feeds, threads=threads),
            peak_memory(cand.path, feeds, threads=threads),
        )
    before = read_state()
    outcome, looks = _by_turns(opens[0], opens[1], request, gates, ui)
    warnings = _warned(throttled(before, read_state()), ui)
    return replace(
        _of(outcome, looks, batch_of(feeds), {**before, **told}),
        answers=found,
        memory=memory,
        notes=warnings,
        synthetic=data.synthetic,
        samples=len(data) if found is not None else 0,
    )


def pair_there(
    base: Item, cand: Item, request: Request, gates: tuple[TimeGate, ...], ui: Console
) -> Measured:
    """Do the same by trtexec: each of its runs is an opening, timed by the GPU's own clock."""
    from graphopt.engines.trtexec.engine import Trtexec
    from graphopt.engines.trtexec.values import told_digits

    tool = Trtexec(request.host, request.trtexec)
    with ExitStack() as stack:
        one = stack.enter_context(tool.open(base.path, say=ui.info, warn=ui.warn))
        other = stack.enter_context(
            tool.open(cand.path, reference=one.inputs(), say=ui.info, warn=ui.warn)
        )
        inputs = common_inputs(one.inputs(), other.inputs())
        least, most = max(one.least, other.least), min(one.batch, other.batch)
        asked = request if request.batch else replace(request, batch=max(1, least))
        data = samples(asked, inputs, most=_REMOTE_SAMPLES)
        feeds = one_batch(asked, data)
        found = None
        if request.outputs:
            batch = data.batch_size(max(least, most))
            odd = len(data) % batch
            if odd and odd < least:
                if odd == len(data):
                    raise DataError(f"the engine takes {least} samples at least: give more")
                data = replace(data, indices=data.indices[:-odd])
            ui.info(told_digits())
            values = [stack.enter_context(closing(s.values(data.batches(batch))))
                      for s in (one, other)]  # fmt: skip
            found = _answers(
                lambda _: next(values[0]), lambda _: next(values[1]), data, batch, ui, types=False
            )
    sizes = {name: array.shape for name, array in feeds.items() if array.ndim}
    timers = [RemoteTimer(tool, item.path, sizes, ui.detail) for item in (base, cand)]
    outcome, looks = _by_turns(timers[0].open, timers[1].open, request, gates, ui)
    return replace(
        _of(outcome, looks, batch_of(feeds), timers[1].environment),
        answers=found,
        notes=_warned([line for timer in timers for line in timer.warnings()], ui),
        synthetic=data.synthetic,
        samples=len(data) if found is not None else 0,
    )


def environment_here(path: Path, request: Request, threads: int, ui: Console) -> dict[str, str]:
    """Return what a measurement of this artifact here would depend on, before any is made."""
    with opened(path, warn=ui.warn) as session:
        feeds = one_batch(request, samples(request, session.inputs()))
        return {**read_state(), **recorded(session, feeds, threads=threads)}


def alone_here(cand: Item, request: Request, threads: int, ui: Console) -> Measured:
    """Time the candidate alone, opened anew some times, against what was measured before."""
    with opened(cand.path, faithful=True, warn=ui.warn) as session:
        data = samples(request, session.inputs())
        feeds = one_batch(request, data)
        top1 = None
        if request.recipe.gate.max_drop is not None:
            with ui.progress("accuracy", len(data)) as advance:
                top1 = evaluate(session.run, data, progress=advance)
        open_cand = opener(cand.path, feeds, session, threads=threads)
        told = recorded(session, feeds, threads=threads)
    memory = None
    if request.recipe.gate.max_memory is not None:
        memory = peak_memory(cand.path, feeds, threads=threads)
    before = read_state()
    runs = _alone(open_cand, request.seconds)
    warnings = _warned(throttled(before, read_state()), ui)
    return Measured(
        batch_of(feeds),
        tuple(ms for opening in runs for ms in opening),
        tuple(median(opening) for opening in runs),
        {**before, **told},
        top1=top1,
        memory=(None, memory),
        notes=warnings,
        synthetic=data.synthetic,
    )


def alone_there(cand: Item, request: Request, ui: Console) -> Measured:
    """Time the candidate alone, by some runs of trtexec."""
    from graphopt.engines.trtexec.engine import Trtexec

    if request.recipe.gate.max_drop is not None:
        raise UsageError(
            "--max-drop against a stored baseline is judged here only: give the baseline's engine"
        )
    tool = Trtexec(request.host, request.trtexec)
    with tool.open(cand.path, say=ui.info, warn=ui.warn) as session:
        asked = request if request.batch else replace(request, batch=max(1, session.least))
        feeds = one_batch(asked, samples(asked, session.inputs(), most=_REMOTE_SAMPLES))
    sizes = {name: array.shape for name, array in feeds.items() if array.ndim}
    timer = RemoteTimer(tool, cand.path, sizes, ui.detail)
    runs = [timer.once() for _ in range(_REMOTE_OPENINGS)]
    warnings = _warned(timer.warnings(), ui)
    return Measured(
        batch_of(feeds),
        tuple(ms for opening in runs for ms in opening),
        tuple(median(opening) for opening in runs),
        timer.environment,
        notes=warnings,
    )


def _warned(lines: Sequence[str], ui: Console) -> tuple[str, ...]:
    for line in lines:
        ui.warn(line)
    return tuple(lines)


def _by_turns(
    base: Open, cand: Open, request: Request, gates: tuple[TimeGate, ...], ui: Console
) -> tuple[Outcome, int]:
    budget = request.budget
    looks = len(budget.looks)
    judge = partial(
        decide,
        gates,
        seed=request.seed,
        looks=looks,
        max_latency=request.recipe.gate.max_latency,
    )
    ui.info(f"timing by turns, for {request.seconds:g} s at most")
    tail = any(gate.kind == "p99" for gate in gates)
    return interleave(base, cand, budget=budget, decide=judge, say=ui.info, tail=tail), looks


def _of(outcome: Outcome, looks: int, batch: int, environment: Mapping[str, str]) -> Measured:
    medians = opening_medians(outcome.rounds)
    return Measured(batch, outcome.cand_ms, medians, environment, outcome.base_ms, outcome, looks)


def _alone(open_cand: Open, seconds: float) -> list[list[float]]:
    """Open anew some times; warm up, then run, each time."""
    each_s = min(_OPENING_S, seconds / _OPENINGS)
    found = []
    for _ in range(_OPENINGS):
        with open_cand() as timed:
            _for(timed.round, min(_WARM_S, each_s), 1)
            found.append(_for(timed.round, each_s, _LEAST_RUNS))
    return found


def _for(run: Callable[[int], Sequence[float]], seconds: float, least: int) -> list[float]:
    runs: list[float] = []
    start = time.monotonic()
    while len(runs) < least or (len(runs) < _MOST_RUNS and time.monotonic() - start < seconds):
        runs.extend(run(5 if least > 1 else 1))
    return runs


def _answers(
    base: Runner, cand: Runner, data: Dataset, batch: int, ui: Console, *, types: bool = True
) -> Answers:
    ui.info(f"outputs: compared on {data.summary()}")
    with ui.progress("comparing outputs", len(data)) as advance:
        return answers(base, cand, data, batch=batch, types=types, progress=advance)
