"""One pass as one stage of the report."""

from __future__ import annotations

from graphopt.console import Console
from graphopt.model import Model
from graphopt.passes.base import Pass, PassResult
from graphopt.report import Report


def run_pass(step: Pass, model: Model, report: Report, ui: Console) -> Model:
    """Run one pass as a stage; say in a line what it did, and with ``-v`` what it refused."""
    with report.stage(step.name) as stage:
        result = step(model)
        stage.record(result)
    say_pass(result, stage.seconds, ui)
    return result.model


def say_pass(result: PassResult, seconds: float, ui: Console) -> None:
    """Say in a line what a pass did, and with ``-v`` each change and refusal."""
    counts = ", ".join(f"{n} {kind}" for kind, n in result.counts().items()) or "nothing to do"
    refused = f"; {len(result.skipped)} left alone" if result.skipped else ""
    ui.info(f"{result.name}: {counts}{refused} ({seconds:.2f} s)")
    for change in result.changes:
        ui.detail(f"{change.kind} {change.where}: {change.detail}")
    for skip in result.skipped:
        ui.detail(f"left alone {skip.where}: {skip.reason}")
