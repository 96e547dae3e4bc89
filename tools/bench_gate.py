"""What the gate makes of candidates that are, and are not, slower: real runs on real models.

Each check is a full one, through the code of ``graphopt check``: sessions opened anew, A and B
interleaved, rounds added until it is decided or the budget is spent. Beside it, with as many runs,
what is usual: all of A's runs, then all of B's, and a Mann-Whitney test.

    python tools/bench_gate.py --data DIR --state gate.jsonl --output docs/benchmarks/gate.md

DIR holds models/resnet20_cifar10.onnx. The machine should be otherwise idle. A run that was
stopped goes on where it was, given the same --state. --quick is a tenth of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from mann_whitney import mann_whitney
from pages import publish
from slower import costs, find, opener, prepared, random_feeds
from widen import widen

from graphopt.machine import cpu_count
from graphopt.model import Feeds
from graphopt.profiles.interleave import Budget, interleave
from graphopt.profiles.latency import environment
from graphopt.profiles.regression import CONFIDENCE, LIMIT, Round, Verdict, judge

Entry = dict[str, Any]
# Wanted change -> the limits it is judged by: at a change of 3 %, a limit of 3 % decides nothing.
LIMITS = {0.0: (LIMIT, 0.03), 0.03: (LIMIT,), 0.05: (LIMIT, 0.03), 0.10: (LIMIT, 0.03)}
P_VALUE = 0.05
# So many checks with a neighbour, then so many without: what the machine does meanwhile hits both.
_BLOCK = 10
_NEIGHBOUR = """
import os, random, time
import numpy as np
values = np.random.default_rng(0).random(4_000_000)
random.seed(0)
parent = os.getppid()
while os.getppid() == parent:
    part = values[: random.randrange(500_000, 4_000_000)].copy()
    part.sort()
    for _ in range(random.randrange(20)):
        values = values[::-1].copy()
    time.sleep(random.random() * 0.05)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of check."""

    model: str
    neighbour: bool
    wanted: float

    @property
    def key(self) -> str:
        """A name for the state file."""
        return f"{self.model}/{'neighbour' if self.neighbour else 'quiet'}/{self.wanted:g}"


class State:
    """What is done, a line each; appended to, so that nothing is lost when it is stopped."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.entries: list[Entry] = []
        if path is not None and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            # A last line without its end was torn by whatever stopped the run.
            whole = [line for line in lines if line.endswith("\n")]
            self.entries = [json.loads(line) for line in whole]
            path.write_text("".join(whole), encoding="utf-8")

    def add(self, entry: Entry) -> None:
        """Remember and write down."""
        self.entries.append(entry)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(entry) + "\n")

    def of(self, kind: str, key: str) -> list[Entry]:
        """Return what there is."""
        return [e for e in self.entries if e["kind"] == kind and e["key"] == key]


@contextmanager
def neighbour() -> Iterator[None]:
    """Keep another core busy: sorts and streams more than fits a cache, by fits and starts."""
    with subprocess.Popen([sys.executable, "-c", _NEIGHBOUR]) as child:
        try:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(child.pid, {max(os.sched_getaffinity(0))})
            time.sleep(1.0)
            yield
        finally:
            child.kill()


