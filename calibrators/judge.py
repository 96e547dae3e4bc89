"""What a table says of a model: expected errors, what looks wrong, and how two tables differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.calibrators import CALIBRATORS, CalibrationTable, Histogram, TensorRange
from graphopt.calibrators.choose import chosen
from graphopt.calibrators.errors import expected_sqnr
from graphopt.calibrators.table import Counts
from graphopt.wording import counted

FP16_MAX = 65504.0
# Below so many samples ranges still move by percents from one choice of samples to the next.
FEW_SAMPLES = 32
# A chosen range this much smaller than the greatest value: outliers of another order.
OUTLIERS = 16.0
# Up to so many are named in a warning.
NAMED = 4


@dataclass(frozen=True, slots=True)
class TensorJudgement:
    """One tensor of a table.

    Attributes:
        name: of the tensor.
        range: what was chosen, and the extremes seen.
        clipped: share of the values beyond ±amax, in 0..1; None without counts.
        sqnr_db: expected signal to quantization noise of symmetric int8; None without counts, or
            where there is no signal.
        kind: ``dead`` (all zero), ``constant`` (one value), or an empty string.
    """

    name: str
    range: TensorRange
    clipped: float | None = None
    sqnr_db: float | None = None
    kind: str = ""


def judge(table: CalibrationTable) -> list[TensorJudgement]:
    """Return what can be said of each tensor, in name order."""
    found = []
    for name, r in sorted(table.ranges.items()):
        histogram = None if table.counts is None else table.counts.histograms[name]
        if histogram is None:
            found.append(TensorJudgement(name, r, kind="dead" if r.amax == 0 else ""))
            continue
        found.append(
            TensorJudgement(
                name,
                r,
                _clipped(histogram, r.amax),
                expected_sqnr(histogram, r.amax),
                _kind(r, histogram),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every calibrator on the same counts.

    Attributes:
        methods: names of the calibrators, in the order of the registry.
        amax: tensor name -> ``amax`` by each of them, in name order.
        sqnr_db: tensor name -> expected SQNR in dB by each, None where there is no signal.
        largest: tensor name -> the greatest magnitude seen.
    """

    methods: tuple[str, ...]
    amax: Mapping[str, tuple[float, ...]]
    sqnr_db: Mapping[str, tuple[float | None, ...]]
    largest: Mapping[str, float]

    def mean_sqnr_db(self) -> list[float]:
        """Return each calibrator's mean over the tensors that have a signal."""
        rows = [row for row in self.sqnr_db.values() if None not in row]
        return [float(np.mean([row[i] for row in rows])) if rows else math.nan
                for i in range(len(self.methods))]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "calibrators": list(self.methods),
            "mean_sqnr_db": dict(zip(self.methods, map(_finite, self.mean_sqnr_db()), strict=True)),
            "tensors": {
                name: {
                    "largest": self.largest[name],
                    "amax": dict(zip(self.methods, self.amax[name], strict=True)),
                    "sqnr_db": dict(zip(self.methods, self.sqnr_db[name], strict=True)),
                }
                for name in self.amax
            },
        }

    def rows(self) -> tuple[str, list[str], list[list[str]]]:
        """Return title, head and rows of a table: ``amax`` and expected SQNR by each."""
        rows = [
            [name, f"{self.largest[name]:.4g}"]
            + [
                f"{amax:.4g}" + ("" if db is None else f" ({db:.1f})")
                for amax, db in zip(self.amax[name], self.sqnr_db[name], strict=True)
            ]
            for name in self.amax
        ]
        mean = [f"({db:.2f})" for db in self.mean_sqnr_db()]
        head = ["tensor", "greatest", *self.methods]
        return "amax (expected SQNR, dB)", head, [*rows, ["mean", "", *mean]]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def compare_calibrators(counts: Counts, methods: Sequence[str] = ()) -> Comparison:
    """Let every calibrator choose from the same counts.

    Args:
        counts: the histograms.
        methods: names of calibrators; every registered one by default.

    Raises:
        UsageError: one is unknown, or gives no usable range.
    """
    names = tuple(CALIBRATORS.canonical(m) for m in (methods or CALIBRATORS.names()))
    tables = [chosen(counts, name) for name in names]
    tensors = sorted(counts.histograms)
    return Comparison(
        names,
        {t: tuple(ranges[t].amax for ranges in tables) for t in tensors},
        {t: tuple(expected_sqnr(counts.histograms[t], r[t].amax) for r in tables) for t in tensors},
        {t: counts.histograms[t].largest for t in tensors},
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """A tensor whose range differs between two tables.

    Attributes:
        name: of the tensor.
        a: ``amax`` in the first table, None where it is not in it.
        b: ``amax`` in the second, None where it is not in it.
    """

    name: str
    a: float | None
    b: float | None

    @property
    def ratio(self) -> float:
        """The larger over the smaller, >= 1; inf where one is 0 or missing."""
        low, high = sorted((self.a or 0.0, self.b or 0.0))
        return high / low if low else math.inf


def differences(a: CalibrationTable, b: CalibrationTable) -> list[Difference]:
    """Return the tensors whose ``amax`` differs, the largest ratio first, then by name."""
    found = []
    for name in a.ranges.keys() | b.ranges.keys():
        one, other = a.ranges.get(name), b.ranges.get(name)
        x, y = None if one is None else one.amax, None if other is None else other.amax
        if x != y:
            found.append(Difference(name, x, y))
    return sorted(found, key=lambda d: (-d.ratio, d.name))


def table_warnings(table: CalibrationTable) -> list[str]:
    """Return what looks wrong with a table, one line each: what, where, what to do."""
    found = judge(table)
    warnings = []

    def say(names: Sequence[str], what: str) -> None:
        if names:
            more = " …" if len(names) > NAMED else ""
            many = counted(len(names), "tensor")
            warnings.append(f"{many} {what}: {', '.join(names[:NAMED])}{more}")

    say(
        [j.name for j in found if j.kind == "dead"],
        "zero on every sample (dead channels, or data that never wakes them)",
    )
    say(
        [j.name for j in found if j.kind == "constant"],
        "with one value on every sample (does the data reach the model?)",
    )
    say(
        [j.name for j in found if max(-j.range.low, j.range.high) > FP16_MAX],
        f"beyond the range of fp16 (±{FP16_MAX:g})",
    )
    say([j.name for j in found if j.range.amax * OUTLIERS < max(-j.range.low, j.range.high)],
        f"with outliers more than {OUTLIERS:g} times the chosen range, which are clipped "
        "(--calibrator minmax keeps them)")  # fmt: skip
    if 0 < table.samples < FEW_SAMPLES:
        warnings.append(
            f"calibrated on {counted(table.samples, 'sample')}: give {FEW_SAMPLES} or more, of "
            "what the model will see"
        )
    if table.synthetic:
        warnings.append("calibrated on SYNTHETIC data: accuracy is meaningless; do not ship this")
    return warnings


def _kind(r: TensorRange, histogram: Histogram) -> str:
    if histogram.largest == 0:
        return "dead"
    return "constant" if r.low == r.high and histogram.count > 1 else ""


def _clipped(histogram: Histogram, amax: float) -> float:
    """Return the share of values beyond ±amax, those of the bin that amax cuts shared out."""
    count = histogram.count
    if not count or amax >= histogram.largest:
        return 0.0
    place = amax / histogram.width
    bin_ = int(place)
    beyond = int(histogram.counts[bin_ + 1 :].sum())
    return (beyond + float(histogram.counts[bin_]) * (1 - (place - bin_))) / count
