"""Which channels sit where along the axes of constants, and how many of each group are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.channels.dims import Dim
from graphopt.channels.groups import ChannelAnalysis
from graphopt.channels.matching.pairs import Pairs, Read
from graphopt.errors import UsageError
from graphopt.graph import Node

Kept: TypeAlias = "Mapping[int, npt.NDArray[np.bool_]]"
"""Group number -> which of its channels are alive, shape ``(width,)``."""
Ints: TypeAlias = "npt.NDArray[np.int64]"

TRIALS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The channels along one axis.

    Attributes:
        size: of the axis.
        group: for each position the number of the group of its channel, -1 where it stays.
        channel: for each position the channel in that group.
        more: (position, group, channel) of further channels at positions that hold several.
        units: group number -> how many positions each of its channels takes.
    """

    size: int
    group: Ints
    channel: Ints
    more: tuple[tuple[int, int, int], ...] = ()
    units: Mapping[int, int] = field(default_factory=dict)

    def alive(self, kept: Kept) -> Ints:
        """Return the positions that survive; all groups here must be known."""
        mask = np.ones(self.size, dtype=bool)
        for g in self.units:
            here = np.flatnonzero(self.group == g)
            mask[here] = kept[g][self.channel[here]]
        for position, g, c in self.more:
            mask[position] &= kept[g][c]
        return np.flatnonzero(mask)

    def known(self, kept: Kept) -> bool:
        """Whether all groups here are known."""
        return all(g in kept for g in self.units)

    def places(self, g: int, positions: Ints, rank: Ints, width: int) -> Ints:
        """Return where in ``positions`` the channels of group ``g`` are, by their rank.

        Args:
            g: the group.
            positions: of this axis, in order.
            rank: for each channel of the group its row in the result.
            width: how many rows there are.

        Returns:
            shape ``(width, unit)``.
        """
        mine = np.flatnonzero(self.group[positions] == g)
        rows = rank[self.channel[positions[mine]]]
        order = np.argsort(rows, kind="stable")
        return mine[order].reshape(width, -1)


