"""Remove the channels that matter least, across the whole graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from graphopt.channels.allocation import ALLOCATIONS, CostModel, Target
from graphopt.channels.allocation.limits import check_limits, unmatched
from graphopt.channels.allocation.target import check_ratio
from graphopt.channels.apply import apply_plan
from graphopt.channels.groups import ChannelAnalysis, analyze
from graphopt.channels.importance import IMPORTANCES, Importance
from graphopt.channels.plan import GroupPlan, PrunePlan, make_plan
from graphopt.model import Model
from graphopt.passes.base import Change, Pass, Skip

if TYPE_CHECKING:
    from graphopt.statistics.collect import Statistics


def plan_for(
    model: Model,
    ratio: float = 0.0,
    *,
    target: Target | None = None,
    allocation: str = "uniform",
    importance: str = "l2",
    align: int = 8,
    floor: int | None = None,
    keep: Sequence[str] = (),
    ratios: Mapping[str, float] | None = None,
    analysis: ChannelAnalysis | None = None,
    statistics: Statistics | None = None,
    costs: CostModel | None = None,
) -> PrunePlan:
    """Return what :class:`PruneChannels` would remove; the model is not changed.

    Args:
        model: the model, simplified and with BatchNorm folded.
        ratio: the fraction of channels to remove, in [0, 1).
        target: what to meet in place of a ratio.
        allocation: a name in :data:`graphopt.channels.allocation.ALLOCATIONS`.
        importance: a name in :data:`graphopt.channels.importance.IMPORTANCES`.
        align: kept widths are rounded up to a multiple of it.
        floor: never keep fewer channels of a group; default ``max(align, width / 8)``.
        keep: ``fnmatch`` patterns of groups, nodes and tensors to leave alone.
        ratios: patterns of groups, or of nodes and weights that make their channels -> the
            fraction to remove there, whatever the target.
        analysis: of this model, if at hand.
        statistics: what the importance asks for of data.
        costs: of this analysis, for a target that is a cost (``latency`` needs one made for a
            device) and for notes on widths that give no speed on its device.

    Raises:
        UsageError: an option is out of range, a name is unknown, or the target is out of reach.
    """
    check_ratio(ratio)
    check_limits(align, floor, ratios or {})
    ALLOCATIONS.canonical(allocation)
    name = IMPORTANCES.canonical(importance)
    score: Importance = IMPORTANCES.load(name)
    analysis = analysis or analyze(model)
    return make_plan(
        analysis,
        score(model, analysis.groups, statistics=statistics),
        ratio,
        target=target,
        allocation=allocation,
        align=align,
        floor=floor,
        keep=keep,
        ratios=ratios,
        importance=name,
        estimates=bool(getattr(score, "estimates", False)),
        costs=costs,
    )


@dataclass(frozen=True, slots=True)
class PruneChannels(Pass):
    """Structured pruning: analyze, score, plan, apply.

    The outputs are those of the model with the removed channels masked
    (:func:`graphopt.channels.masked`).

    Attributes:
        ratio: the fraction of channels to remove, in [0, 1).
        importance: what decides which: one that looks at weights alone; with data, make the plan
            with :func:`plan_for`.
        align: kept widths are rounded up to a multiple of it, so never more than asked goes.
        keep: ``fnmatch`` patterns of groups, nodes and tensors to leave alone.
        plan: replay this plan; of the other options, patterns that name nothing are still told.
        target: what to meet in place of a ratio.
        allocation: how many channels each group keeps: ``uniform`` or ``global``.
        floor: never keep fewer channels of a group; default ``max(align, width / 8)``.
        ratios: patterns -> the fraction to remove there, whatever the target; the first that
            matches counts.
    """

    name: ClassVar[str] = "prune-channels"

    ratio: float = 0.0
    importance: str = "l2"
    align: int = 8
    keep: tuple[str, ...] = ()
    plan: PrunePlan | None = None
    target: Target | None = None
    allocation: str = "uniform"
    floor: int | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)

    def edit(self, model: Model) -> Iterable[Change | Skip]:
        """Prune ``model`` in place.

        Raises:
            UsageError: an option is out of range, the target is out of reach, or the plan is for
                another model.
        """
        analysis = analyze(model)
        plan = self.plan or plan_for(
            model,
            self.ratio,
            target=self.target,
            allocation=self.allocation,
            importance=self.importance,
            align=self.align,
            floor=self.floor,
            keep=self.keep,
            ratios=self.ratios,
            analysis=analysis,
        )
        apply_plan(model, plan, analysis)
        keep, ratios = unmatched(analysis, self.keep, self.ratios)
        for pattern in keep:
            yield Skip(pattern, "--keep matches no prunable group, node or tensor")
        for pattern in ratios:
            yield Skip(pattern, "a ratio is given for it, and it matches no prunable layer")
        for item in plan.groups:
            yield _event(item)
        for frozen in analysis.frozen:
            yield Skip(frozen.name, f"{frozen.width} channels stay: {'; '.join(frozen.reasons)}")


def _event(item: GroupPlan) -> Change | Skip:
    if not item.removed:
        return Skip(item.name, item.note or "nothing is removed")
    detail = f"{item.before} -> {item.after} (asked {item.asked}, align {item.align})"
    return Change("pruned", item.name, f"{detail}; {item.note}" if item.note else detail)
