"""From atoms to groups: the channels that can be removed, and how they hang together.

A *channel* is one class of atoms: everything that goes when it goes. Channels that occur in the
same dimensions, equally often, are interchangeable and form a *group*: the filters of one
convolution, the residual stream of a stage, the part of a Concat that came from one branch. A
group is therefore never spread unevenly over a dimension, and keeping one channel of each group
keeps every dimension from running empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from graphopt.channels.atoms import Position
from graphopt.channels.dims import Dim
from graphopt.channels.trace import Role, Trace
from graphopt.channels.walk import walk
from graphopt.model import Model

MemberRole: TypeAlias = Literal["producer", "consumer", "parameter"]
Signature: TypeAlias = "tuple[tuple[int, int], ...]"


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
    """

    name: str
    width: int
    unit: int
    members: tuple[Member, ...]
    tensors: tuple[str, ...] = field(repr=False)
    nodes: tuple[str, ...] = field(repr=False)
    atoms: tuple[int, ...] = field(repr=False)


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
        trace: dimensions and rewrites, for :func:`graphopt.channels.apply_plan`.
    """

    groups: tuple[Group, ...]
    frozen: tuple[FrozenGroup, ...]
    trace: Trace = field(repr=False, compare=False)


def analyze(model: Model) -> ChannelAnalysis:
    """Find the channel groups of a model; the model is not changed.

    Works on any valid graph; fold constants first (``Simplify``), because a shape that is
    computed rather than written down freezes what it depends on.
    """
    trace = walk(model.graph)
    return _Builder(trace).build()


class _Builder:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.space = trace.space
        self.atoms = trace.space.atoms
        # Dimensions are compared by identity: one that passes through many tensors counts once.
        self.where: dict[int, list[tuple[str, int]]] = {}
        self.dims: dict[int, Dim] = {}
        for name, dims in trace.dims.items():
            for axis, dim in enumerate(dims or ()):
                self._seen(dim, name, axis)
        for use in trace.uses:
            for axis, dim in enumerate(use.dims):
                self._seen(dim, use.node.inputs[use.index].name, axis)
        self.names: dict[str, int] = {}
        self._places: dict[int, dict[int, list[int]]] = {}

    def _seen(self, dim: Dim, name: str, axis: int) -> None:
        if dim.slots:
            self.dims[id(dim)] = dim
            places = self.where.setdefault(id(dim), [])
            if (name, axis) not in places:
                places.append((name, axis))

    def build(self) -> ChannelAnalysis:
        cells = self._cells()
        self._drop_overlaps(cells)
        producers = [role for role in self.trace.roles if role.kind == "producer"]
        placed: set[int] = set()
        told: set[Position] = set()
        groups: list[Group] = []
        frozen: list[FrozenGroup] = []
        cell_of = {root: signature for signature, roots in cells.items() for root in roots}
        for role in producers:
            order = self._roots(role.dim)
            here: dict[Signature, list[int]] = {}
            for root in order:
                if root not in placed and root in cell_of:
                    here.setdefault(cell_of[root], []).append(root)
            for signature, roots in here.items():
                placed |= set(roots)
                rest = sorted(set(cells[signature]) - placed)
                placed |= set(rest)
                groups.append(self._group(self._name(role), (*roots, *rest), signature))
            frozen += self._frozen(role, told)
        single = [g for g in groups if g.width == 1]
        frozen += [
            FrozenGroup(g.name, 1, ("all of its positions go together: there is one channel",))
            for g in single
        ]
        return ChannelAnalysis(tuple(g for g in groups if g.width > 1), tuple(frozen), self.trace)

    def _roots(self, dim: Dim) -> list[int]:
        slots = self.space.resolve(dim)
        return list(dict.fromkeys(r for s in slots for p in s.table for r in p))

    def _cells(self) -> dict[Signature, list[int]]:
        """Return the free roots by the dimensions they occur in and how often."""
        occurrences: dict[int, list[tuple[int, int]]] = {}
        for number, dim in enumerate(self.dims.values()):
            counts: dict[int, int] = {}
            for slot in self.space.resolve(dim):
                for position in slot.table:
                    for root in position:
                        counts[root] = counts.get(root, 0) + 1
            for root, count in counts.items():
                if not self.atoms.reasons(root):
                    occurrences.setdefault(root, []).append((number, count))
        cells: dict[Signature, list[int]] = {}
        for root in sorted(occurrences):
            cells.setdefault(tuple(occurrences[root]), []).append(root)
        return cells

    def _drop_overlaps(self, cells: dict[Signature, list[int]]) -> None:
        """Leave at most one free atom a position, so that a ratio of each group is that ratio.

        The rows and the columns of a grouped convolution hold the same channels: removing 30 % of
        both would remove half of them. The more numerous side stays, for it is the finer one.
        """
        cell_of = {root: signature for signature, roots in cells.items() for root in roots}
        conflicts = self._conflicts(cell_of)
        for signature in sorted(conflicts, key=lambda s: (-len(cells[s]), cells[s][0])):
            if signature not in cells:
                continue
            twice = signature in conflicts[signature]
            for other in [signature] if twice else conflicts[signature]:
                why = (
                    "two of its channels share a position (an outer product)"
                    if twice
                    else "the same channels are pruned along another axis of their grid"
                )
                for root in cells.pop(other, ()):
                    self.atoms.freeze((root,), why)

    def _conflicts(self, cell_of: dict[int, Signature]) -> dict[Signature, list[Signature]]:
        found: dict[Signature, dict[Signature, None]] = {}
        for dim in self.dims.values():
            for a, b in self._together(dim):
                one, two = cell_of.get(a), cell_of.get(b)
                if one is not None and two is not None:
                    found.setdefault(one, {})[two] = None
                    found.setdefault(two, {})[one] = None
        return {signature: list(others) for signature, others in found.items()}

    def _together(self, dim: Dim) -> Iterator[tuple[int, int]]:
        """Yield pairs of roots that share a position, one pair of each two cells at least."""
        slots = self.space.resolve(dim)
        for slot in slots:
            for position in slot.table:
                for i, a in enumerate(position):
                    yield from ((a, b) for b in position[i + 1 :])
        for i, slot in enumerate(slots):
            for other in slots[i + 1 :]:
                yield from ((p[0], q[0]) for p in _firsts(slot.table) for q in _firsts(other.table))

    def _frozen(self, role: Role, told: set[Position]) -> list[FrozenGroup]:
        """Return what the weight makes that cannot go, grouped by the reasons."""
        by_reasons: dict[tuple[str, ...], int] = {}
        for position in self.space.positions(role.dim):
            if not position or position in told:
                continue
            if all(self.atoms.reasons(root) for root in position):
                told.add(position)
                why = tuple(dict.fromkeys(w for r in position for w in self.atoms.reasons(r)))
                by_reasons[why] = by_reasons.get(why, 0) + 1
        return [FrozenGroup(self._name(role), n, why) for why, n in by_reasons.items()]

    def _name(self, role: Role) -> str:
        base = role_name(role)
        self.names[base] = self.names.get(base, 0) + 1
        return base if self.names[base] == 1 else f"{base}#{self.names[base]}"

    def _group(self, name: str, roots: tuple[int, ...], signature: Signature) -> Group:
        dims = list(self.dims.values())
        mine = [dims[number] for number, _ in signature]
        tensors = list(dict.fromkeys(t for d in mine for t, _ in self.where[id(d)]))
        nodes = dict.fromkeys(n for t in tensors for n in self.trace.touching.get(t, ()) if n)
        members = tuple(self._members(roots, {id(d) for d in mine}))
        unit = next((len(m.positions[0]) for m in members if m.role == "producer"), 1)
        return Group(name, len(roots), unit, members, tuple(tensors), tuple(nodes), roots)

    def _members(self, roots: tuple[int, ...], dims: set[int]) -> Iterable[Member]:
        kinds = {(r.tensor, r.axis, id(r.dim)): r.kind for r in self.trace.roles}
        found: dict[Member, None] = {}
        for use in self.trace.uses:
            tensor = use.node.inputs[use.index].name
            for axis, dim in enumerate(use.dims):
                if id(dim) not in dims:
                    continue
                places = self._indices(dim)
                at = tuple(tuple(places.get(root, ())) for root in roots)
                role: MemberRole = kinds.get((tensor, axis, id(dim)), "parameter")
                found[Member(tensor, axis, role, at)] = None
        return found

    def _indices(self, dim: Dim) -> dict[int, list[int]]:
        """Return, for each root, the indices of the dimension that carry it."""
        if id(dim) not in self._places:
            places: dict[int, list[int]] = {}
            for k, position in enumerate(self.space.positions(dim)):
                for root in position:
                    places.setdefault(root, []).append(k)
            self._places[id(dim)] = places
        return self._places[id(dim)]


def _firsts(table: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    return [p for p in table if p]


def role_name(role: Role) -> str:
    """Return what people call the layer: its module's path where the weight's name has one."""
    weight = role.tensor.removesuffix(".weight")
    anonymous = "::" in weight or "." not in weight
    return role.node.name if anonymous and role.node.name else weight