class Layouts:
    """The layouts of one analysis; each dimension is looked at once, equal ones are one object."""

    def __init__(self, analysis: ChannelAnalysis) -> None:
        self.trace = analysis.trace
        self.widths = [g.width for g in analysis.groups]
        self.owner = {
            r: (i, c) for i, g in enumerate(analysis.groups) for c, r in enumerate(g.atoms)
        }
        self._known: dict[int, Layout] = {}
        self._same: dict[object, Layout] = {}
        self._readers: list[dict[tuple[str, int], tuple[int, tuple[str, ...]]]] | None = None
        self.uses: dict[tuple[int, int], tuple[Node, int, tuple[Dim, ...]]] = {}
        for use in self.trace.uses:
            if any(d.slots for d in use.dims) or (id(use.node), use.index) not in self.uses:
                self.uses[id(use.node), use.index] = (use.node, use.index, use.dims)

    def _dims(self, read: Read) -> tuple[Dim, ...]:
        key = (id(read.node), read.index)
        return self.uses[key][2] if key in self.uses else ()

    def of_read(self, read: Read) -> tuple[Layout, ...]:
        """Return the layouts of the axes of a constant, as this node reads it."""
        dims = self._dims(read)
        if len(dims) != read.ours.ndim:
            dims = tuple(Dim(n) for n in read.ours.shape)
        return tuple(
            self.of(d if d.size == n else Dim(n))
            for d, n in zip(dims, read.ours.shape, strict=True)
        )

    def readers(self, g: int) -> dict[tuple[str, int], tuple[int, tuple[str, ...]]]:
        """Return, for each axis of a constant that holds a group, its size and who reads it so."""
        if self._readers is None:
            self._readers = [{} for _ in self.widths]
            for node, index, dims in self.uses.values():
                for axis, dim in enumerate(dims):
                    layout = self.of(dim) if dim.slots else None
                    for h in layout.units if layout is not None else ():
                        key = (str(node.inputs[index].name), axis)
                        _, nodes = self._readers[h].get(key, (0, ()))
                        self._readers[h][key] = (int(dim.size or 0), (*nodes, node.name))
        return self._readers[g]

    def of(self, dim: Dim) -> Layout:
        """Return the layout of a dimension of known size."""
        if id(dim) in self._known:
            return self._known[id(dim)]
        size = int(dim.size or 0)
        group, channel = np.full(size, -1, np.int64), np.zeros(size, np.int64)
        more: list[tuple[int, int, int]] = []
        for k, position in enumerate(self.trace.space.positions(dim) if dim.slots else ()):
            owners = [self.owner[root] for root in position if root in self.owner]
            if owners:
                group[k], channel[k] = owners[0]
            more += [(k, *owner) for owner in owners[1:]]
        counts: dict[int, int] = {}
        for g in [*group[group >= 0].tolist(), *(g for _, g, _ in more)]:
            counts[g] = counts.get(g, 0) + 1
        units = {g: n // self.widths[g] for g, n in sorted(counts.items())}
        key = (size, group.tobytes(), channel.tobytes(), tuple(more))
        layout = self._same.setdefault(key, Layout(size, group, channel, tuple(more), units))
        if dim.slots:  # Others are not kept alive by anyone, and their id may come again.
            self._known[id(dim)] = layout
        return layout

    def why_fixed(self, read: Read, axis: int) -> str:
        """Return what keeps channels of this axis from being removed."""
        dims = self._dims(read)
        if axis >= len(dims):
            return "no rule tracks it"
        found: dict[str, None] = {}
        if dims[axis].slots:
            for position in self.trace.space.positions(dims[axis]):
                for root in position:
                    found.update(dict.fromkeys(self.trace.space.atoms.reasons(root)))
        return next(iter(found), dims[axis].why or "it holds no channels")


def widths(layouts: Layouts, pairs: Pairs) -> list[int | None]:
    """Return how many channels each group has in the pruned model; None where nothing tells.

    Every axis of a constant is an equation: its size is what stays anyway plus, for each group,
    units times width. Where these leave a group open, the shapes of variables (what a Split makes)
    are asked as well; those are what files claim, so they only fill gaps.

    Raises:
        UsageError: an axis cannot have the size it has.
    """
    known: list[int | None] = [None] * len(layouts.widths)
    equations = _constant_equations(layouts, pairs)
    _propagate(equations, known, layouts.widths)
    for where, layout, size in equations:
        _check(where, layout, size, known, layouts.widths)
    if None in known:
        _propagate(_variable_equations(layouts, pairs), known, layouts.widths)
    return known


Equation: TypeAlias = "tuple[str, Layout, int]"


def _constant_equations(layouts: Layouts, pairs: Pairs) -> list[Equation]:
    out: list[Equation] = []
    for read in pairs.reads:
        for axis, layout in enumerate(layouts.of_read(read)):
            before, after = read.ours.shape[axis], read.theirs.shape[axis]
            where = f"axis {axis} of '{read.name}'"
            if after > before:
                raise UsageError(
                    f"{where} has {after} entries in the pruned model and {before} in the "
                    "original: pruning adds none; are the two files swapped?"
                )
            if after < before and not layout.units:
                why = layouts.why_fixed(read, axis)
                raise UsageError(
                    f"{where} has {after} entries in the pruned model and {before} in the "
                    f"original, and graphopt cannot remove any there: {why}"
                )
            out.append((where, layout, after))
    return out


def _variable_equations(layouts: Layouts, pairs: Pairs) -> list[Equation]:
    out: list[Equation] = []
    for name, shape in pairs.shapes:
        dims = layouts.trace.dims.get(name)
        if dims is not None and len(dims) == len(shape):
            out += [
                (name, layouts.of(dim), size)
                for dim, size in zip(dims, shape, strict=True)
                if isinstance(size, int) and dim.slots and dim.size is not None
            ]
    return out


def _propagate(equations: Sequence[Equation], known: list[int | None], full: Sequence[int]) -> None:
    """Solve what has one unknown, or no choice, until nothing is new."""
    left = [e for e in equations if e[1].units and not e[1].more]
    while True:
        after = []
        for equation in left:
            _, layout, size = equation
            rest = size - int((layout.group < 0).sum())
            open_ = {}
            for g, unit in layout.units.items():
                if (count := known[g]) is None:
                    open_[g] = unit
                else:
                    rest -= unit * count
            if rest == sum(unit * full[g] for g, unit in open_.items()):
                known[:] = [full[g] if g in open_ else n for g, n in enumerate(known)]
            elif len(open_) == 1:
                [(g, unit)] = open_.items()
                if rest % unit == 0 and 1 <= rest // unit <= full[g]:
                    known[g] = rest // unit
            else:
                after.append(equation)
        if len(after) == len(left):
            return
        left = after


def _check(
    where: str, layout: Layout, size: int, known: Sequence[int | None], full: Sequence[int]
) -> None:
    """Refuse an axis whose size no widths explain."""
    if layout.more:
        return
    fixed = int((layout.group < 0).sum())
    least = fixed + sum(unit * (known[g] or 1) for g, unit in layout.units.items())
    most = fixed + sum(unit * (known[g] or full[g]) for g, unit in layout.units.items())
    if not least <= size <= most or (
        len(layout.units) == 1 and (size - fixed) % next(iter(layout.units.values()))
    ):
        told = f"{least}" if least == most else f"{least} to {most}"
        raise UsageError(
            f"{where} has {size} entries in the pruned model; by the channels that go together in "
            f"the original and by the other layers it should have {told}"
        )


def targets(
    layout: Layout, g: int, kept: Kept, counts: Sequence[int | None], full: Sequence[int]
) -> Ints | None:
    """Return where the survivors of group ``g`` are on the pruned axis, whichever they are.

    Returns:
        shape ``(width left, unit)``: position of the k-th survivor; None if that depends on which
        channels survive (groups that alternate, channels in another order), tried out on several
        choices.
    """
    if layout.more or counts[g] is None or any(counts[h] is None for h in layout.units):
        return None
    found: Ints | None = None
    for trial in range(TRIALS):
        chosen = dict(kept)
        for h in layout.units:
            if h == g or h not in kept:
                chosen[h] = _choice(full[h], int(counts[h] or 0), trial, h)
        alive = layout.alive(chosen)
        rank = np.cumsum(chosen[g]) - 1
        places = layout.places(g, alive, rank, int(chosen[g].sum()))
        if found is not None and not np.array_equal(found, places):
            return None
        found = places
    return found


def _choice(width: int, count: int, trial: int, seed: int) -> npt.NDArray[np.bool_]:
    out = np.zeros(width, dtype=bool)
    if trial == 0:
        out[:count] = True
    elif trial == 1:
        out[width - count :] = True
    else:
        out[np.random.default_rng([trial, seed]).permutation(width)[:count]] = True
    return out
