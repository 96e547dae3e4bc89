"""Narrow one group at a time, always where it does the least harm for what it saves."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.channels.allocation.problem import Problem
from graphopt.channels.allocation.tally import Ledger

Entry = tuple[float, float, int, int]


@dataclass(slots=True)
class _Group:
    """A group: the widths it may have, widest first, the loss at each, and where it is."""

    widths: Sequence[int]
    losses: list[float]
    at: int = 0


class Search:
    """Steps through widths in the order of loss per cost saved, at the neighbours' present widths.

    The order does not depend on where it ends, so a lower goal takes the same steps and more.
    """

    def __init__(
        self, problem: Problem, ledger: Ledger, options: Mapping[int, Sequence[int]]
    ) -> None:
        """Start at the widths of the ledger.

        Args:
            problem: gives the losses.
            ledger: the cost; each group at its widest option.
            options: group -> the widths it may have, widest first; other groups stay.
        """
        self.ledger = ledger
        self.groups: dict[int, _Group] = {}
        for index, widths in options.items():
            if len(widths) > 1:
                loss, whole = problem.loss(index), problem.limits[index].width
                self.groups[index] = _Group(widths, [float(loss[whole - w]) for w in widths])
        self._heap = [entry for g in self.groups if (entry := self._next(g)) is not None]
        heapq.heapify(self._heap)

    def narrow_until(self, goal: float) -> None:
        """Step until the cost is no more than the goal, or there is no step left."""
        while self.ledger.cost > goal and (entry := self._pop()) is not None:
            self._step(entry)

    def narrow_while(self, goal: float) -> None:
        """Take every step that leaves the cost no less than the goal."""
        while (entry := self._pop()) is not None:
            _, _, index, at = entry
            width = self.groups[index].widths[at]
            if self.ledger.cost - self.ledger.saved(index, width) >= goal:
                self._step(entry)

    def give_back(self, goal: float) -> None:
        """Widen groups by a step, the greatest loss first, as long as the goal stays met."""
        again = True
        while again:
            again = False
            for index in sorted(self.groups, key=lambda g: (-self._regained(g), g)):
                group = self.groups[index]
                if not group.at:
                    continue
                width = group.widths[group.at - 1]
                if self.ledger.cost - self.ledger.saved(index, width) <= goal:
                    self.ledger.give(index, width)
                    group.at -= 1
                    again = True

    def _regained(self, index: int) -> float:
        group = self.groups[index]
        return group.losses[group.at] - group.losses[group.at - 1] if group.at else 0.0

    def _pop(self) -> Entry | None:
        """Return the best step there is.

        Savings only shrink as neighbours do, so a priority only grows worse, and an entry whose
        fresh priority is still the best in the heap is the best of all.
        """
        while self._heap:
            stale = heapq.heappop(self._heap)
            entry = self._next(stale[2])
            if entry is None:
                continue
            if not self._heap or entry <= self._heap[0]:
                return entry
            heapq.heappush(self._heap, entry)
        return None

    def _step(self, entry: Entry) -> None:
        _, _, index, at = entry
        self.ledger.give(index, self.groups[index].widths[at])
        self.groups[index].at = at
        if (following := self._next(index)) is not None:
            heapq.heappush(self._heap, following)

    def _next(self, index: int) -> Entry | None:
        """Return (loss per cost saved, loss, group, place of its next width), or None at the end.

        A step goes to the next width that saves anything. Where none does by itself, one comes
        after all those that do: it may, with a neighbour's.
        """
        group = self.groups[index]
        here = group.losses[group.at]
        for at in range(group.at + 1, len(group.widths)):
            saved = self.ledger.saved(index, group.widths[at])
            if saved > 0:
                loss = group.losses[at] - here
                return loss / saved, loss, index, at
        at = group.at + 1
        if at == len(group.widths):
            return None
        return float("inf"), group.losses[at] - here, index, at
