"""What better weights are worth in INT8: each option alone and together, real models and a ViT.

Ranges and weights are chosen on one set of samples and measured on another: 256 images of the
training set and 932 of the test set for the classifiers, 12 and 11 photographs for the detectors,
64 and 32 made-up images for the transformer, whose weights are random.

    python tools/bench_rounding.py --data DIR --output docs/benchmarks/rounding.md

DIR holds models/*.onnx, cifar10/calib, cifar10/test and faces, as for bench_accuracy.py. SQNR is of
all outputs against the float model. Q/DQ in the tensorrt dialect is run as it is written, and that
in the onnxruntime dialect as ONNX Runtime fuses it.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from bench_vit import images
from pages import publish
from vit import Shape, vit

from graphopt.calibrators import CALIBRATORS, CalibrationTable
from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import collect
from graphopt.data import load_preprocess, open_data
from graphopt.graph import Array
from graphopt.model import Feeds, Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.quantization.bias import correct_bias
from graphopt.quantization.equalize import equalize
from graphopt.quantization.refined import Refined
from graphopt.quantization.rounding import FLOAT, SEQUENTIAL, round_weights
from graphopt.quantization.smooth import smooth
from graphopt.quantize import wanted_tensors
from graphopt.report import versions
from graphopt.verify import opened

MODELS = ("resnet20_cifar10", "resnet56_cifar10", "face_rfb320", "face_yunet_n", "vit")
METHODS = ("entropy", "minmax", "mse")
DIALECTS = ("tensorrt", "onnxruntime")
PREPROCESS = {
    "face_rfb320": 'size = [240, 320]\ncolor = "rgb"\nscale = 1\nmean = 127\nstd = 128\n',
    "face_yunet_n": 'size = [320, 320]\ncolor = "bgr"\nscale = 1\n',
}
TRANSFORMER = Shape(size=96, patch=16, layers=6, width=192, heads=3, classes=100)
NEAREST, BIAS = "nearest", "bias"


@dataclass(frozen=True)
class Case:
    """A model with samples to choose on and samples to measure on."""

    name: str
    model: Model
    chosen_on: list[Feeds]
    measured_on: list[Feeds]
    labels: Array | None


@dataclass(frozen=True)
class Variant:
    """What is done to weights: before calibration, and how they are rounded."""

    title: str
    before: Callable[[Model, Callable[[], list[Feeds]]], Model] | None
    rounding: str


def _equalized(model: Model, batches: Any) -> Model:
    return equalize(model, batches).model


def _by_weights(model: Model, _: Any) -> Model:
    return equalize(model, None, alpha=0.5).model


def _smoothed(model: Model, batches: Any) -> Model:
    return smooth(model, batches).model


def _both(model: Model, batches: Any) -> Model:
    return _smoothed(_equalized(model, batches), batches)


VARIANTS = (
    Variant("nearest", None, NEAREST),
    Variant("bias", None, BIAS),
    Variant("rounding float", None, FLOAT),
    Variant("rounding sequential", None, SEQUENTIAL),
    Variant("equalize by weights", _by_weights, NEAREST),
    Variant("equalize", _equalized, NEAREST),
    Variant("smooth", _smoothed, NEAREST),
    Variant("all, rounding float", _both, FLOAT),
    Variant("all, rounding sequential", _both, SEQUENTIAL),
)


def folded(model: Model) -> Model:
    """Return the model as it is before it is calibrated."""
    if model.opset < 13:
        model = RaiseOpset(13)(model).model
    return FoldBatchNorm()(Simplify()(model).model).model


def load(name: str, root: Path) -> Case:
    """Return a model and its samples."""
    if name == "vit":
        feeds = images(TRANSFORMER.size, 96, 0)
        model = folded(Model.from_onnx(vit(TRANSFORMER)))
        return Case(name, model, feeds[:64], feeds[64:], None)
    model = folded(Model.load(root / f"models/{name}.onnx"))
    if name in PREPROCESS:
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "preprocess.toml"
            path.write_text(PREPROCESS[name], encoding="utf-8")
            preprocess = load_preprocess(str(path))
        faces = list(
            open_data(str(root / "faces"), model.inputs(), preprocess=preprocess).batches(1)
        )
        return Case(name, model, faces[::2], faces[1::2], None)
    preprocess = load_preprocess("cifar")
    inputs = model.inputs()
    chosen = open_data(str(root / "cifar10/calib"), inputs, preprocess=preprocess, limit=256)
    test = open_data(str(root / "cifar10/test"), inputs, preprocess=preprocess)
    return Case(name, model, list(chosen.batches(16)), list(test.batches(16)), test.labels)


def outputs(model: Model, feeds: list[Feeds], *, optimize: bool) -> dict[str, Array]:
    """Return name -> values over all feeds."""
    with opened(model, optimize=optimize) as run:
        found = [run(feed) for feed in feeds]
    return {name: np.concatenate([np.asarray(f[name]) for f in found]) for name in found[0]}


def sqnr(reference: dict[str, Array], other: dict[str, Array]) -> float:
    """Return the signal to noise ratio of all outputs together, dB."""
    signal = sum(np.square(a, dtype=np.float64).sum() for a in reference.values())
    noise = sum(np.square(a.astype(np.float64) - other[n]).sum() for n, a in reference.items())
    return float(10 * np.log10(signal / noise))


def refined(
    variant: Variant, model: Model, table: CalibrationTable, case: Case, dialect: str
) -> Refined:
    """Return the model with its weights chosen."""

    def batches() -> list[Feeds]:
        return case.chosen_on

    if variant.rounding == NEAREST:
        return Refined(model)
    if variant.rounding == BIAS:
        return Refined(correct_bias(model, table, batches, dialect=dialect).model)
    return round_weights(model, table, batches, dialect=dialect, how=variant.rounding)


def measure(case: Case, dialect: str, methods: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield a row for each variant and calibrator."""
    reference = outputs(case.model, case.measured_on, optimize=True)
    name = next(iter(reference))
    for variant in VARIANTS:
        started = time.process_time()
        model = case.model
        if variant.before is not None:
            model = variant.before(model, lambda: case.chosen_on)
        spent = time.process_time() - started
        if variant.before is not None and model.digest() == case.model.digest():
            continue
        collected = collect(model, case.chosen_on, wanted_tensors(model, ()))
        for method in methods:
            table = calibrate(
                collected, CALIBRATORS.load(method)(), method=method, model_digest=model.digest()
            )
            started = time.process_time()
            found = refined(variant, model, table, case, dialect)
            seconds = spent + time.process_time() - started
            quantized = InsertQDQ(dialect, table, (), found.codes)(found.model).model
            values = outputs(quantized, case.measured_on, optimize=dialect == "onnxruntime")
            row = {
                "model": case.name,
                "dialect": dialect,
                "calibrator": method,
                "weights": variant.title,
                "sqnr_db": sqnr(reference, values),
                "cpu_s": seconds,
                "right": None,
                "agree": None,
            }
            if case.labels is not None:
                classes = [v[name].argmax(axis=1) for v in (reference, values)]
                row["right"] = int((classes[1] == case.labels).sum())
                row["agree"] = int((classes[1] == classes[0]).sum())
                row["right_fp32"] = int((classes[0] == case.labels).sum())
            yield row


