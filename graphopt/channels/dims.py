"""Dimensions as products of slots: the algebra behind Reshape, grouped convolution and shuffles.

A dimension of size n is described by *slots*. A slot of stride s and size z says that index k
carries the position ``table[(k // s) % z]``; the position of k is the union over all slots. So a
plain channel dimension is one slot ``(1, n, table)``, a flattened ``C x H x W`` is one slot
``(H * W, C, table)``, the channels of a grouped convolution are two slots (rows and columns), and
a dimension nobody prunes has none. Merging dimensions multiplies strides; splitting cuts slots,
and a cut slot's atoms become pairs (:mod:`graphopt.channels.atoms`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from graphopt.channels.atoms import Atoms, Position
from graphopt.channels.reasons import SPLIT_DIFFERENTLY, UNEVENLY, because

Table = tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """Index k carries ``table[(k // stride) % len(table)]``."""

    stride: int
    table: Table

    @property
    def end(self) -> int:
        """The stride of whatever comes above this slot."""
        return self.stride * len(self.table)


@dataclass(frozen=True, slots=True, eq=False)
class Dim:
    """One dimension of one or several tensors. Compared by identity.

    Attributes:
        size: how many positions, or None where that is unknown.
        slots: what its positions carry; none if nothing can be removed from it.
        why: for a dimension without slots, what keeps it as it is.
    """

    size: int | None
    slots: tuple[Slot, ...] = ()
    why: str = ""


class Space:
    """Makes and combines dimensions over one set of atoms."""

    def __init__(self) -> None:
        self.atoms = Atoms()

    def fresh(self, size: int) -> Dim:
        """Return a new dimension whose positions are free; of size 1 or 0 it carries no atoms."""
        return _plain(self.atoms.fresh(size)) if size > 1 else Dim(size)

    def padding(self, count: int) -> Dim:
        """Return positions of a larger dimension: free even if there is only one."""
        return _plain(self.atoms.fresh(count))

    def freeze(self, dim: Dim, why: str) -> None:
        """Forbid any removal from the dimension."""
        for slot in dim.slots:
            for position in slot.table:
                self.atoms.freeze(position, why)

    def resolve(self, dim: Dim) -> tuple[Slot, ...]:
        """Return the slots with current roots; regular tables of pairs become several slots."""
        slots: list[Slot] = []
        for slot in dim.slots:
            table = self.atoms.resolve_all(slot.table)
            if (parts := _separate(slot.stride, table)) is None:
                # Irregular: what is frozen never dies, and without it a pattern may appear.
                table = tuple(self._free(position) for position in table)
                parts = _separate(slot.stride, table) or [Slot(slot.stride, table)]
            slots.extend(parts)
        return tuple(slots)

    def _free(self, position: Position) -> Position:
        return tuple(r for r in position if not self.atoms.reasons(r)) or position[:1]

    def positions(self, dim: Dim) -> list[Position]:
        """Return the resolved position of every index. The size must be known."""
        assert dim.size is not None
        return spread(self.resolve(dim), dim.size)

    def take(self, dim: Dim, indices: Iterable[int], why: str) -> Dim:
        """Return the dimension that holds these positions, in this order."""
        indices = list(indices)
        if not dim.slots:
            return Dim(len(indices), (), dim.why)
        positions = self.positions(dim)
        if len(indices) == 1:
            self.atoms.freeze(positions[indices[0]], f"{why}: takes a single channel out")
            return Dim(1, (), why)
        return _plain(tuple(positions[i] for i in indices))

    def concat(self, dims: Sequence[Dim], why: str) -> Dim:
        """Return the dimensions one after the other."""
        if any(d.size is None for d in dims):
            for d in dims:
                self.freeze(d, f"{why}: joined with a dimension of unknown size")
            return Dim(None, (), why)
        if not any(d.slots for d in dims):
            return Dim(sum(d.size or 0 for d in dims), (), dims[0].why if dims else "")
        return _plain(tuple(p for d in dims for p in self.positions(d)))

    def repeat(self, dim: Dim, times: int) -> Dim:
        """Return the dimension with each index repeated ``times`` times in a row."""
        if times == 1 or dim.size is None:
            return dim
        slots = tuple(Slot(s.stride * times, s.table) for s in dim.slots)
        return Dim(dim.size * times, slots, dim.why)

    def merge(self, dims: Sequence[Dim], why: str) -> Dim:
        """Return the row-major product of the dimensions (what Flatten does)."""
        if len(dims) == 1:
            return dims[0]
        if any(d.size is None for d in dims):
            for d in dims:
                self.freeze(d, f"{why}: merged with a dimension of unknown size")
            return Dim(None, (), why)
        sizes = [d.size or 0 for d in dims]
        slots: list[Slot] = []
        for i, d in enumerate(dims):
            below = prod(sizes[i + 1 :])
            slots.extend(Slot(s.stride * below, s.table) for s in d.slots)
        return Dim(prod(sizes), tuple(slots), next((d.why for d in dims if d.why), ""))

    def split(self, dim: Dim, sizes: Sequence[int], why: str) -> list[Dim]:
        """Return the dimensions that a row-major reshape to ``sizes`` makes of this one."""
        if len(sizes) == 1:
            return [dim]
        bounds = [prod(sizes[i:]) for i in range(len(sizes) + 1)]
        slots = self._cut(dim, bounds, why)
        # A slot that was cut has as many cells as before; one that could not be is gone.
        whole = prod(len(s.table) for s in slots) == prod(len(s.table) for s in self.resolve(dim))
        lost = "" if whole else f"{why}: {UNEVENLY}"
        out: list[Dim] = []
        for size, high, low in zip(sizes, bounds, bounds[1:], strict=False):
            inside = tuple(
                Slot(s.stride // low, s.table) for s in slots if low <= s.stride and s.end <= high
            )
            out.append(Dim(size, inside if size > 1 else (), dim.why or lost or why))
        return out

    def unify(self, a: Dim, b: Dim, why: str) -> None:
        """Make the dimensions lose the same indices."""
        if a is b:
            return
        if not a.slots or not b.slots or a.size != b.size:
            for one, other in ((a, b), (b, a)):
                self.freeze(one, because(why, other.why))
            return
        why = f"{why}: {SPLIT_DIFFERENTLY}"
        slots = [self.resolve(a), self.resolve(b)]
        if [(s.stride, s.end) for s in slots[0]] == [(s.stride, s.end) for s in slots[1]] and len(
            slots[0]
        ) == 1:
            for p, q in zip(slots[0][0].table, slots[1][0].table, strict=True):
                self.atoms.unify(p, q, why)
            return
        bounds = {x for part in slots for s in part for x in (s.stride, s.end)}
        left, right = self._by_interval(a, bounds, why), self._by_interval(b, bounds, why)
        for interval in sorted({*left, *right}):
            mine, theirs = left.get(interval, []), right.get(interval, [])
            if len(mine) == len(theirs) == 1:
                for p, q in zip(mine[0].table, theirs[0].table, strict=True):
                    self.atoms.unify(p, q, why)
                continue
            for slot in mine + theirs:  # No common form: neither may lose anything here.
                self._freeze_table(slot, why)

    def _by_interval(
        self, dim: Dim, bounds: set[int], why: str
    ) -> dict[tuple[int, int], list[Slot]]:
        found: dict[tuple[int, int], list[Slot]] = {}
        for slot in self._cut(dim, bounds, why):
            found.setdefault((slot.stride, slot.end), []).append(slot)
        return found

    def _cut(self, dim: Dim, bounds: Iterable[int], why: str) -> list[Slot]:
        """Return the slots cut at each bound; a slot that a bound does not divide is frozen."""
        slots = list(self.resolve(dim))
        for bound in sorted(bounds):
            after: list[Slot] = []
            for slot in slots:
                if slot.end <= bound or slot.stride >= bound:
                    after.append(slot)
                elif bound % slot.stride or slot.end % bound:
                    self._freeze_table(slot, f"{why}: {UNEVENLY}")
                else:
                    after.extend(self._cut_slot(slot, bound // slot.stride, why))
            slots = after
        return slots

    def _cut_slot(self, slot: Slot, width: int, why: str) -> list[Slot]:
        if any(len(p) > 1 for p in slot.table):
            slot = self._keep_largest(slot, f"{why}: its channels were split differently before")
        rows = self.atoms.fresh(len(slot.table) // width)
        columns = self.atoms.fresh(width)
        for k, position in enumerate(slot.table):
            self.atoms.unify(position, rows[k // width] + columns[k % width], why)
        return [Slot(slot.stride * width, rows), Slot(slot.stride, columns)]

    def _keep_largest(self, slot: Slot, why: str) -> Slot:
        """In an irregular table leave one free atom a position, of the most numerous ones."""
        uses: dict[int, int] = {}
        for position in slot.table:
            for root in position:
                uses[root] = uses.get(root, 0) + 1
        table: list[Position] = []
        for position in slot.table:
            free = [r for r in position if not self.atoms.reasons(r)]
            best = min(free, key=lambda r: (uses[r], r)) if free else None
            for root in position:
                if root != best:
                    self.atoms.freeze((root,), why)
            table.append((best,) if best is not None else position[:1])
        return Slot(slot.stride, tuple(table))

    def _freeze_table(self, slot: Slot, why: str) -> None:
        for position in slot.table:
            self.atoms.freeze(position, why)

    def kept(self, dim: Dim, dead: frozenset[int]) -> npt.NDArray[np.bool_] | None:
        """Return a mask of the indices that survive, or None if all of them do.

        Args:
            dim: the dimension.
            dead: the roots that are removed.
        """
        keep: npt.NDArray[np.bool_] | None = None
        for slot in self.resolve(dim):
            table = np.array([dead.isdisjoint(p) for p in slot.table], dtype=bool)
            if table.all():
                continue
            assert dim.size is not None
            mask = np.tile(np.repeat(table, slot.stride), dim.size // slot.end)
            keep = mask if keep is None else keep & mask
        return keep


def spread(slots: Sequence[Slot], size: int) -> list[Position]:
    """Return the position of every index of a dimension with these slots."""
    out: list[Position] = [()] * size
    for slot in slots:
        n, stride = len(slot.table), slot.stride
        if stride == 1 and n == size and len(slots) == 1:
            return list(slot.table)
        out = [old + slot.table[k // stride % n] for k, old in enumerate(out)]
    return out


def _plain(table: Table) -> Dim:
    return Dim(len(table), (Slot(1, table),) if any(table) else ())


def _separate(stride: int, table: Table) -> list[Slot] | None:
    """Return one slot per atom of a position, or None if positions are of different lengths."""
    lengths = set(map(len, table))
    if lengths == {1}:
        return [_shrink(Slot(stride, table))]
    if len(lengths) > 1:
        return [Slot(stride, table)] if lengths == {0, 1} else None
    columns = [[p[i] for p in table] for i in range(lengths.pop())]
    return [_shrink(Slot(stride, tuple((x,) for x in column))) for column in columns]


def _shrink(slot: Slot) -> Slot:
    """Return the same slot with the largest stride and the shortest table that say the same."""
    table, n = slot.table, len(slot.table)
    if table.count(table[0]) == 1:  # Neither a run nor a period: by far the most frequent.
        return slot
    run = next((k for k in range(1, n) if table[k] != table[0]), n)
    if n % run or any(table[k] != table[k - k % run] for k in range(n)):
        run = 1
    table = table[::run]
    size = len(table)
    period = next((k for k in range(1, size) if table[k] == table[0]), size)
    if size % period or any(table[k] != table[k % period] for k in range(size)):
        period = size
    return Slot(slot.stride * run, table[:period])
