"""Pruning in several steps: plans of the way there, and the one plan they add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from graphopt.channels.groups import ChannelAnalysis
from graphopt.channels.plan import Members, PrunePlan
from graphopt.graph import Array


def widths_on_the_way(plan: PrunePlan, step: int, steps: int) -> dict[str, int]:
    """Return how many channels each group keeps after ``step`` of ``steps``.

    Each step takes the same share of what is left, rounded so that none is taken early.
    """
    found = {}
    for group in plan.groups:
        share = (group.after / group.before) ** (step / steps)
        found[group.name] = max(group.after, int(np.ceil(group.before * share - 1e-9)))
    return found


def narrowed(
    analysis: ChannelAnalysis,
    scores: Mapping[str, Array],
    widths: Mapping[str, int],
    like: PrunePlan,
) -> PrunePlan:
    """Return the plan that leaves each group the given width, the least important first.

    Args:
        analysis: of the model as it is now.
        scores: group name -> importance, shape ``(width,)``; least goes first, ties by index.
        widths: group name -> what it keeps; a group that is not named keeps all.
        like: where alignment and the rest of the record come from.
    """
    known = {group.name: group for group in like.groups}
    groups = []
    for group in analysis.groups:
        if group.name not in known:
            continue
        after = min(widths.get(group.name, group.width), group.width)
        values = np.asarray(scores[group.name], dtype=np.float64)
        least = np.argsort(values, kind="stable")[: group.width - after]
        groups.append(
            replace(
                known[group.name],
                before=group.width,
                asked=after,
                after=after,
                removed=tuple(sorted(int(i) for i in least)),
                members=(),
                note="",
                scores=(),
            )
        )
    return replace(like, groups=tuple(groups))


def goes_on(
    analysis: ChannelAnalysis,
    gone: Mapping[str, tuple[int, ...]],
    before: Mapping[str, int],
    widths: Mapping[str, int],
) -> bool:
    """Whether the groups of a model pruned part of the way are those of the original, narrower.

    A grid whose rows have become fewer than its columns may be offered along its other side, and a
    group of one channel is none.

    Args:
        analysis: of the model as it is now.
        gone: group name -> original channels that are gone.
        before: group name -> original width.
        widths: group name -> what it is to keep next.
    """
    now = {group.name: group.width for group in analysis.groups}
    left = {name: width - len(gone.get(name, ())) for name, width in before.items()}
    return all(now.get(name, width if widths.get(name, width) >= width else 0) == width
               for name, width in left.items())  # fmt: skip


def removed_in_all(
    first: Mapping[str, tuple[int, ...]], then: PrunePlan, before: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Return which of the original channels are gone after one more plan.

    Args:
        first: group name -> original channels that were gone before it.
        then: a plan for the model without those.
        before: group name -> original width.
    """
    gone = dict(first)
    for group in then.groups:
        lost = set(gone.get(group.name, ()))
        left = [c for c in range(before[group.name]) if c not in lost]
        gone[group.name] = tuple(sorted(lost | {left[c] for c in group.removed}))
    return gone


def replanned(
    analysis: ChannelAnalysis, plan: PrunePlan, removed: Mapping[str, tuple[int, ...]]
) -> PrunePlan:
    """Return the plan with other channels removed, as many of each group.

    Args:
        analysis: of the model the plan is for.
        plan: where widths and the rest of the record come from.
        removed: group name -> channels that go.
    """
    members = Members(analysis)
    groups = {group.name: (i, group) for i, group in enumerate(analysis.groups)}
    return replace(
        plan,
        groups=tuple(
            replace(
                item,
                after=item.before - len(removed.get(item.name, ())),
                removed=removed.get(item.name, ()),
                members=members.of(*groups[item.name], removed.get(item.name, ())),
            )
            for item in plan.groups
        ),
    )
