"""What narrowing each group saves on a device: by the estimate, one group at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.channels.allocation.costs import CostModel
from graphopt.channels.allocation.tally import Ledger


@dataclass(frozen=True, slots=True)
class Step:
    """The next narrower width of a group that makes the model faster.

    Attributes:
        group: its name.
        width: the channels it has.
        to: the most it may keep to be faster; 0 where no narrower width is.
        saved_ms: what that saves, all else as it is: an estimate.
    """

    group: str
    width: int
    to: int
    saved_ms: float

    @property
    def removed(self) -> int:
        """The channels that go."""
        return self.width - self.to if self.to else 0

    @property
    def per_channel_ms(self) -> float:
        """What each of them saves; 0 where none does."""
        return self.saved_ms / self.removed if self.removed else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "group": self.group,
            "width": self.width,
            "to": self.to,
            "removed": self.removed,
            "saved_ms": self.saved_ms,
        }


def steps(names: Sequence[str], costs: CostModel) -> list[Step]:
    """Return a step for each group, that which saves most for a channel first.

    Padding makes most widths cost what the next multiple does. A step goes to the largest width
    that costs less, among those one to two multiples below and the halves: what a group
    contributes to a dimension that others share need not end at a multiple of its own.

    Args:
        names: of the groups, in the analysis' order.
        costs: with a device.

    Raises:
        UsageError: nothing is known of the device, or no shapes.
    """
    ledger = Ledger(costs.tally("latency"), costs.widths)
    device = costs.device
    multiple = device.multiple(costs.precision) if device is not None else 1
    found = []
    for group, (name, width) in enumerate(zip(names, costs.widths, strict=True)):
        to, saved = _step(ledger, group, width, multiple)
        found.append(Step(name, width, to, saved / 1e9))
    return sorted(found, key=lambda s: (-s.per_channel_ms, -s.saved_ms, s.group))


def _step(ledger: Ledger, group: int, width: int, multiple: int) -> tuple[int, int]:
    """Return the largest narrower width that saves, and what it saves, in picoseconds.

    Costs never grow as a group gets narrower, so the first width that saves is found by halving.
    """
    least = max(1, width - 2 * multiple)
    saved = ledger.saved(group, least) if least < width else 0
    if saved <= 0:
        return 0, 0
    low, high = least, width  # low saves, high does not
    while high - low > 1:
        middle = (low + high) // 2
        if ledger.saved(group, middle) > 0:
            low = middle
        else:
            high = middle
    # The first that saves may only shorten what is moved; the step of a multiple is what counts.
    floor = max(1, (width - 1) // multiple * multiple)
    best = max((low, floor), key=lambda w: (ledger.saved(group, w) / (width - w), w))
    return best, ledger.saved(group, best)
