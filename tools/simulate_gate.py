"""What the gate's verdicts are worth, where the truth is known: simulated machines.

    python tools/simulate_gate.py [--checks 400] [--output docs/benchmarks/gate_simulation.md]

The gate itself is run (``interleave`` and ``judge``), on sessions that only add to a clock. Each
session has an offset of its own; the machine drifts (AR(1) in time), runs are noisy and have a
tail, and a machine with a neighbour has bursts in which everything is slower.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pages import publish

from graphopt.profiles.interleave import Budget, Outcome, gate

CHANGES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.10)


@dataclass(frozen=True)
class Machine:
    """How times come about; spreads are standard deviations of log time.

    Attributes:
        run_ms: a run of the baseline.
        session: offset of a session, for as long as it is open.
        drift: of the machine, AR(1).
        drift_s: its time constant.
        noise: of each run.
        tail: share of runs that are slower by an exponential of mean ``tail_by``.
        burst: share of the time in which a neighbour makes all slower by ``burst_by``.
        burst_s: how long such a burst lasts on average.
        open_s: how long it takes to open a session.
    """

    run_ms: float = 0.5
    session: float = 0.003
    drift: float = 0.01
    drift_s: float = 1.0
    noise: float = 0.02
    tail: float = 0.02
    tail_by: float = 0.3
    burst: float = 0.0
    burst_by: float = 0.1
    burst_s: float = 0.05
    open_s: float = 0.018


MACHINES = {
    "quiet": Machine(),
    "sessions differ more": Machine(session=0.009),
    "neighbour": Machine(session=0.006, burst=0.3, tail=0.05),
    "long runs": Machine(run_ms=15, open_s=0.2),
}


class Simulation:
    """A machine in time."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine, self.now = machine, 0
        self._rng = np.random.default_rng(seed)
        self._drift = machine.drift * self._rng.standard_normal()
        self._bursting, self._until = False, 0.0

    def clock(self) -> int:
        """Return nanoseconds."""
        return self.now

    @contextmanager
    def session(self, change: float) -> Iterator[_Session]:
        """Open a model that is slower than the baseline by ``change``."""
        self.now += int(self.machine.open_s * 1e9)
        own = math.log1p(change) + self.machine.session * self._rng.standard_normal()
        yield _Session(self, own)

    def times(self, own: float, runs: int) -> list[float]:
        """Run so often."""
        m, rng = self.machine, self._rng
        step = m.run_ms / 1e3
        keep = math.exp(-step / m.drift_s)
        wander = m.drift * math.sqrt(1 - keep * keep) * rng.standard_normal(runs)
        log = own + m.noise * rng.standard_normal(runs)
        log += np.where(rng.random(runs) < m.tail, rng.exponential(m.tail_by, runs), 0)
        found = []
        for k in range(runs):
            self._drift = keep * self._drift + wander[k]
            ms = m.run_ms * math.exp(self._drift + log[k] + m.burst_by * self._burst())
            self.now += int(ms * 1e6)
            found.append(ms)
        return found

    def _burst(self) -> bool:
        m = self.machine
        while m.burst and self.now / 1e9 >= self._until:
            self._bursting = not self._bursting
            mean = m.burst_s if self._bursting else m.burst_s * (1 - m.burst) / m.burst
            self._until = max(self._until, 0.0) + self._rng.exponential(mean)
        return self._bursting


class _Session:
    def __init__(self, simulation: Simulation, own: float) -> None:
        self._simulation, self._own = simulation, own

    def round(self, runs: int, /) -> list[float]:
        return self._simulation.times(self._own, runs)


def check(machine: Machine, change: float, limit: float, seed: int, **options: Any) -> Outcome:
    """Run one check."""
    simulation = Simulation(machine, seed)
    return gate(
        lambda: simulation.session(0.0),
        lambda: simulation.session(change),
        limit,
        clock=simulation.clock,
        seed=seed,
        **options,
    )


def characteristics(
    machine: Machine, change: float, limit: float, checks: int, **options: Any
) -> dict[str, float]:
    """Return shares of verdicts, how often the interval holds the truth, and the mean effort."""
    done = [check(machine, change, limit, seed, **options) for seed in range(checks)]
    held = [o.verdict.low - 1e-12 <= change <= o.verdict.high + 1e-12 for o in done]
    found = {
        s: float(np.mean([o.verdict.status == s for o in done]))
        for s in ("fail", "pass", "inconclusive")
    }
    found["held"] = float(np.mean(held))
    found["seconds"] = float(np.mean([o.seconds for o in done]))
    found["openings"] = float(np.mean([o.verdict.openings for o in done]))
    return found


def page(rows: Sequence[dict[str, Any]], checks: int) -> str:
    """Write the table."""
    lines = [
        "# The gate on simulated machines",
        "",
        f"{checks} checks a row, `tools/simulate_gate.py`. *Held*: the interval of the last look",
        "holds the true change; at least 95 % is promised.",
        "",
        "| machine | limit | true change | fail | pass | inconclusive | held | openings | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['machine']} | {r['limit']:.0%} | {r['change']:+.0%} | {r['fail']:.1%} "
        f"| {r['pass']:.1%} | {r['inconclusive']:.1%} | {r['held']:.1%} | {r['openings']:.1f} "
        f"| {r['seconds']:.1f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checks", type=int, default=400)
    parser.add_argument("--limits", type=float, nargs="+", default=[0.02])
    parser.add_argument("--machines", nargs="+", choices=MACHINES, default=list(MACHINES))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.machines:
        # What takes simulated minutes is given simulated minutes.
        budget = replace(Budget(), seconds=600.0)
        for limit in options.limits:
            for change in CHANGES:
                row = characteristics(MACHINES[name], change, limit, options.checks, budget=budget)
                rows.append({"machine": name, "limit": limit, "change": change, **row})
    publish(page(rows, options.checks), {"checks": options.checks, "rows": rows}, options.output)


if __name__ == "__main__":
    main()
