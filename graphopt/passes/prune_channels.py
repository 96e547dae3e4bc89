"""Remove the channels that matter least, across the whole graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphopt.channels.apply import apply_plan
from graphopt.channels.groups import ChannelAnalysis, analyze
from graphopt.channels.importance import IMPORTANCES, Importance
from graphopt.channels.plan import (
    GroupPlan,
    PrunePlan,
    check_align,
    check_ratio,
    make_plan,
    matches,
)
from graphopt.model import Model
from graphopt.passes.base import Change, Pass, Skip


def plan_for(
    model: Model,
    ratio: float,
    *,
    importance: str = "l2",
    align: int = 8,
    keep: Sequence[str] = (),
    analysis: ChannelAnalysis | None = None,
) -> PrunePlan:
    """Return what :class:`PruneChannels` would remove; the model is not changed.

    Args:
        model: the model, simplified and with BatchNorm folded.
        ratio: the fraction of channels to remove from each prunable group, in [0, 1).
        importance: a name in :data:`graphopt.channels.importance.IMPORTANCES`.
        align: kept widths are rounded up to a multiple of it.
        keep: ``fnmatch`` patterns of groups, nodes and tensors to leave alone.
        analysis: of this model, if at hand.

    Raises:
        UsageError: an option is out of range, or the importance is unknown.
    """
    check_ratio(ratio)
    check_align(align)
    name = IMPORTANCES.canonical(importance)
    score: Importance = IMPORTANCES.load(name)
    analysis = analysis or analyze(model)
    scores = score(model, analysis.groups)
    return make_plan(analysis, scores, ratio, align=align, keep=keep, importance=name)


@dataclass(frozen=True, slots=True)
class PruneChannels(Pass):
    """Structured pruning: analyze, score, plan, apply.

    The outputs are those of the model with the removed channels masked
    (:func:`graphopt.channels.masked`).

    Attributes:
        ratio: the fraction of channels to remove from each prunable group, in [0, 1).
        importance: what decides which: ``l2`` or ``l1``.
        align: kept widths are rounded up to a multiple of it, so never more than asked goes.
        keep: ``fnmatch`` patterns of groups, nodes and tensors to leave alone.
        plan: replay this plan; the other options are then ignored.
    """

    name: ClassVar[str] = "prune-channels"

    ratio: float = 0.0
    importance: str = "l2"
    align: int = 8
    keep: tuple[str, ...] = ()
    plan: PrunePlan | None = None

    def edit(self, model: Model) -> Iterable[Change | Skip]:
        """Prune ``model`` in place.

        Raises:
            UsageError: an option is out of range, or the plan is for another model.
        """
        analysis = analyze(model)
        plan = self.plan or plan_for(
            model,
            self.ratio,
            importance=self.importance,
            align=self.align,
            keep=self.keep,
            analysis=analysis,
        )
        apply_plan(model, plan, analysis)
        for pattern in self.keep:
            if not any(matches(group, pattern) for group in analysis.groups):
                yield Skip(pattern, "--keep matches no prunable group, node or tensor")
        for item in plan.groups:
            yield _event(item, plan.align)
        for frozen in analysis.frozen:
            yield Skip(frozen.name, f"{frozen.width} channels stay: {'; '.join(frozen.reasons)}")


def _event(item: GroupPlan, align: int) -> Change | Skip:
    if not item.removed:
        return Skip(item.name, item.note or "nothing is removed")
    detail = f"{item.before} -> {item.after} (asked {item.asked}, align {align})"
    return Change("pruned", item.name, detail)
