"""What INT8 may cost, and what it did cost: a limit, a verdict, and how sure the verdict is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from graphopt.errors import UsageError
from graphopt.fidelity import Fidelity
from graphopt.wording import counted

# A drop of exactly the limit passes, whatever its last bit.
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Limit:
    """What may be lost at most; where both are given, both hold.

    Attributes:
        max_drop: percentage points of top-1 accuracy where there are labels, else of top-1
            agreement with the reference; may be negative (INT8 must then be better); None for no
            such limit.
        min_sqnr: decibels over all outputs together, against the reference; None for no such limit.
    """

    max_drop: float | None = None
    min_sqnr: float | None = None

    def __post_init__(self) -> None:
        """Refuse a limit that limits nothing.

        Raises:
            UsageError: there is no number, or one that is not finite.
        """
        given = [value for value in (self.max_drop, self.min_sqnr) if value is not None]
        if not given or not all(math.isfinite(value) for value in given):
            raise UsageError("a budget is a finite number: --max-drop in points, --min-sqnr in dB")

    def met(self, verdict: Verdict) -> bool:
        """Whether a model is within the limit.

        Raises:
            UsageError: a drop is limited, and the model has no class scores.
        """
        if self.max_drop is not None:
            if verdict.drop is None:
                raise UsageError(
                    "--max-drop needs an output of class scores, of shape (N, C), and this model "
                    "has none: give --min-sqnr in dB instead"
                )
            if verdict.drop > self.max_drop + _SLACK:
                return False
        return self.min_sqnr is None or verdict.sqnr_db >= self.min_sqnr - _SLACK

    def rank(self, verdict: Verdict) -> tuple[float, ...]:
        """Return a key that is greater for the better of two models, met or not."""
        short = 0.0
        if self.min_sqnr is not None:
            short = min(verdict.sqnr_db - self.min_sqnr, 0.0)
        over = 0.0
        if self.max_drop is not None and verdict.drop is not None:
            over = min(self.max_drop - verdict.drop, 0.0)
        drop = verdict.drop if self.max_drop is not None and verdict.drop is not None else 0.0
        return float(self.met(verdict)), over, short, -drop, verdict.sqnr_db

    def __str__(self) -> str:
        """As it is written on the command line."""
        parts = []
        if self.max_drop is not None:
            parts.append(f"--max-drop {self.max_drop:g}")
        if self.min_sqnr is not None:
            parts.append(f"--min-sqnr {self.min_sqnr:g}")
        return " ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"max_drop": self.max_drop, "min_sqnr": self.min_sqnr}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a model is from the reference, on the same samples.

    Attributes:
        samples: how many.
        sqnr_db: over all outputs; inf where nothing differs, -inf where a value is NaN or infinite
            in one of the two only.
        labelled: whether the counts are of right answers; of equal answers if not.
        lost: samples that the reference alone has right; without labels, that change their class.
            None without class scores.
        gained: samples that the model alone has right; 0 without labels.
    """

    samples: int
    sqnr_db: float
    labelled: bool = False
    lost: int | None = None
    gained: int = 0

    @classmethod
    def of(cls, found: Fidelity) -> Verdict:
        """Read it off a comparison."""
        sqnr = -math.inf if found.total.mismatched else found.sqnr_db
        top = found.top1
        if top is None:
            return cls(found.samples, sqnr)
        if top.only_a is not None and top.only_b is not None:
            return cls(found.samples, sqnr, True, top.only_a, top.only_b)
        return cls(found.samples, sqnr, False, top.samples - top.agree)

    @property
    def drop(self) -> float | None:
        """Percentage points lost, of accuracy or of agreement; negative where the model gains."""
        return None if self.lost is None else 100 * (self.lost - self.gained) / self.samples

    @property
    def standard_error(self) -> float | None:
        """Standard error of :attr:`drop`, in points, for samples drawn at random.

        It is that of a difference of two proportions of the *same* samples (Fleiss, Statistical
        Methods for Rates and Proportions, 13.1), which the samples that agree do not enter.
        """
        if self.lost is None:
            return None
        net = self.lost - self.gained
        spread = self.lost + self.gained - net * net / self.samples
        return 100 * math.sqrt(max(spread, 0.0)) / self.samples

    @property
    def p_value(self) -> float | None:
        """Two-sided p of McNemar's exact test that both models are right equally often.

        None without labels: a class that changes is a loss by definition there.
        """
        if self.lost is None or not self.labelled:
            return None
        return exact_mcnemar(self.lost, self.gained)

    def __str__(self) -> str:
        """One line."""
        sqnr = "identical outputs" if self.sqnr_db == math.inf else f"SQNR {self.sqnr_db:.1f} dB"
        if self.lost is None or self.drop is None or self.standard_error is None:
            return f"{sqnr} ({counted(self.samples, 'sample')})"
        error = f"standard error {self.standard_error:.2f}"
        if not self.labelled:
            lost = f"{self.lost} of {counted(self.samples, 'sample')} change class"
            return f"top-1 agreement {100 - self.drop:.2f} % ({lost}; {error}), {sqnr}"
        return (
            f"accuracy {-self.drop + 0.0:+.2f} points ({self.lost} lost, {self.gained} won of "
            f"{self.samples}; {error}, McNemar p {self.p_value:.2g}), {sqnr}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; an infinite SQNR is null."""
        return {
            "samples": self.samples,
            "sqnr_db": self.sqnr_db if math.isfinite(self.sqnr_db) else None,
            "metric": None
            if self.lost is None
            else ("accuracy" if self.labelled else "top-1 agreement"),
            "drop_points": self.drop,
            "lost": self.lost,
            "gained": self.gained if self.labelled else None,
            "standard_error": self.standard_error,
            "mcnemar_p": self.p_value,
        }


def exact_mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p of a fair coin that shows ``lost`` heads and ``gained`` tails."""
    n, least = lost + gained, min(lost, gained)
    if lost == gained:
        return 1.0
    whole = math.lgamma(n + 1) - n * math.log(2)
    tail = math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1)) for k in range(least + 1)
    )
    return min(1.0, 2 * tail)
