"""What a search for the fewest layers in float came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphopt.errors import GateError
from graphopt.quantization.search_limit import Limit, Verdict
from graphopt.quantization.search_place import patterns
from graphopt.wording import counted


@dataclass(frozen=True, slots=True)
class Tried:
    """One set of layers left in float, and what the model was worth.

    Attributes:
        names: of the nodes, in graph order.
        verdict: what was measured.
        met: whether it is within the limit.
        macs: multiply-accumulates in float that would be INT8 without the search.
    """

    names: tuple[str, ...]
    verdict: Verdict
    met: bool
    macs: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "left_in_float": list(self.names),
            "met": self.met,
            "macs": self.macs,
            **self.verdict.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to.

    Attributes:
        limit: what was asked for.
        best: the set to build: within the limit where :attr:`met`, else the best there was.
        full: everything in INT8.
        steps: every set tried, in order; the first is :attr:`full`.
        evaluations: how many models were run; sets that come to the same model share one.
        minimal: whether each layer of the set was shown to be needed: the set without it fails.
        reasons: name of a layer in the set -> why it, in one line.
        candidates: how many layers there were to choose from.
        macs: multiply-accumulates of all those.
        in_float: what the model is worth with none of them in INT8, where that fails already.
        notes: what the user should know, one line each.
    """

    limit: Limit
    best: Tried
    full: Tried
    steps: tuple[Tried, ...]
    evaluations: int
    minimal: bool
    reasons: Mapping[str, str] = field(default_factory=dict)
    candidates: int = 0
    macs: int = 0
    in_float: Tried | None = None
    notes: tuple[str, ...] = ()

    @property
    def exclude(self) -> tuple[str, ...]:
        """Names of the nodes to leave in float, in graph order."""
        return self.best.names

    @property
    def patterns(self) -> tuple[str, ...]:
        """The same as patterns that match these names only: for recipes and ``InsertQDQ``."""
        return patterns(self.best.names)

    @property
    def met(self) -> bool:
        """Whether :attr:`best` is within the limit."""
        return self.best.met

    @property
    def final(self) -> Verdict:
        """What the model with that set is worth."""
        return self.best.verdict

    @property
    def _layers(self) -> str:
        return counted(self.candidates, "layer")

    def require(self) -> None:
        """Refuse to go on where the limit cannot be met.

        Raises:
            GateError: one line with the best that was found.
        """
        if self.met:
            return
        if self.in_float is not None:
            raise GateError(
                f"{self.limit} cannot be met: the model misses it before anything is in INT8 "
                f"({self.in_float.verdict}); prune less, or allow more"
            )
        many = f"{len(self.exclude)} of {self._layers} in float"
        raise GateError(
            f"{self.limit} cannot be met with INT8: the best of {self.evaluations} evaluated has "
            f"{many}: {self.final}; try another --calibrator, more --data, or allow more"
        )

    def lines(self) -> list[str]:
        """Return what a person wants to read, the outcome first."""
        head = f"{self.limit}: all {self._layers} in INT8: {self.full.verdict}"
        if not self.exclude:
            return [head, *self.notes]
        share = f", {100 * self.best.macs / self.macs:.1f} % of MACs" if self.macs else ""
        need = "" if self.minimal else "; fewer may do, the evaluations are used up"
        word = "met" if self.met else "missed"
        lines = [
            head,
            f"{word} with {len(self.exclude)} of {self._layers} in float{share}, after "
            f"{counted(self.evaluations, 'evaluation')}: {self.final}{need if self.met else ''}",
        ]
        return [*lines, *(f"float {name}: {self.reasons[name]}" for name in self.exclude),
                *self.notes]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain values for reports."""
        return {
            "limit": self.limit.to_json(),
            "met": self.met,
            "minimal": self.minimal,
            "left_in_float": [
                {"name": name, "reason": self.reasons.get(name, "")} for name in self.exclude
            ],
            "candidates": self.candidates,
            "macs": self.macs,
            "final": self.best.to_json(),
            "evaluations": self.evaluations,
            "tried": [step.to_json() for step in self.steps],
            "notes": list(self.notes),
        }
