"""Calibration: one streaming pass over the data, histograms, and the rules that choose ranges.

``collect`` fills one :class:`Histogram` a tensor; a calibrator turns a histogram into ``amax``,
purely; a :class:`CalibrationTable` holds the results and becomes Q/DQ nodes or a TensorRT cache.
"""

from __future__ import annotations

from typing import Protocol

from graphopt.calibrators.histogram import Histogram
from graphopt.calibrators.table import CalibrationTable, TensorRange
from graphopt.registry import Registry

__all__ = [
    "CALIBRATORS",
    "CalibrationTable",
    "Calibrator",
    "Histogram",
    "TensorRange",
]


class Calibrator(Protocol):
    """A rule that chooses where to clip: pure, the same counts give the same answer."""

    def __call__(self, histogram: Histogram, /) -> float:
        """Return ``amax``: values beyond ±amax are clipped.

        It is > 0, and at most ``histogram.largest``; 0 only where every value is zero.
        """


CALIBRATORS = Registry(
    kind="calibrator",
    table={
        "entropy": "graphopt.calibrators.entropy:Entropy",
        "minmax": "graphopt.calibrators.minmax:MinMax",
        "percentile": "graphopt.calibrators.percentile:Percentile",
    },
    aliases={"max": "minmax", "kl": "entropy"},
)
