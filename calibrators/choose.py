"""From histograms to ranges: a calibrator looks at each tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256

from graphopt.calibrators import (
    CALIBRATORS,
    CalibrationTable,
    Calibrator,
    Histogram,
    ReaderAware,
    TensorRange,
)
from graphopt.calibrators.collect import Collected
from graphopt.calibrators.table import Counts
from graphopt.errors import UsageError


def calibrate(
    collected: Collected,
    calibrator: Calibrator,
    *,
    method: str,
    model_digest: str,
    data_digest: str = "",
    synthetic: bool = False,
    gains: Mapping[str, float] | None = None,
) -> CalibrationTable:
    """Let ``calibrator`` choose the range of every tensor collected.

    Args:
        collected: the histograms.
        calibrator: the rule.
        method: its name, with its options where it has any; recorded in the table.
        model_digest: ``Model.digest()`` of the model the histograms are of.
        data_digest: digest of the samples, or an empty string.
        synthetic: whether the data was made up.
        gains: tensor name -> patch gain of its readers, for calibrators that ask; 1 where none
            is given.

    Raises:
        UsageError: the calibrator gives no usable range (negative, NaN, infinite, or 0 for a
            tensor that is not all zero); ours never do.
    """
    return CalibrationTable(
        ranges=ranges_of(collected.histograms, gains or {}, calibrator, method),
        method=method,
        model_digest=model_digest,
        data_digest=data_digest,
        samples=collected.samples,
        synthetic=synthetic,
    )


def chosen(counts: Counts, method: str) -> dict[str, TensorRange]:
    """Let the calibrator of a name choose from counts.

    Args:
        counts: the histograms.
        method: a name in ``CALIBRATORS``, with its option where it has one.

    Raises:
        UsageError: there is no such calibrator, or it gives no usable range.
    """
    rule: Calibrator = CALIBRATORS.load(method)()
    return ranges_of(counts.histograms, counts.gains, rule, CALIBRATORS.canonical(method))


def choose_again(
    table: CalibrationTable, method: str, where: str = "the table"
) -> CalibrationTable:
    """Return the table that another calibrator makes of the same counts.

    Raises:
        UsageError: the table has no counts, or there is no such calibrator.
    """
    method = CALIBRATORS.canonical(method)
    if method == table.method:
        return table
    if table.counts is None:
        raise UsageError(
            f"{where} has no histograms, only the ranges that '{table.method}' chose: "
            f"'{method}' needs the data; calibrate again"
        )
    return replace(table, ranges=chosen(table.counts, method), method=method)


def digest_of(seen: tuple[str, ...], preprocess: str) -> str:
    """Return one digest for samples seen in any order, and how they were made; in hex."""
    return sha256("\n".join([preprocess, *sorted(seen)]).encode()).hexdigest()


def ranges_of(
    histograms: Mapping[str, Histogram],
    gains: Mapping[str, float],
    calibrator: Calibrator,
    method: str,
) -> dict[str, TensorRange]:
    """Return tensor name -> range, in name order.

    Raises:
        UsageError: the calibrator gives no usable range.
    """
    ranges = {}
    for name, histogram in sorted(histograms.items()):
        rule = calibrator
        if isinstance(calibrator, ReaderAware):
            rule = calibrator.for_reader(gains.get(name, 1.0))
        amax = float(rule(histogram))
        if not (math.isfinite(amax) and (amax > 0 or (amax == 0 and histogram.largest == 0))):
            raise UsageError(
                f"the calibrator '{method}' gives tensor '{name}' the range ±{amax}, "
                f"where the greatest magnitude is {histogram.largest}: choose another --calibrator"
            )
        ranges[name] = TensorRange(amax, histogram.low, histogram.high)
    return ranges
