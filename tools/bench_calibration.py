"""Time and memory of calibration: graphopt, ONNX Runtime's quantizer, ModelOpt, bare inference.

ResNet-18 and ResNet-50 shapes with random weights on random images of 224 x 224, and the ResNet-56
of --data on CIFAR-10 images. Every variant of every round runs in a process of its own,
round-robin, so that slow drifts of the machine meet all variants alike and a peak of memory belongs
to one variant alone; ratios are to bare inference of the same round. The clock starts after the
imports and stops when the ranges are known: opening the session is inside.

    python tools/bench_calibration.py --data DIR --modelopt PYTHON --images 64,256 \
        --output docs/benchmarks/calibration.md

DIR holds models/resnet56_cifar10.onnx and cifar10/calib; PYTHON is an interpreter that has
nvidia-modelopt. --state FILE keeps each run as it ends: started again, it goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from calibration_variants import BARE
from pages import publish

HERE = Path(__file__).resolve().parent
ENTROPY = "onnxruntime Entropy"
NEEDED = "graphopt entropy"
ORT = ("onnxruntime MinMax", ENTROPY, "onnxruntime Percentile")
# They keep every activation until the end, in float32, and a copy while it is counted.
KEEPERS = (ENTROPY, "onnxruntime Percentile", "onnxruntime Entropy 2048 bins")
MODELOPT = ("modelopt max", "modelopt entropy")
CIFAR = "resnet56"
SHAPES = ("resnet18", "resnet50")


@dataclass(frozen=True)
class Subject:
    """A model and its samples, on disk."""

    name: str
    model: Path
    samples: Path

    @cached_property
    def facts(self) -> tuple[str, int, int]:
        """Input name, the batch graphopt chooses, bytes of all activations of a sample."""
        from graphopt.calibrators.budget import footprint, plan
        from graphopt.model import Model
        from graphopt.quantize import activations, wanted_tensors

        model = Model.load(self.model)
        (given,) = model.inputs()
        sample = {given: (1, *np.load(self.samples, mmap_mode="r").shape[1:])}
        every = footprint(model, activations(model), sample)
        best = plan(model, wanted_tensors(model, ()), sample).batch
        return given, best, sum(every.outputs.values())


@dataclass(frozen=True)
class Case:
    """One table: a model, so many images, so many at a time."""

    subject: Subject
    images: int
    batch: int

    @property
    def title(self) -> str:
        """What heads the table."""
        return f"{self.subject.name}, {self.images} images, batch {self.batch}"


def prepare(name: str, folder: Path, data: Path | None, images: int, size: int) -> Subject:
    """Write a model, its shapes inferred as onnxruntime.quantization wants, and its samples."""
    import onnx

    subject = Subject(name, folder / f"{name}.onnx", folder / f"{name}.npy")
    if name == CIFAR:
        assert data is not None
        _prepare_cifar(subject, data, images)
        return subject
    import shapes

    proto = getattr(shapes, name)(0, size)
    onnx.save(onnx.shape_inference.infer_shapes(proto), subject.model)
    out = np.lib.format.open_memmap(
        subject.samples, mode="w+", dtype=np.float32, shape=(images, 3, size, size)
    )
    rng = np.random.default_rng(1)
    for i in range(images):
        out[i] = rng.standard_normal(out.shape[1:], np.float32)
    out.flush()
    return subject


def _prepare_cifar(subject: Subject, data: Path, images: int) -> None:
    from graphopt.data import load_preprocess, open_data
    from graphopt.model import Model
    from graphopt.passes.fold_batchnorm import FoldBatchNorm
    from graphopt.passes.raise_opset import RaiseOpset
    from graphopt.passes.simplify import Simplify

    model = Model.load(data / "models/resnet56_cifar10.onnx")
    for step in (RaiseOpset(13), Simplify(), FoldBatchNorm()):
        model = step(model).model
    model.save(subject.model)
    opened = open_data(
        str(data / "cifar10/calib"), model.inputs(), preprocess=load_preprocess("cifar")
    )
    (name,) = model.inputs()
    found = np.concatenate([feeds[name] for feeds in opened.batches(64)])
    # More are asked for than there are: they come round again, and cost the same.
    np.save(subject.samples, np.resize(found, (images, *found.shape[1:])))


def variants(arguments: argparse.Namespace, case: Case) -> list[str]:
    """Return the names of what is measured, bare inference first."""
    from graphopt.calibrators import CALIBRATORS

    names = [BARE]
    names += [f"graphopt {name}" for name in CALIBRATORS.names()]
    names += ["graphopt all", "graphopt extremes"]
    names += [f"graphopt {n} every tensor" for n in ("entropy", "minmax")]
    names += ["graphopt entropy every value", *ORT]
    if arguments.slow:
        names.append("onnxruntime Entropy 2048 bins")
    if arguments.modelopt and case.images <= arguments.modelopt_images:
        names += MODELOPT
    if arguments.only:
        names = [n for n in names if n == BARE or any(part in n for part in arguments.only)]
    return names


def too_large(variant: str, case: Case) -> str | None:
    """Say why a variant cannot run here, or None."""
    if variant not in KEEPERS:
        return None
    needed = 2.2 * case.images * case.subject.facts[2]
    free = available_bytes()
    if needed < free:
        return None
    return f"keeps every activation: about {needed / 1e9:.0f} GB of {free / 1e9:.0f} GB free"


def available_bytes() -> float:
    """Return the memory that is free to use; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next(float(li.split()[1]) * 1024 for li in lines if li.startswith("MemAvailable"))


