"""What INT8 costs in accuracy: real models, graphopt, ModelOpt, ONNX Runtime and onnxsim.

Each tool quantizes the same float model, BatchNorm folded, with the same calibration samples. The
classifiers are calibrated on images of the training set and judged on the test set, paired; the
detectors are calibrated on one half of the photographs and judged on the other.

    python tools/bench_accuracy.py --data DIR --modelopt PYTHON --onnxsim PYTHON
        --output docs/benchmarks/accuracy.md

DIR holds models/resnet20_cifar10.onnx, models/resnet56_cifar10.onnx, models/face_rfb320.onnx,
models/face_yunet_n.onnx, cifar10/calib, cifar10/test and faces. PYTHON is an interpreter that has
the tool.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from judged import judge
from pages import publish

from graphopt import Recipe, Request, build
from graphopt.calibrators import CALIBRATORS
from graphopt.console import Console
from graphopt.data import Dataset, load_preprocess, open_data
from graphopt.files import write_text
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.report import versions

HERE = Path(__file__).parent
CLASSIFIERS = ("resnet20_cifar10", "resnet56_cifar10")
PREPROCESS = {
    "face_rfb320": 'size = [240, 320]\ncolor = "rgb"\nscale = 1\nmean = 127\nstd = 128\n',
    "face_yunet_n": 'size = [320, 320]\ncolor = "bgr"\nscale = 1\n',
}
Row = dict[str, Any]
PEERS = {
    "modelopt": ("max", "entropy"),
    "onnxsim": ("minmax", "entropy", "mse", "auto", "minmax+"),
    "onnxruntime": ("MinMax-int8", "MinMax-uint8", "Entropy-uint8", "Percentile-uint8"),
}
PRUNED = {"ratio": 0.3}


@dataclass(slots=True)
class Bench:
    """Models and data, prepared once.

    Attributes:
        root: the folder of models and images.
        scratch: where files are made.
        python: tool -> the interpreter that has it.
        versions: of what was run.
        done: rows there are already.
        state: the file they are kept in.
        peers_only: leave graphopt out.
    """

    root: Path
    scratch: Path
    python: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    done: list[Row] = field(default_factory=list)
    state: Path | None = None
    peers_only: bool = False

    def keep(self, row: Row) -> None:
        """Write a row down, so that a run that was stopped goes on."""
        self.done.append(row)
        if self.state is not None:
            write_text(self.state, json.dumps({"rows": self.done, "versions": self.versions}))

    def folded(self, name: str) -> Path:
        """Return the float model everyone starts from."""
        path = self.scratch / f"{name}.onnx"
        if not path.exists():
            model = Model.load(self.root / f"models/{name}.onnx")
            for step in (RaiseOpset(13), Simplify(), FoldBatchNorm()):
                model = step(model).model
            model.save(path)
        return path

    def specs(self, name: str) -> tuple[Path, Path, str]:
        """Return calibration data, evaluation data, preprocessing."""
        if name in CLASSIFIERS:
            return self.root / "cifar10/calib", self.root / "cifar10/test", "cifar"
        spec = self.scratch / f"{name}.toml"
        write_text(spec, PREPROCESS[name])
        photos = sorted((self.root / "faces").iterdir(), key=lambda p: p.name)
        for half in (0, 1):
            folder = self.scratch / f"faces{half}"
            folder.mkdir(exist_ok=True)
            for photo in photos[half::2]:
                shutil.copy(photo, folder / photo.name)
        return self.scratch / "faces0", self.scratch / "faces1", str(spec)

    def opened(self, name: str, half: int, limit: int | None) -> Dataset:
        """Open calibration (0) or evaluation (1) samples."""
        specs = self.specs(name)
        return open_data(
            str(specs[half]),
            Model.load(self.folded(name)).inputs(),
            preprocess=load_preprocess(specs[2]),
            limit=limit,
        )

    def samples(self, name: str, limit: int) -> Path:
        """Return the calibration samples as a file: the ones graphopt sees."""
        path = self.scratch / f"{name}.npz"
        if not path.exists():
            parts = list(self.opened(name, 0, limit).batches(64))
            arrays: Any = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
            np.savez(path, **arrays)
        return path

    def peer(self, name: str, tool: str, method: str, limit: int) -> Path:
        """Quantize with another tool."""
        out = self.scratch / f"{name}-{tool}-{method}.onnx"
        words = [self.python[tool], HERE / "peer_quantize.py", tool, self.folded(name), out]
        words += ["--method", method, "--data", self.samples(name, limit)]
        done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(([*done.stderr.strip().splitlines(), "no message"])[-1 - 1])
        told = json.loads(done.stdout.strip().splitlines()[-1])
        self.versions |= {f"{n} ({tool})" if n != tool else n: v for n, v in told.items()}
        return out

    def own(self, name: str, case: dict[str, Any], engine: str, limit: int) -> tuple[Path, Path]:
        """Quantize with graphopt; return the INT8 model and the float one it was made from."""
        calibration, evaluation, preprocess = self.specs(name)
        recipe = Recipe.from_dict(
            {
                "engine": {"name": engine, "device": "t4" if engine == "tensorrt" else "host"},
                "data": {
                    "calibration": str(calibration),
                    "evaluation": str(evaluation),
                    "preprocess": preprocess,
                    "samples": limit,
                },
                **{k: v for k, v in case.items() if k != "quantize"},
                "quantize": {"int8": True, **case.get("quantize", {})},
            }
        )
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            out = Path(folder) / "out"
            given = self.root / f"models/{name}.onnx"
            build(Request(given, recipe, out, build_engine=False), Console(verbosity=-1))
            kept = self.scratch / f"{name}-own.onnx", self.scratch / f"{name}-own-float.onnx"
            shutil.copy(out / "model.int8.onnx", kept[0])
            shutil.copy(out / "model.onnx", kept[1])
        return kept


def own_cases(name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield graphopt's rows: title, engine, recipe."""
    for engine in ("tensorrt", "onnxruntime"):
        for calibrator in CALIBRATORS.names():
            yield calibrator, engine, {"quantize": {"calibrator": calibrator}}
    plain = {"rounding": "nearest", "bias": False, "equalize": False, "smooth": 0.0}
    second = {**plain, "rounding": "second-order"}
    ablations = {
        "nothing but calibration": plain,
        "second-order rounding": second,
        "bias correction": {**plain, "bias": True},
        "equalization": {**plain, "equalize": True},
        "second-order rounding and bias": {**second, "bias": True},
    }
    for title, options in ablations.items():
        yield f"default calibrator, {title}", "tensorrt", {"quantize": options}
    if name in CLASSIFIERS:
        for engine in ("tensorrt", "onnxruntime"):
            yield "30 % pruned (--prune 0.3 --align 1)", engine, {"prune": {**PRUNED, "align": 1}}


