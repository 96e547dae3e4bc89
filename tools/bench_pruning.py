"""What ``--prune 0.3`` removes from real models, and that pruned equals masked.

    python tools/bench_pruning.py --data DIR --output docs/benchmarks/pruning.md

DIR holds a folder ``models`` of ONNX files.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from pages import publish

from graphopt.channels import analyze
from graphopt.channels.mask import masked
from graphopt.cost import cost
from graphopt.data import synthetic
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.prune_channels import PruneChannels, plan_for
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.report import versions
from graphopt.verify import opened

SIZE = 320  # of open dimensions
SAMPLES = 4
# A sigmoid that gives 0.001 is still computed to the rounding of numbers near 1.
FLOOR = 0.1


def measure(path: Path, ratio: float, align: int) -> dict[str, Any]:
    """Prune one model and compare it with the masked one on random inputs."""
    model = Model.load(path)
    for step in (RaiseOpset(13), Simplify(), FoldBatchNorm()):
        model = step(model).model
    groups = analyze(model)
    plan = plan_for(model, ratio, align=align, analysis=groups)
    pruned = PruneChannels(ratio, plan=plan)(model).model
    shapes = {
        name: tuple(d if isinstance(d, int) else (1 if i == 0 else SIZE) for i, d in enumerate(s))
        for name, (_, s) in model.inputs().items()
    }
    before, after = cost(model, shapes), cost(pruned, shapes)
    widths = [sum(getattr(g, when) for g in plan.groups) for when in ("before", "after")]
    return {
        "model": path.stem,
        "align": align,
        "groups": len(groups.groups),
        "frozen": len(groups.frozen),
        "frozen_by": sorted({reason for g in groups.frozen for reason in g.reasons}),
        "channels": widths,
        "as_asked": sum(g.after == g.asked for g in plan.groups),
        "parameters": [before.parameters, after.parameters],
        "macs": [before.macs, after.macs],
        "error": _difference(masked(model, plan), pruned, shapes),
    }


def _difference(reference: Model, candidate: Model, shapes: dict[str, Any]) -> float:
    """Return max |a - b| over max |a| of the worst output, on a few random inputs."""
    worst = 0.0
    data = synthetic(reference.inputs(), SAMPLES, seed=1, shapes=shapes)
    with opened(reference, optimize=False) as run_a, opened(candidate, optimize=False) as run_b:
        for feeds in data.batches(data.batch_size(1)):
            a, b = run_a(feeds), run_b(feeds)
            for name in a:
                scale = float(np.abs(a[name]).max())
                worst = max(worst, float(np.abs(a[name] - b[name]).max()) / max(scale, FLOOR))
    return worst


def page(rows: list[dict[str, Any]], ratio: float, output: str) -> str:
    """Write the table."""
    lines = [
        f"# Pruning {ratio:.0%} of every group",
        "",
        "L2 importance. *As asked*: groups whose kept width is exactly the one asked for; the",
        "others keep more, because `--align` rounds up. *Error*: the pruned model against the",
        "original with the same channels masked, max difference over the output's maximum (over",
        f"{FLOOR} where that is less), random inputs, open dimensions at {SIZE}. Made by:",
        "",
        "```",
        f"python tools/bench_pruning.py --data DIR --output {output}",
        "```",
        "",
        "| model | align | groups | frozen | channels | as asked | parameters | MACs | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        channels, parameters, macs = (
            f"{r[k][0]:,} → {r[k][1]:,} (−{100 * (1 - r[k][1] / r[k][0]):.1f} %)"
            for k in ("channels", "parameters", "macs")
        )
        lines.append(
            f"| {r['model']} | {r['align']} | {r['groups']} | {r['frozen']} | {channels} | "
            f"{r['as_asked']} of {r['groups']} | {parameters} | {macs} | {r['error']:.1e} |"
        )
    reasons = sorted({f"{r['model']}: {why}" for r in rows for why in r["frozen_by"]})
    lines += ["", "What froze the frozen groups:", "", *[f"- {reason}" for reason in reasons], ""]
    return "\n".join([*lines, ", ".join(f"{k} {v}" for k, v in versions().items()), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    paths = sorted((args.data / "models").glob("*.onnx"))
    rows = [measure(path, args.ratio, align) for align in (1, 8) for path in paths]
    text = page(rows, args.ratio, str(args.output or ""))
    publish(text, {"rows": rows, "ratio": args.ratio, "versions": versions()}, args.output)


if __name__ == "__main__":
    main()
