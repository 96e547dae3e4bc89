"""The threshold with the least error in the layers that read the tensor.

What reaches a reader's output is ``sum w * error``. Errors of rounding are as good as independent:
they add up to ``sum w**2`` times their mean square. Errors of clipping are not: they all pull
towards zero, and large activations come in patches, so the taps of one kernel meet a clipped patch
together, and add up to ``sum over channels (sum over taps w)**2``. The ratio of the two sums is the
reader's *patch gain* (:mod:`graphopt.calibrators.readers`): 1 for a 1x1 convolution or a matrix,
up to 9 for a 3x3 kernel that blurs, near 0 for one that differentiates.

So a clipped value's squared error counts ``1 + COHERENCE * (gain - 1)`` times a rounded one's.
docs/calibrators.md has the figures behind the constant.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.calibrators.errors import least_error
from graphopt.calibrators.histogram import Histogram

COHERENCE = 0.75
"""How much of a kernel's window a clipped patch covers, as a correlation. Measured."""


@dataclass(frozen=True, slots=True)
class Auto:
    """``amax`` minimizes the expected squared error in the outputs of the tensor's readers.

    Attributes:
        gain: the patch gain of the readers, >= 0; with 1 it is the rule ``mse``.
    """

    gain: float = 1.0

    def for_reader(self, gain: float, /) -> Auto:
        """Return the rule for a tensor whose readers have this patch gain."""
        return Auto(gain)

    def __call__(self, histogram: Histogram, /) -> float:
        """Return ``amax``; 0 for a tensor that is all zero, > 0 for any other."""
        return least_error(histogram, 1 + COHERENCE * (self.gain - 1))
