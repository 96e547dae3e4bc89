"""From the model as given to the optimized fp32 model: raise, simplify, fold, prune, recover."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from graphopt.channels import ChannelAnalysis
from graphopt.channels.importance import default_importance
from graphopt.channels.plan import PrunePlan
from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.graph import QUANTIZE_OPS, constant, is_op
from graphopt.model import Model
from graphopt.passes import PASSES
from graphopt.passes.base import Pass
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.profiles import DeviceProfile
from graphopt.pruning import (
    DEFAULT_RECOVERY,
    Means,
    Pruned,
    batches_of,
    default_allocation,
    prune,
    recover_from,
)
from graphopt.recipe import Recipe
from graphopt.recovery import NONE
from graphopt.report import Report
from graphopt.stages import run_pass
from graphopt.weights import lighten

LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
QDQ_OPSET = 13  # the first whose QuantizeLinear has an axis, which per-channel weights need


@dataclass(frozen=True, slots=True)
class Optimized:
    """What the fp32 passes made.

    Attributes:
        folded: the model as given, simplified and folded.
        model: the same, pruned and recovered where that was asked for.
        plan: what was removed, or None.
        groups: the channel groups found, or None where nothing was to be pruned.
    """

    folded: Model
    model: Model
    plan: PrunePlan | None = None
    groups: ChannelAnalysis | None = None


@dataclass(frozen=True, slots=True)
class Aids:
    """What pruning and recovery may use besides the model and the recipe.

    Attributes:
        samples: what to look at; None where there are none that mean anything.
        device: the target.
        shapes: input name -> shape to count costs at.
        original: what a model that was pruned elsewhere was before.
        recover: whether to recover what the last step of pruning left.
    """

    samples: Dataset | None = None
    device: DeviceProfile | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    original: Model | None = None
    recover: bool = True

    def means(self, unfolded: Model, recipe: Recipe, align: int) -> Means:
        """Return what the pruning of a resolved recipe works with."""
        wanted, data = recipe.prune, self.samples
        importance = wanted.importance or default_importance(has_data=data is not None)
        return Means(
            batches=None if data is None else batches_of(data),
            unfolded=unfolded,
            device=self.device,
            shapes=self.shapes,
            precision=precision_of(recipe, self.device),
            align=align,
            importance=importance,
            allocation=wanted.allocation or default_allocation(importance),
            method=recipe.recover.method or (NONE if data is None else DEFAULT_RECOVERY),
            steps=wanted.steps or 1,
            seed=recipe.data.seed,
        )


def precision_of(recipe: Recipe, device: DeviceProfile | None) -> str:
    """Return what the layers will run in: INT8, else what a GPU or a CPU is best at."""
    if recipe.quantize.int8:
        return "int8"
    return "fp16" if device is not None and device.sm is not None else "fp32"


def optimize(
    model: Model,
    recipe: Recipe,
    align: int,
    report: Report,
    ui: Console,
    aids: Aids | None = None,
) -> Optimized:
    """Run the fp32 passes the recipe asks for, each a stage of the report.

    Raises:
        UnsupportedModelError: the model is quantized already, its opset cannot be raised, or a
            weight to be pruned is NaN.
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
    if recipe.prune.asked or recipe.weights.asked or recipe.recover.original is not None:
        refuse_broken_weights(folded)
    aids = aids or Aids()
    means = aids.means(model, recipe, align)
    done: Pruned | None = None
    given = folded
    if recipe.recover.original is not None:
        folded = _original(aids, recipe)
        done = recover_from(folded, given, means, report, ui)
    elif recipe.prune.asked:
        done = prune(folded, recipe.prune, means, report, ui, last=aids.recover)
    result = folded if done is None else done.model
    if recipe.weights.asked:
        # Without recovery it is quick, and shows which layers and how many weights.
        means = means if aids.recover else replace(means, method=NONE)
        result = lighten(folded, done, recipe.weights, means, report, ui)
    if done is None:
        return Optimized(given, result)
    return Optimized(given, result, done.plan, done.groups)


def _original(aids: Aids, recipe: Recipe) -> Model:
    """Return the model that was pruned elsewhere as it was before, brought into the same form."""
    assert aids.original is not None
    quiet, model = Console(verbosity=-1), aids.original
    if recipe.quantize.int8 and model.opset < QDQ_OPSET:
        model = run_pass(RaiseOpset(QDQ_OPSET), model, Report(), quiet)
    for step in (Simplify(), FoldBatchNorm(), *map(named_pass, recipe.optimize.passes)):
        model = run_pass(step, model, Report(), quiet)
    return model


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


def refuse_broken_weights(model: Model) -> None:
    """Refuse to choose among weights that have no size.

    Raises:
        UnsupportedModelError: the weight of a layer holds NaN or infinity.
    """
    for node in model.graph.nodes:
        if not is_op(node, *LAYER_OPS):
            continue
        for tensor in node.inputs:
            values = constant(tensor)
            if values is not None and not np.isfinite(values).all():
                raise UnsupportedModelError(
                    f"weight '{tensor.name}' of '{node.name}' holds NaN or infinity: "
                    "export it again"
                )