def run(bench: Bench, name: str, limit: int) -> Iterator[Row]:
    """Measure one model with every tool."""
    data = bench.opened(name, 1, None)
    todo: list[tuple[str, str, Any]] = []
    for title, engine, case in own_cases(name):
        todo.append((f"graphopt, {engine} dialect", title, (engine, case)))
    for tool in bench.python:
        todo += [(tool, method, None) for method in PEERS[tool]]
    for who, title, own in todo:
        row: Row = {"model": name, "tool": who, "method": title}
        known = next((r for r in bench.done if row.items() <= r.items()), None)
        if known is not None:
            yield known
            continue
        if bench.peers_only and own is not None:
            continue
        try:
            if own is not None:
                made, base = bench.own(name, own[1], own[0], limit)
                written = own[0] != "onnxruntime"
            else:
                made, base = bench.peer(name, who, title, limit), None
                written = not title.endswith("uint8")
            row |= judge(bench.folded(name), made, data, as_written=written, base=base)
        except Exception as problem:  # noqa: BLE001 - a peer's failure is a result
            row["failed"] = " ".join(str(problem).split())[:200]
        print(row, file=sys.stderr, flush=True)
        bench.keep(row)
        yield row


def page(rows: list[Row], output: str, known: dict[str, str], limit: int) -> str:
    """Write the tables."""
    lines = [
        "# Accuracy of INT8",
        "",
        "Each tool quantized the same float model (simplified, BatchNorm folded) with the same",
        f"calibration samples, {limit} at most. Classifiers: images right of those in the test",
        "set, the same images; one image is 0.107 points. Detectors: 12 photographs to",
        "calibrate, 11 others to judge; boxes are those of the float model found again. SQNR is",
        "over all outputs, before any softmax; the worst layer is the Conv or Gemm whose output",
        "is farthest from the float model's it was made from. What is meant for TensorRT runs as",
        "its Q/DQ says, uint8 models run on ONNX Runtime's integer kernels (whose inner values",
        "are not seen). onnxsim's models hold uint8 zero-points, which TensorRT-RTX's parser",
        "refuses (`graphopt inspect`), and leave residual Adds in float: for TensorRT they",
        "compare in accuracy alone. Made by:",
        "",
        "```",
        f"python tools/bench_accuracy.py --data DIR --modelopt PYTHON --onnxsim PYTHON "
        f"--output {output}",
        "```",
    ]
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        counted = any("right" in row for row in mine)
        head = "right | lost | gained | points" if counted else "boxes found again"
        lines += ["", f"## {name}", ""]
        if counted:
            best = next(row for row in mine if "right" in row)
            lines += [f"fp32: {best['reference']} of {best['samples']}.", ""]
        lines += [
            f"| tool | method | {head} | SQNR dB | worst output dB | worst layer | its dB |",
            "|" + "---|" * (10 if counted else 7),
        ]
        lines += [_line(row, counted) for row in mine]
    told = ", ".join(f"{k} {v}" for k, v in known.items())
    return "\n".join([*lines, "", told, ""])


