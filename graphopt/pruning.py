"""Pruning as the pipeline does it: score, plan, remove, recover, in one step or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.channels import ChannelAnalysis, analyze
from graphopt.channels.allocation import CostModel, Target
from graphopt.channels.apply import analysis_for, survivors
from graphopt.channels.importance import IMPORTANCES, UNFOLDED, Importance
from graphopt.channels.matching import match, student
from graphopt.channels.plan import PrunePlan, make_plan
from graphopt.channels.steps import (
    goes_on,
    narrowed,
    removed_in_all,
    replanned,
    widths_on_the_way,
)
from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.errors import DataError, UsageError
from graphopt.files import read_text
from graphopt.graph import Array
from graphopt.model import Model
from graphopt.passes.prune_channels import PruneChannels
from graphopt.profiles import DeviceProfile
from graphopt.recipe import Prune
from graphopt.recovery import NONE, RECOVERIES, Solved, recover
from graphopt.recovery.targets import Kept, targets
from graphopt.report import Report
from graphopt.stages import run_pass
from graphopt.statistics import Statistics
from graphopt.statistics.collect import Batches
from graphopt.verify import opened

UNIFORM, GLOBAL = "uniform", "global"
DEFAULT_RECOVERY, DEFAULT_STEPS = "least-squares", 2
BATCH_ELEMENTS, MOST_BATCH = 4 << 20, 64
UNSURE = 0.8  # mean cosine between matched weights


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning made.

    Attributes:
        model: pruned, and recovered where that was asked for.
        plan: what was removed.
        groups: the channel groups of the model before.
        solved: what became of each layer that was solved.
    """

    model: Model
    plan: PrunePlan
    groups: ChannelAnalysis
    solved: tuple[Solved, ...] = ()


@dataclass(frozen=True, slots=True)
class Means:
    """What pruning may use besides the model.

    Attributes:
        batches: gives the samples, or None where there are none.
        unfolded: the model before BatchNorm was folded.
        device: the target; None where none is known.
        shapes: input name -> shape to count costs at.
        precision: what the result will run in.
        align: kept widths are multiples of it.
        importance: what chooses the channels.
        allocation: what chooses the widths.
        method: a name in ``RECOVERIES``, or ``"none"``.
        steps: in how many steps.
        seed: for criteria that draw numbers.
    """

    batches: Batches | None
    unfolded: Model
    device: DeviceProfile | None
    shapes: Mapping[str, tuple[int, ...]]
    precision: str
    align: int
    importance: str
    allocation: str
    method: str
    steps: int
    seed: int = 0


def default_allocation(importance: str) -> str:
    """Return ``global`` where scores can be compared between groups, else ``uniform``."""
    score: Importance = IMPORTANCES.load(importance)
    return GLOBAL if getattr(score, "estimates", False) else UNIFORM


def prune(
    model: Model, wanted: Prune, means: Means, report: Report, ui: Console, *, last: bool = True
) -> Pruned:
    """Prune a simplified model with BatchNorm folded; it is not changed.

    Args:
        model: what to prune.
        wanted: what was asked for.
        means: what to do it with.
        report: takes the stages.
        ui: shows progress.
        last: whether to recover after the last step too; without, the plan is the same.

    Raises:
        UsageError: the plan is for another model, or the target is out of reach.
    """
    with report.stage("analyze-channels") as stage:
        analysis = analyze(model, heads=wanted.heads)
        stage.facts = {"prunable": len(analysis.groups), "frozen": len(analysis.frozen)}
    steps = _Steps(model, wanted, means, report, ui, last=last)
    if wanted.plan is not None:
        plan = PrunePlan.from_json(read_text(Path(wanted.plan)))
        return steps.replay(plan)
    return steps.run(analysis)


