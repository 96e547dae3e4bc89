"""INT8 on ONNX Runtime's CPU provider: both Q/DQ dialects against fp32, interleaved.

Each shape is calibrated (minmax, random images) and quantized in both dialects. Every round times
all variants forwards and then backwards (A B C C B A), takes each variant's median, and the ratio
is the median over rounds of fp32 / int8, with a bootstrap interval. What is compared runs within
the same second, so a machine that speeds up or slows down does so for all.

    python tools/bench_int8_cpu.py --rounds 20 --output docs/benchmarks/int8_cpu.md
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from pages import publish
from shapes import resnet18

from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import collect
from graphopt.calibrators.minmax import MinMax
from graphopt.coverage import FLOAT_CONVOLUTIONS, INTEGER_OPS, count, optimized_ops
from graphopt.dialects import DIALECTS
from graphopt.dialects.onnxruntime import OnnxRuntime
from graphopt.machine import cpu_count
from graphopt.model import Feeds, Model
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.profiles import host
from graphopt.runtime import open_session

CALIBRATION_BATCHES = 4
BOOTSTRAPS = 4000


def resnet_cifar(depth: int = 56, seed: int = 0) -> onnx.ModelProto:
    """Return a CIFAR ResNet (He et al. 2016, section 4.2) with random weights, BatchNorm folded.

    ``input`` float32 [N, 3, 32, 32] -> ``logits`` [N, 10]; shortcuts are 1x1 convolutions.
    """
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(x: str, name: str, cin: int, cout: int, kernel: int, stride: int, gain: float) -> str:
        std = gain * (2 / (cin * kernel * kernel)) ** 0.5
        shape = (cout, cin, kernel, kernel)
        for part, value in (("w", rng.normal(0, std, shape)), ("b", rng.normal(0, 0.1, cout))):
            weights.append(numpy_helper.from_array(value.astype(np.float32), f"{name}_{part}"))
        nodes.append(
            helper.make_node(
                "Conv",
                [x, f"{name}_w", f"{name}_b"],
                [f"{name}_out"],
                name=name,
                strides=[stride] * 2,
                pads=[kernel // 2] * 4,
            )
        )
        return f"{name}_out"

    def node(op: str, inputs: list[str], name: str) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name))
        return f"{name}_out"

    x = node("Relu", [conv("input", "stem", 3, 16, 3, 1, 1.0)], "stem_relu")
    cin = 16
    for stage, cout in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            name = f"s{stage}b{block}"
            stride = 2 if stage and not block else 1
            y = node("Relu", [conv(x, f"{name}c1", cin, cout, 3, stride, 1.0)], f"{name}r1")
            y = conv(y, f"{name}c2", cout, cout, 3, 1, 0.5)
            if cin != cout:
                x = conv(x, f"{name}c3", cin, cout, 1, stride, 0.7)
            x = node("Relu", [node("Add", [y, x], f"{name}a")], f"{name}r2")
            cin = cout
    x = node("Flatten", [node("GlobalAveragePool", [x], "pool")], "flatten")
    fc = rng.normal(0, 0.1, (10, 64)).astype(np.float32)
    weights.append(numpy_helper.from_array(fc, "fc_w"))
    nodes.append(helper.make_node("Gemm", [x, "fc_w"], ["logits"], name="fc", transB=1))
    graph = helper.make_graph(
        nodes,
        f"resnet{depth}",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


SHAPES: dict[str, tuple[Callable[[], onnx.ModelProto], int]] = {
    "ResNet-18, 224 x 224": (resnet18, 224),
    "ResNet-56 (CIFAR), 32 x 32": (resnet_cifar, 32),
}


def images(size: int, count: int, batch: int) -> Iterator[Feeds]:
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield {"input": rng.normal(size=(batch, 3, size, size)).astype(np.float32)}


def variants(model: Model, size: int) -> dict[str, Model]:
    """Return the float model and what each dialect makes of it."""
    dialects = {name: DIALECTS.load(name)() for name in DIALECTS.names()}
    wanted: dict[str, None] = {}
    for dialect in dialects.values():
        wanted |= dict.fromkeys(dialect.wanted(model, frozenset()))
    collected = collect(model, images(size, CALIBRATION_BATCHES, 1), list(wanted))
    table = calibrate(collected, MinMax(), method="minmax", model_digest=model.digest())
    made = {"fp32": model}
    for name in ("onnxruntime", "tensorrt"):
        made[f"int8, {name} dialect"] = InsertQDQ(name, table)(model).model
    return made


def timed(session: Any, feeds: Feeds, runs: int) -> list[float]:
    """Return the milliseconds of each run; one more run comes first and is not counted."""
    session.run(None, feeds)
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feeds)
        found.append((time.perf_counter() - start) * 1000)
    return found


def interleave(
    models: dict[str, Model], feeds: Feeds, rounds: int, runs: int, threads: int
) -> dict[str, list[list[float]]]:
    """Return variant -> round -> samples in ms."""
    samples: dict[str, list[list[float]]] = {name: [] for name in models}
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(open_session(model, threads=threads))
            for name, model in models.items()
        }
        for session in sessions.values():
            timed(session, feeds, runs)  # warm-up
        for _ in range(rounds):
            order = list(sessions)
            found: dict[str, list[float]] = {name: [] for name in order}
            for name in order + order[::-1]:
                found[name] += timed(sessions[name], feeds, runs)
            for name in order:
                samples[name].append(found[name])
    return samples


def speedup(base: list[list[float]], other: list[list[float]]) -> tuple[float, float, float]:
    """Return the median over rounds of base / other, and its 95 % bootstrap interval."""
    logs = np.log([np.median(a) / np.median(b) for a, b in zip(base, other, strict=True)])
    rng = np.random.default_rng(0)
    draws = np.median(rng.choice(logs, (BOOTSTRAPS, len(logs))), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(np.exp(np.median(logs))), float(np.exp(low)), float(np.exp(high))


def sqnr(models: dict[str, Model], size: int) -> dict[str, float]:
    """Return variant -> signal to quantization noise of the logits against fp32, in dB."""
    outputs: dict[str, np.ndarray] = {}
    for name, model in models.items():
        with open_session(model) as session:
            found = [session.run(None, dict(f))[0] for f in images(size, 8, 1)]
        outputs[name] = np.concatenate(found).astype(np.float64)
    signal = np.square(outputs["fp32"]).sum()
    return {
        name: float(10 * np.log10(signal / np.square(value - outputs["fp32"]).sum()))
        for name, value in outputs.items()
        if name != "fp32"
    }


def measure_shape(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    build, size = SHAPES[name]
    models = variants(Model.from_onnx(build()), size)
    feeds = next(images(size, 1, arguments.batch))
    samples = interleave(models, feeds, arguments.rounds, arguments.runs, arguments.threads)
    noise = sqnr(models, size)
    rows: dict[str, Any] = {}
    for variant, model in models.items():
        ratio, low, high = speedup(samples["fp32"], samples[variant])
        rows[variant] = {
            "median_ms": float(np.median(np.concatenate(samples[variant]))),
            "speedup": ratio,
            "speedup_95": [low, high],
            "sqnr_db": noise.get(variant),
            "operators": optimized_ops(model),
            "samples_ms": samples[variant],
        }
    return rows


def markdown(report: dict[str, Any]) -> str:
    setup = report["setup"]
    lines = [
        "# INT8 on ONNX Runtime's CPU provider",
        "",
        f"Batch {setup['batch']}, {setup['threads']} threads, {setup['rounds']} rounds of "
        f"2 x {setup['runs']} runs each, variants interleaved (A B C C B A). Speed-up: median over "
        "rounds of fp32 / int8, 95 % bootstrap interval. Random weights and images. Made by:",
        "",
        "```",
        setup["command"],
        "```",
    ]
    for shape, rows in report["shapes"].items():
        lines += [
            "",
            f"## {shape}",
            "",
            "| | median ms | speed-up (95 %) | SQNR dB | integer kernels | float Conv | Q and DQ |",
            "|---|---|---|---|---|---|---|",
        ]
        for variant, row in rows.items():
            ops = row["operators"]
            low, high = row["speedup_95"]
            ratio = "1" if variant == "fp32" else f"{row['speedup']:.2f} ({low:.2f} to {high:.2f})"
            noise = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
            integers, floats = count(ops, INTEGER_OPS), count(ops, FLOAT_CONVOLUTIONS)
            pairs = ops.get("QuantizeLinear", 0) + ops.get("DequantizeLinear", 0)
            lines.append(
                f"| {variant} | {row['median_ms']:.2f} | {ratio} | {noise} "
                f"| {integers} | {floats} | {pairs} |"
            )
        lines += ["", "Operators that run after ONNX Runtime's own optimizations:", ""]
        for variant, row in rows.items():
            shown = ", ".join(f"{n} {op}" for op, n in row["operators"].items())
            lines.append(f"- {variant}: {shown}")
    versions = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
    lines += [
        "",
        f"{setup['cpu']}, {setup['cores']} cores, int8 instructions: "
        f"{', '.join(setup['int8_flags']) or 'none'}; weights of {setup['weight_bits']} bits; "
        f"{versions}. Raw samples: the JSON beside this file.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=10, help="runs a visit, two visits a round")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--output", type=Path, help="Markdown file to write, and .json beside it")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.runs, arguments.batch, arguments.threads) < 1:
        parser.error("--rounds, --runs, --batch and --threads are at least 1")
    cpu = host.cpu()
    setup = {
        "command": shlex.join(["python", "tools/bench_int8_cpu.py", *sys.argv[1:]]),
        "rounds": arguments.rounds,
        "runs": arguments.runs,
        "batch": arguments.batch,
        "threads": arguments.threads,
        "cpu": cpu.model,
        "cores": cpu.cores,
        "int8_flags": cpu.int8_flags,
        "weight_bits": 8 if OnnxRuntime().levels > 64 else 7,
        "versions": {
            "Python": platform.python_version(),
            "onnxruntime": ort.__version__,
            "onnx": onnx.__version__,
            "numpy": np.__version__,
        },
    }
    shapes = {}
    for name in SHAPES:
        print(f"{name} ...", file=sys.stderr)
        shapes[name] = measure_shape(name, arguments)
    report = {"setup": setup, "shapes": shapes}
    publish(markdown(report), report, arguments.output)


if __name__ == "__main__":
    main()
