"""Fewer weights in layers that keep their channels: low rank and zeros, as the pipeline asks."""

from __future__ import annotations

from graphopt.channels.apply import survivors
from graphopt.console import Console
from graphopt.model import Model
from graphopt.passes.low_rank import LowRank
from graphopt.passes.sparsify import Sparsify
from graphopt.passes.sparsity import check_sparsity, parse_sparsity, stored
from graphopt.pruning import Means, Pruned
from graphopt.recipe import Weights
from graphopt.recovery import NONE, Solved
from graphopt.recovery.weights import low_rank, sparsify
from graphopt.report import Report, human
from graphopt.stages import say_pass


def lighten(
    original: Model,
    pruned: Pruned | None,
    wanted: Weights,
    means: Means,
    report: Report,
    ui: Console,
) -> Model:
    """Factorize layers, then set weights to zero, as far as either is asked for.

    Args:
        original: what layers should still give: every channel and weight there.
        pruned: what channel pruning made of it, or None.
        wanted: what was asked for.
        means: what to do it with.
        report: takes the stages.
        ui: shows progress.

    Raises:
        UsageError: a share is out of reach, or an option contradicts another.
    """
    model = original if pruned is None else pruned.model
    kept = None if pruned is None else survivors(pruned.groups, pruned.plan)
    recovery = means.method != NONE
    if wanted.low_rank is not None:
        with report.stage(LowRank.name) as stage:
            with ui.progress("factorizing layers", None) as tick:
                result, solved = low_rank(
                    model,
                    wanted.low_rank,
                    means.batches,
                    recovery=recovery,
                    original=original,
                    kept=kept,
                    shapes=means.shapes,
                    progress=tick,
                )
            stage.record(result)
            _told(stage.facts, solved)
        say_pass(result, stage.seconds, ui)
        model = result.model
    if wanted.sparsity is not None:
        model = _sparse(original, model, wanted, means, kept, recovery, report, ui)
    return model


def _sparse(
    original: Model,
    model: Model,
    wanted: Weights,
    means: Means,
    kept: object,
    recovery: bool,
    report: Report,
    ui: Console,
) -> Model:
    sparsity = parse_sparsity(str(wanted.sparsity))
    with report.stage(Sparsify.name) as stage:
        with ui.progress(f"setting weights to zero ({sparsity})", None) as tick:
            result, solved = sparsify(
                model,
                sparsity,
                means.batches,
                # Second order counts on weights that stay being adjusted.
                by=wanted.sparsity_by or (None if recovery else "magnitude"),
                recovery=recovery,
                original=original,
                kept=kept,  # type: ignore[arg-type]
                progress=tick,
            )
        stage.record(result)
        _told(stage.facts, solved)
        size, dense = stored(result.model), stored(original)
        stage.facts |= {
            "sparsity": str(sparsity),
            "zeros": size.zeros,
            "zlib_bytes": size.compressed,
        }
    say_pass(result, stage.seconds, ui)
    ui.info(
        f"{100 * size.zeros / max(size.weights, 1):.1f} % of the weights are zero; compressed "
        f"(zlib) they take {human(size.compressed, 'bytes')}, the original's "
        f"{human(dense.compressed, 'bytes')}"
    )
    if means.device is not None:
        ui.info(f"sparsity {sparsity}: {check_sparsity(sparsity, means.device)}")
    return result.model


def _told(facts: dict[str, object], solved: list[Solved]) -> None:
    facts["layers"] = [one.to_json() for one in solved]
