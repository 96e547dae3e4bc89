"""What a plan has to meet: a share of the channels to remove, or of a cost to keep."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal, TypeAlias, get_args

from graphopt.errors import UsageError
from graphopt.registry import did_you_mean

Kind: TypeAlias = Literal["ratio", "macs", "params", "latency"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan has to meet.

    Attributes:
        kind: ``ratio``, or the cost that counts: ``macs``, ``params`` or ``latency``.
        value: for ``ratio`` the fraction of channels that *goes*, in [0, 1); for a cost the
            fraction of the unpruned model's that *remains*, in (0, 1]: ``macs=0.5`` keeps at most
            half of the multiply-accumulates.

    Raises:
        UsageError: there is no such kind, or the value is out of range.
    """

    kind: Kind
    value: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"unknown target '{self.kind}'{did_you_mean(self.kind, KINDS)}; "
                f"known: {', '.join(KINDS)}"
            )
        if self.kind == "ratio":
            check_ratio(self.value)
        elif not (isfinite(self.value) and 0 < self.value <= 1):
            raise UsageError(
                f"{self.kind}={self.value:g}: what remains is a fraction above 0 and up to 1, "
                f"such as {self.kind}=0.5"
            )

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``macs=0.5``.

        Raises:
            UsageError: it is not of that form.
        """
        kind, equals, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value, equals = 0.0, ""
        if not equals:
            raise UsageError(
                f"a target is written as macs=0.5, params=0.6 or latency=0.7: '{text}'"
            )
        return cls(kind.strip().lower(), value)  # type: ignore[arg-type]  # checked when made

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"


def check_ratio(ratio: float) -> float:
    """Return the ratio.

    Raises:
        UsageError: it is not in [0, 1).
    """
    if not (isfinite(ratio) and 0 <= ratio < 1):
        raise UsageError(f"the prune ratio is a fraction from 0 to below 1, such as 0.3: {ratio}")
    return ratio
