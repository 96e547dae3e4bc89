"""Quantize ViT-Small for TensorRT, run it, build it; write a page.

Weights are random (``tools/vit.py``), images are made up: the SQNR says what placement costs, no
accuracy.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from pages import publish
from vit import TINY, Gelu, Qkv, Shape, vit

from graphopt.calibrators import CALIBRATORS, CalibrationTable
from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import collect
from graphopt.dialects.tensorrt import TensorRT
from graphopt.engines import BuildOptions, ShapeRange
from graphopt.engines.tensorrt_rtx import TensorRTRTX
from graphopt.errors import GraphoptError
from graphopt.graph import Array, sort
from graphopt.model import Feeds, Model
from graphopt.passes.base import Change
from graphopt.profiles import DeviceProfile
from graphopt.report import versions
from graphopt.runtime import open_session

FORMS: list[tuple[int, Qkv, Gelu]] = [(17, "fused", "erf"), (13, "separate", "tanh")]
METHODS = ("minmax", "entropy", "percentile")
HOST = DeviceProfile(name="host", title="a machine without a GPU")


def images(size: int, count: int, seed: int) -> list[Feeds]:
    """Return blocks of eight pixels and noise, so that patches differ as those of pictures do."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 1, 3, size // 8, size // 8))
    fine = rng.normal(size=(count, 1, 3, size, size))
    full = np.repeat(np.repeat(coarse, 8, -2), 8, -1) * 0.7 + fine * 0.5
    return [{"input": image.astype(np.float32)} for image in full]


def logits(model: Model, feeds: list[Feeds], *, optimize: bool) -> Array:
    """Return the logits, one row an image."""
    with open_session(model, optimize=optimize) as session:
        return np.concatenate([session.run(None, dict(feed))[0] for feed in feeds])


def build(model: Model, feed: Feeds) -> str:
    """Return how long TensorRT-RTX took to build the engine, or why it did not."""
    shapes = {name: ShapeRange(*[array.shape] * 3) for name, array in feed.items()}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            TensorRTRTX().build(model, Path(folder) / "m.engine", BuildOptions(HOST, shapes))
        except GraphoptError as problem:
            return str(problem)
        return f"{time.perf_counter() - started:.1f} s"


def measure(
    model: Model, table: CalibrationTable, feeds: list[Feeds], *, attention: bool
) -> dict[str, Any]:
    """Quantize one model one way and compare it with float."""
    made = model.clone()
    started = time.perf_counter()
    outcome = list(TensorRT(attention=attention).insert(made, table, frozenset(), {}))
    seconds = time.perf_counter() - started
    sort(made.graph)
    onnx.checker.check_model(made.to_onnx(), full_check=True)
    before, after = (
        logits(m, feeds, optimize=o).astype(np.float64) for m, o in ((model, True), (made, False))
    )
    changes = [item for item in outcome if isinstance(item, Change)]
    return {
        "attention": attention,
        "quantized": len(changes),
        "float": len(outcome) - len(changes),
        "pairs": sum(node.op == "QuantizeLinear" for node in made.graph.nodes),
        "sqnr_db": float(10 * np.log10(np.square(before).sum() / np.square(before - after).sum())),
        "agree": int((before.argmax(1) == after.argmax(1)).sum()),
        "insert_s": seconds,
        "build": build(made, feeds[0]),
    }


def rows(shape: Shape, count: int) -> list[dict[str, Any]]:
    """Measure every form, calibrator and placement."""
    found = []
    for opset, qkv, gelu in FORMS:
        model = Model.from_onnx(vit(shape, opset=opset, qkv=qkv, gelu=gelu))
        held_out = images(shape.size, count, 2)
        wanted = TensorRT(attention=True).wanted(model, frozenset())
        collected = collect(model, images(shape.size, count, 1), wanted)
        for method in METHODS:
            rule = CALIBRATORS.load(method)()
            table = calibrate(collected, rule, method=method, model_digest=model.digest())
            for attention in (False, True):
                one = measure(model, table, held_out, attention=attention)
                form = f"opset {opset}, {qkv} QKV, GELU by {gelu}"
                found.append({"form": form, "method": method, **one})
    return found


def page(found: list[dict[str, Any]], count: int, output: str) -> str:
    """Write the table."""
    lines = [
        "# ViT-Small in the tensorrt dialect",
        "",
        f"Random weights with outlier channels, calibrated on {count} made-up images, compared on",
        f"{count} others. *Attention*: whether the two products in each attention run in INT8 too",
        "(`TensorRT(attention=True)`). *Same top-1*: of the images. *Build*: TensorRT-RTX, no GPU,",
        "seconds on two cores that did other work as well. Made by:",
        "",
        "```",
        f"python tools/bench_vit.py --images {count} --output {output}",
        "```",
        "",
        "| model | calibrator | attention | quantized | left in float | Q/DQ pairs | SQNR dB "
        "| same top-1 | build |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['form']} | {r['method']} | {'int8' if r['attention'] else 'float'} | "
        f"{r['quantized']} | {r['float']} | {r['pairs']} | {r['sqnr_db']:.1f} | "
        f"{r['agree']} of {count} | {r['build']} |"
        for r in found
    ]
    return "\n".join([*lines, "", ", ".join(f"{k} {v}" for k, v in versions().items()), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--tiny", action="store_true", help="two layers, 64 wide: to try it out")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = rows(TINY if args.tiny else Shape(), args.images)
    publish(page(found, args.images, str(args.output or "")), {"rows": found}, args.output)


if __name__ == "__main__":
    main()
