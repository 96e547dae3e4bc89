"""Each limit, and what came of it: from verdicts and figures to gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median

from graphopt.profiles.regression import LIMIT, Round, Verdict
from graphopt.profiles.run import Gate, Status
from graphopt.recipe import Gate as Limits
from graphopt.wording import counted, one_line

MAX_REGRESSION = 100 * LIMIT
"""``--max-regression`` where it is not given, in percent: the least that a shared machine tells."""
_EXACT = 1e-9
_AGREE = "the two choose other classes; labels (folders of --data) tell which of them is right"
_LOOK = "all of the interval is beyond the limit; graphopt profile --layers tells where time goes"


@dataclass(frozen=True, slots=True)
class Judged:
    """A gate with the two figures it is about.

    Attributes:
        gate: what came of it.
        base: the baseline's figure, or None.
        cand: the candidate's, or None.
        unit: of the two.
    """

    gate: Gate
    base: float | None = None
    cand: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class TimeGate:
    """A limit on times that are compared.

    Attributes:
        name: the option that sets it.
        metric: in words.
        kind: ``"p50"``, ``"p99"`` or ``"mean"``.
        limit: how much slower is allowed, as a ratio of times: 0.03 is 3 %.
        asked: the limit in percent, as it was given.
    """

    name: str
    metric: str
    kind: str
    limit: float
    asked: float


def time_gates(limits: Limits) -> tuple[TimeGate, ...]:
    """Return the limits on times: that on the median always, the others where they are set."""
    regression = MAX_REGRESSION if limits.max_regression is None else limits.max_regression
    found = [TimeGate("max-regression", "median latency", "p50", regression / 100, regression)]
    if limits.max_p99 is not None:
        found.append(
            TimeGate("max-p99", "p99 latency", "p99", limits.max_p99 / 100, limits.max_p99)
        )
    drop = limits.max_throughput_drop
    if drop is not None:
        # One run after the other: throughput is batch / mean latency.
        found.append(
            TimeGate("max-throughput-drop", "throughput", "mean", 1 / (1 - drop / 100) - 1, drop)
        )
    return tuple(found)


def means(rounds: Sequence[Round]) -> tuple[Round, ...]:
    """Return rounds whose one sample is their mean: for throughput, which outliers count in."""
    return tuple(
        Round((fmean(r.base_samples),), (fmean(r.cand_samples),), r.opening) for r in rounds
    )


def time_gate(asked: TimeGate, verdict: Verdict) -> Gate:
    """Return the gate of a verdict on times; for throughput all is turned round."""
    change, low, high = verdict.change, verdict.low, verdict.high
    if asked.kind == "mean":
        change, low, high = (_throughput(v) for v in (change, high, low))
    return Gate(
        asked.name,
        asked.metric,
        100 * change,
        asked.asked,
        "%",
        verdict.status,
        _percent(low) if verdict.bounded else None,
        _percent(high) if verdict.bounded else None,
        _what_to_do(verdict),
    )


def _what_to_do(verdict: Verdict) -> str:
    if verdict.status == "fail":
        return _LOOK
    return verdict.reason


def latency_gate(
    limit_ms: float, medians: Sequence[float], *, confidence: float, looks: int = 1
) -> Gate:
    """Judge the candidate's own median latency against a limit in ms.

    The interval is that of order statistics, free of any distribution; ``medians`` are of openings.
    The error that ``confidence`` allows is shared among ``looks`` (Bonferroni).
    """
    found = median(medians)
    low, high = _order_interval(medians, 1 - (1 - confidence) / looks)
    status: Status = "inconclusive"
    note = "the limit lies within the interval"
    if low is None or high is None:
        note = f"{counted(len(medians), 'opening')} tell too little: a larger --budget takes more"
    elif low > limit_ms * (1 + _EXACT):
        status, note = "fail", _LOOK
    elif high <= limit_ms * (1 + _EXACT):
        status, note = "pass", ""
    return Gate("max-latency", "median latency", found, limit_ms, "ms", status, low, high, note)


def growth_gate(name: str, metric: str, limit: float, base: float | None, cand: float) -> Judged:
    """Judge a figure that two files or sessions have, by how much it grew, in percent."""
    if base is None:
        note = f"the baseline tells no {metric}"
        return Judged(Gate(name, metric, None, limit, "%", "inconclusive", note=note), None, cand,
                      "bytes")  # fmt: skip
    grown = 100 * (cand / base - 1) if base > 0 else 0.0 if cand <= 0 else None
    passed = grown is not None and grown <= limit + _EXACT
    note = "" if passed else f"{metric} grew by more than is allowed"
    gate = Gate(name, metric, grown, limit, "%", "pass" if passed else "fail", note=note)
    return Judged(gate, base, cand, "bytes")


def drop_gate(limit: float, drop: float | None, *, labels: bool) -> Gate:
    """Judge what the candidate lost, in points: of accuracy, or of agreement without labels."""
    metric = "accuracy" if labels else "top-1 agreement"
    if drop is None:
        note = "no output looks like class scores, of shape (N, C)"
        return Gate("max-drop", metric, None, limit, "points", "inconclusive", note=note)
    passed = drop <= limit + _EXACT
    note = "" if passed else "the candidate is right less often" if labels else _AGREE
    return Gate("max-drop", metric, drop, limit, "points", "pass" if passed else "fail", note=note)


def sqnr_gate(limit: float, output: str, sqnr_db: float) -> Gate:
    """Judge the SQNR of the output that is worst off; the same values have none, and pass."""
    metric = f"SQNR of '{one_line(output, 60)}'"
    value = sqnr_db if math.isfinite(sqnr_db) else None
    if sqnr_db == math.inf:
        return Gate("min-sqnr", metric, None, limit, "dB", "pass", note="identical")
    passed = sqnr_db >= limit - _EXACT
    note = "" if passed else "the candidate gives other answers; graphopt compare tells where"
    if value is None:
        note = "the baseline's values are all zero, and the candidate's are not"
    return Gate("min-sqnr", metric, value, limit, "dB", "pass" if passed else "fail", note=note)


def outputs_gate(problem: str, mismatched: int, empty: Sequence[str] = ()) -> Gate:
    """Judge whether outputs have the same names, types and shapes, and are numbers alike.

    Args:
        problem: in what they differ, or nothing.
        mismatched: elements that are no finite number in one of the two only.
        empty: outputs that have no finite number in either: nothing was compared.
    """
    if not problem and mismatched:
        problem = (
            "NaN or infinite in one of the two only: "
            f"{counted(mismatched, 'element')} of the outputs"
        )
    status: Status = "fail" if problem else "pass"
    if empty and not problem:
        status, names = "inconclusive", ", ".join(f"'{one_line(name, 60)}'" for name in empty[:3])
        problem = f"all of {names} is NaN or infinite in both: give real samples with --data"
    return Gate("outputs", "outputs alike", None, 0.0, "", status, note=problem)


def _throughput(ratio: float) -> float:
    return 1 / (1 + ratio) - 1 if ratio > -1 else math.inf


def _percent(ratio: float) -> float | None:
    return 100 * ratio if math.isfinite(ratio) else None


def _order_interval(
    values: Sequence[float], confidence: float
) -> tuple[float | None, float | None]:
    """Return an interval of the median by order statistics: binomial, by its normal limit.

    None where so few values cannot give that confidence: 2 ** (1 - n) > 1 - confidence.
    """
    count = len(values)
    if 2.0 ** (1 - count) > 1 - confidence:
        return None, None
    ordered = sorted(values)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(count) / 2
    rank = max(0, math.floor(count / 2 - half) - 1)
    return ordered[rank], ordered[count - 1 - rank]
