"""What ``graphopt calibrate`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.console import Console
from graphopt.errors import DataError, UsageError
from graphopt.files import dump_json
from graphopt.verbs import open_samples, refuse_overwrite


def run_calibrate(model_path: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt calibrate``."""
    from graphopt.calibrators.cache import parse_version, write_cache
    from graphopt.model import Model
    from graphopt.opening import check_inputs
    from graphopt.prepare import NO_DATA
    from graphopt.quantize import activations, calibration_table, wanted_tensors

    if not flags["data"]:
        raise DataError("calibrate needs --data", hint=NO_DATA)
    version = parse_version(flags["trt_version"])
    out = flags["output"] or Path("calibration.json")
    if out == flags["trt_cache"]:
        raise UsageError(f"-o and --trt-cache both name {out}")
    for path in (out, flags["trt_cache"]):
        if path is not None:
            refuse_overwrite(path, flags["force"], keep=[model_path])
    model = Model.load(model_path)
    check_inputs(model)
    data = open_samples(flags, model.inputs())
    ui.info(f"calibration data: {data.summary()}")
    # TensorRT's implicit mode and DLA want a scale for every tensor; Q/DQ only for some.
    tensors = activations(model) if flags["trt_cache"] else wanted_tensors(model, ())
    table = calibration_table(model, data, flags["calibrator"], tensors, ui)
    table.save(out)
    if flags["trt_cache"]:
        write_cache(flags["trt_cache"], table, version=version)
    if ui.json:
        ui.raw(dump_json(table.to_json()))
        return
    written = [str(out), *([str(flags["trt_cache"])] if flags["trt_cache"] else [])]
    ui.result(
        f"{len(table.ranges)} tensors, {table.samples} samples, {table.method}; "
        f"wrote {', '.join(written)}"
    )
