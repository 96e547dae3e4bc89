"""From atoms to groups: the channels that can be removed, and how they hang together.

A *channel* is one class of atoms: everything that goes when it goes. Channels that occur in the
same dimensions, equally often, are interchangeable and form a *group*: the filters of one
convolution, the residual stream of a stage, the part of a Concat that came from one branch. A
group is therefore never spread unevenly over a dimension, and keeping one channel of each group
keeps every dimension from running empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Literal, TypeAlias

from graphopt.channels.atoms import Position
from graphopt.channels.cells import Slots, choose, find_cells
from graphopt.channels.dims import Dim, spread
from graphopt.channels.reasons import condense
from graphopt.channels.trace import Role, RoleKind, Trace
from graphopt.channels.walk import walk
from graphopt.model import Model

MemberRole: TypeAlias = Literal["producer", "consumer", "parameter"]
Kind: TypeAlias = Literal["channels", "heads"]

_SINGLE = "all of its positions go together: there is one channel"


@dataclass(frozen=True, slots=True)
class Member:
    """An axis of a constant that holds the channels of a group.

    Attributes:
        tensor: the constant.
        axis: which of its axes.
        role: ``producer`` if it makes the channels (a filter), ``consumer`` if it sums over them,
            ``parameter`` if it is applied to each (bias, BatchNorm, slope).
        positions: for each channel of the group, its indices along the axis.
    """

    tensor: str
    axis: int
    role: MemberRole
    positions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that can be removed, each by itself.

    Attributes:
        name: after the first weight or node that makes the channels; unique in the model.
        width: how many channels.
        unit: how many indices of the first producing weight go with one channel: 1, or more where
            channels are tied to each other (halves of a gated unit, blocks of DepthToSpace).
        members: the axes of constants that hold the channels, in topological order.
        tensors: names of all tensors that have the channels in a dimension.
        nodes: names of the nodes that read or write those.
        atoms: per channel, the root of its class in the analysis.
        kind: ``heads`` if a channel is a whole head of attention (of keys and values, with all the
            query heads that read them), to be counted one by one: alignment is for channels.
    """

    name: str
    width: int
    unit: int
    members: tuple[Member, ...]
    tensors: tuple[str, ...] = field(repr=False)
    nodes: tuple[str, ...] = field(repr=False)
    atoms: tuple[int, ...] = field(repr=False)
    kind: Kind = "channels"


@dataclass(frozen=True, slots=True)
class FrozenGroup:
    """Channels that a weight makes and that cannot be removed, and why."""

    name: str
    width: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChannelAnalysis:
    """The channel groups of one model.

    Attributes:
        groups: what can be pruned, in topological order.
        frozen: what cannot, and why.
        alternatives: the other side of grids in ``groups``, heads for columns or columns for
            heads: they can be removed as well, but a ratio of both would be more than that ratio.
            A plan may name them, so it can be replayed whatever the analysis was asked for.
        trace: dimensions and rewrites, for :func:`graphopt.channels.apply_plan`.
    """

    groups: tuple[Group, ...]
    frozen: tuple[FrozenGroup, ...]
    trace: Trace = field(repr=False, compare=False)
    alternatives: tuple[Group, ...] = field(default=(), repr=False)


def analyze(model: Model, *, heads: bool = False) -> ChannelAnalysis:
    """Find the channel groups of a model; the model is not changed.

    Works on any valid graph; fold constants first (``Simplify``), because a shape that is
    computed rather than written down freezes what it depends on.

    Args:
        model: the model.
        heads: where the channels of attention form a grid of heads, offer whole heads. Otherwise
            it is the columns of all heads, which are finer (a ratio of 3 heads may be none) and
            are removed from queries and keys apart from values; and whole heads where queries,
            keys or values cannot lose columns. Whole heads leave the size of a head as it is:
            fused attention kernels want 32, 64 or 128.
    """
    trace = walk(model.graph)
    return _Builder(trace, heads).build()


