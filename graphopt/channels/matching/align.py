"""Which channels survived: slices of the original's constants against those of the pruned model's.

Survivors are taken to keep their order (every pruning tool does), so the best choice of m out of n
is an alignment, found exactly by dynamic programming over a table of costs ``(n, m)``. The cost of
taking channel c for the k-th survivor adds up what all constants say that hold the group: filters,
biases, and the layers that read it, each compared on those indices of its other axes that are
known to survive. So groups are solved in topological order, and then again with all that is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.channels.groups import ChannelAnalysis
from graphopt.channels.matching.layout import Ints, Layout, Layouts, targets, widths
from graphopt.channels.matching.pairs import Pairs, Read
from graphopt.errors import UsageError
from graphopt.graph import Array

Mask = npt.NDArray[np.bool_]
Costs = npt.NDArray[np.float64]

# Entries of a slice that are compared; more tell no more and cost time (n m entries each).
MOST_FEATURES = 1024
# Entries of a slice beyond which one constant has no more say than another.
FULL_SAY = 64
ROUNDS = 4
# The mean distance up to which slices are taken to be the same ones.
CLEAR = 0.1


def align(costs: Costs, keep: Sequence[bool | None] | None = None) -> Ints:
    """Return the increasing rows, one for each column, of the least total cost.

    Args:
        costs: shape ``(n, m)``, ``n >= m``.
        keep: for each row True if it must be taken, False if it must not, None if either.

    Returns:
        shape ``(m,)``.

    Raises:
        ValueError: ``keep`` allows no choice.
    """
    n, m = costs.shape
    best = np.full(m + 1, np.inf)
    best[0] = 0.0
    took = np.zeros((n, m), dtype=bool)
    for i in range(n):
        must = None if keep is None else keep[i]
        taken = best[:-1] + costs[i]
        if must is False:
            continue
        if must:
            took[i] = np.isfinite(taken)
            best = np.concatenate(([np.inf], taken))
            continue
        took[i] = taken < best[1:]
        best[1:] = np.where(took[i], taken, best[1:])
    if not np.isfinite(best[m]):
        raise ValueError("no alignment takes what must be taken")
    rows = np.zeros(m, np.int64)
    k = m
    for i in range(n - 1, -1, -1):
        if k and took[i, k - 1]:
            k -= 1
            rows[k] = i
    return rows


def distances(a: Array, b: Array) -> Costs:
    """Return how unlike all rows are: 0 equal, bounded by 2.

    ``|a_i - b_k|^2 / (|a_i|^2 + |b_k|^2 + mean_i |a_i|^2)``: bounded, so that no single constant
    outvotes the others, and small between two rows that are both next to nothing.

    Args:
        a: shape ``(n, features)``.
        b: shape ``(m, features)``.
    """
    x, y = (np.nan_to_num(np.asarray(v, dtype=np.float64)) for v in (a, b))
    scale = max(float(np.abs(x).max(initial=0)), float(np.abs(y).max(initial=0))) or 1.0
    x, y = x / scale, y / scale
    mine, theirs = (x * x).sum(1), (y * y).sum(1)
    squares = mine[:, None] + theirs[None, :]
    # Scalars are often close to each other: no rounding there.
    gaps = (x - y.T) ** 2 if x.shape[1] == 1 else np.maximum(squares - 2 * (x @ y.T), 0.0)
    return np.asarray(gaps / (squares + mine.mean() + 1e-30))


@dataclass(slots=True)
class Solver:
    """Finds the survivors of every group.

    Attributes:
        kept: group number -> alive channels, as far as known.
        apart: groups told by aligning an axis as a whole, and those told along with each.
    """

    analysis: ChannelAnalysis
    pairs: Pairs
    layouts: Layouts = field(init=False)
    counts: list[int | None] = field(init=False)
    kept: dict[int, Mask] = field(init=False, default_factory=dict)
    apart: dict[int, tuple[int, ...]] = field(init=False, default_factory=dict)
    _reads: dict[int, list[tuple[Read, int]]] = field(init=False, default_factory=dict)
    _targets: dict[tuple[int, int], tuple[bytes, Ints | None]] = field(
        init=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        self.layouts = Layouts(self.analysis)
        self.counts = widths(self.layouts, self.pairs)
        for read in self.pairs.reads:
            for axis, layout in enumerate(self.layouts.of_read(read)):
                for g in layout.units:
                    self._reads.setdefault(g, []).append((read, axis))

    def reads(self, g: int) -> list[tuple[Read, int]]:
        """Return the constants that hold a group, and the axis."""
        return self._reads.get(g, [])

    def solve(self) -> dict[int, Mask]:
        """Return, for each group, which channels survive.

        Raises:
            UsageError: nothing tells.
        """
        full = self.layouts.widths
        for g, count in enumerate(self.counts):
            if count == full[g] or g not in self._reads:
                self.kept[g] = np.ones(full[g], dtype=bool)
        while len(self.kept) < len(full):
            before = len(self.kept)
            for g in (g for g in range(len(full)) if g not in self.kept):
                self._solve_one(g, strong=True)
            if len(self.kept) == before and not self._by_axis():
                for g in (g for g in range(len(full)) if g not in self.kept):
                    self._solve_one(g, strong=False)
            if len(self.kept) == before:
                g = next(g for g in range(len(full)) if g not in self.kept)
                raise UsageError(
                    "nothing in the pruned model tells which channels of "
                    f"'{self.analysis.groups[g].name}' it kept"
                )
        self._refine()
        return self.kept

    def _refine(self) -> None:
        """Ask all constants again, now that everything around them is known."""
        full = self.layouts.widths
        again = [g for g, n in enumerate(self.counts) if n not in (None, full[g])]
        for _ in range(ROUNDS):
            changed = False
            for g in again:
                before = {h: self.kept.pop(h) for h in self.apart.get(g, (g,))}
                done = self._by_axis() if g in self.apart else self._solve_one(g, strong=True)
                self.kept = {**before, **self.kept} if done else {**self.kept, **before}
                changed |= any(not np.array_equal(m, self.kept[h]) for h, m in before.items())
            if not changed:
                return

    def costs(self, g: int, *, strong: bool) -> Costs | None:
        """Return the summed costs of a group, shape ``(width, width left)``, or None.

        Args:
            g: the group, which must not be among the known.
            strong: whether constants of one entry a channel (biases) alone are not enough.
        """
        total: Costs | None = None
        enough = not strong
        for read, axis in self.reads(g):
            slices = self._slices(g, read, axis)
            if slices is None:
                continue
            mine, theirs, features = slices
            costs = min(features, FULL_SAY) * distances(mine, theirs)
            total = costs if total is None else total + costs
            enough = enough or features > 1
        return total if enough else None

    def _solve_one(self, g: int, *, strong: bool) -> bool:
        costs = self.costs(g, strong=strong)
        if costs is None:
            return False
        mask = np.zeros(costs.shape[0], dtype=bool)
        mask[align(costs)] = True
        self.kept[g] = mask
        return True

    def _slices(self, g: int, read: Read, axis: int) -> tuple[Array, Array, int] | None:
        """Return what each channel and each survivor have in a constant, and entries of each."""
        if read.ours.dtype.kind in "iub":
            return None
        layouts = self.layouts.of_read(read)
        to = self._target(g, layouts[axis])
        flat = self._flat(read, axis, layouts)
        if to is None or flat is None:
            return None
        mine, theirs, features = flat
        every = np.arange(self.layouts.widths[g])
        source = layouts[axis].places(g, np.arange(layouts[axis].size), every, len(every))
        if to.size and to.max() >= len(theirs):
            return None
        unit = source.shape[1]
        return (
            mine[source].reshape(len(source), -1),
            theirs[to].reshape(len(to), -1),
            features * unit,
        )

    def _target(self, g: int, layout: Layout) -> Ints | None:
        """Return :func:`targets`, remembered for as long as what it depends on is the same."""
        others = b"".join(self.kept[h].tobytes() for h in layout.units if h in self.kept)
        key = (g, id(layout))
        if key not in self._targets or self._targets[key][0] != others:
            full = self.layouts.widths
            self._targets[key] = (others, targets(layout, g, self.kept, self.counts, full))
        return self._targets[key][1]

    def _flat(
        self, read: Read, axis: int, layouts: Sequence[Layout]
    ) -> tuple[Array, Array, int] | None:
        """Return both values as matrices, a row for each index along the axis.

        The columns are the indices of the other axes that both have, or a sample of them; None if
        it is not known yet which those are.
        """
        alive: list[Ints] = []
        for other, layout in enumerate(layouts):
            if other == axis:
                continue
            if not layout.known(self.kept):
                return None
            alive.append(layout.alive(self.kept))
            if len(alive[-1]) != read.theirs.shape[other]:
                return None
        shape = [len(a) for a in alive]
        features = int(np.prod(shape))
        columns = np.arange(features)
        if features > MOST_FEATURES:
            rng = np.random.default_rng(0)
            columns = np.sort(rng.choice(features, MOST_FEATURES, replace=False))
        at = np.unravel_index(columns, shape) if shape else ()
        ours = np.moveaxis(read.ours, axis, 0)
        theirs = np.moveaxis(read.theirs, axis, 0)
        mine: Array = ours[_rows(*(a[i] for a, i in zip(alive, at, strict=True)))]
        other_rows: Array = theirs[_rows(*at)]
        return mine.reshape(len(mine), -1), other_rows.reshape(len(other_rows), -1), features

    def _by_axis(self) -> bool:
        """Solve groups that share an axis in a way that hangs on what survives, all at once.

        Along the axis survivors keep their order whatever group they are of, so the axis itself
        is aligned, position by position, and the groups read off. Of the axes that hold an unknown
        group, the one that most constants have goes first.
        """
        tables: dict[tuple[int, int], tuple[int, Costs, Layout]] = {}
        for read in self.pairs.reads:
            layouts = self.layouts.of_read(read)
            for axis, layout in enumerate(layouts):
                if layout.known(self.kept) or layout.more or read.ours.dtype.kind in "iub":
                    continue
                if (flat := self._flat(read, axis, layouts)) is not None:
                    key = (id(layout), read.theirs.shape[axis])
                    count, total, _ = tables.get(key, (0, 0.0, layout))
                    costs = total + min(flat[2], FULL_SAY) * distances(flat[0], flat[1])
                    tables[key] = (count + 1, costs, layout)
        for _, costs, layout in sorted(tables.values(), key=lambda table: -table[0]):
            try:
                rows = align(costs, self._forced(layout))
            except ValueError:
                continue
            if self._read_off(layout, rows):
                return True
        return False

    def _forced(self, layout: Layout) -> list[bool | None]:
        out: list[bool | None] = []
        for g, c in zip(layout.group.tolist(), layout.channel.tolist(), strict=True):
            out.append(True if g < 0 else bool(self.kept[g][c]) if g in self.kept else None)
        return out

    def _read_off(self, layout: Layout, rows: Ints) -> bool:
        """Take the channels most of whose positions were chosen; False if the widths are off."""
        chosen = np.zeros(layout.size, dtype=bool)
        chosen[rows] = True
        found: dict[int, Mask] = {}
        for g, unit in layout.units.items():
            if g in self.kept:
                continue
            here = layout.group == g
            votes = np.bincount(layout.channel[here & chosen], minlength=self.layouts.widths[g])
            mask = votes * 2 > unit
            count = self.counts[g]
            if not mask.any() or (count is not None and mask.sum() != count):
                return False
            found[g] = mask
        for g, mask in found.items():
            self.kept[g] = mask
            self.counts[g] = int(mask.sum())
            self.apart[g] = tuple(found)
        return bool(found)

    def reordered(self, g: int) -> bool:
        """Whether the survivors are all there, as one constant shows, but in another order."""
        before = self.kept.pop(g)
        # Of few entries some are alike in any order.
        slices = [s for r, a in self.reads(g) if (s := self._slices(g, r, a)) and s[2] >= 4]
        tables = [distances(mine, theirs) for mine, theirs, _ in slices]
        self.kept[g] = before
        for costs in tables:
            columns = np.arange(costs.shape[1])
            nearest = costs.argmin(axis=0)
            distinct = len(set(nearest.tolist())) == len(nearest)
            in_order = float(costs[align(costs), columns].mean())
            if distinct and float(costs.min(axis=0).mean()) < CLEAR and in_order > 3 * CLEAR:
                return True
        return False


def _rows(*columns: Ints) -> tuple[Any, ...]:
    """Return the index that takes these columns of all rows."""
    return (slice(None), *columns)