def check(base: Path, cand: Path, feeds: Feeds, limits: Sequence[float], seed: int) -> Entry:
    """Run one check, and the usual way with as many runs.

    It goes on until it is decided for every limit; what each limit's own check would have seen
    are the same rounds up to the look that decides it.
    """
    budget = Budget()
    looks = len(budget.looks)

    def decide(rounds: Sequence[Round]) -> Verdict:
        found = [judge(rounds, limit, seed=seed, looks=looks) for limit in limits]
        open_ones = [v for v in found if v.status == "inconclusive"]
        return open_ones[0] if open_ones else found[0]

    started = time.perf_counter()
    done = interleave(opener(base, feeds), opener(cand, feeds), budget=budget, decide=decide)
    verdicts = {}
    for limit in limits:
        for look in (*budget.looks, done.rounds[-1].opening + 1):
            seen = [r for r in done.rounds if r.opening < look]
            verdict = judge(seen, limit, seed=seed, looks=looks)
            if verdict.status != "inconclusive" or len(seen) == len(done.rounds):
                break
        runs = sum(len(r.base_samples) for r in seen)
        verdicts[f"{limit:g}"] = {
            "status": verdict.status,
            "change": verdict.change,
            "low": verdict.low,
            "high": verdict.high,
            "openings": verdict.openings,
            "seconds": done.seconds * len(seen) / len(done.rounds),
            "runs": runs,
        }
    fewest = min(v["runs"] for v in verdicts.values())
    a, b = (sequential(path, feeds, fewest) for path in (base, cand))
    usual = {"p": mann_whitney(a, b), "change": median(b) / median(a) - 1, "runs": fewest}
    spent = time.perf_counter() - started
    return {"gate": verdicts, "usual": usual, "base_ms": median(done.base_ms), "seconds": spent}


def sequential(path: Path, feeds: Feeds, runs: int) -> list[float]:
    """Open a model once, warm it up, and run it so often."""
    with opener(path, feeds)() as timed:
        timed.round(20)
        return list(timed.round(runs))


def candidates(
    name: str, data: Path, scratch: Path, state: State, *, quick: bool
) -> tuple[Path, dict[float, Path], Feeds]:
    """Make the baseline and each candidate; how many channels is measured once and kept."""
    model = prepared(data / f"models/{name}.onnx")
    base = model.save(scratch / f"{name}.onnx")
    steps = None
    made = {0.0: base}
    for wanted in LIMITS:
        key = f"{name}/{wanted:g}"
        if wanted and not state.of("candidate", key):
            steps = steps or costs(model, base, 6 if quick else 12)
            found = find(model, base, wanted, steps, 24 if quick else 100)
            assert found.verdict is not None
            entry = {"extra": dict(found.extra), "measured": found.verdict.to_json()}
            state.add({"kind": "candidate", "key": key, **entry})
            print(f"{key}: {found.verdict.why}", file=sys.stderr, flush=True)
        if wanted:
            extra = state.of("candidate", key)[0]["extra"]
            made[wanted] = widen(model, extra).save(scratch / f"{name}-{wanted:g}.onnx")
    return base, made, random_feeds(model)


def run(names: Sequence[str], data: Path, state: State, checks: int, *, quick: bool) -> None:
    """Do what is not done yet, row by row in small blocks."""
    if not state.of("environment", ""):
        where = {**environment(), "threads": "1", "of_cores": str(cpu_count())}
        state.add({"kind": "environment", "key": "", "environment": where})
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            base, made, feeds = candidates(name, data, Path(scratch), state, quick=quick)
            for first in range(0, checks, _BLOCK):
                for noisy in (False, True):
                    with neighbour() if noisy else nullcontext():
                        for wanted, cand in made.items():
                            row = Row(name, noisy, wanted)
                            until = min(first + _BLOCK, _number(wanted, checks))
                            for index in range(len(state.of("check", row.key)), until):
                                entry = check(base, cand, feeds, LIMITS[wanted], index)
                                state.add({"kind": "check", "key": row.key, **entry})
                print(f"{name}: {first + _BLOCK} of {checks}", file=sys.stderr, flush=True)


