"""Which calibrator loses least: SQNR of the outputs of real models, TensorRT's placement.

One pass over the calibration data serves all calibrators. Each one's INT8 model runs, emulated
without rewrites, on data that was not calibrated on. Where single thresholds happen to fall moves
the result by as much as one calibrator does, so each is repeated with every threshold moved by up
to 1.5 % at random, the same numbers for all, and the mean and its standard error are shown.

    python tools/compare_calibrators.py --data DIR

DIR is as for tools/bench_accuracy.py. Weights are rounded to nearest; nothing else is corrected.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_accuracy import PREPROCESS

from graphopt.calibrators import CALIBRATORS, CalibrationTable
from graphopt.calibrators.choose import choose_again
from graphopt.console import Console
from graphopt.data import Dataset, open_data
from graphopt.data.preprocess import load_preprocess
from graphopt.files import write_text
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.quantize import calibration_table, wanted_tensors
from graphopt.verify import compare, opened

MOVED = 0.015
# Model -> repetitions: the detectors are measured on few images.
MODELS = {"resnet20_cifar10": 8, "resnet56_cifar10": 5, "face_rfb320": 12, "face_yunet_n": 12}
EXTRA = ("percentile:99.9", "percentile:99.999")


def samples(root: Path, name: str, model: Model, folder: Path) -> tuple[Dataset, Dataset]:
    """Return samples to calibrate on and others to measure on."""
    if name in PREPROCESS:
        preprocess = load_preprocess(str(write_text(folder / f"{name}.toml", PREPROCESS[name])))
        faces = open_data(str(root / "faces"), model.inputs(), preprocess=preprocess)
        halves = faces.indices[::2], faces.indices[1::2]
        return replace(faces, indices=halves[0]), replace(faces, indices=halves[1])
    preprocess = load_preprocess("cifar")
    found = [
        open_data(str(root / "cifar10" / part), model.inputs(), preprocess=preprocess, limit=limit)
        for part, limit in (("calib", 256), ("test", 466))
    ]
    return found[0], found[1]


def moved(table: CalibrationTable, seed: int) -> CalibrationTable:
    """Return the table with every threshold moved a little."""
    rng = np.random.default_rng(seed)
    factors = np.exp(rng.uniform(-MOVED, MOVED, len(table.ranges)))
    ranges = {
        name: replace(r, amax=r.amax * float(f))
        for (name, r), f in zip(sorted(table.ranges.items()), factors, strict=True)
    }
    return replace(table, ranges=ranges)


def measure(model: Model, table: CalibrationTable, data: Dataset) -> tuple[float, str]:
    """Return the SQNR in dB, the mean over the outputs, and the images that are right."""
    quantized = InsertQDQ("tensorrt", table)(model).model
    with opened(model) as a, opened(quantized, optimize=False) as b:
        found = compare(a, b, data)
    sqnr = float(np.mean([error.sqnr_db for error in found.outputs.values()]))
    right = "" if found.top1 is None else f"{found.top1.right_b} of {found.samples}"
    return sqnr, right


def rows(root: Path, name: str, folder: Path) -> Mapping[str, str]:
    """Return calibrator -> cell of one model."""
    given = Model.load(root / f"models/{name}.onnx")
    raised = RaiseOpset(13)(given).model if given.opset < 13 else given
    model = FoldBatchNorm()(Simplify()(raised).model).model
    calibration, evaluation = samples(root, name, model, folder)
    quiet = Console(verbosity=-1)
    table = calibration_table(model, calibration, "auto", wanted_tensors(model, ()), quiet)
    cells = {}
    for method in [*CALIBRATORS.names(), *EXTRA]:
        chosen = choose_again(table, method)
        _, right = measure(model, chosen, evaluation)
        repeated = [measure(model, moved(chosen, i), evaluation)[0] for i in range(MODELS[name])]
        error = np.std(repeated, ddof=1) / np.sqrt(len(repeated))
        cells[method] = f"{np.mean(repeated):.2f} ± {error:.2f}" + (f", {right}" if right else "")
        print(name, method, cells[method], flush=True)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=MODELS, action="append")
    asked = parser.parse_args()
    names = asked.only or list(MODELS)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: rows(asked.data, name, Path(folder)) for name in names}
    print(f"\n| calibrator | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for method in [*CALIBRATORS.names(), *EXTRA]:
        print(f"| `{method}` | {' | '.join(found[name][method] for name in names)} |")


if __name__ == "__main__":
    main()
