"""Which channels are interchangeable, and which of two sides of a grid is pruned.

Two free roots are in one *cell* if they occur in the same dimensions, equally often in each. Cells
that share positions *overlap*: the rows and columns of a grouped convolution, or heads and the
columns of a head in attention. Removing a ratio of both would remove more than that ratio, so of
two that overlap one is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import TypeAlias

from graphopt.channels.atoms import Atoms
from graphopt.channels.dims import Slot

Slots: TypeAlias = "tuple[Slot, ...]"
Numbered: TypeAlias = "Mapping[Slots, Sequence[int]]"
"""What dimensions carry -> the numbers of the dimensions that carry just that."""
Grid: TypeAlias = "tuple[Slots, str]"
"""Slots whose channels may share positions, and the tensor that has them."""

_OTHER_SIDE = "the same channels are pruned along another axis of their grid"
_OUTER_PRODUCT = "two channels share a position (an outer product)"


@dataclass(slots=True)
class Cells:
    """A partition of the free roots.

    Attributes:
        of: root -> its cell.
        roots: cell -> its roots, ascending; cells in the order of their first root.
        dims: cell -> the numbers of the dimensions it occurs in, ascending.
    """

    of: dict[int, int] = field(default_factory=dict)
    roots: dict[int, list[int]] = field(default_factory=dict)
    dims: dict[int, list[int]] = field(default_factory=dict)


def find_cells(numbered: Numbered, atoms: Atoms) -> Cells:
    """Return the cells of the free roots.

    Refines one partition dimension by dimension: what a dimension has equally often and was
    together stays together. Time and memory are those of reading the distinct dimensions once.
    """
    part: dict[int, int] = {}
    fresh = 0
    counted = [(_counts(slots, atoms), numbers) for slots, numbers in numbered.items()]
    for counts, _ in counted:
        renamed: dict[tuple[int, int], int] = {}
        for root, count in counts.items():
            key = (part.get(root, -1), count)
            if key not in renamed:
                renamed[key] = fresh
                fresh += 1
            part[root] = renamed[key]
    cells = Cells()
    for root in sorted(part):
        cells.of[root] = part[root]
        cells.roots.setdefault(part[root], []).append(root)
    for counts, numbers in counted:
        for cell in {part[root] for root in counts}:
            cells.dims.setdefault(cell, []).extend(numbers)
    for numbers in cells.dims.values():
        numbers.sort()
    return cells


def _counts(slots: Slots, atoms: Atoms) -> dict[int, int]:
    counts: dict[int, int] = {}
    for slot in slots:
        for position in slot.table:
            for root in position:
                counts[root] = counts.get(root, 0) + 1
    return {root: n for root, n in counts.items() if not atoms.reasons(root)}


def choose(
    cells: Cells, grids: Iterable[Grid], atoms: Atoms, heads: set[int], preferred: set[int]
) -> set[int]:
    """Leave at most one chosen cell a position, so that a ratio of each is that ratio of all.

    Of the two sides of a grouped convolution the more numerous is chosen, for it is the finer; the
    other is frozen and taken out of ``cells``. Of attention heads and the columns of all heads the
    columns are chosen, but for ``preferred`` heads, and the other side stays in ``cells``: a plan
    may still name it. Of heads over heads (grouped queries) the side is chosen that occurs in more
    dimensions: keys and values with the queries that read them.

    Args:
        cells: reduced in place.
        grids: the distinct dimensions, and axes of weights taken together.
        atoms: where the roots of cells taken out are frozen.
        heads: the cells that are attention heads.
        preferred: heads that win over columns.

    Returns:
        The cells that are not chosen and can be removed nevertheless.
    """

    def rank(cell: int) -> tuple[int, ...]:
        width = len(cells.roots[cell])
        side = 0 if cell in preferred else 2 if cell in heads else 1
        spread = -len(cells.dims[cell]) if cell in heads else 0
        return (width == 1, side, spread, -width, cells.roots[cell][0])

    overlaps = _overlaps(cells, grids)
    for cell, others in overlaps.items():
        if cell in others:
            _drop(cells, cell, atoms, f"tensor '{others[cell]}': {_OUTER_PRODUCT}")
    order = sorted((cell for cell in overlaps if cell in cells.roots), key=rank)
    passed_over: set[int] = set()
    for cell in order:
        if cell in cells.roots and cell not in passed_over:
            for other in overlaps[cell]:
                if (other in heads) != (cell in heads):
                    passed_over.add(other)
                else:
                    _drop(cells, other, atoms, _OTHER_SIDE)
    for cell in order:
        if cell in passed_over and cell in cells.roots:
            for other in overlaps[cell]:
                if other in passed_over and (other in heads) == (cell in heads):
                    _drop(cells, other, atoms, _OTHER_SIDE)
    return {cell for cell in passed_over if cell in cells.roots}


def _drop(cells: Cells, cell: int, atoms: Atoms, why: str) -> None:
    for root in cells.roots.pop(cell, ()):
        del cells.of[root]
        atoms.freeze((root,), why)


def _overlaps(cells: Cells, grids: Iterable[Grid]) -> dict[int, dict[int, str]]:
    """Return, for each cell that overlaps others or itself, which, and where they first do."""
    found: dict[int, dict[int, str]] = {}
    for slots, tensor in grids:
        for one, two in _together(cells, slots):
            found.setdefault(one, {}).setdefault(two, tensor)
            found.setdefault(two, {}).setdefault(one, tensor)
    return found


def _together(cells: Cells, slots: Slots) -> Iterator[tuple[int, int]]:
    """Yield pairs of cells that share a position."""
    for slot in slots:
        for position in slot.table:
            if len(position) > 1:
                yield from combinations([c for r in position if (c := cells.of.get(r, -1)) >= 0], 2)
    if len(slots) > 1:
        within = [_within(cells, slot) for slot in slots]
        for one, two in combinations(within, 2):
            yield from product(one, two)


def _within(cells: Cells, slot: Slot) -> list[int]:
    found = {cells.of.get(root, -1): None for position in slot.table for root in position}
    return [cell for cell in found if cell >= 0]
