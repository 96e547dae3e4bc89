"""What ``graphopt profile`` does: time a model or an engine, here or on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.errors import UsageError
from graphopt.files import dump_json, write_text
from graphopt.recipe import Recipe, parse_one_profile
from graphopt.verbs import open_samples, refuse_overwrite
from graphopt.wording import spell

if TYPE_CHECKING:
    from graphopt.profiles import LatencyProfile

Sizes = Mapping[str, tuple[int, ...]]
Dims = tuple[int | None, ...]


def run_profile(path: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt profile``."""
    for output in ("output", "layers"):
        if flags[output] is not None:
            refuse_overwrite(flags[output], flags["force"], keep=[path])
    shapes = parse_one_profile((), flags["opt_shapes"], ())
    fixed = {name: tuple(s["opt"]) for name, s in shapes.items()}
    if flags["host"] or flags["trtexec"]:
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
        f"{path.name}, batch {profile.batch}, {len(profile.samples_ms)} runs",
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
    from graphopt.engine_options import TRTEXEC, make_engine
    from graphopt.engines.trtexec.engine import Timing, Trtexec

    if flags["data"]:
        raise UsageError("trtexec makes its inputs up: leave --data out")
    asked = {"name": TRTEXEC, "host": flags["host"], "trtexec": flags["trtexec"]}
    engine = make_engine(TRTEXEC, Recipe().override({"engine": asked}))
    assert isinstance(engine, Trtexec)
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
    known = _known_inputs(path)
    if batch is not None and not known and not fixed:
        raise UsageError(
            f"--batch {batch}: no sidecar beside {path.name} tells its inputs: give --opt-shapes"
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


def _known_inputs(path: Path) -> dict[str, tuple[Dims, Dims | None]]:
    """Return input name -> (its shape, None where open; the shape it was tuned for, or None)."""
    from graphopt.engines.header import is_engine
    from graphopt.engines.sidecar import read_sidecar, sidecar_path
    from graphopt.model import Model

    if not is_engine(path):
        return {
            name: (tuple(d if isinstance(d, int) else None for d in shape), None)
            for name, (_, shape) in Model.load(path).inputs().items()
        }
    if not sidecar_path(path).exists():
        return {}
    found: dict[str, tuple[Dims, Dims | None]] = {}
    for name, sizes in (read_sidecar(path).get("shapes") or {}).items():
        low, tuned, high = (tuple(sizes[key]) for key in ("min", "opt", "max"))
        found[name] = (tuple(a if a == b else None for a, b in zip(low, high, strict=True)), tuned)
    return found
