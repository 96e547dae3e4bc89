"""The prune plan as a file: JSON that needs nothing of graphopt to be carried out elsewhere.

``docs/plan.md`` describes it. Version 1 had no allocation, target, scores, sizes or nodes; it is
read, and never written.
"""

from __future__ import annotations

import json
from itertools import pairwise
from math import isfinite
from typing import Any

from graphopt.channels.allocation import Target
from graphopt.channels.allocation.limits import check_align
from graphopt.channels.allocation.target import check_ratio
from graphopt.channels.plan import GroupPlan, MemberPlan, PrunePlan
from graphopt.errors import UsageError
from graphopt.files import dump_json

FORMAT = "graphopt-prune-plan"
VERSION = 2


def write(plan: PrunePlan) -> str:
    """Return a plan as JSON: the same plan, the same text."""
    target = Target("ratio", plan.ratio) if plan.target is None else plan.target
    return dump_json(
        {
            "format": FORMAT,
            "version": VERSION,
            "allocation": plan.allocation,
            "target": {"kind": target.kind, "value": target.value, "reached": plan.reached},
            "ratio": {"requested": plan.ratio, "achieved": round(plan.achieved, 6)},
            "align": plan.align,
            "importance": plan.importance,
            "groups": [_group_json(g) for g in plan.groups],
        }
    )


def _group_json(group: GroupPlan) -> dict[str, Any]:
    return {
        "name": group.name,
        "kind": group.kind,
        "width": {"before": group.before, "asked": group.asked, "after": group.after},
        "ratio": {"requested": group.ratio, "achieved": round(group.achieved, 6)},
        "align": group.align,
        "floor": group.floor,
        "removed": list(group.removed),
        "scores": list(group.scores),
        "members": [
            {
                "tensor": m.tensor,
                "axis": m.axis,
                "size": m.size,
                "nodes": list(m.nodes),
                "removed": list(m.removed),
            }
            for m in group.members
        ],
        "note": group.note,
    }


def read(text: str) -> PrunePlan:
    """Read a plan.

    Raises:
        UsageError: it is no plan, is of a newer version, or contradicts itself.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"the prune plan is not JSON: {problem}") from problem
    top = _Fields(data, "the prune plan")
    version = data.get("version")
    if data.get("format") != FORMAT or version not in (1, VERSION) or isinstance(version, bool):
        raise UsageError(
            f"the prune plan is not a {FORMAT} of version {VERSION}: write it again with "
            "graphopt optimize --prune"
        )
    align, ratio = check_align(top.whole("align")), _ratio(top)
    plain = version == 1
    groups = tuple(
        _group(_Fields(g, f"group {i} of the prune plan"), (ratio, align) if plain else None)
        for i, g in enumerate(top.items("groups"))
    )
    names = [g.name for g in groups]
    if len(set(names)) != len(names):
        raise UsageError("the prune plan names a group twice")
    importance = top.text("importance")
    if plain:
        return PrunePlan(ratio, align, importance, groups)
    wanted = top.inner("target")
    target = Target(wanted.text("kind"), wanted.number("value"))  # type: ignore[arg-type]
    if target.kind == "ratio":
        return PrunePlan(ratio, align, importance, groups, top.text("allocation"))
    reached = wanted.number("reached")
    return PrunePlan(ratio, align, importance, groups, top.text("allocation"), target, reached)


def _group(fields: _Fields, older: tuple[float, int] | None) -> GroupPlan:
    """Read a group; ``older`` holds what version 1 said once for all of them."""
    width = fields.inner("width")
    removed = fields.indices("removed")
    before, asked, after = width.whole("before"), width.whole("asked"), width.whole("after")
    if not 1 <= after <= before or not 0 <= asked <= before:
        raise UsageError(f"{fields.where}: its widths contradict each other")
    if before - len(removed) != after or (removed and removed[-1] >= before):
        raise UsageError(f"{fields.where}: its widths do not match the channels removed")
    name, note = fields.text("name"), str(fields.data.get("note", ""))
    if older is not None:
        members = tuple(_member(m) for m in fields.objects("members", "a member"))
        return GroupPlan(name, before, asked, after, removed, members, note, *older)
    members = tuple(_whole_member(m) for m in fields.objects("members", "a member"))
    scores = fields.numbers("scores")
    if len(scores) not in (0, before):
        raise UsageError(f"{fields.where}: it has {before} channels and {len(scores)} scores")
    return GroupPlan(
        name,
        before,
        asked,
        after,
        removed,
        members,
        note,
        _ratio(fields),
        check_align(fields.whole("align")),
        fields.whole("floor"),
        fields.text("kind"),
        scores,
    )


def _member(fields: _Fields) -> MemberPlan:
    return MemberPlan(fields.text("tensor"), fields.whole("axis"), fields.indices("removed"))


def _whole_member(fields: _Fields) -> MemberPlan:
    member, size = _member(fields), fields.whole("size")
    if member.removed and member.removed[-1] >= size:
        raise UsageError(f"{fields.where}: removes index {member.removed[-1]} of {size}")
    nodes = fields.items("nodes")
    if not all(isinstance(n, str) for n in nodes):
        raise UsageError(f"{fields.where}: 'nodes' must be a list of texts")
    return MemberPlan(member.tensor, member.axis, member.removed, size, tuple(nodes))


def _ratio(fields: _Fields) -> float:
    return check_ratio(fields.inner("ratio").number("requested"))


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
        return self._number(self._get(key, (int, float), "a number"), key)

    def _number(self, value: Any, key: str) -> float:
        try:
            number = float(value)
        except OverflowError as problem:
            raise UsageError(f"{self.where}: '{key}' is too large") from problem
        if not isfinite(number):
            raise UsageError(f"{self.where}: '{key}' must be finite")
        return number

    def numbers(self, key: str) -> tuple[float, ...]:
        values = self.items(key)
        if any(not isinstance(v, int | float) or isinstance(v, bool) for v in values):
            raise UsageError(f"{self.where}: '{key}' must be a list of numbers")
        return tuple(self._number(v, key) for v in values)

    def items(self, key: str) -> list[Any]:
        found: list[Any] = self._get(key, list, "a list")
        return found

    def inner(self, key: str) -> _Fields:
        return _Fields(self.data.get(key), f"{self.where}: its {key}")

    def objects(self, key: str, what: str) -> list[_Fields]:
        return [_Fields(item, f"{self.where}: {what}") for item in self.items(key)]

    def indices(self, key: str) -> tuple[int, ...]:
        values = self.items(key)
        if any(not isinstance(v, int) or isinstance(v, bool) or v < 0 for v in values) or any(
            a >= b for a, b in pairwise(values)
        ):
            raise UsageError(f"{self.where}: '{key}' must be increasing whole numbers from 0")
        return tuple(values)
