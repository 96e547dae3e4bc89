"""What fewer weights cost: 2:4, unstructured zeros and low rank, with and without recovery.

    python tools/bench_weights.py --data DIR --output docs/benchmarks/weights.md

DIR holds models/resnet20_cifar10.onnx, models/resnet56_cifar10.onnx, cifar10/calib and
cifar10/test.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from pages import publish

from graphopt.cost import cost
from graphopt.data import Dataset, load_preprocess, open_data
from graphopt.model import Feeds, Model
from graphopt.passes.base import PassResult
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.simplify import Simplify
from graphopt.passes.sparsity import parse_sparsity, stored
from graphopt.recovery.weights import low_rank, sparsify
from graphopt.report import versions
from graphopt.verify import compare_models

MODELS = ("resnet20_cifar10", "resnet56_cifar10")
SAMPLES, BATCH = 512, 64
SPARSITIES = ("2:4", "0.5", "0.7", "0.85")
MACS = (0.75, 0.5)


def row(model: Model, result: PassResult, test: Dataset, seconds: float) -> dict[str, Any]:
    """Compare with the dense model on the same test images."""
    found = compare_models(model, result.model, test, batch=BATCH)
    assert found.top1 is not None
    size = stored(result.model)
    return {
        "right": int(found.top1.both or 0) + int(found.top1.only_b or 0),
        "lost": found.top1.only_a,
        "gained": found.top1.only_b,
        "agree": found.top1.agree,
        "sqnr_db": found.total.sqnr_db,
        "zeros": size.zeros / size.weights,
        "compressed": size.compressed,
        "macs": cost(result.model).macs,
        "seconds": seconds,
        "changes": len(result.changes),
        "skipped": [[s.where, s.reason] for s in result.skipped],
    }


def measure(name: str, root: Path) -> dict[str, Any]:
    """Measure everything on one model."""
    model = Model.load(root / f"models/{name}.onnx")
    for step in (Simplify(), FoldBatchNorm()):
        model = step(model).model
    inputs, pre = model.inputs(), load_preprocess("cifar")
    calib = open_data(str(root / "cifar10/calib"), inputs, preprocess=pre, limit=SAMPLES)
    test = open_data(str(root / "cifar10/test"), inputs, preprocess=pre)
    samples = list(calib.batches(BATCH))

    def batches() -> list[Feeds]:
        return samples

    rows: list[dict[str, Any]] = []

    def add(what: str, how: str, recovered: str, started: float, result: PassResult) -> None:
        seconds = time.perf_counter() - started
        told = {"what": what, "how": how, "recovered": recovered}
        rows.append({**told, **row(model, result, test, seconds)})
        print(name, {k: v for k, v in rows[-1].items() if k != "skipped"}, flush=True)

    for text in SPARSITIES:
        for by in ("magnitude", "obs"):
            for recovery in (False, True):
                started = time.perf_counter()
                asked = parse_sparsity(text)
                result, _ = sparsify(model, asked, batches, by=by, recovery=recovery)
                told = "least squares" if recovery else "none"
                add(f"sparsity {text}", by, told, started, result)
    for macs in MACS:
        for how, given, recovery in (
            ("of the weights", None, False),
            ("of the responses", batches, False),
            ("of the responses", batches, True),
        ):
            started = time.perf_counter()
            result, _ = low_rank(model, macs, given, recovery=recovery)
            told = "least squares" if recovery else "none"
            add(f"low rank {macs:g}", how, told, started, result)
    size = stored(model)
    dense = compare_models(model, model, test, batch=BATCH)
    assert dense.top1 is not None
    return {
        "model": name,
        "samples": dense.top1.samples,
        "right": dense.top1.both,
        "macs": cost(model).macs,
        "bytes": size.bytes,
        "compressed": size.compressed,
        "rows": rows,
    }


def page(found: list[dict[str, Any]], output: str) -> str:
    """Write the tables."""
    lines = [
        "# Fewer weights",
        "",
        f"Calibrated on {SAMPLES} images of the training set without labels, measured on the test",
        "set, the same images before and after: *lost* were right, *gained* are now. *SQNR*: of",
        "the logits against those of the dense model. *Compressed*: the weights after zlib, over",
        "the dense ones after zlib. 2:4 gives speed on NVIDIA GPUs from Ampere on, not measured",
        "here; unstructured zeros give none. Seconds on two cores that did other work as well.",
        "Made by:",
        "",
        "```",
        f"python tools/bench_weights.py --data DIR --output {output}",
        "```",
    ]
    for one in found:
        lines += [
            "",
            f"## {one['model']}",
            "",
            f"Dense: {one['right']} of {one['samples']}, {one['macs'] / 1e6:.1f} M MACs.",
            "",
            "| what | chosen by | recovery | right | lost | gained | SQNR dB | zeros | compressed "
            "| MACs | s |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for r in one["rows"]:
            lines.append(
                f"| {r['what']} | {r['how']} | {r['recovered']} | {r['right']} | {r['lost']} | "
                f"{r['gained']} | {r['sqnr_db']:.1f} | {r['zeros']:.1%} | "
                f"{r['compressed'] / one['compressed']:.2f} | {r['macs'] / one['macs']:.2f} | "
                f"{r['seconds']:.0f} |"
            )
        dense = {tuple(s) for s in one["rows"][0]["skipped"]}
        lines += ["", "Dense with 2:4:", "", *[f"- `{w}` {why}" for w, why in sorted(dense)]]
    return "\n".join([*lines, "", ", ".join(f"{k} {v}" for k, v in versions().items()), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = [measure(name, args.data) for name in args.models]
    publish(page(found, str(args.output or "")), {"models": found}, args.output)


if __name__ == "__main__":
    main()
