"""Whether two artifacts give the same answers to the same inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from graphopt.check.gates import drop_gate, outputs_gate, sqnr_gate
from graphopt.data import Dataset
from graphopt.errors import UnsupportedModelError
from graphopt.fidelity import Fidelity
from graphopt.graph import Array
from graphopt.model import Feeds
from graphopt.profiles.run import Gate
from graphopt.recipe import Gate as Limits
from graphopt.registry import did_you_mean
from graphopt.verify import Progress, Runner, compare, numeric
from graphopt.wording import one_line, spell

MIN_SQNR = 10.0
"""``--min-sqnr`` where it is not given, in dB: noise of a tenth of the power.

INT8 and pruned, recovered networks lie above 20 dB on random inputs, another network of the same
family at 1 dB (docs/check.md)."""
MIN_EQUAL = 0.75
"""Share of an integer output (classes, indices) that must be the same."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a comparison of answers found.

    Attributes:
        problem: names, types or shapes that differ, in words; else empty.
        fidelity: how far the values are apart; None where there is a problem.
        equal: integer output -> share of elements that are the same.
        empty: outputs of floats without a finite number in either.
    """

    problem: str = ""
    fidelity: Fidelity | None = None
    equal: Mapping[str, float] = field(default_factory=dict)
    empty: tuple[str, ...] = ()

    @property
    def worst(self) -> tuple[str, float] | None:
        """The output of floats with the least SQNR, in dB; None without one."""
        if self.fidelity is None:
            return None
        found = [
            (error.sqnr_db, name)
            for name, error in self.fidelity.outputs.items()
            if name not in self.equal and name not in self.empty
        ]
        return (min(found)[1], min(found)[0]) if found else None


class _Differ(Exception):
    """Outputs cannot be compared value by value."""


@dataclass(slots=True)
class _Watch:
    """Passes runs on to the comparison, and looks at what it does not: types, integers."""

    base: Runner
    cand: Runner
    types: bool
    last: Mapping[str, Array] = field(default_factory=dict)
    same: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    finite: dict[str, bool] = field(default_factory=dict)

    def run_base(self, feeds: Feeds) -> Mapping[str, Array]:
        self.last = self.base(feeds)
        return self.last

    def run_cand(self, feeds: Feeds) -> Mapping[str, Array]:
        found = self.cand(feeds)
        problem = difference(self.last, found, types=self.types)
        if problem:
            raise _Differ(problem)
        for name, value in self.last.items():
            a, b = np.asarray(value), np.asarray(found[name])
            if a.dtype.kind in "biu":
                self.same[name] = self.same.get(name, 0) + int((a == b).sum())
                self.seen[name] = self.seen.get(name, 0) + a.size
            elif a.size and not self.finite.get(name):
                self.finite[name] = bool(np.isfinite(a).any() or np.isfinite(b).any())
        return found

    def equal(self) -> dict[str, float]:
        return {n: self.same[n] / seen if seen else 1.0 for n, seen in self.seen.items()}


def answers(
    base: Runner,
    cand: Runner,
    data: Dataset,
    *,
    batch: int,
    types: bool = True,
    progress: Progress | None = None,
) -> Answers:
    """Run both on the same samples.

    Args:
        base: runs the baseline.
        cand: runs the candidate.
        data: the samples, with labels where there are any.
        batch: samples at a time.
        types: whether types tell something; trtexec's values are all float64.
        progress: called after each batch with the number of samples in it.

    Raises:
        UnsupportedModelError: an output is no array of numbers.
        DataError: a sample is broken, or a label is no class of the model.
    """
    watch = _Watch(base, cand, types)
    try:
        found = compare(watch.run_base, watch.run_cand, data, batch=batch, progress=progress)
    except _Differ as problem:
        return Answers(str(problem))
    except UnsupportedModelError as problem:
        raise UnsupportedModelError(
            str(problem), hint="--no-outputs leaves the comparison of outputs out"
        ) from problem
    empty = tuple(name for name, finite in watch.finite.items() if not finite)
    return Answers("", found, watch.equal(), empty)


def difference(base: Mapping[str, Array], cand: Mapping[str, Array], *, types: bool) -> str:
    """Return what keeps outputs from being compared: names, types, shapes; else nothing."""
    for odd in sorted(set(base) ^ set(cand)):
        there, other = ("baseline", cand) if odd in base else ("candidate", base)
        nearest = did_you_mean(odd, other)
        return f"output '{one_line(odd, 60)}' is in the {there} only{nearest}"
    for name in base:
        a, b = numeric(name, base[name], " of the baseline"), numeric(name, cand[name])
        what = f"output '{one_line(name, 60)}' is"
        if types and a.dtype != b.dtype:
            return f"{what} {a.dtype} in the baseline and {b.dtype} in the candidate"
        if a.shape != b.shape:
            return f"{what} {spell(a.shape)} in the baseline and {spell(b.shape)} in the candidate"
    return ""


def output_gates(found: Answers, limits: Limits, say: Callable[[str], None]) -> list[Gate]:
    """Judge answers: alike at all, near enough, right often enough.

    With ``--max-drop`` and labels, right and wrong is what counts: then no SQNR is asked for that
    was not.
    """
    fidelity = found.fidelity
    problem = found.problem
    for name, share in found.equal.items():
        if share < MIN_EQUAL and not problem:
            problem = (
                f"{share:.0%} of the integers of '{one_line(name, 60)}' are the same, at least "
                f"{MIN_EQUAL:.0%} must be"
            )
    gates = [
        outputs_gate(problem, 0 if fidelity is None else fidelity.total.mismatched, found.empty)
    ]
    if fidelity is None:
        return gates
    labels = fidelity.accuracy_a is not None
    judged = limits.max_drop is not None and labels
    worst, least = found.worst, limits.min_sqnr
    if least is None and judged:
        say("outputs: --max-drop judges the answers by labels, so their SQNR is held to no limit")
    elif worst is not None:
        gates.append(sqnr_gate(MIN_SQNR if least is None else least, *worst))
    if limits.max_drop is not None:
        gates.append(drop_gate(limits.max_drop, fidelity.drop_points(), labels=labels))
    return gates


def finite(value: float | None) -> float | None:
    """Return a figure that can be kept, or None: identical outputs have no finite SQNR."""
    return value if value is not None and math.isfinite(value) else None
