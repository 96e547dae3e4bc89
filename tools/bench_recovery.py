"""What pruning costs in accuracy, and what recovery without training wins back.

    python tools/bench_recovery.py --data DIR --onnxsim PYTHON --output docs/benchmarks/recovery.md

DIR holds models/{resnet20_cifar10,resnet56_cifar10,face_rfb320,face_yunet_n}.onnx, cifar10/calib,
cifar10/test and faces. Each case is a process: ``python -m graphopt optimize`` with a recipe, as a
user would run it, its seconds and peak memory measured from outside. PYTHON is an interpreter
with onnxsim 0.8.1 (``python -m venv V && V/bin/pip install onnxsim==0.8.1 onnxruntime``); its
models are counted and judged by the same code. Results are kept in the JSON beside the page after
each case: ``--parts B`` measures one part again, ``--resume`` only what is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench_calibration import cpu_model
from pages import publish
from recovery_cases import PARTS, QUICK_SAMPLES, Case
from recovery_page import page
from recovery_runs import Bench, Row, options

from graphopt.files import dump_json, write_text
from graphopt.recipe import DEFAULT_SAMPLES
from graphopt.report import versions


def waves(cases: list[Case]) -> Iterator[list[Case]]:
    """Yield the cases that stand alone, then those that look at others' results."""
    yield [c for c in cases if not c.equal]
    yield [c for c in cases if c.equal]


def load(output: Path | None, quick: bool) -> dict[str, Any]:
    """Return the results that lie beside the page, those of parts measured before."""
    empty: dict[str, Any] = {"rows": {}, "parts": {}, "quick": quick}
    path = None if output is None else output.with_suffix(".json")
    if path is None or not path.exists():
        return empty
    raw = json.loads(path.read_text(encoding="utf-8"))
    if raw["quick"] != quick:
        sys.exit(f"{path} holds a {'quick' if raw['quick'] else 'full'} run: name another --output")
    return dict(raw)


def main() -> None:
    args = parse()
    raw = load(args.output, args.quick)
    samples = QUICK_SAMPLES if args.quick else DEFAULT_SAMPLES
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args.data.resolve(), Path(scratch), args.onnxsim, samples)
        for part in args.parts:
            measure(part, bench, raw, args)
    raw["machine"] = {"cpu": cpu_model(), "cores": os.cpu_count()}
    publish(page(raw, args.quick, str(args.output or "")), raw, args.output)


def measure(part: str, bench: Bench, raw: dict[str, Any], args: argparse.Namespace) -> None:
    """Run the cases of a part; results are saved after each."""
    cases = list(PARTS[part](args.quick))
    rows = raw["rows"] = _kept(raw["rows"], part, cases, args)
    for wave in waves(cases):
        left = [c for c in wave if c.key not in rows and (args.onnxsim or not c.onnxsim)]
        for case, row in each(lambda c: bench.run(c, rows), left, args.jobs):
            rows[case.key] = {**row, "jobs": args.jobs}
            _tell(case, row)
            raw["parts"][part] = {**versions(), **_onnxsim_version(raw, part, bench)}
            _save(raw, args.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--onnxsim", type=Path, metavar="PYTHON")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few cases, few samples")
    parser.add_argument("--parts", default="A,B,C", type=lambda text: text.upper().split(","))
    parser.add_argument("--resume", action="store_true", help="measure only what is not there")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time; stretches seconds")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return args


def each(work: Callable[[Case], Row], cases: list[Case], jobs: int) -> Iterator[tuple[Case, Row]]:
    """Yield each case with its row, in order; several at a time where asked."""
    if jobs == 1:
        yield from ((case, work(case)) for case in cases)
        return
    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(cases, pool.map(work, cases), strict=True)


def _kept(
    rows: dict[str, Row], part: str, cases: list[Case], args: argparse.Namespace
) -> dict[str, Row]:
    """Return the rows that are not to be measured again: of other parts, or still good."""
    samples = QUICK_SAMPLES if args.quick else DEFAULT_SAMPLES
    known = {c.key: options(c, samples) for c in cases}

    def good(key: str, row: Row) -> bool:
        if not key.startswith(f"{part}/"):
            return True
        here = row["options"] == known.get(key) and "problem" not in row
        # Without the interpreter, what onnxsim did before stays.
        return here and (args.resume or (bool(row["options"]["onnxsim"]) and not args.onnxsim))

    return {key: row for key, row in rows.items() if good(key, row)}


def _onnxsim_version(raw: dict[str, Any], part: str, bench: Bench) -> dict[str, str]:
    name = "onnxsim"
    known = bench.versions.get(name) or raw["parts"].get(part, {}).get(name)
    return {name: known} if known else {}


def _save(raw: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        write_text(output.with_suffix(".json"), dump_json(raw))


def _tell(case: Case, row: Row) -> None:
    if "problem" in row:
        print(f"{case.key}: {row['problem']}", file=sys.stderr, flush=True)
        return
    right = f"{row['right'][1]} right, " if "right" in row else ""
    print(
        f"{case.key}: {right}{row['seconds']:.1f} s, {row['peak_mb']:.0f} MB",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    main()
