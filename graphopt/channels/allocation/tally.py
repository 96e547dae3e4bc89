"""A cost as a sum of terms of dimension sizes, and sizes as functions of the groups' widths.

Removing a channel shortens every dimension its group is in by the same number of indices, so a
dimension of size n is ``n - sum over groups of (removed channels * indices per channel)``, and the
multiply-accumulates of a layer are a product of such sizes. That makes "what would it save to
narrow this group" a matter of the few terms the group is in, evaluated at the present widths of
all its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Extent:
    """The size of a dimension.

    Attributes:
        size: with every channel there.
        parts: (group, indices that one of its channels takes up), by the group's number.
    """

    size: int
    parts: tuple[tuple[int, int], ...] = ()


class Term(Protocol):
    """One summand of a cost; never larger when a size shrinks, or hardly ever."""

    @property
    def extents(self) -> tuple[int, ...]:
        """The extents it depends on, by number."""

    def cost(self, sizes: Sequence[int], /) -> int:
        """Return its value at these sizes of all extents; whole, so that sums are exact."""


@dataclass(frozen=True, slots=True)
class Product:
    """A constant times the sizes of extents."""

    factor: int
    extents: tuple[int, ...] = ()

    def cost(self, sizes: Sequence[int], /) -> int:
        """Return the product."""
        value = self.factor
        for index in self.extents:
            value *= sizes[index]
        return value


@dataclass(frozen=True, slots=True)
class Tally:
    """A cost as a function of the kept widths of all groups.

    Attributes:
        widths: of every group, with every channel there.
        extents: the dimensions that terms speak of.
        terms: what the cost is the sum of.
        fixed: and what no plan changes.
    """

    widths: tuple[int, ...]
    extents: tuple[Extent, ...]
    terms: tuple[Term, ...]
    fixed: int = 0

    def sizes(self, kept: Sequence[int]) -> list[int]:
        """Return the size of every extent, given the kept width of every group."""
        return [
            e.size - sum(m * (self.widths[g] - kept[g]) for g, m in e.parts) for e in self.extents
        ]

    def at(self, kept: Sequence[int]) -> int:
        """Return the cost, given the kept width of every group."""
        sizes = self.sizes(kept)
        return self.fixed + sum(term.cost(sizes) for term in self.terms)

    def of_model(self) -> int:
        """Return the cost with every channel there."""
        return self.at(self.widths)


class Ledger:
    """A tally at widths that change one group at a time.

    Attributes:
        kept: the present width of every group.
        cost: the present cost.
    """

    def __init__(self, tally: Tally, kept: Sequence[int]) -> None:
        self.tally = tally
        self.kept = list(kept)
        self._sizes = tally.sizes(kept)
        self._values = [term.cost(self._sizes) for term in tally.terms]
        self.cost = tally.fixed + sum(self._values)
        self._extents: list[list[tuple[int, int]]] = [[] for _ in kept]
        for index, extent in enumerate(tally.extents):
            for group, per_channel in extent.parts:
                self._extents[group].append((index, per_channel))
        readers: dict[int, list[int]] = {}
        for number, term in enumerate(tally.terms):
            for index in dict.fromkeys(term.extents):
                readers.setdefault(index, []).append(number)
        self._terms = [
            list(dict.fromkeys(t for index, _ in mine for t in readers.get(index, ())))
            for mine in self._extents
        ]

    def saved(self, group: int, width: int) -> int:
        """Return what it saves to give a group another width; negative where it costs."""
        self._shift(group, self.kept[group] - width)
        terms = self.tally.terms
        saved = sum(self._values[t] - terms[t].cost(self._sizes) for t in self._terms[group])
        self._shift(group, width - self.kept[group])
        return saved

    def give(self, group: int, width: int) -> None:
        """Give a group another width."""
        self._shift(group, self.kept[group] - width)
        self.kept[group] = width
        for t in self._terms[group]:
            value = self.tally.terms[t].cost(self._sizes)
            self.cost += value - self._values[t]
            self._values[t] = value

    def _shift(self, group: int, channels: int) -> None:
        for index, per_channel in self._extents[group]:
            self._sizes[index] -= per_channel * channels
