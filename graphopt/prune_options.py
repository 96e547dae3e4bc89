"""The options of pruning and recovery: contradictions refused, what is open decided and said."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, sqrt

from graphopt.channels import analyze
from graphopt.channels.allocation import ALLOCATIONS, Target
from graphopt.channels.importance import IMPORTANCES, default_importance, needs_data
from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.errors import DataError, UsageError
from graphopt.model import Model
from graphopt.passes.sparsity import parse_sparsity
from graphopt.profiles import DeviceProfile
from graphopt.profiles.device import DEFAULT_MULTIPLE
from graphopt.pruning import DEFAULT_RECOVERY, DEFAULT_STEPS, GLOBAL, default_allocation
from graphopt.recipe import Recipe
from graphopt.recovery import NONE, RECOVERIES
from graphopt.recovery.weights import SELECTIONS
from graphopt.registry import did_you_mean
from graphopt.report import Report

FEW = 32  # samples


def check_pruning(recipe: Recipe) -> None:
    """Refuse unknown names and contradictions before anything is read.

    Raises:
        UsageError: one line with what is known.
        DataError: samples are needed and none are named.
    """
    prune, method, original = recipe.prune, recipe.recover.method, recipe.recover.original
    if prune.importance is not None:
        IMPORTANCES.canonical(prune.importance)
    if prune.allocation is not None:
        ALLOCATIONS.canonical(prune.allocation)
    if method is not None and method != NONE and method not in RECOVERIES.names():
        known = [*RECOVERIES.names(), NONE]
        raise UsageError(
            f"unknown recovery '{method}'{did_you_mean(method, known)}; known: {', '.join(known)}"
        )
    if prune.to is not None:
        if Target.parse(prune.to).kind == "ratio":
            raise UsageError(
                "--prune-to says what remains: macs, params or latency; --prune a ratio"
            )
        if prune.ratio is not None:
            raise UsageError("--prune names a ratio and --prune-to a target: choose one")
    if prune.plan is not None and (prune.ratio or prune.to or prune.ratios):
        raise UsageError("--plan says what to remove: leave --prune, --prune-to and ratios out")
    if original is not None and prune.asked:
        raise UsageError(
            "--recover-from recovers a model as it was pruned: leave --prune, --prune-to and "
            "--plan out, and prune further in a build of its own"
        )
    _check_needless(recipe)
    _check_weights(recipe)
    if recipe.data.calibration:
        return
    if prune.importance is not None and needs_data(prune.importance):
        raise DataError(f"--importance {prune.importance} looks at activations: give --data")
    if method not in (None, NONE) and (prune.asked or recipe.weights.asked):
        raise DataError(f"--recover-with {method} looks at activations: give --data")
    if prune.steps is not None and prune.steps > 1:
        raise DataError("--prune-steps recovers after each step and needs samples: give --data")


def choose_align(model: Model, recipe: Recipe, device: DeviceProfile) -> tuple[int, str]:
    """Return what pruned widths are to divide by, and why.

    That is what the device's kernels want, 32 channels for INT8 on a GPU. A network too narrow for
    it would hardly be pruned at all: then half of that, or a quarter, down to 8, so that at least
    half of what was asked for goes.
    """
    precision = "int8" if recipe.quantize.int8 else "fp16"
    wanted = device.multiple(precision)
    why = f"{precision} kernels of {device.name} want widths that divide by it"
    if wanted <= DEFAULT_MULTIPLE:
        return wanted, why
    share = recipe.prune.ratio or max(recipe.prune.ratios.values(), default=0.0)
    if recipe.prune.to is not None:
        # A layer's cost falls with its inputs and its outputs.
        share = 1 - sqrt(Target.parse(recipe.prune.to).value)
    widths = [group.width for group in analyze(model, heads=recipe.prune.heads).groups]
    align = wanted
    while align > DEFAULT_MULTIPLE:
        kept = [min(w, ceil(w * (1 - share) / align) * align) for w in widths]
        if sum(widths) - sum(kept) >= share * sum(widths) / 2:
            break
        align //= 2
    if align < wanted:
        why = f"{why.removesuffix('it')}{wanted}, and this network is too narrow for that"
    return align, why


def _check_needless(recipe: Recipe) -> None:
    """Refuse options that say how to do what is not asked for."""
    prune = recipe.prune
    given = [
        flag
        for flag, value in (
            ("--importance", prune.importance),
            ("--allocation", prune.allocation),
            ("--align", prune.align),
            ("--floor", prune.floor),
            ("--keep", prune.keep),
            ("--prune-steps", prune.steps),
            ("--prune-heads", prune.heads),
        )
        if value
    ]
    if given and not prune.asked:
        raise UsageError(f"{given[0]} says how to prune, and nothing is pruned: give --prune 0.3")
    if given and prune.plan is not None:
        raise UsageError(f"--plan says what to remove: leave {', '.join(given)} out")
    asked = prune.asked or recipe.weights.asked or recipe.recover.original
    if recipe.recover.method is not None and not asked:
        raise UsageError(
            "--recover-with says how to recover, and nothing is pruned: give --prune 0.3"
        )


def _check_weights(recipe: Recipe) -> None:
    weights = recipe.weights
    if weights.sparsity is not None:
        parse_sparsity(weights.sparsity)
    elif weights.sparsity_by is not None:
        raise UsageError("--sparsity-by chooses the weights of --sparsity, which is not given")
    if weights.sparsity_by is not None and weights.sparsity_by not in SELECTIONS:
        raise UsageError(
            f"unknown --sparsity-by '{weights.sparsity_by}'"
            f"{did_you_mean(weights.sparsity_by, SELECTIONS)}; known: {', '.join(SELECTIONS)}"
        )
    if weights.sparsity_by == "obs" and not recipe.data.calibration:
        raise DataError("--sparsity-by obs looks at activations: give --data")


def decide_pruning(
    recipe: Recipe, data: Dataset | None, unrunnable: bool, report: Report, ui: Console
) -> Mapping[str, Mapping[str, object]]:
    """Return what is left open, decided: fields of the recipe's ``prune`` and ``recover``."""
    samples = data is not None and not data.synthetic and not unrunnable
    prune, method = recipe.prune, recipe.recover.method
    if not (prune.asked or recipe.weights.asked or recipe.recover.original):
        return {"prune": {}, "recover": {}}
    if samples and data is not None and len(data) < FEW:
        ui.warn(
            f"{len(data)} samples are few to choose channels and to recover by: "
            f"{FEW} or more that differ are better"
        )
    default = DEFAULT_RECOVERY if samples else NONE
    why = "there are samples" if samples else "there are no samples"
    decided: dict[str, object] = {}
    for what, given, choice in (
        ("importance", prune.importance, default_importance(has_data=samples)),
        ("recovery", method, default),
    ):
        if given is None and not (what == "importance" and not prune.asked):
            report.decide(what, choice, why)
            decided[what] = choice
    if decided:
        told = ", ".join(f"{what} {choice}" for what, choice in decided.items())
        ui.info(f"{told}: {why}")
    recovery = method or default
    if prune.plan is not None or not prune.asked:
        return {"prune": {}, "recover": {"method": recovery}}
    importance = IMPORTANCES.canonical(str(prune.importance or decided["importance"]))
    allocation = prune.allocation
    if allocation is None:
        allocation = default_allocation(importance)
        reason = "can" if allocation == GLOBAL else "cannot"
        report.decide("allocation", allocation, f"{importance} {reason} be compared between groups")
        if allocation == GLOBAL and prune.ratio is not None:
            ui.info(
                f"allocation global: saves the MACs that removing {100 * prune.ratio:g} % of every "
                "group would, where the error is least; --allocation uniform removes just that"
            )
    return {
        "prune": {
            "importance": importance,
            "allocation": ALLOCATIONS.canonical(allocation),
            "steps": prune.steps or (DEFAULT_STEPS if recovery == DEFAULT_RECOVERY else 1),
        },
        "recover": {"method": recovery},
    }