def _number(wanted: float, checks: int) -> int:
    """Twice as many of A against A: its errors are to be the rarest."""
    return checks if wanted == 0 else max(1, checks // 2)


def summary(entries: Sequence[Entry], limit: float) -> Entry:
    """Return the counts of one row at one limit."""
    found = [e["gate"][f"{limit:g}"] for e in entries]
    changes = [f["change"] for f in found]
    usual = [e["usual"] for e in entries]
    counts = {s: sum(f["status"] == s for f in found) for s in ("fail", "pass", "inconclusive")}
    slower = [u["p"] < P_VALUE and u["change"] > 0 for u in usual]
    return {
        "checks": len(found),
        **counts,
        "change": median(changes),
        "spread": float(np.std(changes, ddof=1)) if len(changes) > 1 else 0.0,
        "base_ms": median(e["base_ms"] for e in entries),
        "openings": median(f["openings"] for f in found),
        "seconds": float(np.mean([f["seconds"] for f in found])),
        "usual": sum(slower),
        "usual_limit": sum(s and u["change"] > limit for s, u in zip(slower, usual, strict=True)),
    }


def page(state: State) -> tuple[str, Entry]:
    """Return the page, and what is in it."""
    (where,) = (e["environment"] for e in state.entries if e["kind"] == "environment")
    keys = sorted({e["key"] for e in state.entries if e["kind"] == "check"}, key=_order)
    rows = []
    for key in keys:
        model, machine, wanted = key.rsplit("/", 2)
        done = state.of("check", key)
        for limit in sorted(float(value) for value in done[0]["gate"]):
            row = {"model": model, "machine": machine, "wanted": float(wanted), "limit": limit}
            rows.append({**row, **summary(done, limit)})
    lines = [
        "# The gate, on real runs",
        "",
        f"`tools/bench_gate.py`; {where['cpu']}, {where['of_cores']} cores, ONNX Runtime "
        f"{where['onnxruntime']} on one thread, batch 1. Slower in earnest: channels were added "
        "that compute and are read with weights of zero. Each check opens its sessions anew; "
        f"confidence {CONFIDENCE:g}. *Neighbour*: another process sorts and streams memory on the "
        "other core. *Mann–Whitney*: all runs of the one, then all of the other, as many as the "
        f"gate needed; p < {P_VALUE:g} and slower, then also with a median beyond the limit.",
        "",
        "| candidate | channels added | slower, measured | 95 % |",
        "|---|---|---|---|",
    ]
    for e in state.entries:
        if e["kind"] == "candidate":
            v = e["measured"]
            lines.append(
                f"| {e['key']} | {sum(e['extra'].values())} in {len(e['extra'])} layers "
                f"| {v['change']:+.2%} | {v['low']:+.2%} to {v['high']:+.2%} |"
            )
    lines += [
        "",
        "| model | machine | median, ms | wanted | seen (SD of a check) | limit | checks | fail "
        "| pass | inconclusive | openings | s | Mann–Whitney | and > limit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in rows]
    candidates_made = [e for e in state.entries if e["kind"] == "candidate"]
    raw = {"environment": where, "candidates": candidates_made, "rows": rows}
    checks = [e for e in state.entries if e["kind"] == "check"]
    return "\n".join(lines) + "\n", {**raw, "checks": checks}


def _order(key: str) -> tuple[str, bool, float]:
    model, machine, wanted = key.rsplit("/", 2)
    return model, machine == "neighbour", float(wanted)


def _line(r: Entry) -> str:
    n = r["checks"]
    return (
        f"| {r['model']} | {r['machine']} | {r['base_ms']:.3f} | {r['wanted']:+.0%} "
        f"| {r['change']:+.2%} ({r['spread']:.2%}) | {r['limit']:.0%} | {n} "
        f"| **{r['fail'] / n:.1%}** | {r['pass'] / n:.1%} | {r['inconclusive'] / n:.1%} "
        f"| {r['openings']:g} | {r['seconds']:.1f} | {r['usual'] / n:.1%} "
        f"| {r['usual_limit'] / n:.1%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["resnet20_cifar10"])
    parser.add_argument("--checks", type=int, default=200, help="of A against A; others half")
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--state", type=Path, help="where what is done is kept")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    state = State(options.state)
    checks = max(2, options.checks // 10) if options.quick else options.checks
    run(options.models, options.data, state, checks, quick=options.quick)
    publish(*page(state), options.output)


if __name__ == "__main__":
    main()
