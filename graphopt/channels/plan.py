"""What to remove: a value that can be read, saved, replayed and applied elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.channels.allocation import (
    ALLOCATIONS,
    Allocation,
    CostModel,
    Decision,
    Problem,
    Target,
)
from graphopt.channels.allocation.extents import Extents
from graphopt.channels.allocation.limits import (
    Limit,
    aligned_width,
    asked_width,
    limits_of,
    matches,
)
from graphopt.channels.allocation.problem import checked_scores
from graphopt.channels.groups import ChannelAnalysis, Group
from graphopt.graph import Array

__all__ = [
    "GroupPlan",
    "MemberPlan",
    "PrunePlan",
    "aligned_width",
    "asked_width",
    "make_plan",
    "matches",
]


@dataclass(frozen=True, slots=True)
class MemberPlan:
    """The indices that go from one axis of one constant.

    Attributes:
        tensor: the constant.
        axis: which of its axes.
        removed: indices of the unpruned constant, sorted.
        size: the length of the axis with every channel there.
        nodes: the nodes that read it this way: of a constant that several layers share, each may
            lose other indices.
    """

    tensor: str
    axis: int
    removed: tuple[int, ...]
    size: int = 0
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What is removed from one group.

    Attributes:
        name: the group.
        before: its channels.
        asked: how many the allocation would keep, before alignment and floor.
        after: how many are kept.
        removed: the channels that go, sorted.
        members: the axes of constants they live on.
        note: what needs saying: why nothing is removed, or that a width gives no speed.
        ratio: the fraction asked for, of this group.
        align: the kept width is a multiple of it.
        floor: and never less than this.
        kind: what one channel of it is, as the analysis calls it.
        scores: the importance of every channel, to six digits; empty where it is not known.
    """

    name: str
    before: int
    asked: int
    after: int
    removed: tuple[int, ...]
    members: tuple[MemberPlan, ...] = ()
    note: str = ""
    ratio: float = 0.0
    align: int = 1
    floor: int = 1
    kind: str = "channels"
    scores: tuple[float, ...] = field(default=(), repr=False)

    @property
    def achieved(self) -> float:
        """The fraction that is removed."""
        return len(self.removed) / self.before


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What is removed from a model.

    Attributes:
        ratio: the fraction of channels to remove: of each group where the allocation is uniform
            (asked for, or the one found that meets the target), of all groups together where it
            is global.
        align: kept widths are multiples of it.
        importance: what chose the channels.
        groups: every prunable group, also those that keep everything, in topological order.
        allocation: what chose the widths.
        target: what they had to meet; None where it is the ratio.
        reached: for a target other than a ratio, the share of that cost that remains, estimated
            by the cost model (exact for ``macs`` and ``params``).
    """

    ratio: float
    align: int
    importance: str
    groups: tuple[GroupPlan, ...] = ()
    allocation: str = "uniform"
    target: Target | None = None
    reached: float | None = None

    @property
    def removed(self) -> int:
        """How many channels are removed in all."""
        return sum(len(g.removed) for g in self.groups)

    @property
    def achieved(self) -> float:
        """The fraction of all prunable channels that is removed."""
        total = sum(g.before for g in self.groups)
        return self.removed / total if total else 0.0

    def to_json(self) -> str:
        """Return JSON, as ``docs/plan.md`` says: the same plan, the same text."""
        from graphopt.channels.plan_json import write

        return write(self)

    @classmethod
    def from_json(cls, text: str) -> PrunePlan:
        """Read a plan.

        Raises:
            UsageError: it is no plan, is of a newer version, or contradicts itself.
        """
        from graphopt.channels.plan_json import read

        return read(text)


def make_plan(
    analysis: ChannelAnalysis,
    scores: Mapping[str, Array],
    ratio: float = 0.0,
    *,
    target: Target | None = None,
    allocation: str = "uniform",
    align: int = 8,
    floor: int | None = None,
    keep: Sequence[str] = (),
    ratios: Mapping[str, float] | None = None,
    importance: str = "",
    estimates: bool = False,
    costs: CostModel | None = None,
) -> PrunePlan:
    """Choose what to remove: of each group the least important channels.

    Args:
        analysis: the groups.
        scores: group name -> importance, shape ``(width,)``; least goes first, ties by index.
        ratio: the fraction of channels to remove, in [0, 1): of each group, or with the global
            allocation of all groups together.
        target: what to meet in place of a ratio.
        allocation: a name in :data:`graphopt.channels.allocation.ALLOCATIONS`.
        align: kept widths are rounded up to a multiple of it; whole attention heads are not.
        floor: never keep fewer channels; default ``max(align, ceil(width / 8))``.
        keep: ``fnmatch`` patterns of groups, nodes and tensors to leave alone.
        ratios: patterns of groups, or of nodes and weights that make their channels -> the
            fraction to remove there whatever the target; the first that matches a group counts,
            and ``keep`` comes before all.
        importance: what made the scores, for the record.
        estimates: whether scores are error estimates that can be compared between groups
            (:class:`graphopt.channels.allocation.Problem`).
        costs: of this analysis, for a target that is a cost and for notes on widths that give no
            speed on its device; made here where needed, open input dimensions counted as 1.

    Raises:
        UsageError: an option or a group's scores are not usable, or the target is out of reach.
    """
    name = ALLOCATIONS.canonical(allocation)
    allocate: Allocation = ALLOCATIONS.load(name)
    limits = limits_of(analysis, align=align, floor=floor, keep=keep, ratios=ratios or {})
    goal = Target("ratio", ratio) if target is None else target
    known = [costs] if costs is not None else []

    def cost_model() -> CostModel:
        if not known:
            known.append(CostModel.of(analysis))
        return known[0]

    readers = tuple(sum(m.role == "consumer" for m in g.members) for g in analysis.groups)
    decision = allocate(Problem(limits, scores, estimates, readers, cost_model), goal)
    notes = [""] * len(limits) if costs is None else costs.speed_notes(decision.after)
    members = Members(analysis)
    groups = tuple(
        _plan_group(i, group, limit, scores, decision, members, name, notes[i])
        for i, (group, limit) in enumerate(zip(analysis.groups, limits, strict=True))
    )
    if target is None or target.kind == "ratio":
        return PrunePlan(goal.value, align, importance, groups, name)
    reached = cost_model().remains(target.kind, decision.after)
    return PrunePlan(decision.ratio, align, importance, groups, name, target, reached)


def _plan_group(
    index: int,
    group: Group,
    limit: Limit,
    scores: Mapping[str, Array],
    decision: Decision,
    members: Members,
    allocation: str,
    speed_note: str,
) -> GroupPlan:
    width, asked, after = group.width, decision.asked[index], decision.after[index]
    values = None
    if after < width or group.name in scores:
        values = checked_scores(scores, group.name, width)
    removed: tuple[int, ...] = ()
    if values is not None:
        least = np.argsort(values, kind="stable")[: width - after]
        removed = tuple(sorted(int(i) for i in least))
    ratio = decision.ratio if allocation == "uniform" else 1 - asked / width
    if not limit.free:
        ratio = 0.0 if limit.kept else limit.ratio or 0.0
    note = speed_note if removed else _why_nothing(limit, asked, ratio, allocation)
    return GroupPlan(
        group.name,
        width,
        asked,
        after,
        removed,
        members.of(index, group, removed),
        note,
        ratio,
        limit.align,
        limit.least,
        getattr(group, "kind", "channels"),
        () if values is None else tuple(_six_digits(v) for v in values),
    )


class Members:
    """Says of each member which nodes read it, and how long its axis is."""

    def __init__(self, analysis: ChannelAnalysis) -> None:
        self._sizes: dict[tuple[str, int], int] = {}
        self._nodes: dict[tuple[int, str, int], dict[str, None]] = {}
        extents = Extents(analysis)
        for place, dims in extents.reads.items():
            node, tensor = place[0], extents.tensors[place]
            for axis, dim in enumerate(dims):
                for group, _ in extents.parts(dim):
                    self._sizes[tensor, axis] = dim.size or 0
                    self._nodes.setdefault((group, tensor, axis), {})[node] = None

    def of(self, index: int, group: Group, removed: tuple[int, ...]) -> tuple[MemberPlan, ...]:
        """Return what the members lose, those that lose nothing left out."""
        found = []
        for m in group.members:
            gone = tuple(sorted({k for c in removed for k in m.positions[c]}))
            nodes = tuple(self._nodes.get((index, m.tensor, m.axis), ()))
            size = self._sizes.get((m.tensor, m.axis), 0)
            found.append(MemberPlan(m.tensor, m.axis, gone, size, nodes))
        return tuple(m for m in found if m.removed)


def _six_digits(value: float) -> float:
    """Return a score as plans record it: sums differ in the last digits between machines."""
    return float(f"{value:.6g}") + 0.0


def _why_nothing(limit: Limit, asked: int, ratio: float, allocation: str) -> str:
    width, align = limit.width, limit.align
    if limit.kept:
        return f"kept by --keep '{limit.kept}'"
    by = f" (by '{limit.pattern}')" if limit.pattern else ""
    if limit.free and allocation != "uniform":
        if len(limit.options()) == 1:
            return f"width {width} has no smaller multiple of --align {align} above its floor"
        return f"the {allocation} allocation keeps all {width}"
    if ratio == 0:
        return f"width {width} at ratio 0{by}"
    if limit.after(ratio) < width:
        return f"keeps all {width}: the target is met without it"
    if asked == width:
        return f"width {width} at ratio {ratio:g}{by} is less than one channel"
    after = limit.after(ratio)
    unaligned = width - aligned_width(width, asked, 1, limit.floor)
    if align == 1 or not unaligned:
        return f"width {width} at ratio {ratio:g}{by} keeps {asked}, and at least {after} must stay"
    return (
        f"width {width} at ratio {ratio:g}{by} keeps {asked}, rounded up to {after} by --align "
        f"{align}: nothing removed; --align 1 would remove {unaligned}"
    )
