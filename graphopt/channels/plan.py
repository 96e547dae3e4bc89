"""What to remove: a value that can be read, saved, replayed and applied elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from math import ceil, floor, isfinite
from typing import Any

import numpy as np

from graphopt.channels.groups import ChannelAnalysis, Group
from graphopt.errors import UsageError
from graphopt.files import dump_json
from graphopt.graph import Array

FORMAT = "graphopt-prune-plan"
VERSION = 1


@dataclass(frozen=True, slots=True)
class MemberPlan:
    """The indices that go from one axis of one constant."""

    tensor: str
    axis: int
    removed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What is removed from one group.

    Attributes:
        name: the group.
        before: its channels.
        asked: how many the ratio alone would keep.
        after: how many are kept, after alignment.
        removed: the channels that go, sorted.
        members: the axes of constants they live on.
        note: why fewer than asked are removed; empty if nothing needs saying.
    """

    name: str
    before: int
    asked: int
    after: int
    removed: tuple[int, ...]
    members: tuple[MemberPlan, ...] = ()
    note: str = ""

    @property
    def achieved(self) -> float:
        """The fraction that is removed."""
        return len(self.removed) / self.before


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What is removed from a model.

    Attributes:
        ratio: the fraction asked for, of each group.
        align: kept widths are multiples of it.
        importance: what chose the channels.
        groups: every prunable group, also those that keep everything, in topological order.
    """

    ratio: float
    align: int
    importance: str
    groups: tuple[GroupPlan, ...] = ()

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
        """Return JSON: the same plan, the same text."""
        return dump_json(
            {
                "format": FORMAT,
                "version": VERSION,
                "ratio": {"requested": self.ratio, "achieved": round(self.achieved, 6)},
                "align": self.align,
                "importance": self.importance,
                "groups": [_group_json(g) for g in self.groups],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> PrunePlan:
        """Read a plan.

        Raises:
            UsageError: it is no plan, is of a newer version, or contradicts itself.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise UsageError(f"the prune plan is not JSON: {problem}") from problem
        top = _Fields(data, "the prune plan")
        if data.get("format") != FORMAT or data.get("version") != VERSION:
            raise UsageError(
                f"the prune plan is not a {FORMAT} of version {VERSION}: write it again with "
                "graphopt optimize --prune"
            )
        groups = tuple(_group_of(g, i) for i, g in enumerate(top.items("groups")))
        names = [g.name for g in groups]
        if len(set(names)) != len(names):
            raise UsageError("the prune plan names a group twice")
        ratio = _Fields(data.get("ratio"), "the prune plan's ratio").number("requested")
        return cls(
            check_ratio(ratio), check_align(top.whole("align")), top.text("importance"), groups
        )


def _group_json(group: GroupPlan) -> dict[str, Any]:
    return {
        "name": group.name,
        "width": {"before": group.before, "asked": group.asked, "after": group.after},
        "removed": list(group.removed),
        "achieved": round(group.achieved, 6),
        "members": [
            {"tensor": m.tensor, "axis": m.axis, "removed": list(m.removed)} for m in group.members
        ],
        "note": group.note,
    }