def page(rows: list[dict[str, Any]], output: str) -> str:
    """Write the tables."""
    lines = [
        "# Better weights in INT8",
        "",
        "SQNR of all outputs against the float model, dB; for the classifiers also how many of the",
        "test images are right. Ranges and weights are chosen on other samples than these. CPU",
        "seconds are those of choosing weights, calibration apart. Made by:",
        "",
        "```",
        f"python tools/bench_rounding.py --data DIR --output {output}",
        "```",
    ]
    for dialect in dict.fromkeys(r["dialect"] for r in rows):
        for name in dict.fromkeys(r["model"] for r in rows):
            own = [r for r in rows if (r["dialect"], r["model"]) == (dialect, name)]
            methods = list(dict.fromkeys(r["calibrator"] for r in own))
            right = f", {own[0]['right_fp32']} right in fp32" if "right_fp32" in own[0] else ""
            lines += ["", f"## {name}, {dialect} dialect{right}", ""]
            lines += ["| weights | " + " | ".join(methods) + " | CPU s |"]
            lines += ["|---" * (len(methods) + 2) + "|"]
            for title in dict.fromkeys(r["weights"] for r in own):
                same = [r for r in own if r["weights"] == title]
                cells = [
                    f"{r['sqnr_db']:.2f}" + (f" ({r['right']})" if r["right"] is not None else "")
                    for r in same
                ]
                seconds = np.median([r["cpu_s"] for r in same])
                lines.append(f"| {title} | " + " | ".join(cells) + f" | {seconds:.1f} |")
    known = ", ".join(f"{k} {v}" for k, v in versions().items())
    return "\n".join([*lines, "", known, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--dialects", nargs="+", default=list(DIALECTS), choices=DIALECTS)
    parser.add_argument("--calibrators", nargs="+", default=list(METHODS))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.models:
        case = load(name, args.data)
        for dialect in args.dialects:
            for row in measure(case, dialect, tuple(args.calibrators)):
                rows.append(row)
                print(row, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    publish(
        page(rows, str(args.output or "")),
        {"rows": rows, "peak_kb": peak, "versions": versions()},
        args.output,
    )


if __name__ == "__main__":
    main()
