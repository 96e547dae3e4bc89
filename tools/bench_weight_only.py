"""What weight-only quantization costs and saves: SQNR of the outputs, bytes, seconds.

``python tools/bench_weight_only.py`` measures a small vision transformer (tools/vit.py, random
weights) on made-up images, ``--model M.onnx --data SPEC`` any model on any data, of which the first
half is calibrated on and the second evaluated. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from vit import Shape, vit

from graphopt.model import Feeds, Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.simplify import Simplify
from graphopt.passes.weight_only import WeightOnly
from graphopt.quantization.weight_only import weight_codes
from graphopt.runtime import open_session

SHAPES = {
    "tiny": Shape(size=64, layers=2, width=64, heads=4, classes=10),
    "small": Shape(),
}
FORMS = ((4, 128), (4, 64), (4, 32), (8, None))


def stored(model: Model) -> int:
    """Bytes of the weights in the file: int4 takes half a byte."""
    proto = model.to_onnx()
    return sum(len(t.raw_data) for t in proto.graph.initializer)


def outputs(model: Model, batches: list[Feeds], threads: int) -> np.ndarray:
    with open_session(model, threads=threads) as session:
        made = [[np.ravel(a) for a in session.run(None, dict(b))] for b in batches]
    return np.concatenate([a for parts in made for a in parts]).astype(np.float64)


def sqnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(np.square(a).sum() / max(np.square(a - b).sum(), 1e-30)))


def images(count: int, size: int, seed: int) -> np.ndarray:
    """Smooth random images: neighbours alike, as in photographs."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, 3, size, size))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    smooth = np.fft.irfft2(np.fft.rfft2(noise) / (frequency + 1 / size), s=(size, size))
    return (smooth / smooth.std()).astype("f4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vit", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--model", help="an ONNX file instead")
    parser.add_argument("--data", help="NPY file of the model's only input, for --model")
    parser.add_argument("--samples", type=int, default=32, help="to calibrate on, and to evaluate")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.model:
        model = Model.load(args.model)
        x = np.load(args.data)[: 2 * args.samples]
    else:
        shape = SHAPES[args.vit]
        model = Model.from_onnx(vit(shape))
        x = images(2 * args.samples, shape.size, 0)
    model = FoldBatchNorm()(Simplify()(model).model).model
    name, half = model.graph.inputs[0].name, len(x) // 2
    seen, other = (
        [{name: part[i : i + 8]} for i in range(0, len(part), 8)] for part in (x[:half], x[half:])
    )
    want = outputs(model, other, args.threads)
    title = args.model or f"ViT-{args.vit}, random weights"
    print(f"{title}; {half} samples to calibrate on, {len(x) - half} others to evaluate")
    print(f"\nfloat32 weights: {stored(model):,} bytes; {os.cpu_count()} cores\n")
    print("| weights | rounding | SQNR dB | bytes | CPU s |\n|---|---|---|---|---|")
    for line in measured(model, want, seen, other, args.threads):
        print(line, flush=True)


def measured(
    model: Model, want: np.ndarray, seen: list[Feeds], other: list[Feeds], threads: int
) -> Iterator[str]:
    for bits, block in FORMS:
        plain = WeightOnly(bits, block)
        for rounding in ("nearest", "second-order"):
            start = time.process_time()
            quantizer = plain
            if rounding == "second-order":
                codes = weight_codes(model, plain, lambda: iter(seen), threads=threads)
                quantizer = replace(plain, codes=codes)
            small = quantizer(model).model
            spent = time.process_time() - start
            form = f"int{bits}, {f'blocks of {block}' if block else 'a scale a column'}"
            found = sqnr(want, outputs(small, other, threads))
            yield f"| {form} | {rounding} | {found:.1f} | {stored(small):,} | {spent:.1f} |"


if __name__ == "__main__":
    main()
