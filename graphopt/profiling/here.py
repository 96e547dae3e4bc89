"""Points measured in this process, on samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.engines.feeds import batch_of
from graphopt.errors import EnvironmentProblem, UnsupportedModelError, UsageError
from graphopt.machine import cpu_count
from graphopt.profiles.bursts import Timer, out_of_memory
from graphopt.profiles.latency import with_state
from graphopt.profiles.sweep import Sweep, measure_points, spell_point
from graphopt.profiling.points import Point, other_batch
from graphopt.profiling.result import Measured
from graphopt.wording import counted, one_line

if TYPE_CHECKING:
    from graphopt.data import Dataset
    from graphopt.model import Feeds, Inputs
    from graphopt.profiles.layer_times import LayerTimes
    from graphopt.profiles.power import PowerResult

Sizes = Mapping[str, tuple[int, ...]]
_POWER_BURST_S = 0.05


def measure_here(
    path: Path,
    asked: Sequence[Point],
    fixed: Sizes,
    flags: Mapping[str, Any],
    ui: Console,
    *,
    samples: Callable[[Inputs], Dataset] | None = None,
) -> Measured:
    """Measure a model or an engine.

    Args:
        path: the file.
        asked: the points, at least one.
        fixed: ``--opt-shapes``.
        flags: of the verb.
        ui: is told of what is left out.
        samples: opens those to feed, for a model's inputs; made up by default.

    Raises:
        UsageError: a batch does not fit, before any timing.
        UnsupportedModelError: the runtime refuses the model, or cannot tell its layers.
        EnvironmentProblem: the machine lacks the engine's runtime, its memory, or a power meter.
    """
    from graphopt.engines.header import is_engine
    from graphopt.opening import opened
    from graphopt.profiles.state import read_state

    threads, cores = flags["threads"], cpu_count()
    if threads is not None and is_engine(path):
        raise UsageError(f"--threads is for ONNX Runtime on the CPU: {path.name} is an engine")
    if threads is not None and threads > cores:
        many = counted(cores, "core")
        ui.warn(f"--threads {threads}, and {many}: they wait for one another; take {cores}")
    with opened(path, threads=flags["threads"], warn=ui.warn) as session:
        if flags["layers"] is not None and not hasattr(session, "layer_times"):
            raise UnsupportedModelError(f"--layers: the engine of {path.name} tells no layer times")
        feeds = _feeds(session.inputs(), asked, fixed, flags["seed"] or 0, samples)
        if not hasattr(session, "timer"):
            return _by_its_own(session, asked, feeds, flags)
        meter = _meter(path) if flags["power"] is not None else None
        timers, notes = _timers(session, asked, feeds, ui)
        before = read_state()
        sweep = measure_points(
            timers,
            warmup_s=flags["warm_up"] / 1000,
            min_s=flags["duration"],
            min_runs=flags["iterations"],
            recorded={},
            say=ui.warn,
        )
        after = read_state()
        power = None if meter is None else _power(timers[0], flags["power"], meter)
        # Of the first point alone, as graphopt check has it: buffers are for the largest.
        told = getattr(session, "device_bytes", None) if len(asked) == 1 else None
        memory = None if told is None or timers[0].streams > 1 else int(told())
        layers = _layers(session, feeds[asked[0].batch], flags)
    sweep = Sweep(tuple(with_state(p, before, after) for p in sweep.points), (*notes, *sweep.notes))
    return Measured(sweep, layers, power, _throttled(before, after), memory)


def _timers(
    session: Any, asked: Sequence[Point], feeds: Mapping[int | None, Feeds], ui: Console
) -> tuple[list[Timer], list[str]]:
    """Make every point ready, the smallest first; leave out what the memory cannot hold."""
    made: dict[Point, Timer] = {}
    notes: list[str] = []
    for point in sorted(asked, key=lambda p: batch_of(feeds[p.batch]) * p.streams):
        name = spell_point(batch_of(feeds[point.batch]), point.streams)
        if notes:
            notes.append(f"{name} is left out: as large as what ran out of memory")
            continue
        try:
            made[point] = session.timer(feeds[point.batch], streams=point.streams)
        except (UsageError, EnvironmentProblem, MemoryError) as problem:
            if out_of_memory(problem):
                if not made:
                    raise EnvironmentProblem(f"{name} runs out of memory") from problem
                notes.append(f"{name} is left out: it ran out of memory")
            elif len(asked) > 1 and isinstance(problem, UsageError):
                raise UsageError(f"{name}: {one_line(problem)}") from problem
            else:
                raise
    for note in notes:
        ui.warn(note)
    return [made[point] for point in asked if point in made], notes


def _feeds(
    inputs: Inputs,
    asked: Sequence[Point],
    fixed: Sizes,
    seed: int,
    samples: Callable[[Inputs], Dataset] | None,
) -> dict[int | None, Feeds]:
    """Return one batch of each size that is asked for."""
    from graphopt.data import synthetic

    usual = next((s[0] for s in fixed.values() if s), 1)
    batches = {point.batch for point in asked}
    if len(batches) == 1 and (batch := asked[0].batch) is not None:
        for name, given in fixed.items():
            if given and given[0] != batch:
                raise UsageError(other_batch(name, given, batch))
    data = None if samples is None else samples(inputs)
    found: dict[int | None, Feeds] = {}
    for batch in dict.fromkeys(point.batch for point in asked):  # in the order asked for
        size = batch or usual
        source = data or synthetic(inputs, size, seed=seed, shapes=fixed)
        if batch and source.batch_size(batch) != batch:
            raise UsageError(f"--batch {batch}: the model's batch is fixed at {source.fixed_batch}")
        try:
            found[batch] = next(iter(source.batches(size)))
        except MemoryError as problem:
            raise EnvironmentProblem(f"batch {size}: its inputs exceed the memory") from problem
        if batch and batch_of(found[batch]) != batch:
            raise UsageError(f"--batch {batch}: --data has {len(source)} samples: leave it out")
    return found


def _by_its_own(
    session: Any,
    asked: Sequence[Point],
    feeds: Mapping[int | None, Feeds],
    flags: Mapping[str, Any],
) -> Measured:
    """Measure by a session that knows nothing of points: of an engine from elsewhere."""
    if len(asked) > 1 or asked[0].streams > 1 or flags["power"] is not None:
        raise UsageError(
            "this engine times one batch on one stream: leave --streams, --power and further "
            "batches out"
        )
    profile = session.time(
        feeds[asked[0].batch],
        warmup_s=flags["warm_up"] / 1000,
        min_s=flags["duration"],
        min_runs=flags["iterations"],
    )
    return Measured(Sweep((profile,)), _layers(session, feeds[asked[0].batch], flags))


def _layers(session: Any, feeds: Feeds, flags: Mapping[str, Any]) -> LayerTimes | None:
    return None if flags["layers"] is None else session.layer_times(feeds)


def _meter(path: Path) -> Any:
    """Find what tells power, before any work."""
    from graphopt.engines.header import is_engine
    from graphopt.profiles.power.meters import find_meter

    return find_meter("gpu" if is_engine(path) else "cpu")


def _power(timer: Timer, seconds: float, meter: Any) -> PowerResult:
    """Measure what a point draws, in a pass of its own: several runs at a time, without pauses."""
    from graphopt.profiles.power import power_pass

    took = timer.burst(0, 1).wall_ms / 1000
    runs = min(10_000, max(1, math.ceil(_POWER_BURST_S / took))) if took else 1
    items = timer.batch * timer.streams * runs
    return power_pass(lambda: timer.burst(0, runs), batch=items, seconds=seconds, meter=meter)


def _throttled(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    from graphopt.profiles.state import throttled

    return tuple(throttled(before, after))