class _Fields:
    """Typed reads from untrusted JSON."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise UsageError(f"{where} is not a JSON object")
        self.data, self.where = data, where

    def _get(self, key: str, kind: type | tuple[type, ...], what: str) -> Any:
        value = self.data.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(f"{self.where}: '{key}' must be {what}")
        return value

    def text(self, key: str) -> str:
        return str(self._get(key, str, "a text"))

    def whole(self, key: str) -> int:
        return int(self._get(key, int, "a whole number"))

    def number(self, key: str) -> float:
        try:
            return float(self._get(key, (int, float), "a number"))
        except OverflowError as problem:
            raise UsageError(f"{self.where}: '{key}' is too large") from problem

    def items(self, key: str) -> list[Any]:
        found: list[Any] = self._get(key, list, "a list")
        return found

    def indices(self, key: str) -> tuple[int, ...]:
        values = self.items(key)
        if any(not isinstance(v, int) or isinstance(v, bool) or v < 0 for v in values) or any(
            a >= b for a, b in pairwise(values)
        ):
            raise UsageError(f"{self.where}: '{key}' must be increasing whole numbers from 0")
        return tuple(values)


def _group_of(data: Any, index: int) -> GroupPlan:
    fields = _Fields(data, f"group {index} of the prune plan")
    width = _Fields(fields.data.get("width"), f"{fields.where}: its width")
    removed = fields.indices("removed")
    before, asked, after = width.whole("before"), width.whole("asked"), width.whole("after")
    if not 1 <= after <= before or not 0 <= asked <= before:
        raise UsageError(f"{fields.where}: its widths contradict each other")
    if before - len(removed) != after or (removed and removed[-1] >= before):
        raise UsageError(f"{fields.where}: its widths do not match the channels removed")
    members = []
    for item in fields.items("members"):
        member = _Fields(item, f"{fields.where}: a member")
        members.append(
            MemberPlan(member.text("tensor"), member.whole("axis"), member.indices("removed"))
        )
    note = str(fields.data.get("note", ""))
    return GroupPlan(fields.text("name"), before, asked, after, removed, tuple(members), note)


def check_ratio(ratio: float) -> float:
    """Return the ratio.

    Raises:
        UsageError: it is not in [0, 1).
    """
    if not (isfinite(ratio) and 0 <= ratio < 1):
        raise UsageError(f"the prune ratio is a fraction from 0 to below 1, such as 0.3: {ratio}")
    return ratio


def check_align(align: int) -> int:
    """Return the alignment.

    Raises:
        UsageError: it is not a whole number from 1 on.
    """
    if align < 1:
        raise UsageError(f"--align is a whole number from 1 on: {align}")
    return align


def asked_width(width: int, ratio: float) -> int:
    """Return how many of ``width`` channels a ratio keeps: ``ceil((1 - ratio) width)``, exactly.

    Computed as ``width - floor(ratio width)`` with the rounding of the product forgiven, so that
    0.3 of 10 removes 3 and 0.29 of 100 removes 29.
    """
    return width - floor(ratio * width + 1e-9)


def aligned_width(width: int, asked: int, align: int, least: int | None = None) -> int:
    """Return the kept width: a multiple of ``align``, never below what was asked.

    Args:
        width: the channels there are.
        asked: the channels to keep before alignment.
        align: what the kept width is rounded up to a multiple of.
        least: never keep fewer; default ``max(align, ceil(width / 8))``.
    """
    least = max(align, ceil(width / 8)) if least is None else least
    return min(width, max(ceil(max(asked, 1) / align) * align, least))


def matches(group: Group, pattern: str) -> bool:
    """Whether a pattern names the group, or a node or tensor that has its channels."""
    return any(fnmatchcase(n, pattern) for n in (group.name, *group.nodes, *group.tensors))


def make_plan(
    analysis: ChannelAnalysis,
    scores: Mapping[str, Array],
    ratio: float,
    *,
    align: int = 8,
    floor: int | None = None,
    keep: Sequence[str] = (),
    importance: str = "",
) -> PrunePlan:
    """Choose what to remove: of each group the least important channels.

    Args:
        analysis: the groups.
        scores: group name -> importance, shape ``(width,)``; least goes first, ties by index.
        ratio: the fraction of each group to remove, in [0, 1).
        align: kept widths are rounded up to a multiple of it.
        floor: never keep fewer channels; default ``max(align, ceil(width / 8))``.
        keep: ``fnmatch`` patterns of groups, nodes and tensors to leave alone.
        importance: what made the scores, for the record.

    Raises:
        UsageError: ratio, align or a group's scores are not usable.
    """
    check_ratio(ratio)
    check_align(align)
    groups = tuple(
        _plan_group(group, scores, ratio, align, floor, keep) for group in analysis.groups
    )
    return PrunePlan(ratio, align, importance, groups)


def _plan_group(
    group: Group,
    scores: Mapping[str, Array],
    ratio: float,
    align: int,
    least: int | None,
    keep: Sequence[str],
) -> GroupPlan:
    width = group.width
    asked = asked_width(width, ratio)
    pattern = next((p for p in keep if matches(group, p)), None)
    if pattern is not None:
        return GroupPlan(group.name, width, width, width, (), (), f"kept by --keep '{pattern}'")
    after = aligned_width(width, asked, align, least)
    removed: tuple[int, ...] = ()
    if after < width:
        removed = tuple(sorted(_least(group, scores, width - after)))
    members = tuple(m for m in _member_plans(group, removed) if m.removed)
    note = "" if removed else _why_nothing(width, asked, after, ratio, align, least)
    return GroupPlan(group.name, width, asked, after, removed, members, note)


def _least(group: Group, scores: Mapping[str, Array], count: int) -> list[int]:
    values = np.asarray(scores.get(group.name, ()), dtype=np.float64)
    if values.shape != (group.width,) or np.isnan(values).any():
        raise UsageError(
            f"the importance of group '{group.name}' must be {group.width} numbers, and is "
            f"{'NaN somewhere' if values.shape == (group.width,) else values.shape}"
        )
    return [int(i) for i in np.argsort(values, kind="stable")[:count]]


def _member_plans(group: Group, removed: tuple[int, ...]) -> list[MemberPlan]:
    return [
        MemberPlan(m.tensor, m.axis, tuple(sorted({k for c in removed for k in m.positions[c]})))
        for m in group.members
    ]


def _why_nothing(
    width: int, asked: int, after: int, ratio: float, align: int, least: int | None
) -> str:
    if asked == width:
        return f"width {width} at ratio {ratio:g} is less than one channel"
    unaligned = width - aligned_width(width, asked, 1, least)
    if align == 1 or not unaligned:
        return f"width {width} at ratio {ratio:g} keeps {asked}, and at least {after} must stay"
    return (
        f"width {width} at ratio {ratio:g} keeps {asked}, rounded up to {after} by --align "
        f"{align}: nothing removed; --align 1 would remove {unaligned}"
    )