def run(variant: str, case: Case, modelopt: str | None) -> dict[str, Any]:
    """Measure one variant in a fresh interpreter; ``failed`` says in a line why there is none."""
    reason = too_large(variant, case)
    if reason is not None:
        return {"failed": reason}
    python = modelopt if variant in MODELOPT else sys.executable
    command = [python, HERE / "calibration_variants.py", variant]
    command += [case.subject.model, case.subject.samples, "--input", case.subject.facts[0]]
    command += ["--images", case.images, "--batch", case.batch]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        told = done.stderr.strip().splitlines()
        return {"failed": told[-1][:200] if told else f"exit status {done.returncode}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


class State:
    """The runs so far, a line of JSON each, in a file that outlives an interruption."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self._rows[row["key"]] = row["run"]

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was measured under this key."""
        return self._rows.get(key)

    def put(self, key: str, row: dict[str, Any]) -> None:
        """Keep it."""
        self._rows[key] = row
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "run": row}) + "\n")


def measure(
    cases: Sequence[Case], arguments: argparse.Namespace
) -> Iterator[tuple[Case, dict[str, list[dict[str, Any]]]]]:
    """Yield each case with the rows of its variants, round after round."""
    state = State(arguments.state)
    for case in cases:
        names = variants(arguments, case)
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(arguments.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                key = f"{case.title}, round {number + 1}: {name}"
                row = state.get(key)
                if row is None:
                    row = run(name, case, arguments.modelopt)
                    state.put(key, row)
                rows[name].append(row)
                told = row.get("failed") or f"{row['wall_s']:.2f} s, {row['peak_mb']:.0f} MB"
                print(f"{key}: {told}", file=sys.stderr)
        yield case, rows


def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return medians over the rounds, and of the ratios to bare inference of the same round."""
    found: dict[str, dict[str, Any]] = {}
    for variant, runs in rows.items():
        failed = next((row["failed"] for row in [*runs, *rows[BARE]] if "failed" in row), None)
        if failed is not None:
            found[variant] = {"failed": failed}
            continue
        pairs = list(zip(runs, rows[BARE], strict=True))
        walls = [row["wall_s"] for row in runs]
        found[variant] = {
            "wall_s": statistics.median(walls),
            "wall_min_s": min(walls),
            "wall_max_s": max(walls),
            "cpu_s": statistics.median(row["cpu_s"] for row in runs),
            "peak_mb": statistics.median(row["peak_mb"] for row in runs),
            "tensors": runs[0]["tensors"],
            "to_inference": statistics.median(a["wall_s"] / b["wall_s"] for a, b in pairs),
            "cpu_to_inference": statistics.median(a["cpu_s"] / b["cpu_s"] for a, b in pairs),
            "mb_over_inference": statistics.median(a["peak_mb"] - b["peak_mb"] for a, b in pairs),
        }
    return found


def table(title: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """Return one case as Markdown."""
    lines = [
        f"## {title}",
        "",
        "| | tensors | wall s (min to max) | CPU s | peak MB | wall / inference "
        "| CPU / inference | MB over inference | ORT Entropy / this |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    reference = found.get(ENTROPY, {}).get("wall_s")
    for variant, row in found.items():
        if "failed" in row:
            lines.append(f"| {variant} | – | not run: {row['failed']} | | | | | | |")
            continue
        times = "–" if reference is None else f"{reference / row['wall_s']:.1f}x"
        lines.append(
            f"| {variant} | {row['tensors'] or '–'} "
            f"| {row['wall_s']:.2f} ({row['wall_min_s']:.2f} to {row['wall_max_s']:.2f}) "
            f"| {row['cpu_s']:.2f} | {row['peak_mb']:.0f} | {row['to_inference']:.2f} "
            f"| {row['cpu_to_inference']:.2f} | {row['mb_over_inference']:+.0f} | {times} |"
        )
    return [*lines, ""]


def markdown(report: dict[str, Any]) -> str:
    """Return the page."""
    setup = report["setup"]
    lines = [
        "# Calibration: time and memory",
        "",
        f"Medians of {setup['rounds']} interleaved rounds, each variant in a process of its own. "
        "Wall and CPU time from after the imports until the ranges are known; peak memory of the "
        "whole process. Made by:",
        "",
        "```",
        setup["command"],
        "```",
        "",
    ]
    for title, case in report["cases"].items():
        lines += table(title, case["summary"])
    shown = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
    lines += [
        f"{setup['cpu']}, {setup['cores']} cores; {shown}. Raw values: the JSON beside this file.",
        "",
        "- Inference is onnxruntime with its defaults: all optimizations, all cores.",
        "- `graphopt NAME` covers the tensors that a Q/DQ dialect needs, which is what `graphopt "
        "build` collects; `every tensor` those that onnxruntime's calibrators cover. `extremes` "
        "counts no values, `every value` counts all instead of a fixed sample of positions, and "
        "`all` lets every calibrator choose from one pass.",
        "- onnxruntime's calibrators run as `quantize_static` calls them. Its Entropy has 128 bins "
        "for 128 levels, one candidate, so that its ranges are those of MinMax; `--slow` adds it "
        "with 2048 bins. Its histogram methods keep every activation.",
        "- ModelOpt has no calibration by itself: its rows are its quantization as a whole.",
        "",
    ]
    return "\n".join(lines)


def cpu_model() -> str:
    """Return what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(modelopt: str | None) -> dict[str, str]:
    """Return the versions of everything measured."""
    from importlib.metadata import version

    names = ["graphopt", "onnxruntime", "onnx", "onnx-graphsurgeon", "numpy"]
    found = {"python": platform.python_version(), **{name: version(name) for name in names}}
    if modelopt:
        code = "from importlib.metadata import version as v; print(v('nvidia-modelopt'))"
        done = subprocess.run([modelopt, "-c", code], capture_output=True, text=True, check=True)
        found["nvidia-modelopt"] = done.stdout.strip()
    return found


def arguments_of() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = lambda text: text.split(",")  # noqa: E731
    numbers = lambda text: [int(n) for n in text.split(",")]  # noqa: E731
    parser.add_argument("--models", type=words, help="resnet18,resnet50,resnet56; all by default")
    parser.add_argument("--data", type=Path, help="where ResNet-56 and its images are")
    parser.add_argument("--images", type=numbers, default=[64])
    parser.add_argument("--batch", type=words, default=["1", "best"], help="numbers, or best")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=words, help="variants that have one of these in their name")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--slow", action="store_true", help="add onnxruntime Entropy, 2048 bins")
    parser.add_argument("--modelopt", metavar="PYTHON", help="an interpreter that has ModelOpt")
    parser.add_argument("--modelopt-images", type=int, default=64, help="run it up to so many")
    parser.add_argument("--state", type=Path, help="keep each run here, and go on from there")
    parser.add_argument("--output", type=Path, help="Markdown file to write, and .json beside it")
    arguments = parser.parse_args()
    if arguments.models is None:
        arguments.models = [*SHAPES, *([CIFAR] if arguments.data else [])]
    if CIFAR in arguments.models and arguments.data is None:
        parser.error(f"{CIFAR} needs --data")
    if set(arguments.models) - {*SHAPES, CIFAR}:
        parser.error(f"--models are {', '.join((*SHAPES, CIFAR))}")
    if arguments.rounds < 1 or min(arguments.images) < 1:
        parser.error("--rounds and --images are at least 1")
    return arguments


def main() -> None:
    """Measure and publish."""
    arguments = arguments_of()
    cases: list[Case] = []
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-calibration-") as folder:
        for name in arguments.models:
            most = max(arguments.images)
            subject = prepare(name, Path(folder), arguments.data, most, arguments.size)
            chosen = [subject.facts[1] if b == "best" else int(b) for b in arguments.batch]
            for images in arguments.images:
                # Whole batches: onnxruntime's calibrators fail on a ragged last one.
                fitting = [max(d for d in range(1, b + 1) if images % d == 0) for b in chosen]
                cases += [Case(subject, images, b) for b in dict.fromkeys(fitting)]
        for case, rows in measure(cases, arguments):
            report[case.title] = {"summary": summary(rows), "runs": rows}
    from graphopt.machine import cpu_count

    setup = {
        "command": shlex.join(["python", "tools/bench_calibration.py", *sys.argv[1:]]),
        "rounds": arguments.rounds,
        "cpu": cpu_model(),
        "cores": cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),
        "versions": versions(arguments.modelopt),
    }
    whole = {"setup": setup, "cases": report}
    publish(markdown(whole), whole, arguments.output)


if __name__ == "__main__":
    main()
