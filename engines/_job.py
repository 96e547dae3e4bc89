"""A request for TensorRT as plain values: checked, and written for the worker process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.engines._int8 import ALGORITHMS, ENTROPY, MINMAX, Int8
from graphopt.errors import DataError, UsageError
from graphopt.graph import QUANTIZE_OPS, is_op
from graphopt.wording import spell

if TYPE_CHECKING:
    from graphopt.calibrators import CalibrationTable
    from graphopt.engines import BuildOptions, GpuCalibration
    from graphopt.engines._worker import Job
    from graphopt.model import Model

CACHE = ".calibration.cache"


def is_implicit(options: BuildOptions) -> bool:
    """Whether INT8 is to come from ranges beside the graph."""
    return options.implicit is not None or options.calibration is not None


def check_asked(title: str, takes: frozenset[str], model: Model, options: BuildOptions) -> None:
    """Refuse what the engine has not, and what contradicts itself.

    Args:
        title: the engine's name for people.
        takes: the fields of ``BuildOptions`` it heeds.
        model: what is to be built.
        options: what is asked.

    Raises:
        UsageError: one line.
    """
    given = {
        "implicit": ("implicit INT8", options.implicit is not None),
        "calibration": ("calibration on the GPU", options.calibration is not None),
        "fp16": ("FP16 but by the graph", options.fp16),
        "dla": ("DLA", options.dla is not None),
        "level": ("builder optimization level", options.level is not None),
    }
    for field, (what, asked) in given.items():
        if asked and field not in takes:
            way = "write Q/DQ into the graph (--quantization explicit)"
            raise UsageError(
                f"{title} has no {what}: "
                + (way if field in ("implicit", "calibration") else "leave it out")
            )
    if not is_implicit(options):
        low = options.fp16 or is_half(model) or is_quantized(model)
        if options.dla is not None and not low:
            raise UsageError("a DLA computes in INT8 or FP16: give --int8 or --fp16 with --dla")
        return
    if options.implicit is not None and options.calibration is not None:
        raise UsageError("ranges are given, and calibration on the GPU asked for: choose one")
    if is_quantized(model):
        raise UsageError(
            "the graph has Q/DQ, and TensorRT then reads no ranges beside it: give the float "
            "model, or leave implicit quantization out"
        )


def make_job(model: Model, options: BuildOptions, folder: Path, engine: Path | None) -> Job:
    """Return the job with the files it needs in ``folder``; names of runtime and GPU are open.

    Raises:
        UsageError: a tensor's name cannot stand in a calibration cache.
        DataError: batches differ in shape, or there is none.
    """
    cache = options.timing_cache
    job: Job = {
        "runtime": "",
        "onnx": str(model.save(folder / "model.onnx")),
        "engine": None if engine is None else str(engine.absolute()),
        "result": str(folder / "result.json"),
        "profiles": [],
        "targets": None,
        "quantized": is_quantized(model),
        "half": is_half(model),
        "int8": None,
        "calibration_shapes": None,
        "fp16": options.fp16,
        "dla": options.dla,
        "gpu_fallback": options.gpu_fallback,
        "sparse": options.sparse,
        "level": options.level,
        "workspace_bytes": options.workspace_bytes,
        "timing_cache": None if cache is None else str(Path(cache).absolute()),
        "gpu": "",
    }
    if engine is not None and options.implicit is not None:
        job["int8"] = _ranges(options, options.implicit, folder, engine)
    elif engine is not None and options.calibration is not None:
        names = [tensor.name for tensor in model.graph.inputs]
        batches, shapes = _write_batches(options.calibration, names, folder)
        job["int8"] = _int8(options.calibration.method, None, batches, engine)
        job["calibration_shapes"] = shapes
    return job


def asked_facts(options: BuildOptions, profiles: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what was asked beside the usual, for the sidecar; nothing for what was not."""
    facts: dict[str, Any] = {}
    if len(profiles) > 1:
        facts["more_shapes"] = [dict(shapes) for shapes in profiles[1:]]
    if is_implicit(options):
        facts["quantization"] = "implicit"
    if options.fp16:
        facts["fp16"] = True
    if options.dla is not None:
        facts["dla"] = {"core": options.dla, "gpu_fallback": options.gpu_fallback}
    if options.sparse:
        facts["sparse"] = True
    if options.level is not None:
        facts["level"] = options.level
    if options.workspace_bytes is not None:
        facts["workspace_bytes"] = options.workspace_bytes
    return facts


def _ranges(options: BuildOptions, table: CalibrationTable, folder: Path, engine: Path) -> Int8:
    from graphopt.calibrators.cache import write_cache

    path = write_cache(folder / "ranges.cache", table)
    # A DLA takes the entropy calibrator's only; elsewhere the two differ in nothing but the name.
    minmax = table.method.partition(":")[0] == MINMAX and options.dla is None
    return _int8(MINMAX if minmax else ENTROPY, str(path), None, engine)


def _int8(method: str, cache: str | None, batches: list[str] | None, engine: Path) -> Int8:
    if method not in ALGORITHMS:
        raise UsageError(
            f"TensorRT calibrates by {' or '.join(ALGORITHMS)} on the GPU, not by '{method}'"
        )
    save = engine.absolute().with_name(engine.name + CACHE)
    return {"method": method, "cache": cache, "batches": batches, "save": str(save)}


def _write_batches(
    wanted: GpuCalibration, names: Sequence[str], folder: Path
) -> tuple[list[str], dict[str, list[int]]]:
    """Write every batch to a file: inputs in the order of ``names``; return files and shapes."""
    files: list[str] = []
    shapes: dict[str, list[int]] = {}
    for index, feeds in enumerate(_checked(wanted.batches, names)):
        found = {name: list(np.shape(feeds[name])) for name in names}
        if shapes and found != shapes:
            name = next(n for n in names if found[n] != shapes[n])
            raise DataError(
                f"calibration batch {index}: input '{name}' is {spell(found[name])}, the first "
                f"batch's {spell(shapes[name])}: TensorRT calibrates at one shape"
            )
        shapes = found
        path = folder / f"batch-{index:06d}.npz"
        np.savez(path, *[_calibration_array(feeds[name]) for name in names])
        files.append(str(path))
    if not files:
        raise DataError("there is no batch to calibrate with")
    return files, shapes


def _checked(batches: Iterable[Any], names: Sequence[str]) -> Iterable[Any]:
    for feeds in batches:
        missing = [name for name in names if name not in feeds]
        if missing:
            raise DataError(f"input '{missing[0]}' is not in the calibration data")
        yield feeds


def _calibration_array(values: Any) -> Any:
    # TensorRT calibrates a network in float32, whatever the type of its inputs.
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def is_quantized(model: Model) -> bool:
    """Whether a graph holds Q/DQ nodes."""
    return any(is_op(node, *QUANTIZE_OPS) for node in model.graph.nodes)


def is_half(model: Model) -> bool:
    """Whether a graph holds fp16 tensors."""
    return any(
        isinstance(t.dtype, np.dtype | type) and np.dtype(t.dtype) == np.float16
        for t in model.graph.tensors().values()
    )