def _line(row: Row, counted: bool) -> str:
    start = f"| {row['tool']} | {row['method']} |"
    if "failed" in row:
        return f"{start} failed: {row['failed']} |" + " |" * (6 if counted else 4)
    if counted:
        points = 100 * (row["right"] - row["reference"]) / row["samples"]
        start += f" {row['right']} | {row['lost']} | {row['gained']} | {points:+.2f} |"
    else:
        boxes = row.get("boxes", {"same": 0, "reference": 0, "candidate": 0})
        start += f" {boxes['same']} of {boxes['reference']} ({boxes['candidate']} found) |"
    layer = row["worst_layer"] or "-"
    layer_db = "-" if row["worst_layer_db"] is None else f"{row['worst_layer_db']:.1f}"
    return f"{start} {row['sqnr_db']:.1f} | {row['worst_output_db']:.1f} | {layer} | {layer_db} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default=",".join([*CLASSIFIERS, *PREPROCESS]))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--modelopt", metavar="PYTHON")
    parser.add_argument("--onnxsim", metavar="PYTHON")
    parser.add_argument("--state", type=Path, help="rows of a run that was stopped; goes on")
    parser.add_argument("--peers-only", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    python = {"modelopt": args.modelopt, "onnxsim": args.onnxsim, "onnxruntime": sys.executable}
    with tempfile.TemporaryDirectory() as scratch:
        given = {tool: path for tool, path in python.items() if path}
        bench = Bench(args.data, Path(scratch), given, state=args.state)
        bench.peers_only = args.peers_only
        if args.state is not None and args.state.exists():
            kept = json.loads(args.state.read_text(encoding="utf-8"))
            bench.done, bench.versions = kept["rows"], kept["versions"]
        rows = [row for name in args.models.split(",") for row in run(bench, name, args.samples)]
        known = {**versions(), **bench.versions}
    text = page(rows, str(args.output or ""), known, args.samples)
    publish(text, {"rows": rows, "versions": known}, args.output)


if __name__ == "__main__":
    main()
