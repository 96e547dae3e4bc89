"""Time and memory of planning a prune: real structures, and how cost grows with nodes.

    python tools/bench_planning.py --output docs/benchmarks/planning.md

The real structures are those that ship with the onnx package (``light``), with random weights; the
growing ones are made by ``stacks.py``. Each model of each round is measured in a process of its
own, so that a peak of memory belongs to it alone; clocks start after the imports.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from bench_calibration import cpu_model, peak_mb
from onnx import numpy_helper
from pages import publish
from stacks import STACKS

T = TypeVar("T")
Row = dict[str, Any]

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
PHASES = ("load", "simplify", "fold", "analyze", "score", "plan", "apply")
PLANNING = ("analyze", "score", "plan")
SIZES = (500, 1000, 2000, 5000, 10_000, 20_000)
QUADRATIC = "one dense block"
QUADRATIC_SIZES = (250, 500, 1000, 2000)
# Below, what does not grow (imports of rules, schemas) hides what does.
FIT_FROM = 1000
BATCH_NORM = ("scale", "bias", "mean", "variance")


def light(name: str) -> onnx.ModelProto:
    """Return a light model with random weights instead of its ConstantOfShape nodes."""
    proto = onnx.load(LIGHT / f"light_{name}.onnx")
    graph, rng = proto.graph, np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    roles = {
        value: BATCH_NORM[i]
        for node in graph.node
        if node.op_type == "BatchNormalization"
        for i, value in enumerate(node.input[1:5])
    }
    for node in [n for n in graph.node if n.op_type == "ConstantOfShape"]:
        shape = [int(n) for n in shapes[node.input[0]]]
        values = rng.standard_normal(shape, np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
        if roles.get(node.output[0]) in ("scale", "variance"):
            values = np.abs(values) + np.float32(0.5)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
    return proto


def make(kind: str, path: Path) -> None:
    """Write a model: ``light:NAME`` or ``STACK:NODES``."""
    name, _, detail = kind.partition(":")
    onnx.save(light(detail) if name == "light" else STACKS[name](int(detail)), path)


def measure(path: Path) -> Row:
    """Take a model through every phase; return seconds of wall and CPU time of each."""
    from graphopt.channels import analyze, apply_plan, make_plan
    from graphopt.channels.importance import IMPORTANCES
    from graphopt.model import Model
    from graphopt.passes.fold_batchnorm import FoldBatchNorm
    from graphopt.passes.simplify import Simplify

    wall: dict[str, float] = {}
    cpu: dict[str, float] = {}

    def timed(phase: str, work: Callable[[], T]) -> T:
        started, used = time.perf_counter(), time.process_time()
        result = work()
        wall[phase], cpu[phase] = time.perf_counter() - started, time.process_time() - used
        return result

    l2 = IMPORTANCES.load("l2")
    model = timed("load", lambda: Model.load(path))
    nodes = len(model.graph.nodes)
    model = timed("simplify", lambda: Simplify()(model).model)
    model = timed("fold", lambda: FoldBatchNorm()(model).model)
    analysis = timed("analyze", lambda: analyze(model))
    scores = timed("score", lambda: l2(model, analysis.groups))
    plan = timed("plan", lambda: make_plan(analysis, scores, 0.3, align=1, importance="l2"))
    timed("apply", lambda: apply_plan(model, plan, analysis))
    dims = {id(d): d for dims in analysis.trace.dims.values() for d in dims or () if d.slots}
    return {
        "wall": wall,
        "cpu": cpu,
        "peak_mb": peak_mb(),
        "nodes": nodes,
        "folded": len(model.graph.nodes),
        "groups": len(analysis.groups),
        "channels": sum(g.width for g in analysis.groups),
        "removed": plan.removed,
        "positions": sum(d.size or 0 for d in dims.values()),
    }


def spawn(*arguments: str) -> str:
    """Run this script in a fresh interpreter and return what it prints last."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout.strip().rpartition("\n")[2]


