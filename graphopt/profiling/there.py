"""Points measured by trtexec, on another machine or this one, on values that it makes up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.engines.known import known_inputs, known_ranges
from graphopt.errors import EnvironmentProblem, UnsupportedModelError, UsageError
from graphopt.profiles.bursts import out_of_memory
from graphopt.profiles.sweep import Sweep, spell_point
from graphopt.profiling.points import Point, other_batch
from graphopt.profiling.result import Measured
from graphopt.wording import spell

if TYPE_CHECKING:
    from graphopt.engines.trtexec.engine import Timing, Trtexec
    from graphopt.engines.trtexec.timed import Timed
    from graphopt.profiles import LatencyProfile

Sizes = Mapping[str, tuple[int, ...]]
_REFUSED = {
    "data": "trtexec makes its inputs up: leave --data out",
    "threads": "--threads is for ONNX Runtime on the CPU: leave it out with trtexec",
}


def measure_there(
    path: Path, asked: Sequence[Point], fixed: Sizes, flags: Mapping[str, Any], ui: Console
) -> Measured:
    """Measure an engine, or a model that an engine is built of for each batch.

    The points of an engine are measured twice, the second time in the other direction, so that
    what drifts meets all alike.

    Args:
        path: the file.
        asked: the points, at least one.
        fixed: ``--opt-shapes``.
        flags: of the verb.
        ui: is told what goes on, and what is left out.

    Raises:
        UsageError: an option is not for trtexec, or a batch does not fit.
        UnsupportedModelError: TensorRT refuses the model.
        EnvironmentProblem: the machine cannot be reached or used.
    """
    from graphopt.engines.header import is_engine
    from graphopt.engines.trtexec.engine import Timing, Trtexec
    from graphopt.engines.trtexec.power import measure_power

    for name, why in _REFUSED.items():
        if flags[name] is not None:
            raise UsageError(why)
    sizes = {p: sizes_of(path, _swept(path, fixed, asked, p.batch), p.batch) for p in asked}
    if flags["power"] is not None and (asked[0].streams > 1 or not is_engine(path)):
        raise UsageError("--power with trtexec is of an engine on one stream: leave --power out")
    twice = len(asked) > 1 and is_engine(path)
    if len(asked) > 1 and not twice:
        ui.info("each batch gets an engine of its own, timed one after the other")
    # trtexec counts in whole milliseconds and seconds.
    share = 2 if twice else 1
    timing = Timing(
        ceil(flags["warm_up"]),
        max(1, ceil(flags["duration"] / share)),
        ceil(flags["iterations"] / share),
    )
    work = _Work(Trtexec(flags["host"], flags["trtexec"]), path, sizes, timing, ui)
    work.take(sorted(asked, key=lambda p: (p.batch or 1) * p.streams))
    if twice:
        work.take([p for p in reversed(asked) if p in work.found])
    points = tuple(joined([t.latency for t in work.found[p]]) for p in asked if p in work.found)
    layers = work.found[asked[0]][0].layers if asked[0] in work.found else None
    if flags["layers"] is not None and layers is None:
        ui.warn("trtexec did not tell the layers' times")
    power = None
    if flags["power"] is not None:
        power = measure_power(
            work.engine, path, sizes[asked[0]], flags["power"], say=ui.info, warn=ui.warn
        )
    warnings = _once(w for each in work.found.values() for t in each for w in t.warnings)
    return Measured(
        Sweep(points, tuple(work.notes)),
        layers if flags["layers"] else None,
        power,
        warnings,
    )


def _once(lines: Iterable[str]) -> tuple[str, ...]:
    """Return one line of each kind: those that differ in figures alone are of one."""
    found: dict[str, str] = {}
    for line in lines:
        found.setdefault(re.sub(r"\d+(\.\d+)?", "#", line), line)
    return tuple(found.values())


class _Work:
    def __init__(
        self, engine: Trtexec, path: Path, sizes: Mapping[Point, Sizes], timing: Timing, ui: Console
    ) -> None:
        self.engine, self.path, self.sizes, self.timing = engine, path, sizes, timing
        self.ui = ui
        self.found: dict[Point, list[Timed]] = {}
        self.notes: list[str] = []

    def take(self, points: Sequence[Point]) -> None:
        """Time each; where the memory there does not suffice, stop with those that are larger."""
        for number, point in enumerate(points):
            timing = replace(self.timing, streams=point.streams)
            try:
                timed = self.engine.time(
                    self.path, self.sizes[point], timing, say=self.ui.info, warn=self.ui.warn
                )
            except (EnvironmentProblem, UnsupportedModelError) as problem:
                if not self.found or not out_of_memory(problem):
                    raise
                for each in points[number:] if point not in self.found else [point]:
                    self.found.pop(each, None)
                    name = spell_point(each.batch or 1, each.streams)
                    self.notes.append(
                        f"{name} is left out: it, or a smaller one, ran out of memory"
                    )
                    self.ui.warn(self.notes[-1])
                if not self.found:
                    raise
                return
            self.found.setdefault(point, []).append(timed)


def joined(parts: Sequence[LatencyProfile]) -> LatencyProfile:
    """Return the samples of several measurements of one point, a round each."""
    if len(parts) == 1:
        return parts[0]
    starts = [0]
    for part in parts[:-1]:
        starts.append(starts[-1] + len(part.samples_ms))
    walls = [part.wall_ms for part in parts if part.wall_ms is not None]
    return replace(
        parts[0],
        samples_ms=tuple(s for part in parts for s in part.samples_ms),
        starts=tuple(starts),
        wall_ms=sum(walls) if len(walls) == len(parts) else None,
    )


def sizes_of(path: Path, fixed: Sizes, batch: int | None) -> dict[str, tuple[int, ...]]:
    """Return the shape of every input that may vary.

    Raises:
        UsageError: the batch is fixed, is none that the engine takes, or nothing tells the shapes.
    """
    known = known_inputs(path)
    if batch is not None and not known and not fixed:
        raise UsageError(
            f"--batch {batch}: no sidecar beside {path.name} tells its inputs: give --opt-shapes"
        )
    for name, given in fixed.items():
        if batch is not None and given and given[0] != batch:
            raise UsageError(other_batch(name, given, batch))
    sizes = dict(fixed)
    for name, (shape, tuned) in known.items():
        if name in sizes:
            continue
        if batch is not None and shape and shape[0] not in (None, batch):
            raise UsageError(f"--batch {batch}: input '{name}' has its batch fixed at {shape[0]}")
        if None not in shape:
            continue
        whole = [1 if d is None and i == 0 else d for i, d in enumerate(tuned or shape)]
        if batch is not None and shape[0] is None:
            whole[0] = batch
        if None in whole:
            example = "x".join("64" if d is None else str(d) for d in whole)
            raise UsageError(
                f"input '{name}' is {spell(shape)}: give its shape, --opt-shapes {name}:{example}"
            )
        sizes[name] = tuple(d for d in whole if d is not None)
    _check_ranges(path, sizes)
    return sizes


def _swept(path: Path, fixed: Sizes, asked: Sequence[Point], batch: int | None) -> Sizes:
    """Return ``--opt-shapes`` for one batch of several: it takes the place of theirs."""
    if batch is None or len({point.batch for point in asked}) == 1:
        return fixed
    own = {name: shape for name, (shape, _) in known_inputs(path).items()}

    def opened(name: str) -> bool:
        return not own.get(name) or own[name][0] is None

    return {n: (batch, *given[1:]) if given and opened(n) else given for n, given in fixed.items()}


def _check_ranges(path: Path, sizes: Sizes) -> None:
    """Refuse what the engine was not built for, where it has one profile and its sidecar tells."""
    from graphopt.engines.header import is_engine
    from graphopt.engines.sidecar import find_sidecar

    if not is_engine(path) or (find_sidecar(path) or {}).get("more_shapes"):
        return
    for name, each in known_ranges(path).items():
        size = sizes.get(name, each.opt)
        fits = len(size) == len(each.min) and all(
            a <= d <= b for a, d, b in zip(each.min, size, each.max, strict=True)
        )
        if not fits:
            raise UsageError(
                f"input '{name}': the engine was not built for {spell(size)}; it takes "
                f"{spell(each.min)} to {spell(each.max)}"
            )