class _Steps:
    """Removes channels, in one step or several; what is left is recovered after each."""

    def __init__(
        self,
        model: Model,
        wanted: Prune,
        means: Means,
        report: Report,
        ui: Console,
        *,
        last: bool,
    ) -> None:
        self.model, self.wanted, self.means, self.last = model, wanted, means, last
        self.report, self.ui = report, ui
        self._dense: Mapping[str, Array] = {}

    def replay(self, plan: PrunePlan) -> Pruned:
        """Remove what a plan says, and recover."""
        now = run_pass(PruneChannels(plan=plan), self.model, self.report, self.ui)
        analysis = analysis_for(self.model, plan)
        return self._finish(now, plan, analysis)

    def run(self, analysis: ChannelAnalysis) -> Pruned:
        """Return the pruned model, one plan for all steps, and what was solved last."""
        plan = self._plan(analysis)
        stepped = self._in_steps(analysis, plan) if self.means.steps > 1 and plan.removed else None
        if stepped is not None:
            plan = stepped[1]
        # One plan, one pass: what several steps removed is what one would have.
        named = PruneChannels(plan=plan, keep=self.wanted.keep, ratios=self.wanted.ratios)
        whole = run_pass(named, self.model, self.report, self.ui)
        return self._finish(whole if stepped is None else stepped[0], plan, analysis)

    def _in_steps(
        self, analysis: ChannelAnalysis, plan: PrunePlan
    ) -> tuple[Model, PrunePlan] | None:
        """Return the pruned model and what went, or None where the groups do not stay the same."""
        now, steps = self.model, self.means.steps
        before = {group.name: group.width for group in analysis.groups}
        gone: dict[str, tuple[int, ...]] = {}
        for step in range(1, steps + 1):
            widths = widths_on_the_way(plan, step, steps)
            which = f" (step {step} of {steps})"
            found, scores = analysis, self._dense
            if step > 1:
                found = analyze(now, heads=self.wanted.heads)
                if not goes_on(found, gone, before, widths):
                    self.ui.info(f"pruned in one step: the groups change on the way{which}")
                    return None
                scores = self._score_again(now, found, gone, which)
            here = narrowed(found, scores, widths, plan)
            gone = removed_in_all(gone, here, before)
            now = PruneChannels(plan=here)(now).model
            if step < steps:
                kept = survivors(analysis, replanned(analysis, plan, gone))
                self._recover(now, kept, which)
        return now, replanned(analysis, plan, gone)

    def _finish(self, model: Model, plan: PrunePlan, analysis: ChannelAnalysis) -> Pruned:
        if not self.last:
            return Pruned(model, plan, analysis)
        return Pruned(model, plan, analysis, self._recover(model, survivors(analysis, plan), ""))

    def _plan(self, analysis: ChannelAnalysis) -> PrunePlan:
        wanted, means = self.wanted, self.means
        costs = CostModel.of(analysis, means.shapes, device=means.device, precision=means.precision)
        score: Importance = IMPORTANCES.load(means.importance)
        self._dense = self._score(self.model, analysis, "")

        def planned(allocation: str, target: Target | None) -> PrunePlan:
            return make_plan(
                analysis,
                self._dense,
                wanted.ratio or 0.0,
                target=target,
                allocation=allocation,
                align=means.align,
                floor=wanted.floor,
                keep=wanted.keep,
                ratios=wanted.ratios,
                importance=means.importance,
                estimates=bool(getattr(score, "estimates", False)),
                costs=costs,
            )

        if wanted.to is not None:
            return planned(means.allocation, Target.parse(wanted.to))
        if means.allocation == UNIFORM or not wanted.ratio or costs.unknown or not analysis.groups:
            return planned(means.allocation, None)
        # A ratio names a size: that of the model with so much of every group removed.
        uniform = planned(UNIFORM, None)
        remains = costs.remains("macs", [group.after for group in uniform.groups])
        return planned(means.allocation, Target("macs", remains))

    def _score_again(
        self,
        model: Model,
        analysis: ChannelAnalysis,
        gone: Mapping[str, tuple[int, ...]],
        which: str,
    ) -> Mapping[str, Array]:
        """Score what is left; what a criterion saw in the model before folding does not change."""
        if UNFOLDED not in getattr(IMPORTANCES.load(self.means.importance), "needs", ()):
            return self._score(model, analysis, which)
        return {
            name: np.delete(np.asarray(scores), list(gone.get(name, ())))
            for name, scores in self._dense.items()
        }

    def _score(self, model: Model, analysis: ChannelAnalysis, which: str) -> Mapping[str, Array]:
        means = self.means
        score: Importance = IMPORTANCES.load(means.importance)
        with self.report.stage("score-channels") as stage:
            with self.ui.progress(f"scoring channels by {means.importance}{which}", None) as tick:
                statistics = Statistics(
                    model,
                    means.batches,
                    unfolded=means.unfolded,
                    seed=means.seed,
                    progress=tick,
                )
                scores = score(model, analysis.groups, statistics=statistics)
            stage.facts = {"importance": means.importance}
        self.ui.info(f"score-channels{which}: {means.importance} ({stage.seconds:.2f} s)")
        return scores

    def _recover(self, model: Model, kept: Kept, which: str) -> tuple[Solved, ...]:
        return solve(self.model, model, kept, self.means, self.report, self.ui, which)


