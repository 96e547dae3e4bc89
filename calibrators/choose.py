"""From histograms to ranges: a calibrator looks at each tensor."""

from __future__ import annotations

import math

from graphopt.calibrators import CalibrationTable, Calibrator, TensorRange
from graphopt.calibrators.collect import Collected
from graphopt.errors import UsageError


def calibrate(
    collected: Collected,
    calibrator: Calibrator,
    *,
    method: str,
    model_digest: str,
    data_digest: str = "",
    synthetic: bool = False,
) -> CalibrationTable:
    """Let ``calibrator`` choose the range of every tensor collected.

    Args:
        collected: the histograms.
        calibrator: the rule.
        method: its name, with its options where it has any; recorded in the table.
        model_digest: ``Model.digest()`` of the model the histograms are of.
        data_digest: digest of the samples, or an empty string.
        synthetic: whether the data was made up.

    Raises:
        UsageError: the calibrator gives no usable range (negative, NaN, infinite, or 0 for a
            tensor that is not all zero); ours never do.
    """
    ranges = {}
    for name, histogram in sorted(collected.histograms.items()):
        amax = float(calibrator(histogram))
        if not (math.isfinite(amax) and (amax > 0 or (amax == 0 and histogram.largest == 0))):
            raise UsageError(
                f"the calibrator '{method}' gives tensor '{name}' the range ±{amax}, "
                f"where the greatest magnitude is {histogram.largest}: choose another --calibrator"
            )
        ranges[name] = TensorRange(amax, histogram.low, histogram.high)
    return CalibrationTable(
        ranges=ranges,
        method=method,
        model_digest=model_digest,
        data_digest=data_digest,
        samples=collected.samples,
        synthetic=synthetic,
    )
