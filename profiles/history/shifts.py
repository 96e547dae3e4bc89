"""Level shifts in a series of figures: which run a change began with, how large it is.

Binary segmentation (Vostrikova, 1981): a series is split where the levels before and after differ
most for their noise, and each part again. Whether a split is real is told by permuting the series,
as E-divisive means does (Matteson and James, "A Nonparametric Approach for Multiple Change Point
Analysis of Multivariate Data", 2014; for benchmarks Daly et al., "The Use of Change Point Detection
to Identify Software Performance Regressions in a Continuous Integration System", 2020). The levels
are means of values clipped at some noises from their median, so that single spikes, which CI has
many of, are no levels (bounded losses: Fearnhead and Rigaill, 2019). The size of a shift and its
interval are Hodges and Lehmann's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.01  # chance to find a shift in a series that has none
LEAST = 3  # runs in a level: fewer are spikes
WINDOW = 1000  # runs looked at, the newest: a look costs in proportion
_PERMUTATIONS = 1999
_CLIP = 3.0  # noises
_LIKELY = 3.0  # log likelihood within which another beginning is as good as said: about 95 %
_PAIRED = 400  # runs of a level, next to the shift, that size and interval are from
_Z = 1.959964  # 95 %, two-sided
_NO_NOISE = 1e-9


@dataclass(frozen=True, slots=True)
class Shift:
    """A change of level.

    Attributes:
        index: position of the first value of the new level.
        first: earliest position it may have begun at, with about 95 % confidence.
        last: latest one.
        change: of the level: a ratio less one (0.05: 5 % more), or, of values as they are, their
            difference.
        low: lower end of its 95 % interval.
        high: upper end.
        p: how often a series without a shift looks as if it had one as clear, by permutation.
    """

    index: int
    first: int
    last: int
    change: float
    low: float
    high: float
    p: float


def shifts(
    values: Sequence[float], *, relative: bool = True, level: float = LEVEL, seed: int = 0
) -> list[Shift]:
    """Find level shifts in ``values``, oldest first; the same for the same values.

    Args:
        values: one figure of successive runs; all finite.
        relative: look at logarithms, and tell ratios; all values must be positive.
        level: chance of finding a shift where there is none.
        seed: of the permutations.

    Raises:
        ValueError: a value is not finite, or not positive where ``relative`` asks for it.
    """
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all() or (relative and (x <= 0).any()):
        raise ValueError("shifts are found in finite values, and ratios in positive ones")
    if relative:
        x = np.log(x)
    found = _split(x, level, seed)
    if not found:
        return []
    # A split was judged within a part that others split further, as if neighbours told nothing of
    # each other: judge each between its neighbours, and by what the levels leave of the values.
    evidence = _evidence(x, [index for index, _ in found])
    while True:
        edges = [0, *(index for index, _ in found), len(x)]
        parts = list(zip(edges[:-2], edges[2:], strict=True))
        judged = [(a, _best(x[a:b], level, seed, evidence)) for a, b in parts]
        kept = sorted({a + best[0]: best[1] for a, best in judged if best is not None}.items())
        if len(kept) == len(found):
            break
        found = kept
    edges = [0, *(index for index, _ in found), len(x)]
    return [
        _describe(x[a:c], b - a, a, p, relative)
        for a, (b, p), c in zip(edges[:-2], found, edges[2:], strict=True)
    ]


def _split(x: Array, level: float, seed: int) -> list[tuple[int, float]]:
    """Return index and p of each split, by index."""
    found, parts = [], [(0, len(x))]
    while parts:
        a, b = parts.pop()
        best = _best(x[a:b], level, seed)
        if best is not None:
            at = a + best[0]
            found.append((at, best[1]))
            parts += [(a, at), (at, b)]
    return sorted(found)


def _best(x: Array, level: float, seed: int, evidence: float = 1.0) -> tuple[int, float] | None:
    """Return where one level most likely becomes another, and its p; None if it does not."""
    n = len(x)
    if n < 2 * LEAST:
        return None
    scores = _clipped(x)
    statistic = _statistic(scores)
    at = int(statistic.argmax())
    reach = float(statistic[at]) * evidence * (1 - 1e-12)
    rng = np.random.default_rng([seed, n])
    reached, done = 0, 0
    # Stop early where it is clear that there is none (Besag and Clifford, 1991, sequential p).
    enough = math.ceil(4 * level * _PERMUTATIONS)
    while done < _PERMUTATIONS and reached < enough:
        count = min(200, _PERMUTATIONS - done)
        mixed = rng.permuted(np.broadcast_to(scores, (count, n)), axis=1)
        reached += int((_statistic(mixed).max(axis=-1) >= reach).sum())
        done += count
    p = (reached + 1) / (done + 1)
    return (at + LEAST, p) if p <= level else None


def _clipped(x: Array) -> Array:
    """Return values in units of their noise, from their median, spikes cut off.

    The noise is that between neighbours, which a shift adds to once only; where most neighbours
    are the same it is of those that differ.
    """
    steps = np.abs(np.diff(x))
    noise = float(np.median(steps)) * 1.4826 / math.sqrt(2)
    if noise < _NO_NOISE:
        moved = steps[steps > _NO_NOISE]
        noise = float(np.median(moved)) if len(moved) else 1.0
    centred: Array = np.clip((x - np.median(x)) / noise, -_CLIP, _CLIP)
    centred -= centred.mean()
    return centred


def _evidence(x: Array, at: Sequence[int]) -> float:
    """Return what is left of evidence where neighbours resemble each other: a machine drifts.

    A mean of values whose correlation falls as r, r², … varies by (1 + r) / (1 - r) more. ``r`` is
    of what the levels leave of the values, less its standard error, so that chance costs no shift.
    """
    edges = [0, *at, len(x)]
    parts = [_clipped(x[a:b]) for a, b in pairwise(edges) if b - a > 1]
    power = sum(float((part**2).sum()) for part in parts)
    if power < 1e-9 * len(x):
        return 1.0
    r = sum(float((part[1:] * part[:-1]).sum()) for part in parts) / power
    r = min(max(r - 1 / math.sqrt(len(x)), 0.0), 0.9)
    return math.sqrt((1 - r) / (1 + r))


def _without_step(scores: Array, at: int) -> Array:
    rest: Array = scores.copy()
    rest[:at] -= rest[:at].mean()
    rest[at:] -= rest[at:].mean()
    return rest


def _statistic(x: Any) -> Any:
    """Return, for each split with enough on both sides, the difference of means over its error.

    ``x`` has mean 0 along its last axis; what all splits have in common is left out.
    """
    n = x.shape[-1]
    k = np.arange(LEAST, n - LEAST + 1)
    sums = np.cumsum(x, axis=-1)[..., LEAST - 1 : n - LEAST]
    return np.abs(sums) / np.sqrt(k * (n - k) / n)


def _describe(x: Array, at: int, offset: int, p: float, relative: bool) -> Shift:
    """Say where a shift may have begun and how large it is, from the values of its two levels."""
    scores = _clipped(x)
    # Profile log likelihood of a step, by its place; the noise is what is left of the best one.
    gain = _statistic(scores) ** 2 / 2
    variance = max(float((_without_step(scores, at) ** 2).sum()) / max(len(x) - 2, 1), 1e-12)
    likely = np.flatnonzero(gain >= gain[at - LEAST] - _LIKELY * variance) + LEAST
    before, after = x[:at][-_PAIRED:], x[at:][:_PAIRED]
    change, low, high = _hodges_lehmann(before, after)
    if relative:
        change, low, high = math.expm1(change), math.expm1(low), math.expm1(high)
    first, last = offset + int(likely[0]), offset + int(likely[-1])
    return Shift(offset + at, first, last, change, low, high, p)


def _hodges_lehmann(before: Array, after: Array) -> tuple[float, float, float]:
    """Return the median of all differences, and the 95 % interval that Mann-Whitney gives."""
    m, n = len(before), len(after)
    pairs = np.sort((after[:, None] - before[None, :]).ravel())
    rank = math.floor(m * n / 2 - _Z * math.sqrt(m * n * (m + n + 1) / 12))
    rank = max(rank, 0)
    return float(np.median(pairs)), float(pairs[rank]), float(pairs[m * n - 1 - rank])
