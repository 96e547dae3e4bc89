"""What goes to the machine that trtexec runs on, and what comes back from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.engines import BuildOptions, ShapeRange
from graphopt.engines._job import is_half, is_quantized
from graphopt.engines.remote import state
from graphopt.engines.shapes import resolve_shapes
from graphopt.engines.trtexec.command import Command, Request, Timing, command
from graphopt.engines.trtexec.features import Features
from graphopt.engines.trtexec.output import read_times
from graphopt.engines.trtexec.requests import FILES, requests
from graphopt.files import write_bytes
from graphopt.profiles.state import throttled

if TYPE_CHECKING:
    from graphopt.engines.remote.probe import Probe
    from graphopt.engines.trtexec.facts import Machine
    from graphopt.model import Model
    from graphopt.profiles import LatencyProfile

BESIDE = {"layers": ".layers.json", "layer-times": ".layer-times.json", "engine-log": ".log"}
"""What is written beside an engine: kind -> the end of its name, after the engine's own."""
Say = Callable[[str], None]


def timing_name(probe: Probe) -> str:
    """Return a file name of its own for each TensorRT and GPU: kernels are timed on both."""
    gpu = probe.gpus[0].name if probe.gpus else "gpu"
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in gpu.lower())
    return f"tensorrt-{probe.version or 'unknown'}-{plain[:60]}.cache"


def beside_engine(engine: Path) -> dict[str, Path]:
    """Return what is written beside an engine: kind -> file."""
    return {kind: engine.with_name(engine.name + end) for kind, end in BESIDE.items()}


def take_timings(folder: Path, kept: Path, log: str, say: Say) -> None:
    """Bring kernel timings home, unless the disk there cut them short: trtexec goes on then."""
    file = folder / FILES.timing_cache
    if not file.is_file():
        return
    saved = re.search(r"Saved (\d{1,12}) bytes of timing cache to", log)
    if saved is not None and int(saved[1]) != file.stat().st_size:
        say(f"{kept.name} is left as it was: the kernel timings were not written whole there")
        return
    write_bytes(kept, file.read_bytes())


def read_latency(
    folder: Path, machine: Machine, measured: Command, batch: int, streams: int = 1
) -> LatencyProfile | None:
    """Read the times, or return None where there are none."""
    file = folder / FILES.times
    if not file.is_file():
        return None
    environment = {**machine.environment(measured.words), "streams": str(streams)}
    return read_times(file, batch=batch, environment=environment, streams=streams).latency


def with_states(latency: LatencyProfile, folder: Path, warn: Say) -> LatencyProfile:
    """Add the machine's state before the measurement to its environment, and warn of what it was.

    Where one key is told twice, the state's is the one of the moment and counts.
    """
    before, after = (state.read_file(folder / name) for name in (state.BEFORE, state.AFTER))
    for warning in throttled(before, after):
        warn(warning)
    # The name of a GPU is the probe's: an engine's sidecar has it too.
    told = {
        key: value
        for key, value in before.items()
        if key not in ("gpu", "system") and value != "unknown"
    }
    return replace(latency, environment={**before, **latency.environment, **told})


def saved_model(model: Model, folder: Path) -> dict[str, Path]:
    """Save a model to be sent; return the files by name."""
    saved = model.save(folder / FILES.onnx)
    data = saved.with_name(f"{saved.name}.data")
    return {path.name: path for path in (saved, data) if path.exists()}


def write_commands(asked: Iterable[Request], features: Features, say: Say) -> list[Command]:
    """Write the command lines, and say what is left out of them."""
    made = [command(request, features) for request in asked]
    for note in dict.fromkeys(note for each in made for note in each.notes):
        say(f"trtexec: {note}")
    return made


def built_first(
    path: Path, folder: Path, sizes: Mapping[str, tuple[int, ...]], timing: Timing
) -> tuple[dict[str, Path], tuple[Request, ...]]:
    """Return what goes there and what is asked, to build a model only to time it."""
    from graphopt.model import Model
    from graphopt.profiles import DeviceProfile

    model = Model.load(path)
    shapes = {name: ShapeRange(shape, shape, shape) for name, shape in sizes.items()}
    asked = requests(
        BuildOptions(DeviceProfile("host"), resolve_shapes(model, shapes)),
        {tensor.name: tensor.shape for tensor in model.graph.inputs},
        int8=is_quantized(model),
        fp16=is_half(model),
        timing=timing,
    )
    return saved_model(model, folder), asked
