"""What INT8 alone costs: real models, every calibrator, both engines, paired counts.

The classifiers are calibrated on images of the training set and measured on the test set; the
same images go through the model as given and through the INT8 model that ships. The detectors
have no labels here: the signal to quantization noise of their outputs is shown.

    python tools/bench_accuracy.py --data DIR --output docs/benchmarks/accuracy.md

DIR holds models/resnet20_cifar10.onnx, models/resnet56_cifar10.onnx, models/face_rfb320.onnx,
models/face_yunet_n.onnx, cifar10/calib, cifar10/test and faces.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from pages import publish

from graphopt import Recipe, Request, build
from graphopt.calibrators import CALIBRATORS
from graphopt.console import Console
from graphopt.files import write_text
from graphopt.report import versions

ENGINES = ("tensorrt-rtx", "onnxruntime")
PREPROCESS = {
    "face_rfb320": 'size = [240, 320]\ncolor = "rgb"\nscale = 1\nmean = 127\nstd = 128\n',
    "face_yunet_n": 'size = [320, 320]\ncolor = "bgr"\nscale = 1\n',
}


def run(model: Path, folder: Path, data: dict[str, Any], calibrator: str, engine: str) -> Any:
    """Build once and return the report."""
    recipe = Recipe.from_dict(
        {
            "quantize": {"int8": True, "calibrator": calibrator},
            "engine": {"name": engine},
            "data": data,
        }
    )
    out = folder / f"{model.stem}-{calibrator}-{engine}"
    build(Request(model, recipe, out), Console(verbosity=-1))
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def classifiers(root: Path, folder: Path) -> list[dict[str, Any]]:
    """Measure both ResNets with every calibrator on both engines."""
    data = {
        "calibration": str(root / "cifar10/calib"),
        "evaluation": str(root / "cifar10/test"),
        "preprocess": "cifar",
    }
    rows = []
    for name in ("resnet20_cifar10", "resnet56_cifar10"):
        for engine in ENGINES:
            for calibrator in CALIBRATORS.names():
                report = run(root / f"models/{name}.onnx", folder, data, calibrator, engine)
                fidelity = report["fidelity"]["int8"]
                counts = fidelity["top1"]["accuracy"]
                rows.append(
                    {
                        "model": name,
                        "engine": engine,
                        "calibrator": calibrator,
                        "samples": fidelity["samples"],
                        **{k: counts[f"right_{k}"] for k in ("a", "b", "only_a", "only_b")},
                    }
                )
                print(rows[-1], flush=True)
    return rows


def detectors(root: Path, folder: Path) -> list[dict[str, Any]]:
    """Measure both detectors; SQNR over all outputs, and of the worst one."""
    rows = []
    for name, spec in PREPROCESS.items():
        preprocess = write_text(folder / f"{name}.toml", spec)
        data = {"calibration": str(root / "faces"), "preprocess": str(preprocess)}
        for engine in ENGINES:
            report = run(root / f"models/{name}.onnx", folder, data, "entropy", engine)
            fidelity = report["fidelity"]["int8"]
            each = {n: e["sqnr_db"] for n, e in fidelity["outputs"].items()}
            worst = min(each, key=lambda n: each[n])
            rows.append(
                {
                    "model": name,
                    "engine": engine,
                    "sqnr_db": fidelity["total"]["sqnr_db"],
                    "worst": worst,
                    "worst_db": each[worst],
                }
            )
            print(rows[-1], flush=True)
    return rows


def page(classified: list[dict[str, Any]], detected: list[dict[str, Any]], output: str) -> str:
    """Write the tables."""
    lines = [
        "# Accuracy of INT8",
        "",
        "Images right of those in the test set, before and after, the same images. One image is",
        "0.107 points; the calibration images are 512 of the training set. Made by:",
        "",
        "```",
        f"python tools/bench_accuracy.py --data DIR --output {output}",
        "```",
        "",
        "| model | engine | calibrator | fp32 | INT8 | lost | gained | points |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in classified:
        change = 100 * (row["b"] - row["a"]) / row["samples"]
        lines.append(
            f"| {row['model']} | {row['engine']} | {row['calibrator']} | {row['a']} of "
            f"{row['samples']} | {row['b']} | {row['only_a']} | {row['only_b']} | {change:+.2f} |"
        )
    lines += [
        "",
        "Detectors, entropy, calibrated and measured on the same 23 photographs (optimistic):",
        "",
        "| model | engine | SQNR dB, all outputs | worst output | its SQNR dB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['engine']} | {row['sqnr_db']:.1f} | {row['worst']} | "
        f"{row['worst_db']:.1f} |"
        for row in detected
    ]
    known = ", ".join(f"{k} {v}" for k, v in versions().items())
    return "\n".join([*lines, "", known, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        classified = classifiers(args.data, Path(scratch))
        detected = detectors(args.data, Path(scratch))
    text = page(classified, detected, str(args.output or ""))
    publish(
        text,
        {"classifiers": classified, "detectors": detected, "versions": versions()},
        args.output,
    )


if __name__ == "__main__":
    main()
