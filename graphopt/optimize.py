"""From the model as given to the optimized fp32 model: raise, simplify, fold, prune."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.channels import ChannelAnalysis, analyze
from graphopt.channels.plan import PrunePlan
from graphopt.console import Console
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.graph import QUANTIZE_OPS, is_op
from graphopt.model import Model
from graphopt.passes import PASSES
from graphopt.passes.base import Pass
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.prune_channels import PruneChannels, plan_for
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.recipe import Recipe
from graphopt.report import Report

QDQ_OPSET = 13  # the first whose QuantizeLinear has an axis, which per-channel weights need


@dataclass(frozen=True, slots=True)
class Optimized:
    """What the fp32 passes made.

    Attributes:
        folded: simplified and folded, every channel still there.
        model: the same, pruned where that was asked for.
        plan: what was removed, or None.
        groups: the channel groups found, or None where nothing was to be pruned.
    """

    folded: Model
    model: Model
    plan: PrunePlan | None = None
    groups: ChannelAnalysis | None = None


def optimize(model: Model, recipe: Recipe, align: int, report: Report, ui: Console) -> Optimized:
    """Run the fp32 passes the recipe asks for, each a stage of the report.

    Raises:
        UnsupportedModelError: the model is quantized already, or its opset cannot be raised.
    """
    refuse_quantized(model, recipe)
    if recipe.quantize.int8 and model.opset < QDQ_OPSET:
        was = model.opset
        model = run_pass(RaiseOpset(QDQ_OPSET), model, report, ui)
        report.decide("opset", f"{was} -> {model.opset}", "per-channel Q/DQ needs 13")
    model = run_pass(Simplify(), model, report, ui)
    folded = run_pass(FoldBatchNorm(), model, report, ui)
    for name in recipe.optimize.passes:
        folded = run_pass(named_pass(name), folded, report, ui)
    wanted = recipe.prune
    if wanted.ratio is None:
        return Optimized(folded, folded)
    with report.stage("analyze-channels") as stage:
        groups = analyze(folded)
        plan = plan_for(
            folded,
            wanted.ratio,
            importance=wanted.importance,
            align=align,
            keep=wanted.keep,
            analysis=groups,
        )
        stage.facts = {"prunable": len(groups.groups), "frozen": len(groups.frozen)}
    pruning = PruneChannels(
        wanted.ratio, importance=wanted.importance, align=align, keep=wanted.keep, plan=plan
    )
    return Optimized(folded, run_pass(pruning, folded, report, ui), plan, groups)


def named_pass(name: str) -> Pass:
    """Return the pass of that name in ``PASSES``, with its default options.

    Raises:
        UsageError: there is none, or it has an option without a default.
    """
    made: type[Pass] = PASSES.load(name)
    try:
        return made()
    except TypeError as problem:
        raise UsageError(
            f"the pass '{name}' cannot be named in a recipe: it has options without defaults"
        ) from problem


def refuse_quantized(model: Model, recipe: Recipe) -> None:
    """Refuse to quantize twice.

    Raises:
        UnsupportedModelError: the model carries Q/DQ and INT8 is asked for.
    """
    found = next((n for n in model.graph.nodes if is_op(n, *QUANTIZE_OPS)), None)
    if recipe.quantize.int8 and found is not None:
        raise UnsupportedModelError(
            f"the model is quantized already (node '{found.name}' is a {found.op}): "
            "leave --int8 out to build it as it is, or start from the fp32 model"
        )


def run_pass(step: Pass, model: Model, report: Report, ui: Console) -> Model:
    """Run one pass as a stage; say in a line what it did, and with ``-v`` what it refused."""
    with report.stage(step.name) as stage:
        result = step(model)
        stage.record(result)
    counts = ", ".join(f"{n} {kind}" for kind, n in result.counts().items()) or "nothing to do"
    refused = f"; {len(result.skipped)} left alone" if result.skipped else ""
    ui.info(f"{step.name}: {counts}{refused} ({stage.seconds:.2f} s)")
    for change in result.changes:
        ui.detail(f"{change.kind} {change.where}: {change.detail}")
    for skip in result.skipped:
        ui.detail(f"left alone {skip.where}: {skip.reason}")
    return result.model
