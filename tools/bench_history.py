"""Histories: 100,000 runs listed and plotted as a user would; writers killed at random.

    python tools/bench_history.py --output docs/benchmarks/history.md

The file is made in a folder of its own, which is gone afterwards. Each command is a process of its
own, start-up included, once before it counts and then ``--repeats`` times.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from killed_writers import Killed, hammer
from pages import publish

from graphopt.machine import cpu_count
from graphopt.profiles.history import History
from graphopt.profiles.history.shifts import shifts
from graphopt.profiles.run import Figure, Gate, Run
from graphopt.report import versions

SAMPLES = 100
SUBJECTS = 5
SHIFT = 1.05
COMMANDS = (
    ("list",),
    ("list", "--subject", "net-2.onnx", "--branch", "main"),
    ("list", "--limit", "1000"),
    ("plot", "--subject", "net-0.onnx"),
    ("plot",),
    ("plot", "--output", "plot.svg", "--force"),
    ("show", "last-good"),
    ("shifts", "--subject", "net-0.onnx"),
    ("shifts",),
    ("baseline", "v1", "last-good", "--subject", "net-0.onnx"),
)
KINDS = ("normal", "heavy tails", "spikes", "drift")


def runs(count: int) -> Iterator[Run]:
    """Yield runs as a pipeline makes them: a few subjects and branches, two machines."""
    rng = random.Random(1)
    base = {f"key_{i}": f"a value of the machine, number {i}" for i in range(20)}
    for i in range(count):
        level = (1 + i % SUBJECTS) * (SHIFT if i > count - 2000 else 1)
        median = level * rng.lognormvariate(0, 0.005)
        samples = tuple(
            round(median * rng.lognormvariate(0, 0.02) * 1e6) / 1e6 for _ in range(SAMPLES)
        )
        names = ("latency_p90", "latency_p95", "latency_p99", "throughput", "sqnr", "size")
        more = tuple(Figure(name, median * (2 + k), "ms") for k, name in enumerate(names))
        status = "fail" if i % 50 == 0 else "pass"
        day = 1 + i * 330 // count
        yield Run(
            verb="profile" if i % 2 else "check",
            subject=f"net-{i % SUBJECTS}.onnx",
            sha256=f"{rng.getrandbits(256):064x}",
            model_digest=f"{i % SUBJECTS:064x}",
            figures=(Figure("latency_p50", median, "ms", low=median, high=median), *more),
            gates=(Gate("max-regression", "median latency", 1.0, 3.0, "%", status),),
            samples_ms=samples,
            fingerprint={**base, "cpu": f"machine {i // 10 % 2}"},
            environment={**base, "cpu": f"machine {i // 10 % 2}", "temperature": str(i % 60)},
            commit=f"{rng.getrandbits(160):040x}",
            branch="main" if i % 3 else f"topic-{i % 100}",
            when=f"2026-{1 + day // 31:02}-{1 + day % 28:02}T{i % 24:02}:00:00Z",
        )


def timed(words: tuple[str, ...], folder: Path, repeats: int) -> dict[str, Any]:
    """Run a verb of ``graphopt history``; return wall clock and processor seconds of each time."""
    verb, *rest = words
    command = [sys.executable, "-m", "graphopt", "history", verb, "h.db", *rest]
    wall, processor, lines = [], [], 0
    for _ in range(repeats + 1):
        before, start = os.times(), time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        wall.append(time.perf_counter() - start)
        after = os.times()
        processor.append(
            after.children_user + after.children_system
            - before.children_user - before.children_system
        )  # fmt: skip
        lines = len(done.stdout.splitlines())
    print(f"{' '.join(words)}: {statistics.median(wall[1:]):.2f} s", file=sys.stderr)
    return {
        "command": f"graphopt history {verb} h.db {' '.join(rest)}".strip(),
        "wall_s": wall[1:],
        "processor_s": processor[1:],
        "lines": lines,
    }


def additions(file: Path, count: int) -> list[float]:
    """Return the seconds that single additions took, each on the disk when it returned."""
    found = []
    with History.open(file) as history:
        for run in runs(count):
            start = time.perf_counter()
            history.add(run)
            found.append(time.perf_counter() - start)
    return found


def noise(kind: str, count: int, rng: random.Random) -> list[float]:
    """Return noise of standard deviation about 1, as benchmarks have it."""
    values = [rng.gauss(0, 1) for _ in range(count)]
    if kind == "heavy tails":
        values = [v / (sum(rng.gauss(0, 1) ** 2 for _ in range(3)) / 3) ** 0.5 for v in values]
    elif kind == "spikes":
        values = [v + (rng.expovariate(1 / 20) if rng.random() < 0.05 else 0) for v in values]
    elif kind == "drift":
        for i in range(1, count):
            values[i] = 0.3 * values[i - 1] + values[i] * (1 - 0.3**2) ** 0.5
    return values


def detection(trials: int) -> list[dict[str, Any]]:
    """Count shifts found in series with and without one; noise 0.5 %, 60 runs."""
    rows = []
    for kind in KINDS:
        rng = random.Random(f"shifts of {kind}")
        row: dict[str, Any] = {"noise": kind, "trials": trials}
        for size, after in ((0.0, 0), (0.01, 30), (0.02, 5), (0.03, 3), (0.03, 5), (0.05, 5)):
            found = near = 0
            for _ in range(trials):
                values = noise(kind, 60, rng)
                steps = [size if i >= 60 - after else 0.0 for i in range(60)]
                series = [(1 + s) * 2.718281828 ** (0.005 * v) for s, v in zip(steps, values)]  # noqa: B905
                places = [shift.index for shift in shifts(series)]
                found += bool(places)
                near += any(abs(place - (60 - after)) <= 1 for place in places)
            row[f"{size:.0%} for {after}"] = {"found": found, "within_one": near}
        rows.append(row)
        print(row, file=sys.stderr)
    return rows


def page(raw: dict[str, Any], command: str) -> str:
    """Write the tables."""
    killed, added = raw["killed"], raw["add_s"]
    sizes = list(raw["shifts"][0])[2:]
    ranked = sorted(added)
    lines = [
        f"# History: {raw['runs']:,} runs, and {killed['writers']} writers killed at random",
        "",
        f"{cpu_count()} cores. Each run has {SAMPLES} raw samples, 7 figures, one gate and 21",
        f"facts of the machine; the file has {raw['bytes'] / 1e6:,.0f} MB.",
        "",
        "Made by:",
        "",
        "```",
        command,
        "```",
        "",
        "## As a user waits for it",
        "",
        "Each in a process of its own, start-up included.",
        "",
        "| command | median, s | slowest, s | processor, s | lines |",
        "|---|---|---|---|---|",
        *(
            f"| `{r['command']}` | {statistics.median(r['wall_s']):.2f} | {max(r['wall_s']):.2f} | "
            f"{statistics.median(r['processor_s']):.2f} | {r['lines']:,} |"
            for r in raw["commands"]
        ),
        "",
        f"`add`, on the disk when it returns: median {1e3 * statistics.median(added):.1f} ms, 99th "
        f"percentile {1e3 * ranked[len(ranked) * 99 // 100]:.1f} ms, of {len(added)}.",
        "",
        f"## {killed['writers']} writers at once, killed",
        "",
        f"{killed['seconds']:.0f} seconds; {killed['kills']:,} were sent SIGKILL, at random, and "
        "replaced.",
        "",
        "| of runs | |",
        "|---|---|",
        f"| begun | {killed['begun']:,} |",
        f"| acknowledged | {killed['acknowledged']:,} |",
        f"| in the file | {killed['kept']:,} |",
        f"| committed, killed before the answer | {killed['unseen']:,} |",
        f"| killed before the commit, rolled back | {killed['rolled_back']:,} |",
        f"| acknowledged and lost | {killed['lost']:,} |",
        f"| torn, or there twice | {killed['torn']:,} |",
        f"| problems that integrity_check and the digests find | {len(killed['problems'])} |",
        "",
        "## Shifts",
        "",
        "Of simulated series of 60 runs with 0.5 % of noise, how many a shift was found in; in",
        "brackets, within one run of where it began. *2 % for 5*: the last 5 runs are 2 % slower.",
        "*0 % for 0*: there is none, and each found is a false alarm, of which 1 % is asked for.",
        "*Drift*: neighbours correlate by 0.3.",
        "",
        f"| noise | {' | '.join(sizes)} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for row in raw["shifts"]:
        cells = [
            f"{row[s]['found'] / row['trials']:.1%}"
            + (f" ({row[s]['within_one'] / row['trials']:.0%})" if not s.startswith("0%") else "")
            for s in sizes
        ]
        lines.append(f"| {row['noise']} | {' | '.join(cells)} |")
    found = ", ".join(f"{k} {v}" for k, v in raw["versions"].items())
    return "\n".join([*lines, "", found, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="of killing")
    parser.add_argument("--trials", type=int, default=1000, help="series of each kind")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        start = time.perf_counter()
        with History.open(folder / "h.db") as history:
            history.add_missing(runs(args.runs))
        print(f"made in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        size = (folder / "h.db").stat().st_size
        commands = [timed(words, folder, args.repeats) for words in COMMANDS]
        added = additions(folder / "single.db", 200)
        killed: Killed = hammer(folder / "killed.db", 8, args.seconds)
    raw = {
        "runs": args.runs, "bytes": size, "commands": commands, "add_s": added,
        "killed": killed.to_json(), "shifts": detection(args.trials), "versions": versions(),
    }  # fmt: skip
    command = shlex.join(["python", "tools/bench_history.py", *sys.argv[1:]])
    publish(page(raw, command), raw, args.output)


if __name__ == "__main__":
    main()
