"""The work list: every change to be measured alone, and what it saves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.channels import ChannelAnalysis, Group
from graphopt.channels.allocation import CostModel
from graphopt.channels.allocation.limits import Limit, limits_of
from graphopt.cost import Cost
from graphopt.graph import Node, constant
from graphopt.model import Model
from graphopt.passes.base import PassResult
from graphopt.sensitivity.cut import kept_for, region
from graphopt.sensitivity.layers import quantized_layers
from graphopt.sensitivity.values import Item, Kind, LeftOut, Loss


@dataclass(frozen=True, slots=True)
class Job:
    """One change to be measured.

    Attributes:
        kind: as in :class:`~graphopt.sensitivity.values.Item`, like the next six.
        name: of the group or of the node.
        ratio: asked for.
        op: of the node.
        width: of the group.
        kept: of the group.
        macs: saved, or in INT8.
        frontier: tensors of the unchanged model that are worth keeping for it.
    """

    kind: Kind
    name: str
    ratio: float | None
    op: str
    width: int
    kept: int
    macs: int
    frontier: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str, float | None]:
        """What tells it from the others; that of its item."""
        return self.kind, self.name, self.ratio

    def item(self, loss: Loss) -> Item:
        """Return what came out."""
        return Item(
            self.kind, self.name, self.ratio, self.op, self.width, self.kept, self.macs, loss
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be measured, in the order of the results, and what cannot be."""

    jobs: tuple[Job, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def __add__(self, other: Work) -> Work:
        """Return both."""
        return Work(self.jobs + other.jobs, self.left_out + other.left_out)


def prune_work(
    model: Model,
    analysis: ChannelAnalysis,
    ratios: Sequence[float],
    align: int,
    shapes: Mapping[str, tuple[int, ...]],
) -> Work:
    """Return one job for each group and ratio at which it loses a channel.

    Args:
        model: the model.
        analysis: of it.
        ratios: ascending.
        align: kept widths are multiples of it; whole attention heads are not aligned.
        shapes: input name -> shape, for the MACs.
    """
    macs = CostModel.of(analysis, shapes).macs
    jobs: list[Job] = []
    left_out: list[LeftOut] = []
    limits = limits_of(analysis, align=align, floor=None, keep=(), ratios={})
    for index, (group, limit) in enumerate(zip(analysis.groups, limits, strict=True)):
        frontier = tuple(_frontier(model, group))
        for ratio in ratios:
            kept = limit.after(ratio)
            if kept == group.width:
                left_out.append(LeftOut("prune", group.name, _why_nothing(limit, ratio), ratio))
                continue
            widths = [*macs.widths]
            widths[index] = kept
            saved = macs.of_model() - macs.at(widths)
            jobs.append(Job("prune", group.name, ratio, "", group.width, kept, saved, frontier))
    left_out.extend(
        LeftOut("prune", frozen.name, f"frozen: {'; '.join(frozen.reasons)}")
        for frozen in analysis.frozen
    )
    return Work(tuple(jobs), tuple(left_out))


def _why_nothing(limit: Limit, ratio: float) -> str:
    at, asked = f"{limit.width} channels at ratio {ratio:g}", limit.asked(ratio)
    if asked == limit.width:
        return f"{at}: less than one channel goes"
    return f"{at} keep {asked}, and align {limit.align} or the floor keeps all"


def _frontier(model: Model, group: Group) -> list[str]:
    """Return what stays the same and is read behind the weights of a group."""
    weights = {member.tensor for member in group.members}
    nodes = set(group.nodes)

    def touched(node: Node) -> bool:
        return node.name in nodes and any(
            t.name in weights and constant(t) is not None for t in node.inputs
        )

    return kept_for(model, region(model, touched).frontier)


def int8_work(model: Model, placed: PassResult, cost: Cost) -> Work:
    """Return one job for each layer that the build would run in INT8.

    Args:
        model: the float model.
        placed: the same with Q/DQ, whatever the scales: where it goes does not depend on them.
        cost: of the float model.
    """
    jobs = []
    for node in quantized_layers(model, placed):
        frontier = region(model, lambda n, name=node.name: n.name == name).frontier  # type: ignore[misc]
        macs = cost.by_node.get(node.name, 0)
        kept = tuple(kept_for(model, frontier))
        jobs.append(Job("int8", node.name, None, node.op, 0, 0, macs, kept))
    skipped = tuple(LeftOut("int8", skip.where, skip.reason) for skip in placed.skipped)
    return Work(tuple(jobs), skipped)


def in_measuring_order(model: Model, jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs so that the unchanged model has to be run but once, and little is kept."""
    place = {t.name: 0 for t in model.graph.inputs}
    for number, node in enumerate(model.graph.nodes, start=1):
        place.update((t.name, number) for t in node.outputs)
    return sorted(jobs, key=lambda job: max((place[name] for name in job.frontier), default=0))
