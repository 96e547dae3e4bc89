"""What ``graphopt profile`` does: time a model or an engine, here or on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.errors import UsageError
from graphopt.files import dump_json, write_text
from graphopt.recipe import parse_one_profile
from graphopt.verbs import open_samples, refuse_overwrite
from graphopt.wording import one_line, spell

if TYPE_CHECKING:
    from graphopt.profiles import LatencyProfile

Sizes = Mapping[str, tuple[int, ...]]


def run_profile(path: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt profile``."""
    for output in ("output", "layers"):
        if flags[output] is not None:
            kept = [path, *([flags["output"]] if output == "layers" and flags["output"] else [])]
            refuse_overwrite(flags[output], flags["force"], keep=kept)
    shapes = parse_one_profile((), flags["opt_shapes"], ())
    fixed = {name: tuple(s["opt"]) for name, s in shapes.items()}
    if flags["host"] is not None or flags["trtexec"] is not None:
        profile = _by_trtexec(path, fixed, flags, ui)
    elif flags["layers"] is not None:
        raise UsageError("--layers comes from trtexec: give --host or --trtexec")
    else:
        profile = _here(path, fixed, flags, ui)
    value = profile.to_json()
    if flags["output"] is not None:
        write_text(flags["output"], dump_json(value))
    if ui.json:
        ui.raw(dump_json(value))
        return
    row = [f"{profile.mean:.3f}", *(f"{profile.percentile(q):.3f}" for q in (50, 90, 99))]
    ui.table(
        f"{one_line(path.name)}, batch {profile.batch}, {len(profile.samples_ms)} runs",
        ["", "mean ms", "p50", "p90", "p99", "items/s"],
        [["latency", *row, f"{profile.throughput:.1f}"]],
    )


def _here(path: Path, fixed: Sizes, flags: Mapping[str, Any], ui: Console) -> LatencyProfile:
    """Time it in this process, on samples."""
    from graphopt.data import synthetic
    from graphopt.opening import opened

    with opened(path, warn=ui.warn) as session:
        batch = flags["batch"] or next((s[0] for s in fixed.values() if s), 1)
        if flags["data"]:
            data = open_samples(flags, session.inputs())
        else:
            data = synthetic(session.inputs(), batch, seed=flags["seed"] or 0, shapes=fixed)
        if flags["batch"] and data.batch_size(batch) != batch:
            raise UsageError(f"--batch {batch}: the model's batch is fixed at {data.fixed_batch}")
        feeds = next(iter(data.batches(batch)))
        return session.time(
            feeds,
            warmup_s=flags["warm_up"] / 1000,
            min_s=flags["duration"],
            min_runs=flags["iterations"],
        )


def _by_trtexec(path: Path, fixed: Sizes, flags: Mapping[str, Any], ui: Console) -> LatencyProfile:
    """Time it by trtexec, there or here, on values that trtexec makes up."""
    from graphopt.engines.trtexec.engine import Timing, Trtexec

    if flags["data"]:
        raise UsageError("trtexec makes its inputs up: leave --data out")
    engine = Trtexec(flags["host"], flags["trtexec"])
    # trtexec counts in whole milliseconds and seconds.
    timing = Timing(ceil(flags["warm_up"]), max(1, ceil(flags["duration"])), flags["iterations"])
    return engine.time(
        path,
        _sizes(path, fixed, flags["batch"]),
        timing,
        layers=flags["layers"],
        say=ui.info,
        warn=ui.warn,
    )


def _sizes(path: Path, fixed: Sizes, batch: int | None) -> Sizes:
    """Return the shape of every input that may vary.

    Raises:
        UsageError: the batch is fixed, or nothing tells the shapes.
    """
    from graphopt.engines.known import known_inputs

    known = known_inputs(path)
    if batch is not None and not known and not fixed:
        raise UsageError(
            f"--batch {batch}: no sidecar beside {path.name} tells its inputs: give --opt-shapes"
        )
    for name, given in fixed.items():
        if batch is not None and given and given[0] != batch:
            raise UsageError(
                f"--batch {batch}: --opt-shapes has {given[0]} in {spell(given)} of '{name}': "
                "leave one of the two out"
            )
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
    return sizes
