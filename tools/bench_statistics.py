"""How time and memory of second-order statistics and recovery grow with channels and samples.

    python tools/bench_statistics.py --output docs/benchmarks/statistics.md

Each measurement is a process of its own, so that its peak is its own. It makes one layer with
random weights, disturbs them, and has ``graphopt.recovery.recover`` win them back from random
samples; before that it sums the layer's Gram matrix as the ``obs`` importance does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from pages import publish

from graphopt.machine import cpu_count
from graphopt.model import Feeds, Model
from graphopt.recovery import recover
from graphopt.recovery.least_squares import least_squares, most_memory
from graphopt.recovery.targets import target_of
from graphopt.report import versions
from graphopt.runtime import open_session
from graphopt.statistics import Layer, Statistics, layers
from graphopt.statistics.collect import MOST_ROWS

MEMORY = 64 << 20  # of activations held
BATCH = 32
RUNTIME = 64 << 20  # what ONNX Runtime and the allocators take besides
CHANNELS = (64, 128, 256, 512, 1024, 2048)
SAMPLES = (64, 256, 1024, 4096)


@dataclass(frozen=True)
class Case:
    """One layer and its samples."""

    channels: int
    kernel: int
    outputs: int = 256
    samples: int = 512
    size: int = 4  # height and width


def build(case: Case) -> Model:
    k = case.kernel
    rng = np.random.default_rng(0)
    shape = (case.outputs, case.channels, k, k)
    weight = rng.standard_normal(shape, dtype="f4") / np.float32(np.sqrt(case.channels * k * k))
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "layer", pads=[k // 2] * 4)
    info = helper.make_tensor_value_info
    side = [case.size, case.size]
    graph = helper.make_graph(
        [node],
        "g",
        [info("x", onnx.TensorProto.FLOAT, ["N", case.channels, *side])],
        [info("y", onnx.TensorProto.FLOAT, ["N", case.outputs, *side])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.zeros(case.outputs, "f4"), "b"),
        ],
    )
    opset = helper.make_opsetid("", 17)
    return Model.from_onnx(helper.make_model(graph, opset_imports=[opset], ir_version=8))


def batches(case: Case) -> Iterator[Feeds]:
    """Make samples that lie along few directions, as activations do, and are never negative."""
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((64, case.channels), dtype="f4")
    for start in range(0, case.samples, BATCH):
        count = min(BATCH, case.samples - start)
        few = rng.standard_normal((count, case.size, case.size, 64), dtype="f4")
        x = few @ mix / 8 + rng.standard_normal((*few.shape[:3], case.channels), dtype="f4") / 8
        yield {"x": np.ascontiguousarray(np.maximum(x, 0).transpose(0, 3, 1, 2))}


def bound(case: Case, layer: Layer) -> int:
    """Return the bound of docs/recovery.md, in bytes."""
    positions = BATCH * case.size**2
    activations = 4 * positions * (case.channels + case.outputs)
    weights = 4 * layer.features * layer.outputs
    solver = most_memory(layer.groups, layer.features, layer.outputs)
    return MEMORY + solver + 8 * activations + 6 * weights + RUNTIME


def resident(which: str) -> int:
    """Return VmRSS or VmHWM (its peak) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(which))


def measure(case: Case) -> dict[str, Any]:
    """Measure one case in this process."""
    original = build(case)
    model = original.clone()
    node = model.graph.nodes[0]
    noise = np.random.default_rng(2).standard_normal(node.inputs[1].shape, dtype="f4")
    node.inputs[1].values = node.inputs[1].values + noise * np.abs(node.inputs[1].values).mean() / 2
    del noise
    (layer,) = layers(model)
    with open_session(model) as session:
        session.run(None, dict(next(batches(case))))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    before = resident("VmRSS")
    start = time.perf_counter()
    ((_, gram),) = Statistics(model, lambda: batches(case), memory=MEMORY).grams(["layer"])
    gram_seconds, shape = time.perf_counter() - start, gram.xx.shape
    del gram
    start = time.perf_counter()
    wanted = [target_of(model, layer, {"x", "y"})]
    (solved,) = recover(
        original, model, {}, lambda: batches(case), least_squares, wanted=wanted, memory=MEMORY
    )
    return {
        **asdict(case),
        "rows": min(case.samples * case.size**2, MOST_ROWS),
        "features": layer.features,
        "gram": list(shape),
        "gram_seconds": gram_seconds,
        "recover_seconds": time.perf_counter() - start,
        "peak_bytes": resident("VmHWM") - before,
        "bound_bytes": bound(case, layer),
        "error_before": solved.before,
        "error_after": solved.after,
        "note": solved.note,
    }


def apart(case: Case) -> dict[str, Any]:
    """Measure one case in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--case", json.dumps(asdict(case))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{case}: {found['recover_seconds']:.1f} s", file=sys.stderr)
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| layer | samples | rows | Gram, s | recovery, s | peak, MB | bound, MB | error | how |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        kernel = f"{r['kernel']}x{r['kernel']}"
        by_channel = " (by channel)" if r["gram"][-1] != r["features"] + 1 else ""
        lines.append(
            f"| {r['channels']:,} x {kernel} | {r['samples']:,} | {r['rows']:,} | "
            f"{r['gram_seconds']:.2f}{by_channel} | {r['recover_seconds']:.2f} | "
            f"{r['peak_bytes'] / 1e6:,.0f} | {r['bound_bytes'] / 1e6:,.0f} | "
            f"{r['error_before']:.1e} → {r['error_after']:.1e} | {r['note']} |"
        )
    return lines


def page(channels: list[dict[str, Any]], samples: list[dict[str, Any]], output: str) -> str:
    """Write the tables."""
    case = Case(0, 1)
    return "\n".join(
        [
            "# Second-order statistics: time and memory",
            "",
            f"One convolution, batches of {BATCH} samples, {MEMORY >> 20} MiB for activations, "
            f"{cpu_count()} cores.",
            "",
            "- *Gram*: summing the matrix that the `obs` importance looks at.",
            "- *Recovery*: running the original and the model, and least squares with its",
            "  cross-validation.",
            "- *Peak*: what resident memory grew by, in a process of its own.",
            "- *Bound*: the formula of [recovery.md](../recovery.md).",
            "- *Error*: of the layer's output, squared, over its energy, before and after.",
            "",
            "Made by:",
            "",
            "```",
            f"python tools/bench_statistics.py --output {output}",
            "```",
            "",
            f"## Channels: {case.samples} samples of {case.size} x {case.size} positions, "
            f"{case.outputs} outputs",
            "",
            *table(channels),
            "",
            "## Samples: 8 x 8 positions, 128 outputs",
            "",
            *table(samples),
            "",
            ", ".join(f"{k} {v}" for k, v in versions().items()),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", help="measure this one in this process, as JSON")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(Case(**json.loads(args.case)))))
        return
    channels = [apart(Case(c, k)) for k in (1, 3) for c in CHANNELS]
    samples = [apart(Case(128, 3, outputs=128, samples=n, size=8)) for n in SAMPLES]
    text = page(channels, samples, str(args.output or ""))
    publish(text, {"channels": channels, "samples": samples, "versions": versions()}, args.output)


if __name__ == "__main__":
    main()
