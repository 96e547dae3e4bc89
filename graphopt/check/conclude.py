"""From what was asked and measured to gates, and the run that keeps them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from graphopt.check.artifacts import Item, find, look_at, unchanged
from graphopt.check.gates import (
    Judged,
    TimeGate,
    drop_gate,
    growth_gate,
    latency_gate,
    time_gate,
    time_gates,
)
from graphopt.check.measured import (
    Measured,
    alone_here,
    alone_there,
    environment_here,
    pair_here,
    pair_there,
)
from graphopt.check.outputs import finite, output_gates
from graphopt.check.request import Request, check_request
from graphopt.check.stored import Stored, baseline, refuse_another, stored_verdict
from graphopt.check.timing import THREADS, verdict_on
from graphopt.console import Console
from graphopt.errors import UsageError
from graphopt.profiles.interleave import Outcome
from graphopt.profiles.latency import LatencyProfile
from graphopt.profiles.regression import CONFIDENCE, LEAST_OPENINGS, needed_runs
from graphopt.profiles.run import Figure, Gate, Run
from graphopt.profiles.state import fingerprint
from graphopt.recipe import Gate as Limits
from graphopt.wording import counted, one_line

_STORED = {"max_size": "size", "max_memory": "peak_memory", "max_drop": "accuracy"}
"""Limits that a stored baseline can only be held to if it tells a figure."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a check.

    Attributes:
        run: to be kept and published.
        judged: its gates, with the figures they are about.
        interleaved: whether both ran by turns; else one was measured before.
        budget_s: what ``--budget`` may decide it with, where it was not; else 0.
    """

    run: Run
    judged: tuple[Judged, ...]
    interleaved: bool
    budget_s: int = 0


def check(request: Request, ui: Console) -> Checked:
    """Measure and judge.

    Raises:
        UsageError: what was asked cannot be done as written.
        EnvironmentProblem: this machine cannot run it, or is not that of the stored baseline.
        UnsupportedModelError: a runtime refuses an artifact.
    """
    check_request(request)
    _ = request.budget  # refuses one that is none
    cand = look_at(find(request.candidate))
    gates = time_gates(request.recipe.gate)
    label = request.label or cand.path.name
    last = request.baseline == "last-good" or request.baseline.startswith("branch:")
    environment = None
    if last and not request.remote:
        environment = environment_here(cand.path, request, request.threads or THREADS, ui)
        if request.threads is None:
            environment.pop("threads", None)  # as many as it had then
    base = baseline(
        request.baseline,
        history=request.history,
        subject=label,
        environment=environment,
        batch=request.first_batch() if request.batch or request.shapes else None,
    )
    if isinstance(base, Stored):
        return _against_stored(cand, base, request, gates, label, ui)
    return _against_file(cand, look_at(base), request, gates, label, ui)


def _against_file(
    cand: Item,
    base: Item,
    request: Request,
    gates: tuple[TimeGate, ...],
    label: str,
    ui: Console,
) -> Checked:
    notes = []
    if base.sha256 == cand.sha256:
        notes.append("baseline and candidate are the same file")
    if base.engine != cand.engine:
        notes.append("an engine and a model are timed by different clocks: GPU and wall")
    for note in notes:
        ui.warn(note)
    if not gates[0].asked:
        ui.warn(
            "--max-regression 0 is met by a faster candidate alone: one as fast stays inconclusive"
        )
    if not request.remote and not (base.engine and cand.engine) and request.threads is None:
        ui.info(
            f"ONNX Runtime runs on {counted(THREADS, 'thread')}, which tells small changes best; "
            "--threads N takes as many as in production"
        )
    measure = pair_there if request.remote else pair_here
    with unchanged(base, cand):
        found = measure(base, cand, request, gates, ui)
    outcome = found.outcome
    assert outcome is not None  # Of two files it is always there.
    judged = []
    for gate in gates:
        verdict = verdict_on(gate, outcome.rounds, seed=request.seed, looks=found.looks)
        judged.append(_timed(gate, time_gate(gate, verdict), found.base_ms, found))
    judged += _others(cand, base.size, found, request.recipe.gate, None)
    if found.answers is not None:
        judged += [Judged(g) for g in output_gates(found.answers, request.recipe.gate, ui.info)]
    else:
        notes.append("outputs were not compared (--no-outputs)")
    openings = counted(max(r.opening for r in outcome.rounds) + 1, "opening")
    compared = (
        f"{one_line(cand.path.name)} against {one_line(str(base.path))}: "
        f"{counted(len(outcome.rounds), 'round')} by turns on {openings}, "
        f"{outcome.seconds:.1f} s, seed {request.seed}"
    )
    done = _checked(cand, base.size, found, judged, [compared, *notes], label)
    tail = any(gate.kind == "p99" for gate in gates)
    return replace(done, budget_s=_longer(outcome, request.seconds, tail=tail))


def _longer(outcome: Outcome, seconds: float, *, tail: bool) -> int:
    """Return what --budget would give twice the openings, and enough for a percentile."""
    openings = outcome.rounds[-1].opening + 1
    wanted = max(2.0 * openings, 1.5 * LEAST_OPENINGS)
    if tail:
        wanted = max(wanted, 1.5 * needed_runs(99) * openings / len(outcome.cand_ms))
    return math.ceil(max(2 * seconds, wanted * outcome.seconds / openings))


def _against_stored(
    cand: Item,
    base: Stored,
    request: Request,
    gates: tuple[TimeGate, ...],
    label: str,
    ui: Console,
) -> Checked:
    run, limits = base.run, request.recipe.gate
    if (request.batch or request.shapes) and request.first_batch() != run.batch:
        asked = "--batch" if request.batch else "--opt-shapes, a batch of"
        raise UsageError(
            f"{asked} {request.first_batch()}: {base.where} was measured with a batch of "
            f"{run.batch}"
        )
    for name, figure in _STORED.items():
        if getattr(limits, name) is not None and run.figure(figure) is None:
            raise UsageError(
                f"--{name.replace('_', '-')}: {base.where} tells no {figure.replace('_', ' ')}; "
                "give the baseline's file, or leave the limit out"
            )
    if limits.min_sqnr is not None:
        raise UsageError(
            f"--min-sqnr: {base.where} holds no outputs; give the baseline's file, or leave it out"
        )
    request = _as_stored(request, run)
    threads = request.threads or THREADS
    with unchanged(cand):
        if request.remote:
            found = alone_there(cand, request, ui)
            refuse_another(base, found.environment)
        else:
            refuse_another(base, environment_here(cand.path, request, threads, ui))
            ui.info(
                f"timing, for {request.seconds:g} s at most; threads as {base.where}: {threads}"
            )
            found = alone_here(cand, request, threads, ui)
    judged = []
    for gate in gates:
        verdict = stored_verdict(gate, base, found.cand_ms, seed=request.seed)
        judged.append(_timed(gate, time_gate(gate, verdict), run.samples_ms, found))
    size = run.figure("size")
    judged += _others(cand, None if size is None else size.value, found, limits, run)
    wider = (
        f"against {base.where}, which was measured at another time: the interval is wider than "
        "that of two files, which run by turns"
    )
    outputs = f"outputs were not compared: {base.where} holds none"
    compared = (
        f"{one_line(cand.path.name)} {wider}; {counted(len(base.samples), 'stored run')}, "
        f"{counted(len(found.cand_ms), 'new run')}, seed {request.seed}"
    )
    return _checked(cand, None, found, judged, [compared, outputs], label, run)


def _as_stored(request: Request, run: Run) -> Request:
    """Return the request with batch and threads as they were then."""
    told = run.environment.get("threads", "")
    threads = int(told) if told.isascii() and told.isdigit() and 0 < int(told) < 10_000 else None
    return replace(request, batch=run.batch, threads=request.threads or threads)


def _timed(gate: TimeGate, result: Gate, base_ms: Sequence[float], found: Measured) -> Judged:
    figures = []
    for samples in (base_ms, found.cand_ms):
        profile = LatencyProfile(tuple(samples), found.batch)
        value = {"p50": profile.p50, "p99": profile.p99, "mean": profile.throughput}[gate.kind]
        figures.append(value)
    return Judged(result, figures[0], figures[1], "items/s" if gate.kind == "mean" else "ms")


def _others(
    cand: Item, base_size: float | None, found: Measured, limits: Limits, stored: Run | None
) -> Iterator[Judged]:
    """Yield the gates that need no interleaving: latency by itself, memory, size, accuracy."""
    if limits.max_latency is not None:
        gate = latency_gate(
            limits.max_latency, found.medians, confidence=CONFIDENCE, looks=found.looks
        )
        yield Judged(gate, None, gate.value, "ms")
    base_memory, cand_memory = found.memory
    if limits.max_memory is not None and cand_memory is not None:
        before = None if base_memory is None else base_memory.bytes
        if stored is not None:
            figure = stored.figure("peak_memory")
            before = None if figure is None else figure.value
        yield growth_gate("max-memory", "peak memory", limits.max_memory, before, cand_memory.bytes)
    if limits.max_size is not None:
        yield growth_gate("max-size", "size", limits.max_size, base_size, cand.size)
    figure = None if stored is None else stored.figure("accuracy")
    if limits.max_drop is not None and figure is not None and found.top1 is not None:
        right = 100 * (found.top1.right_b or 0) / found.top1.samples
        share = figure.value if figure.unit == "%" else 100 * figure.value
        yield Judged(drop_gate(limits.max_drop, share - right, labels=True), share, right, "%")


def _checked(
    cand: Item,
    base_size: float | None,
    found: Measured,
    judged: Sequence[Judged],
    notes: Sequence[str],
    label: str,
    stored: Run | None = None,
) -> Checked:
    base_ms = found.base_ms if stored is None else stored.samples_ms
    if stored is not None and (figure := stored.figure("size")) is not None:
        base_size = figure.value
    figures = [
        *_latencies(found.cand_ms, found.batch, ""),
        *_latencies(base_ms, found.batch, "_before"),
        *_change(judged[0].gate),
        Figure("size", cand.size, "bytes"),
        *([Figure("size_before", base_size, "bytes")] if base_size is not None else []),
        *_memory(found),
        *_fidelity(found),
    ]
    environment = dict(found.environment)
    run = Run(
        verb="check",
        subject=label,
        sha256=cand.sha256,
        model_digest=cand.model_digest,
        figures=tuple(figures),
        gates=tuple(each.gate for each in judged),
        samples_ms=found.cand_ms,
        batch=found.batch,
        fingerprint=fingerprint(environment),
        environment=environment,
        notes=(*notes, *found.notes),
    )
    return Checked(run, tuple(judged), stored is None)


def _latencies(samples: Sequence[float], batch: int, after: str) -> Iterator[Figure]:
    profile = LatencyProfile(tuple(samples), batch)
    yield Figure(f"latency_p50{after}", profile.p50, "ms")
    yield Figure(f"latency_p99{after}", profile.p99, "ms")
    if math.isfinite(profile.throughput):
        yield Figure(f"throughput{after}", profile.throughput, "items/s", "higher")


def _change(gate: Gate) -> Iterator[Figure]:
    if gate.value is not None:
        note = "of the median latency, against the baseline"
        yield Figure("latency_change", gate.value, "%", "lower", gate.low, gate.high, note)


def _memory(found: Measured) -> Iterator[Figure]:
    for after, memory in zip(("_before", ""), found.memory, strict=True):
        if memory is not None:
            note = "as the engine tells it, without weights" if memory.what == "device" else ""
            yield Figure(f"peak_memory{after}", memory.bytes, "bytes", note=note)


def _fidelity(found: Measured) -> Iterator[Figure]:
    mark = "SYNTHETIC samples" if found.synthetic else ""
    if found.top1 is not None and found.top1.right_b is not None:
        yield Figure("accuracy", 100 * found.top1.right_b / found.top1.samples, "%", "higher")
    answers = found.answers
    if answers is None or answers.fidelity is None:
        return
    worst = answers.worst
    if worst is not None and (value := finite(worst[1])) is not None:
        yield Figure("sqnr", value, "dB", "higher", note=mark)
    pairs = (
        ("accuracy", answers.fidelity.accuracy_b),
        ("accuracy_before", answers.fidelity.accuracy_a),
        ("top1_agreement", answers.fidelity.top1_agreement),
    )
    for name, share in pairs:
        if share is not None:
            yield Figure(name, 100 * share, "%", "higher", note=mark)