def solve(
    original: Model,
    model: Model,
    kept: Kept,
    means: Means,
    report: Report,
    ui: Console,
    which: str = "",
) -> tuple[Solved, ...]:
    """Give the layers of ``model`` new weights, in place, as a stage of the report."""
    if means.batches is None or means.method == NONE:
        return ()
    work = targets(original, model, kept)
    with report.stage("recover") as stage:
        with ui.progress(f"recovering by {means.method}{which}", len(work)) as tick:
            solved = recover(
                original,
                model,
                kept,
                means.batches,
                RECOVERIES.load(means.method),
                wanted=work,
                progress=tick,
            )
        model.infer_shapes()
        stage.counts = {"solved": sum(s.after < s.before for s in solved)}
        stage.facts = {"method": means.method, "layers": [s.to_json() for s in solved]}
    ui.info(
        f"recover{which}: {means.method}, {stage.counts['solved']} of {len(solved)} layers "
        f"({stage.seconds:.2f} s)"
    )
    for one in solved:
        ui.detail(f"{one.node}: error {one.before:.4f} -> {one.after:.4f} {one.note}")
    return tuple(solved)


def recover_from(
    original: Model, pruned: Model, means: Means, report: Report, ui: Console
) -> Pruned:
    """Recover a model that was pruned elsewhere.

    Args:
        original: what it was before, in the same form: simplified, BatchNorm folded.
        pruned: the model; not changed.
        means: what to do it with; samples are needed.
        report: takes the stages.
        ui: shows progress.

    Raises:
        UsageError: the one did not come from the other by removing channels.
    """
    with report.stage("match") as stage:
        matched = match(original, pruned)
        model = student(original, matched)
        analysis = analysis_for(original, matched.plan)
        _check_same(model, pruned, means)
        stage.facts = {"confidence": round(matched.confidence, 4), "removed": matched.plan.removed}
    ui.info(
        f"match: {matched.plan.removed} channels of the original are gone, by weights that are "
        f"alike (cosine {matched.confidence:.2f})"
    )
    if matched.confidence < UNSURE:
        ui.warn(
            f"the weights differ much from the original's (cosine {matched.confidence:.2f}): which "
            "channels survived is a guess"
        )
    kept = survivors(analysis, matched.plan)
    solved = solve(original, model, kept, means, report, ui)
    return Pruned(model, matched.plan, analysis, solved)


def _check_same(model: Model, pruned: Model, means: Means) -> None:
    """Refuse where the model rebuilt from the original does not compute what the given one does."""
    if means.batches is None:
        raise DataError("--recover-from needs samples: give --data")
    feeds = next(iter(means.batches()))
    with opened(model) as ours, opened(pruned) as theirs:
        a, b = ours(feeds), theirs(feeds)
    for name, value in b.items():
        scale = float(np.abs(value).max(initial=0)) or 1.0
        if a[name].shape != value.shape or float(np.abs(a[name] - value).max()) > 1e-3 * scale:
            raise UsageError(
                f"output '{name}' of the original without the channels that are gone is another "
                "than the pruned model's: something besides channels was changed"
            )


def batches_of(data: Dataset) -> Batches:
    """Return the samples in batches of a size that suits statistics, the same each time."""
    sample = next(iter(data.batches(1)))
    elements = sum(array.size for array in sample.values())
    size = int(np.clip(BATCH_ELEMENTS // max(elements, 1), 1, MOST_BATCH))
    return lambda: data.batches(size)
