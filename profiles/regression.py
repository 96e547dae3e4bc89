"""Whether a candidate is slower than a baseline by more than a limit, and how sure that is.

What is judged is the log of candidate / baseline, round by round, so that a slow-down and the
speed-up that undoes it weigh the same. Rounds on the same pair of open sessions are not
independent (where its weights and buffers lie in memory makes a session some tenths of a per cent
faster or slower for as long as it lives), so openings are what is resampled first, then rounds
within them. See ``docs/gate-statistics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, median, stdev
from typing import Any, Literal

import numpy as np

from graphopt.profiles._bootstrap import interval, log, percentiles, resampled, weights
from graphopt.profiles._student import t_quantile

Ruling = Literal["pass", "fail", "inconclusive"]

CONFIDENCE = 0.95
LIMIT = 0.02
# Fewer clusters tell nothing of how clusters differ, whatever is done about it.
LEAST_OPENINGS = 5
# A percentile needs this many samples beyond it; p99 so needs 500 runs.
LEAST_BEYOND = 5
# Two runs of the same at different times: how far apart, 95 % of the time.
OFFSET = 0.02
# From this many stored runs on they themselves tell how far apart runs are.
LEAST_STORED = 4
_BATCHES = 20
# A limit that is met exactly is met, whatever log and exp make of its last bit.
_EXACT = 1e-9
# exp(20) is 500 million times slower; what a few wild rounds give may be beyond any float.
_FARTHEST = 20.0
_LOWEST, _HIGHEST = math.expm1(-_FARTHEST), math.expm1(_FARTHEST)


@dataclass(frozen=True, slots=True)
class Round:
    """One round: the two models by turns, A B B A, so that a steady drift hits both alike.

    Attributes:
        base_samples: the baseline's runs, raw, in the order they ran, in ms.
        cand_samples: the candidate's.
        opening: which pair of sessions they ran on, counted from 0.
    """

    base_samples: tuple[float, ...]
    cand_samples: tuple[float, ...]
    opening: int = 0

    def __post_init__(self) -> None:
        for side, samples in (("baseline", self.base_samples), ("candidate", self.cand_samples)):
            if not all(math.isfinite(s) and s >= 0 for s in samples):
                raise ValueError(f"{side}: a time must be finite and not negative")
            if not samples or median(samples) <= 0:
                raise ValueError(
                    f"{side}: a round needs runs that take longer than its clock ticks"
                )

    @property
    def base_ms(self) -> float:
        """The baseline's median, in ms."""
        return median(self.base_samples)

    @property
    def cand_ms(self) -> float:
        """The candidate's median, in ms."""
        return median(self.cand_samples)

    @property
    def log_ratio(self) -> float:
        """log(candidate / baseline)."""
        return math.log(self.cand_ms) - math.log(self.base_ms)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it; ``change``, ``low``, ``high`` and ``limit`` are ratios: 0.03 is 3 % slower.

    Attributes:
        status: ``"inconclusive"``: the limit lies within the interval.
        change: estimate of candidate / baseline - 1.
        low: lower end of its interval.
        high: upper end.
        confidence: that the interval holds the truth at *every* look, not at each.
        limit: how much slower is allowed.
        rounds: how many were judged; runs, against a stored baseline.
        openings: on how many pairs of sessions; stored runs, against a stored baseline.
        why: one line for people: the figures, and where it is inconclusive the reason.
        reason: why it is inconclusive, alone; else empty.
    """

    status: Ruling
    change: float
    low: float
    high: float
    confidence: float
    limit: float
    rounds: int
    openings: int
    why: str
    reason: str = ""

    @property
    def bounded(self) -> bool:
        """Whether there is an interval: one opening tells nothing of how openings differ."""
        return self.low > _LOWEST or self.high < _HIGHEST

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: getattr(self, name) for name in type(self).__slots__}


def judge(
    rounds: Sequence[Round],
    limit: float = LIMIT,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    looks: int = 1,
) -> Verdict:
    """Judge the median latency: the median of the openings' median log ratios.

    The interval is a hierarchical percentile bootstrap, widened for few openings by Student's t
    (Hesterberg 2015, section 5). It fails where the whole interval is above the limit, passes
    where none of it is.

    Args:
        rounds: from one or more openings.
        limit: how much slower is allowed: 0.03 is 3 %.
        confidence: of the two-sided interval.
        seed: of the bootstrap; the same rounds and seed give the same verdict.
        looks: how often in all the growing data is judged; the error allowed is shared among them
            (Bonferroni), so that looking again does not cry wolf.

    Raises:
        ValueError: there are no rounds, or limit, confidence or looks make no sense.
    """
    _check(rounds, limit, confidence, looks)
    groups = _by_opening(rounds)
    values = [np.array([r.log_ratio for r in group]) for group in groups]
    rng = np.random.default_rng(seed)
    middle = float(np.median([np.median(v) for v in values]))
    drawn = resampled(values, rng)
    low, high = interval(middle, drawn, len(values), (1 - confidence) / looks)
    few = _too_few(len(values))
    return _verdict(middle, low, high, confidence, limit, len(rounds), len(values), few, "median")


def judge_percentile(
    rounds: Sequence[Round],
    limit: float,
    *,
    q: float = 99.0,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    looks: int = 1,
) -> Verdict:
    """Judge another percentile of the runs themselves: the tail that a median cannot see.

    All runs of one side are pooled; openings are resampled, with all of their runs. A tail is
    worse known than a median, so give it a wider limit.

    Args:
        rounds: from one or more openings.
        limit: how much slower is allowed.
        q: the percentile, 0 < q < 100.
        confidence: as in :func:`judge`.
        seed: as in :func:`judge`.
        looks: as in :func:`judge`.

    Raises:
        ValueError: as in :func:`judge`, or ``q`` is no percentile.
    """
    _check(rounds, limit, confidence, looks)
    if not 0 < q < 100:
        raise ValueError(f"a percentile is between 0 and 100, not {q}")
    groups = _by_opening(rounds)
    sides = [
        [np.concatenate([r.base_samples for r in group]) for group in groups],
        [np.concatenate([r.cand_samples for r in group]) for group in groups],
    ]
    name = f"p{q:g}"
    often = weights(len(groups), np.random.default_rng(seed))
    ones = np.ones((1, len(groups)))
    points = [log(percentiles(side, q, ones)) for side in sides]
    middle = float((points[1] - points[0])[0])
    drawn = log(percentiles(sides[1], q, often)) - log(percentiles(sides[0], q, often))
    low, high = interval(middle, drawn, len(groups), (1 - confidence) / looks)
    fewest = min(sum(len(part) for part in side) for side in sides)
    few = _too_few_beyond(name, q, fewest) or _too_few(len(groups))
    return _verdict(middle, low, high, confidence, limit, len(rounds), len(groups), few, name)


def judge_stored(
    base: Sequence[Sequence[float]],
    cand: Sequence[float],
    limit: float,
    *,
    q: float = 50.0,
    offset: float = OFFSET,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Verdict:
    """Judge a run against stored ones, of another time, that it cannot be interleaved with.

    Runs of the same thing at different times differ by more than their samples tell. From four
    stored runs on that is taken from how they differ (a prediction interval by Student's t);
    before, ``offset`` is assumed. The interval holds it in addition to what the samples tell, so
    that a limit near ``offset`` is rarely decided.

    Args:
        base: the samples of one or more stored runs, in ms, each in the order they ran.
        cand: the samples of the new run, likewise.
        limit: how much slower is allowed.
        q: the percentile that is judged, 0 < q < 100; the median by default.
        offset: how far two runs of the same are apart, 95 % of the time, where less than four
            stored runs tell: 0.02 is 2 %.
        confidence: of the two-sided interval.
        seed: of the bootstrap.

    Raises:
        ValueError: no samples, or ones that are not finite and positive; ``limit``, ``confidence``,
            ``q`` or ``offset`` make no sense.
    """
    _check(base, limit, confidence, 1)
    if not 0 < q < 100 or not (math.isfinite(offset) and offset >= 0):
        raise ValueError(f"no percentile, or no offset: {q}, {offset}")
    for run in (*base, cand):
        if not len(run) or not all(math.isfinite(s) and s > 0 for s in run):
            raise ValueError("samples must be finite and above zero")
    alpha = 1 - confidence
    rng = np.random.default_rng(seed)
    centres = [math.log(np.percentile(run, q)) for run in base]
    middle = math.log(np.percentile(cand, q)) - median(centres)
    count = len(base)
    spread = math.sqrt(1 + 1 / count)
    of_samples = [_sampling(cand, q, alpha, rng)]
    if count >= LEAST_STORED:
        # Their medians differ by what their samples leave open too; it need not be added again.
        between = t_quantile(1 - alpha / 2, count - 1) * stdev(centres) * spread
        told = f"as {count} stored runs differ among themselves"
    else:
        normal = NormalDist()
        between = offset * normal.inv_cdf(1 - alpha / 2) / normal.inv_cdf(0.975)
        of_samples += [_sampling(run, q, alpha, rng) / math.sqrt(count) for run in base[:1]]
        told = f"runs of different times may differ by {offset:.1%}"
    half = math.hypot(between, *of_samples)
    name = "median" if q == 50 else f"p{q:g}"
    few = _too_few_beyond(name, q, min(len(cand), len(base[0])))
    found = _verdict(
        middle, middle - half, middle + half, confidence, limit, len(cand), count, few, name
    )
    return replace(found, why=f"{found.why}; not interleaved, so the interval is wider: {told}")


def _check(given: Sequence[object], limit: float, confidence: float, looks: int) -> None:
    if not given:
        raise ValueError("there is nothing to judge")
    if not (math.isfinite(limit) and limit > -1):
        raise ValueError(f"a limit is a finite ratio, not {limit}")
    if not 0 < confidence < 1 or looks < 1:
        raise ValueError(f"no confidence, or no number of looks: {confidence}, {looks}")


def _by_opening(rounds: Iterable[Round]) -> list[list[Round]]:
    groups: dict[int, list[Round]] = {}
    for one in rounds:
        groups.setdefault(one.opening, []).append(one)
    return [groups[opening] for opening in sorted(groups)]


def _sampling(samples: Sequence[float], q: float, alpha: float, rng: np.random.Generator) -> float:
    """Return the half-width that the samples of one run leave open, by batches of neighbours.

    Neighbours are alike (drift, a disturbance that lasts), so single samples would seem to tell
    more than they do.
    """
    parts = np.array_split(np.asarray(samples, dtype=np.float64), min(_BATCHES, len(samples)))
    drawn = np.log(percentiles(parts, q, weights(len(parts), rng)))
    middle = float(np.log(percentiles(parts, q, np.ones((1, len(parts)))))[0])
    low, high = interval(middle, drawn, len(parts), alpha)
    return min(_FARTHEST, max(middle - low, high - middle))


def _too_few(openings: int) -> str:
    if openings >= LEAST_OPENINGS:
        return ""
    return f"at least {LEAST_OPENINGS} openings are needed, and there are {openings}"


def needed_runs(q: float) -> int:
    """Return how many runs of each side a percentile needs: five beyond it, 500 for p99."""
    return math.ceil(round(LEAST_BEYOND * 100 / min(q, 100 - q), 6))


def _too_few_beyond(name: str, q: float, runs: int) -> str:
    # A median is the middle of what there is; how sure it is the interval tells.
    if q == 50 or runs >= needed_runs(q):
        return ""
    return f"{name} needs {needed_runs(q)} runs of each, and there are {runs}"


def _verdict(
    middle: float,
    low: float,
    high: float,
    confidence: float,
    limit: float,
    rounds: int,
    openings: int,
    few: str,
    name: str,
) -> Verdict:
    change, least, most = (_ratio(v) for v in (middle, low, high))
    status: Ruling = "inconclusive"
    if not few and least > limit + _EXACT:
        status = "fail"
    elif not few and most <= limit + _EXACT:
        status = "pass"
    reason = ""
    if status == "inconclusive":
        reason = few or "the limit lies within the interval"
    found = Verdict(status, change, least, most, confidence, limit, rounds, openings, "", reason)
    within = "no interval yet"
    if found.bounded:
        within = f"{100 * confidence:.4g} % interval {percent(least)} to {percent(most)}"
    why = f"{name} {percent(change)}, {within}, limit {percent(limit)}"
    return replace(found, why=f"{why}: {reason}" if reason else why)


def _ratio(log: float) -> float:
    return math.expm1(min(max(log, -_FARTHEST), _FARTHEST))


def percent(ratio: float) -> str:
    """Write a ratio for people: ``+3.1 %``."""
    digits = 1 if abs(ratio) < 10 else 0
    # Not "-0.0".
    return f"{round(100 * ratio, digits) + 0.0:+.{digits}f} %"