def sampled(kind: str, rounds: int, *, collector_off: bool = False) -> Row:
    """Return the medians over rounds of one model, and one round without Python's collector."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        spawn("--make", kind, path)
        rows = [json.loads(spawn("--measure", path)) for _ in range(rounds)]
        off = json.loads(spawn("--measure", path, "--collector-off")) if collector_off else None
    row: Row = {"model": kind, **rows[0], "rounds": rows, "collector_off": off}
    for clock in ("wall", "cpu"):
        row[clock] = {p: statistics.median(r[clock][p] for r in rows) for p in PHASES}
    row["peak_mb"] = statistics.median(r["peak_mb"] for r in rows)
    total = sum(row["wall"].values())
    print(f"{kind}: {row['nodes']} nodes, {total:.2f} s, {row['peak_mb']:.0f} MB", file=sys.stderr)
    return row


def seconds(row: Row, phases: tuple[str, ...], clock: str = "cpu") -> float:
    return sum(row[clock][phase] for phase in phases)


def exponent(rows: list[Row], value: Callable[[Row], float], against: str = "nodes") -> float:
    """Return b of the least-squares fit ``value = a * nodes ** b``, from ``FIT_FROM`` nodes on."""
    used = [r for r in rows if r["nodes"] >= FIT_FROM] if against == "nodes" else rows
    x, y = np.log([r[against] for r in used]), np.log([value(r) for r in used])
    return float(np.polyfit(x, y, 1)[0])


def _cells(row: Row, clock: str) -> str:
    parts = [f"{row[clock][phase]:.2f}" for phase in PHASES]
    return " | ".join([*parts, f"**{seconds(row, PLANNING, clock):.2f}**", f"{row['peak_mb']:.0f}"])


def _real(rows: list[Row]) -> list[str]:
    lines = [
        "## Real structures",
        "",
        "Seconds of wall time. *Planning* is analyze, score (`l2`) and plan: everything that needs",
        "no data.",
        "",
        f"| model | nodes | groups | channels | {' | '.join(PHASES)} | planning | peak MB |",
        "|" + "---|" * (len(PHASES) + 6),
    ]
    for r in rows:
        name = r["model"].partition(":")[2]
        lines.append(
            f"| {name} | {r['nodes']} | {r['groups']} | {r['channels']:,} | {_cells(r, 'wall')} |"
        )
    return lines


def _growth(stacks: dict[str, list[Row]]) -> list[str]:
    lines = [
        "",
        "## Growth with nodes",
        "",
        "Seconds of CPU time (a shared machine stretches wall time). `tools/stacks.py` makes them:",
        "`chain` has a group per convolution, `residual` one stream with thousands of members,",
        "`dense` DenseNet's blocks of 16 layers, `transformer` attention with the shape arithmetic",
        "of exporters, `shared` constants that every layer reads.",
        "",
        f"| stack | nodes | groups | {' | '.join(PHASES)} | planning | peak MB |",
        "|" + "---|" * (len(PHASES) + 5),
    ]
    for name, rows in stacks.items():
        lines += [
            f"| {name} | {r['nodes']:,} | {r['groups']:,} | {_cells(r, 'cpu')} |" for r in rows
        ]
    lines += [
        "",
        f"Fitted from {FIT_FROM:,} nodes on: time is proportional to nodes to the power of",
        "",
        f"| stack | {' | '.join(PHASES)} | planning | everything | planning, everything: collector "
        "off | peak MB per 1,000 nodes |",
        "|" + "---|" * (len(PHASES) + 5),
    ]
    for name, rows in stacks.items():
        if name == QUADRATIC:
            continue
        powers = [exponent(rows, lambda r, p=p: r["cpu"][p]) for p in PHASES]  # type: ignore[misc]
        powers.append(exponent(rows, lambda r: seconds(r, PLANNING)))
        powers.append(exponent(rows, lambda r: seconds(r, PHASES)))
        slopes = [
            (b["peak_mb"] - a["peak_mb"]) / (b["nodes"] - a["nodes"]) for a, b in pairwise(rows)
        ]
        cells = " | ".join(f"{power:.2f}" for power in powers)
        off = [r["collector_off"] for r in rows]
        alone = [exponent(off, lambda r, p=p: seconds(r, p)) for p in (PLANNING, PHASES)]  # type: ignore[misc]
        pair = f"{alone[0]:.2f}, {alone[1]:.2f}"
        lines.append(f"| {name} | {cells} | {pair} | {1000 * slopes[-1]:.0f} |")
    lines += [
        "",
        "Python's cyclic garbage collector walks over all there is, again and again while there is",
        "ever more; the last powers are with it switched off.",
    ]
    rows = stacks[QUADRATIC]
    power = exponent(rows, lambda r: seconds(r, PLANNING), "positions")
    pace = [1e6 * seconds(r, PLANNING) / r["positions"] for r in rows]
    lines += [
        "",
        f"In `{QUADRATIC}` each layer reads all before it: the channels of its Concats grow as the",
        "square of its depth, and so does whatever looks at each of them. Against these",
        f"positions ({rows[0]['positions']:,} to {rows[-1]['positions']:,}) planning is of power",
        f"{power:.2f}: {pace[0]:.1f} to {pace[-1]:.1f} µs each.",
    ]
    return lines


def page(real: list[Row], stacks: dict[str, list[Row]], loads: list[float], output: str) -> str:
    """Write the page."""
    from graphopt.report import versions

    lines = [
        "# Planning: time and memory",
        "",
        "From the file to the pruned graph, without data: load, simplify, fold BatchNorm, find the",
        "channel groups, score by L2, plan 30 %, apply. A process of its own for each model; peak",
        "memory is that of the whole process. Made by:",
        "",
        "```",
        f"python tools/bench_planning.py --output {output}",
        "```",
        "",
        *_real(real),
        *_growth(stacks),
        "",
        f"{cpu_model()}, {os.cpu_count()} cores, load average {loads[0]:.1f} at the start and "
        f"{loads[1]:.1f} at the end; " + ", ".join(f"{k} {v}" for k, v in versions().items()) + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of the real structures")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="nodes of a stack")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--collector-off", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        return make(args.make[0], Path(args.make[1]))
    if args.collector_off:
        gc.disable()
    if args.measure:
        return print(json.dumps(measure(args.measure)))
    loads = [os.getloadavg()[0]]
    names = sorted(p.stem.removeprefix("light_") for p in LIGHT.glob("light_*.onnx"))
    real = [sampled(f"light:{name}", args.rounds) for name in names]
    stacks = {
        name: [
            sampled(f"{name}:{size}", 1, collector_off=name != QUADRATIC)
            for size in (QUADRATIC_SIZES if name == QUADRATIC else SIZES)
            if size <= args.largest
        ]
        for name in STACKS
    }
    loads.append(os.getloadavg()[0])
    text = page(real, stacks, loads, str(args.output or ""))
    publish(text, {"real": real, "stacks": stacks, "load": loads}, args.output)
    return None


if __name__ == "__main__":
    main()
