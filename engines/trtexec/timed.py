"""What one job of trtexec tells of a file: its times, and those of its layers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.engines.header import is_engine
from graphopt.engines.known import known_batch
from graphopt.engines.safety import check_engine
from graphopt.engines.trtexec.command import Request, Timing
from graphopt.engines.trtexec.device import Errand
from graphopt.engines.trtexec.exchange import (
    Say,
    built_first,
    read_latency,
    timing_name,
    with_states,
    write_commands,
)
from graphopt.engines.trtexec.facts import Machine
from graphopt.engines.trtexec.layers import read_layer_times
from graphopt.engines.trtexec.requests import FILES
from graphopt.engines.trtexec.takes import dla_core
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles.layer_times import LayerTimes, shared

if TYPE_CHECKING:
    from graphopt.engines.trtexec.engine import Trtexec
    from graphopt.profiles import LatencyProfile

SOURCE = "trtexec --exportProfile"


@dataclass(frozen=True, slots=True)
class Timed:
    """What was measured.

    Attributes:
        latency: GPU compute time of each run.
        layers: of each layer; None where trtexec did not tell them.
        warnings: what the machine's state says against the figures, a line each.
    """

    latency: LatencyProfile
    layers: LayerTimes | None = None
    warnings: tuple[str, ...] = ()


def timed(
    engine: Trtexec,
    path: Path,
    sizes: Mapping[str, tuple[int, ...]],
    timing: Timing,
    *,
    say: Say,
    warn: Say | None = None,
) -> Timed:
    """Do what ``Trtexec.time`` says."""
    lacks = engine.missing()
    if lacks:
        raise EnvironmentProblem(lacks)
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    probe = engine.probe()
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        folder = Path(scratch)
        if is_engine(path):
            check_engine(path, probe.place(), warn=warn)
            inputs = {FILES.engine: path}
            asked: tuple[Request, ...] = (_loaded(path, sizes, timing),)
        else:
            inputs, asked = built_first(path, folder, sizes, timing)
        commands = write_commands(asked, engine.features(), say)
        builds = len(commands) > 1
        errand = Errand(
            title=f"timing {path.name}",
            program=probe.trtexec,
            commands=tuple(each.words for each in commands),
            inputs=inputs,
            outputs={name: folder / name for name in (FILES.times, FILES.layer_times)},
            optional=frozenset({FILES.layer_times, FILES.times} if builds else {FILES.layer_times}),
            timing_name=timing_name(probe) if builds else "",
            states=folder,
        )
        done = engine.run(errand, say)
        done.check(f"time {path.name}")
        batch = next((shape[0] for shape in sizes.values() if shape), None) or known_batch(path)
        machine = Machine.of(probe)
        latency = read_latency(folder, machine, commands[-1], batch, timing.streams)
        if latency is None:
            raise EnvironmentProblem(
                f"trtexec on {probe.where} did not time {path.name}: "
                f"{done.problem(len(commands) - 1)}"
            )
        warnings: list[str] = []
        latency = with_states(latency, folder, warnings.append)
        file = folder / FILES.layer_times
        layers = _layers(file, say) if file.is_file() else None
        return Timed(latency, layers, tuple(warnings))


def _loaded(path: Path, sizes: Mapping[str, tuple[int, ...]], timing: Timing) -> Request:
    return Request(
        load=FILES.engine,
        dla=dla_core(path),
        timing=timing,
        shapes=sizes,
        times=FILES.times,
        layer_times=FILES.layer_times,
    )


def _layers(file: Path, say: Say) -> LayerTimes | None:
    """Read the layers' times; a file that a full disk cut short is none."""
    try:
        told = read_layer_times(file)
    except EnvironmentProblem as problem:
        say(str(problem))
        return None
    rows = (
        (each.name, "", each.average_ms if each.median_ms is None else each.median_ms, told.runs)
        for each in told.layers
    )
    note = "measured in a pass of its own, without a CUDA graph; one layer waits for the other"
    return LayerTimes(shared(rows), SOURCE, note)
