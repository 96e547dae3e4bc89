"""What a comparison of two models found: errors of each output, classes, accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Error:
    """How far values b are from reference values a, over the elements finite in both.

    Attributes:
        elements: how many elements were compared.
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        sqnr_db: 10 log10(sum a² / sum (a - b)²); inf where nothing differs, -inf where a is zero.
        cosine: cosine of the angle between a and b; 1 where both are zero, 0 where one is.
        nonfinite_a: NaN or infinite elements of a.
        nonfinite_b: NaN or infinite elements of b.
        mismatched: elements not finite in one of them and not the same in the other.
    """

    elements: int
    max_abs: float
    mean_abs: float
    sqnr_db: float
    cosine: float
    nonfinite_a: int = 0
    nonfinite_b: int = 0
    mismatched: int = 0

    @property
    def identical(self) -> bool:
        """Whether every element is the same."""
        return self.max_abs == 0 and not self.mismatched

    def to_json(self) -> dict[str, Any]:
        """Return plain values; an infinite SQNR is null, and ``identical`` tells which it is."""
        return {
            "elements": self.elements,
            "identical": self.identical,
            "max_abs": self.max_abs,
            "mean_abs": self.mean_abs,
            "sqnr_db": self.sqnr_db if math.isfinite(self.sqnr_db) else None,
            "cosine": self.cosine,
            "nonfinite_a": self.nonfinite_a,
            "nonfinite_b": self.nonfinite_b,
            "nonfinite_mismatched": self.mismatched,
        }

    def __str__(self) -> str:
        """One line."""
        if self.identical:
            text = "identical"
        else:
            text = (
                f"max error {self.max_abs:.3g}, mean {self.mean_abs:.3g}, "
                f"SQNR {self.sqnr_db:.1f} dB, cosine {self.cosine:.6f}"
            )
        if self.nonfinite_a or self.nonfinite_b:
            text += f"; NaN or infinite: {self.nonfinite_a} in A, {self.nonfinite_b} in B"
        return text


@dataclass(frozen=True, slots=True)
class Top1:
    """The largest class score of each sample, in both models.

    Attributes:
        output: the output taken for class scores: the first of shape (N, C > 1).
        samples: how many samples.
        agree: how many get the same class from both.
        both, only_a, only_b, neither: with labels, how many samples are right in both, in A only,
            in B only, in neither (the paired table of McNemar's test); None without labels.
    """

    output: str
    samples: int
    agree: int
    both: int | None = None
    only_a: int | None = None
    only_b: int | None = None
    neither: int | None = None

    @property
    def right_a(self) -> int | None:
        """How many samples A has right."""
        return None if self.both is None or self.only_a is None else self.both + self.only_a

    @property
    def right_b(self) -> int | None:
        """How many samples B has right."""
        return None if self.both is None or self.only_b is None else self.both + self.only_b

    def to_json(self) -> dict[str, Any]:
        """Return plain values; accuracy only with labels."""
        value: dict[str, Any] = {
            "output": self.output,
            "samples": self.samples,
            "agree": self.agree,
            "agreement": self.agree / self.samples,
        }
        if self.right_a is not None and self.right_b is not None:
            value["accuracy"] = {
                "a": self.right_a / self.samples,
                "b": self.right_b / self.samples,
                "right_a": self.right_a,
                "right_b": self.right_b,
                "right_both": self.both,
                "right_only_a": self.only_a,
                "right_only_b": self.only_b,
                "right_neither": self.neither,
            }
        return value


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How faithful model B is to model A on the same samples.

    Attributes:
        samples: how many samples.
        outputs: output name -> error, in A's order.
        total: error over the elements of all outputs together.
        top1: class by class scores, or None where no output looks like class scores.
        synthetic: whether the samples were made up.
    """

    samples: int
    outputs: Mapping[str, Error]
    total: Error
    top1: Top1 | None = None
    synthetic: bool = False

    @property
    def max_abs(self) -> float:
        """Largest absolute difference over all outputs."""
        return self.total.max_abs

    @property
    def mean_abs(self) -> float:
        """Mean absolute difference over all outputs."""
        return self.total.mean_abs

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise over all outputs, in dB; inf where nothing differs."""
        return self.total.sqnr_db

    @property
    def cosine(self) -> float:
        """Cosine over all outputs."""
        return self.total.cosine

    @property
    def top1_agreement(self) -> float | None:
        """Fraction of samples that get the same class, or None."""
        return None if self.top1 is None else self.top1.agree / self.top1.samples

    @property
    def accuracy_a(self) -> float | None:
        """Fraction of samples A has right, or None without labels or class scores."""
        right = None if self.top1 is None else self.top1.right_a
        return None if right is None else right / self.samples

    @property
    def accuracy_b(self) -> float | None:
        """Fraction of samples B has right, or None without labels or class scores."""
        right = None if self.top1 is None else self.top1.right_b
        return None if right is None else right / self.samples

    def drop_points(self) -> float | None:
        """Return what B lost, in percentage points: of accuracy, or of agreement without labels.

        Negative where B is better. None where there are no class scores.
        """
        if self.top1 is None:
            return None
        if self.top1.right_a is not None and self.top1.right_b is not None:
            return 100 * (self.top1.right_a - self.top1.right_b) / self.samples
        return 100 * (self.samples - self.top1.agree) / self.samples

    def to_json(self) -> dict[str, Any]:
        """Return plain values for reports."""
        return {
            "samples": self.samples,
            "synthetic": self.synthetic,
            "total": self.total.to_json(),
            "outputs": {name: error.to_json() for name, error in self.outputs.items()},
            "top1": None if self.top1 is None else self.top1.to_json(),
        }

    def lines(self) -> list[str]:
        """Return what a person wants to read."""
        mark = " SYNTHETIC: accuracy means nothing" if self.synthetic else ""
        lines = [f"{self.samples} samples{mark}"]
        lines += [f"{name}: {error}" for name, error in self.outputs.items()]
        if len(self.outputs) > 1:
            lines.append(f"all outputs: {self.total}")
        top = self.top1
        if top is None:
            return lines
        share = 100 * top.agree / top.samples
        lines.append(f"same class from '{top.output}': {top.agree}/{top.samples} ({share:.2f} %)")
        if top.right_a is not None and top.right_b is not None:
            a, b = (
                f"{r}/{top.samples} ({100 * r / top.samples:.2f} %)"
                for r in (top.right_a, top.right_b)
            )
            lines.append(
                f"accuracy: A {a}, B {b}; right in A only {top.only_a}, in B only {top.only_b}"
            )
        return lines
