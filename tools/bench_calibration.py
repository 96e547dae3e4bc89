"""Time and memory of calibration: graphopt, onnxruntime.quantization, and bare inference.

A ResNet-18 shape with random weights is calibrated on random images. Every variant of every round
runs in a process of its own, round-robin, so that slow drifts of the machine meet all variants
alike and a peak of memory belongs to one variant alone. The clock starts after the imports and
stops when the ranges are known: opening the session is inside.

    python tools/bench_calibration.py --rounds 5 --output docs/benchmarks/calibration.md
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from pages import publish

ENTROPY = "onnxruntime Entropy"
BARE = "inference, optimized"


def batches(path: Path, size: int) -> Iterator[dict[str, Any]]:
    import numpy as np

    images = np.load(path, mmap_mode="r")
    for start in range(0, len(images), size):
        yield {"input": np.ascontiguousarray(images[start : start + size])}


Work: TypeAlias = Callable[[Path, Path, int], int]

# Each variant imports what it needs, then returns the function to time, which returns the number
# of tensors it found the ranges of.


def bare_inference() -> Work:
    import onnxruntime as ort

    def work(model: Path, images: Path, batch: int) -> int:
        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        for feeds in batches(images, batch):
            session.run(None, feeds)
        return 0

    return work


def graphopt(method: str, *, only_needed: bool = False) -> Work:
    from graphopt.calibrators import CALIBRATORS
    from graphopt.calibrators.choose import calibrate
    from graphopt.calibrators.collect import collect
    from graphopt.dialects import DIALECTS
    from graphopt.model import Model

    rule = CALIBRATORS.load(method)()
    dialects = [DIALECTS.load(name)() for name in DIALECTS.names()] if only_needed else []

    def work(path: Path, images: Path, batch: int) -> int:
        model = Model.load(path)
        if only_needed:
            wanted = {n for dialect in dialects for n in dialect.wanted(model, frozenset())}
        else:
            wanted = {t.name for t in model.graph.inputs}
            wanted |= {t.name for node in model.graph.nodes for t in node.outputs}
        collected = collect(model, batches(images, batch), sorted(wanted))
        return len(calibrate(collected, rule, method=method, model_digest="").ranges)

    return work


def onnxruntime(method: str, **options: Any) -> Work:
    from onnxruntime.quantization.calibrate import (
        CalibrationDataReader,
        CalibrationMethod,
        create_calibrator,
    )
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, stream: Iterator[dict[str, Any]]) -> None:
            self.stream = stream

        def get_next(self) -> dict[str, Any] | None:
            return next(self.stream, None)

    def work(model: Path, images: Path, batch: int) -> int:
        with tempfile.TemporaryDirectory() as scratch:
            # What quantize_static passes by default.
            calibrator = create_calibrator(
                model,
                list({*QLinearOpsRegistry, *QDQRegistry}),
                augmented_model_path=str(Path(scratch) / "augmented.onnx"),
                calibrate_method=CalibrationMethod[method],
                extra_options=options,
            )
            calibrator.collect_data(Reader(batches(images, batch)))
            return len(calibrator.compute_data().keys())

    return work


VARIANTS: dict[str, Callable[[], Work]] = {
    BARE: bare_inference,
    "graphopt entropy": lambda: graphopt("entropy"),
    "graphopt minmax": lambda: graphopt("minmax"),
    "graphopt percentile": lambda: graphopt("percentile"),
    "graphopt entropy, the tensors Q/DQ needs": lambda: graphopt("entropy", only_needed=True),
    "onnxruntime MinMax": lambda: onnxruntime("MinMax"),
    ENTROPY: lambda: onnxruntime("Entropy"),
    "onnxruntime Percentile": lambda: onnxruntime("Percentile"),
}
# Its default of 128 bins leaves the search one candidate, so that "Entropy" is MinMax.
SLOW: dict[str, Callable[[], Work]] = {
    "onnxruntime Entropy, 2048 bins": lambda: onnxruntime("Entropy", num_bins=2048),
}


def peak_mb() -> float:
    """Return the peak resident memory of this process, in MB (10**6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # Unlike ru_maxrss it does not begin with the parent's, from before exec.
        line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def child(variant: str, folder: Path, batch: int) -> None:
    """Run one variant and print its figures as one line of JSON."""
    work = {**VARIANTS, **SLOW}[variant]()
    wall, cpu = time.perf_counter(), time.process_time()
    tensors = work(folder / "model.onnx", folder / "images.npy", batch)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak_mb": peak_mb(), "tensors": tensors}))


def prepare(folder: Path, images: int, size: int) -> None:
    """Write the model, shapes inferred as onnxruntime.quantization wants, and the images."""
    import numpy as np
    import onnx
    from shapes import resnet18

    onnx.save(onnx.shape_inference.infer_shapes(resnet18(0, size)), folder / "model.onnx")
    data = np.random.default_rng(1).standard_normal((images, 3, size, size), np.float32)
    np.save(folder / "images.npy", data)


def spawn(*arguments: str) -> str:
    """Run this script in a fresh interpreter and return what it prints last."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else ""


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ["graphopt", "onnxruntime", "onnx", "onnx-graphsurgeon", "numpy"]
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return medians over the rounds, and ratios to bare inference of the same rounds."""
    found = {}
    for variant, rows in runs.items():
        bare = [row["wall_s"] for row in runs[BARE]]
        walls = [row["wall_s"] for row in rows]
        found[variant] = {
            "wall_s": statistics.median(walls),
            "wall_min_s": min(walls),
            "wall_max_s": max(walls),
            "cpu_s": statistics.median(row["cpu_s"] for row in rows),
            "peak_mb": statistics.median(row["peak_mb"] for row in rows),
            "tensors": rows[0]["tensors"],
            "to_inference": statistics.median(w / b for w, b in zip(walls, bare, strict=True)),
        }
    return found


def markdown(report: dict[str, Any]) -> str:
    setup, found = report["setup"], report["summary"]
    reference = found[ENTROPY]
    lines = [
        "# Calibration: time and memory",
        "",
        f"ResNet-18 shape, {setup['images']} images of {setup['size']} x {setup['size']}, batch "
        f"{setup['batch']}; medians of {setup['rounds']} interleaved rounds, each variant in a "
        "process of its own. Wall and CPU time from after the imports until the ranges are known; "
        "peak memory of the whole process. Made by:",
        "",
        "```",
        setup["command"],
        "```",
        "",
        "| | tensors | wall s (min to max) | CPU s | peak MB | wall / bare inference "
        "| ORT Entropy / this: wall | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, row in found.items():
        lines.append(
            f"| {variant} | {row['tensors'] or '–'} "
            f"| {row['wall_s']:.2f} ({row['wall_min_s']:.2f} to {row['wall_max_s']:.2f}) "
            f"| {row['cpu_s']:.2f} | {row['peak_mb']:.0f} | {row['to_inference']:.2f} "
            f"| {reference['wall_s'] / row['wall_s']:.1f}x "
            f"| {reference['peak_mb'] / row['peak_mb']:.1f}x |"
        )
    shown = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
    lines += [
        "",
        f"{setup['cpu']}, {setup['cores']} cores; {shown}. Raw values: the JSON beside this file.",
        "",
        "- Bare inference is onnxruntime with its defaults: all optimizations, all cores.",
        "- onnxruntime's calibrators run as `quantize_static` calls them. Its Entropy has 128 bins "
        "for 128 levels, one candidate, so that its ranges are those of MinMax; `--slow` adds it "
        "with 2048 bins.",
        "- graphopt's first three rows cover the tensors that onnxruntime's do; the fourth only "
        "those that a Q/DQ dialect needs, which is what `graphopt build` collects.",
        "",
    ]
    return "\n".join(lines)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the rounds and return everything there is to say."""
    names = [*VARIANTS, *(SLOW if arguments.slow else [])]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="bench-calibration-") as folder:
        # In a child too: this process stays small, and no variant profits from warm imports.
        spawn("--prepare", folder, "--images", str(arguments.images), "--size", str(arguments.size))
        for number in range(arguments.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                line = spawn("--child", name, "--folder", folder, "--batch", str(arguments.batch))
                runs[name].append(json.loads(line))
                row = runs[name][-1]
                print(
                    f"round {number + 1}: {name}: {row['wall_s']:.2f} s, {row['peak_mb']:.0f} MB",
                    file=sys.stderr,
                )
    from graphopt.machine import cpu_count

    cores = cpu_count()
    setup = {
        "command": shlex.join(["python", "tools/bench_calibration.py", *sys.argv[1:]]),
        "images": arguments.images,
        "size": arguments.size,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "cpu": cpu_model(),
        "cores": cores,
        "versions": versions(),
    }
    return {"setup": setup, "summary": summary(runs), "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--slow", action="store_true", help="add onnxruntime Entropy, 2048 bins")
    parser.add_argument("--output", type=Path, help="Markdown file to write, and .json beside it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.images < 1 or arguments.batch < 1:
        parser.error("--rounds, --images and --batch are at least 1")
    if arguments.images % arguments.batch:
        parser.error("--images is a multiple of --batch: onnxruntime's fail on a ragged last one")
    if arguments.prepare:
        prepare(arguments.prepare, arguments.images, arguments.size)
    elif arguments.child:
        child(arguments.child, arguments.folder, arguments.batch)
    else:
        report = measure(arguments)
        publish(markdown(report), report, arguments.output)


if __name__ == "__main__":
    main()
