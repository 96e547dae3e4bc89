"""INT8 on ONNX Runtime's CPU provider: graphopt, pruned too, beside other quantizers, interleaved.

Everyone calibrates on the same samples, by their least and greatest values. Every round times all
variants forwards and then backwards (A B C C B A) and takes each variant's median; a ratio is the
median over rounds of one variant's time over another's, with a bootstrap interval. What is compared
runs within the same seconds, so a machine that speeds up or slows down does so for all.

    python tools/bench_int8_cpu.py --data DIR --onnxsim PYTHON --output docs/benchmarks/int8_cpu.md

ResNet-18 and ResNet-50 shapes have random weights. With --data DIR, which holds
models/resnet56_cifar10.onnx, models/face_rfb320.onnx, cifar10/calib and faces, these run too.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from int8_variants import Feeds, Variants
from pages import publish
from shapes import resnet18, resnet50

from graphopt.coverage import FLOAT_COMPUTE, INTEGER_OPS, count, optimized_ops
from graphopt.data import load_preprocess, open_data
from graphopt.dialects.onnxruntime import OnnxRuntime
from graphopt.files import write_text
from graphopt.machine import cpu_count
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.profiles import host
from graphopt.report import versions
from graphopt.runtime import open_session

SAMPLES = 8
BOOTSTRAPS = 4000
OURS, HALF = "graphopt INT8", "graphopt pruned 50 %, INT8"
FACES = 'size = [240, 320]\ncolor = "rgb"\nscale = 1\nmean = 127\nstd = 128\n'
REAL = {"ResNet-56, CIFAR-10": "resnet56_cifar10", "RFB face detector": "face_rfb320"}
MOVED = ("QuantizeLinear", "DequantizeLinear", "Transpose")


def random_samples(model: Model) -> list[Feeds]:
    rng = np.random.default_rng(1)
    ((name, (_, shape)),) = model.inputs().items()
    return [{name: rng.normal(size=(1, *shape[1:])).astype(np.float32)} for _ in range(SAMPLES)]


def real_samples(name: str, model: Model, root: Path, scratch: Path) -> list[Feeds]:
    spec, preprocess = root / "cifar10/calib", "cifar"
    if name.startswith("face"):
        file = scratch / "faces.toml"
        write_text(file, FACES)
        spec, preprocess = root / "faces", str(file)
    found = open_data(
        str(spec), model.inputs(), preprocess=load_preprocess(preprocess), limit=SAMPLES
    )
    return [dict(feeds) for feeds in found.batches(1)]


def cases(arguments: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, Model, list[Feeds]]]:
    """Yield title, float model and samples."""
    for title, build in (("ResNet-18, 224 x 224", resnet18), ("ResNet-50, 224 x 224", resnet50)):
        model = Model.from_onnx(build())
        yield title, model, random_samples(model)
    for title, name in REAL.items() if arguments.data else ():
        model = Model.load(arguments.data / f"models/{name}.onnx")
        if model.opset < 13:
            model = RaiseOpset(13)(model).model
        model = FoldBatchNorm()(Simplify()(model).model).model
        yield title, model, real_samples(name, model, arguments.data, scratch)


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


def ratio(base: list[list[float]], other: list[list[float]]) -> list[float]:
    """Return the median over rounds of base / other, and its 95 % bootstrap interval."""
    logs = np.log([np.median(a) / np.median(b) for a, b in zip(base, other, strict=True)])
    rng = np.random.default_rng(0)
    draws = np.median(rng.choice(logs, (BOOTSTRAPS, len(logs))), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return [float(np.exp(value)) for value in (np.median(logs), low, high)]


def noise(models: dict[str, Model], samples: list[Feeds]) -> dict[str, float]:
    """Return variant -> signal to noise of all outputs together against fp32, in dB."""
    outputs: dict[str, np.ndarray] = {}
    for name, model in models.items():
        with open_session(model) as session:
            found = [part.ravel() for s in samples for part in session.run(None, s)]
        outputs[name] = np.concatenate(found).astype(np.float64)
    true = outputs.pop("fp32")
    return {
        name: float(10 * np.log10(np.square(true).sum() / max(np.square(v - true).sum(), 1e-30)))
        for name, v in outputs.items()
    }


def measure(
    model: Model, samples: list[Feeds], arguments: argparse.Namespace, scratch: Path
) -> dict[str, Any]:
    """Make, time and judge all variants of one model."""
    maker = Variants(model, samples, scratch, arguments.onnxsim)
    models = dict(maker.all())
    times = interleave(models, samples[0], arguments.rounds, arguments.runs, arguments.threads)
    sqnr = noise(models, samples)
    peers = [name for name in models if name.startswith(("ORT", "onnxsim"))]
    best = min(peers, key=lambda name: float(np.median(np.concatenate(times[name]))), default=None)
    rows = {
        name: {
            "median_ms": float(np.median(np.concatenate(times[name]))),
            "speedup": ratio(times["fp32"], times[name]),
            "sqnr_db": sqnr.get(name),
            "operators": optimized_ops(made, threads=arguments.threads),
            "samples_ms": times[name],
        }
        for name, made in models.items()
    }
    against = None if best is None else {"peer": best, "ratio": ratio(times[best], times[OURS])}
    return {"variants": rows, "failed": maker.failed, "best_peer": against}


def interval(values: list[float]) -> str:
    return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"


def table(found: dict[str, Any]) -> list[str]:
    """Return the section of one model."""
    lines = [
        "| | median ms | times fp32 (95 %) | SQNR dB | integer kernels | float kernels "
        "| Q, DQ, Transpose |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["variants"].items():
        ops = row["operators"]
        speed = "1" if name == "fp32" else interval(row["speedup"])
        sqnr = "" if row["sqnr_db"] is None or "pruned" in name else f"{row['sqnr_db']:.1f}"
        lines.append(
            f"| {name} | {row['median_ms']:.2f} | {speed} | {sqnr} | {count(ops, INTEGER_OPS)} "
            f"| {count(ops, FLOAT_COMPUTE)} | {', '.join(str(ops.get(op, 0)) for op in MOVED)} |"
        )
    for name, why in found["failed"].items():
        lines.append(f"| {name} | | | | | | {why} |")
    if found["best_peer"] is not None:
        best = found["best_peer"]
        lines += ["", f"graphopt INT8 beside the fastest of the others ({best['peer']}): "]
        lines[-1] += f"{interval(best['ratio'])} times as fast."
    lines += ["", "What runs after ONNX Runtime's own optimizations:", ""]
    for name in [n for n in found["variants"] if n in (OURS, HALF) or n.startswith("ORT U8S8")]:
        ops = found["variants"][name]["operators"]
        lines.append(f"- {name}: " + ", ".join(f"{n} {op}" for op, n in ops.items()))
    return lines


def markdown(report: dict[str, Any]) -> str:
    setup = report["setup"]
    lines = [
        "# INT8 on ONNX Runtime's CPU provider",
        "",
        f"Batch 1, {setup['threads']} threads, {setup['rounds']} rounds of 2 x {setup['runs']} "
        "runs each, variants interleaved (A B C C B A). Times fp32: the median over rounds, with "
        "its 95 % bootstrap interval. The ResNet-18 and ResNet-50 shapes have random weights, so "
        "that their SQNR says that the integers are right, and nothing of accuracy. Pruned: "
        "channels by L2 norm, the same share of each layer. ORT: `quantize_static`, QDQ, MinMax, "
        "int8 weights per channel; U8S8 and S8S8: the activations' type and the weights'. Float "
        "kernels are those that multiply and add. Made by:",
        "",
        "```",
        setup["command"],
        "```",
    ]
    for title, found in report["models"].items():
        lines += ["", f"## {title}", "", *table(found)]
    made = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
    lines += [
        "",
        f"{setup['cpu']}, {setup['cores']} cores, int8 instructions: "
        f"{', '.join(setup['int8_flags']) or 'none'}; weights of {setup['weight_bits']} bits; "
        f"{made}. Raw samples: the JSON beside this file.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of real models and images")
    parser.add_argument("--onnxsim", default="", help="an interpreter that has onnxsim")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5, help="runs a visit, two visits a round")
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--output", type=Path, help="Markdown file to write, and .json beside it")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.runs, arguments.threads) < 1:
        parser.error("--rounds, --runs and --threads are at least 1")
    cpu = host.cpu()
    words = ["python", "tools/bench_int8_cpu.py"]
    words += ["--data", "DIR"] if arguments.data else []
    words += ["--onnxsim", "PYTHON"] if arguments.onnxsim else []
    words += ["--rounds", str(arguments.rounds), "--runs", str(arguments.runs)]
    setup = {
        "command": shlex.join(words),
        "rounds": arguments.rounds,
        "runs": arguments.runs,
        "threads": arguments.threads,
        "cpu": cpu.model,
        "cores": cpu.cores,
        "int8_flags": cpu.int8_flags,
        "weight_bits": 8 if OnnxRuntime().levels > 64 else 7,
        "versions": versions(),
    }
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, model, samples in cases(arguments, Path(folder)):
            print(f"{title} ...", file=sys.stderr)
            own = Path(folder) / title.replace(" ", "_").replace(",", "")
            own.mkdir()
            models[title] = measure(model, samples, arguments, own)
    publish(markdown(report := {"setup": setup, "models": models}), report, arguments.output)


if __name__ == "__main__":
    main()
