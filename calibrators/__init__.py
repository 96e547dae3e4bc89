"""Calibration: one streaming pass over the data, histograms, and the rules that choose ranges.

``collect`` fills one :class:`Histogram` a tensor; a calibrator turns a histogram into ``amax``,
purely; a :class:`CalibrationTable` holds the results and becomes Q/DQ nodes or a TensorRT cache.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, runtime_checkable

from graphopt.calibrators.histogram import Histogram
from graphopt.calibrators.table import CalibrationTable, TensorRange
from graphopt.errors import UsageError
from graphopt.registry import Registry

__all__ = [
    "CALIBRATORS",
    "CalibrationTable",
    "Calibrator",
    "Histogram",
    "ReaderAware",
    "TensorRange",
]


class Calibrator(Protocol):
    """A rule that chooses where to clip: pure, the same counts give the same answer."""

    def __call__(self, histogram: Histogram, /) -> float:
        """Return ``amax``: values beyond ±amax are clipped.

        It is > 0, and at most ``histogram.largest``; 0 only where every value is zero.
        """


@runtime_checkable
class ReaderAware(Protocol):
    """A calibrator that also looks at who reads a tensor; any other is just called."""

    def for_reader(self, gain: float, /) -> Calibrator:
        """Return the rule for a tensor whose readers have this patch gain.

        Args:
            gain: see :mod:`graphopt.calibrators.readers`; 1 where nothing is known.
        """


class Calibrators(Registry):
    """The table of calibrators: a name may carry an option behind a colon, ``percentile:99.9``.

    A calibrator takes one if it has a class method ``from_option(text)``; its ``option`` then
    spells what was understood, so that two spellings of one rule are one name.
    """

    __slots__ = ()

    def canonical(self, name: str) -> str:
        """Return the one spelling of ``name``, its option checked.

        Raises:
            UsageError: nothing is registered under it, or the option is none.
        """
        base, colon, option = name.partition(":")
        base = Registry.canonical(self, base)
        if not colon:
            return base
        return f"{base}:{_configured(Registry.load(self, base), base, option).option}"

    def load(self, name: str) -> Any:
        """Return what makes the calibrator of that name when called without arguments.

        Raises:
            UsageError: nothing is registered under it, or the option is none.
            EnvironmentProblem: what is registered cannot be imported.
        """
        base, colon, option = name.partition(":")
        base = Registry.canonical(self, base)
        made = Registry.load(self, base)
        if not colon:
            return made
        _configured(made, base, option)
        return partial(made.from_option, option)


def _configured(made: Any, base: str, option: str) -> Any:
    if not hasattr(made, "from_option"):
        raise UsageError(f"the calibrator '{base}' takes no option: leave ':{option}' out")
    return made.from_option(option)


CALIBRATORS = Calibrators(
    kind="calibrator",
    table={
        "entropy": "graphopt.calibrators.entropy:Entropy",
        "minmax": "graphopt.calibrators.minmax:MinMax",
        "percentile": "graphopt.calibrators.percentile:Percentile",
        "mse": "graphopt.calibrators.mse:MeanSquaredError",
        "auto": "graphopt.calibrators.auto:Auto",
    },
    aliases={"max": "minmax", "kl": "entropy"},
)