class _Builder:
    def __init__(self, trace: Trace, prefer_heads: bool) -> None:
        self.trace = trace
        self.space = trace.space
        self.atoms = trace.space.atoms
        # Dimensions are compared by identity: one that passes through many tensors counts once.
        self.dims: dict[int, Dim] = {}
        self.where: dict[int, dict[tuple[str, int], None]] = {}
        self.uses: dict[int, list[tuple[int, str, int]]] = {}
        self._collect()
        self.keys = list(self.dims)
        numbered: dict[Slots, list[int]] = {}
        self.slots: dict[int, Slots] = {}
        for number, (key, dim) in enumerate(self.dims.items()):
            slots = self.space.resolve(dim)
            alike = numbered.setdefault(slots, [])
            # Thousands of dimensions may say the same: they share one value, to be compared by id.
            self.slots[key] = self.slots[self.keys[alike[0]]] if alike else slots
            alike.append(number)
        self.cells = find_cells(numbered, self.atoms)
        self.heads = self._head_cells()
        self.grids = self._grids()
        preferred = self.heads if prefer_heads else self._without_columns()
        grids = [(slots, self._tensor(numbers[0])) for slots, numbers in numbered.items()]
        grids += [(slots, tensor) for tensor, slots in self.grids.items()]
        self.others = choose(self.cells, grids, self.atoms, self.heads, preferred)
        self.kinds: dict[tuple[str, int, int], RoleKind] = {
            (r.tensor, r.axis, id(r.dim)): r.kind for r in trace.roles
        }
        self.names: dict[str, int] = {}
        self._condensed: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._places: dict[tuple[int, int], dict[int, list[int]]] = {}

    def _collect(self) -> None:
        for name, dims in self.trace.dims.items():
            for axis, dim in enumerate(dims or ()):
                self._seen(dim, name, axis)
        for number, use in enumerate(self.trace.uses):
            name = use.node.inputs[use.index].name
            for axis, dim in enumerate(use.dims):
                self._seen(dim, name, axis)
                self.uses.setdefault(id(dim), []).append((number, name, axis))

    def _seen(self, dim: Dim, name: str, axis: int) -> None:
        if dim.slots:
            self.dims[id(dim)] = dim
            self.where.setdefault(id(dim), {})[name, axis] = None

    def _tensor(self, number: int) -> str:
        return next(iter(self.where[self.keys[number]]))[0]

    def _head_cells(self) -> set[int]:
        found: set[int] = set()
        for dim in self.trace.heads:
            for slot in self.space.resolve(dim):
                found |= {self.cells.of[r] for p in slot.table for r in p if r in self.cells.of}
        return found

    def _grids(self) -> dict[str, Slots]:
        """Return the weights that make a grid of channels along two axes, such as ``[C, h, d]``."""
        axes: dict[str, dict[int, Slots]] = {}
        for role in self.trace.roles:
            if role.kind == "producer" and role.dim.slots:
                axes.setdefault(role.tensor, {})[role.axis] = self.slots[id(role.dim)]
        return {name: sum(a.values(), ()) for name, a in axes.items() if len(a) > 1}

    def _without_columns(self) -> set[int]:
        """Return heads that some weight makes and whose columns that weight cannot lose."""
        found: set[int] = set()
        for role in self.trace.roles if self.heads else ():
            if role.kind != "producer":
                continue
            slots = self.grids.get(role.tensor) or self.slots.get(id(role.dim), ())
            made = {self.cells.of.get(r, -1) for s in slots for p in s.table for r in p} - {-1}
            heads = made & self.heads
            rows = prod(len(self.cells.roots[cell]) for cell in heads)
            # A weight that makes one number a head, such as a gate, has no columns to lose.
            if made == heads and (role.tensor in self.grids or rows < (role.dim.size or 0)):
                found |= heads
        return found

    def build(self) -> ChannelAnalysis:
        placed: set[int] = set()
        told: set[Position] = set()
        groups: list[Group] = []
        alternatives: list[Group] = []
        frozen: dict[tuple[str, tuple[str, ...]], int] = {}
        for role in self.trace.roles:
            if role.kind != "producer":
                continue
            here: dict[int, list[int]] = {}
            for root in self._roots(role.dim):
                if root not in placed and root in self.cells.of:
                    here.setdefault(self.cells.of[root], []).append(root)
            for cell, roots in here.items():
                placed |= set(roots)
                rest = [root for root in self.cells.roots[cell] if root not in placed]
                placed |= set(rest)
                # Also of one channel: names must not depend on how much was pruned before.
                group = self._group(role, (*roots, *rest), cell)
                if group.width > 1:
                    (alternatives if cell in self.others else groups).append(group)
                elif cell not in self.others:
                    key = role_name(role), (_SINGLE,)
                    frozen[key] = frozen.get(key, 0) + 1
            self._freeze(role, told, frozen)
        return ChannelAnalysis(
            tuple(groups),
            tuple(FrozenGroup(self._name(base), n, why) for (base, why), n in frozen.items()),
            self.trace,
            tuple(alternatives),
        )

    def _roots(self, dim: Dim) -> list[int]:
        slots = self.slots.get(id(dim), ())
        return list(dict.fromkeys(r for s in slots for p in s.table for r in p))

    def _freeze(
        self, role: Role, told: set[Position], frozen: dict[tuple[str, tuple[str, ...]], int]
    ) -> None:
        """Count what the weight makes that cannot go, by its name and the reasons."""
        for position in spread(self.slots.get(id(role.dim), ()), role.dim.size or 0):
            if not position or position in told:
                continue
            if all(self.atoms.reasons(root) for root in position):
                told.add(position)
                every = tuple(w for root in position for w in self.atoms.reasons(root))
                if every not in self._condensed:
                    self._condensed[every] = condense(every)
                key = (role_name(role), self._condensed[every])
                frozen[key] = frozen.get(key, 0) + 1

    def _name(self, base: str) -> str:
        self.names[base] = self.names.get(base, 0) + 1
        return base if self.names[base] == 1 else f"{base}#{self.names[base]}"

    def _group(self, role: Role, roots: tuple[int, ...], cell: int) -> Group:
        keys = [self.keys[number] for number in self.cells.dims[cell]]
        tensors = list(dict.fromkeys(name for key in keys for name, _ in self.where[key]))
        members = self._members(roots, keys)
        unit = next((len(m.positions[0]) for m in members if m.role == "producer"), 1)
        # A name does not depend on which side was chosen: plans of both can be replayed.
        grid = unit > 1 or role.tensor in self.grids
        kind: Kind = "heads" if cell in self.heads and grid else "channels"
        name = self._name(f"{role_name(role)}:heads" if kind == "heads" else role_name(role))
        return Group(
            name, len(roots), unit, members, tuple(tensors), self._nodes(keys), roots, kind
        )

    def _nodes(self, keys: list[int]) -> tuple[str, ...]:
        """Return who reads or writes the channels; of a constant only the reads that have them."""
        touching, dims, uses = self.trace.touching, self.trace.dims, self.trace.uses
        names = {t: None for key in keys for t, _ in self.where[key] if t in dims}
        found = dict.fromkeys(node for name in names for node in touching.get(name, ()))
        for key in keys:
            found.update((uses[number].node.name, None) for number, _, _ in self.uses.get(key, ()))
        return tuple(name for name in found if name)

    def _members(self, roots: tuple[int, ...], keys: list[int]) -> tuple[Member, ...]:
        uses = sorted((*use, key) for key in keys for use in self.uses.get(key, ()))
        known: dict[tuple[int, int], tuple[tuple[int, ...], ...]] = {}
        found: dict[tuple[str, int, MemberRole, int], Member] = {}
        for _, tensor, axis, key in uses:
            alike = (id(self.slots[key]), self.dims[key].size or 0)
            if alike not in known:
                places = self._indices(self.slots[key], alike[1])
                known[alike] = tuple(tuple(places.get(root, ())) for root in roots)
            at = known[alike]
            role: MemberRole = self.kinds.get((tensor, axis, key), "parameter")
            found.setdefault((tensor, axis, role, id(at)), Member(tensor, axis, role, at))
        return tuple(found.values())

    def _indices(self, slots: Slots, size: int) -> dict[int, list[int]]:
        """Return, for each root, the indices of such a dimension that carry it."""
        if (id(slots), size) not in self._places:
            places: dict[int, list[int]] = {}
            for k, position in enumerate(spread(slots, size)):
                for root in position:
                    places.setdefault(root, []).append(k)
            self._places[id(slots), size] = places
        return self._places[id(slots), size]


def role_name(role: Role) -> str:
    """Return what people call the layer: its module's path where the weight's name has one."""
    weight = role.tensor.removesuffix(".weight")
    anonymous = "::" in weight or "." not in weight
    return role.node.name if anonymous and role.node.name else weight
