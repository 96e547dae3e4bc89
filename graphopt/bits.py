"""The model in fewer bits: calibrated, refined, quantized, and what is left in FP16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphopt.calibrators import CalibrationTable
from graphopt.console import Console
from graphopt.dialects.codes import Codes
from graphopt.model import Model
from graphopt.prepare import BuildPlan
from graphopt.quantize import (
    activations,
    calibration_table,
    placeholder_table,
    qdq_pass,
    wanted_tensors,
)
from graphopt.report import Report

CPU_DIALECT = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Bits:
    """A model in fewer bits, and what it was made with.

    Attributes:
        model: what ships.
        base: the float32 model it was made from, which a calibration table speaks of.
        table: the ranges; None where no activation is quantized.
        codes: how weights are rounded.
        exclude: patterns of nodes that stay floating point, those a search found too.
        for_cpu: the same placed as ONNX Runtime wants it, or None where timing it means nothing.
    """

    model: Model
    base: Model
    table: CalibrationTable | None = None
    codes: Codes = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    for_cpu: Model | None = None


def reduce_bits(plan: BuildPlan, model: Model, report: Report, ui: Console) -> Bits | None:
    """Do what the recipe's ``quantize`` asks for; None where that is nothing.

    Args:
        plan: what was asked for.
        model: float32, simplified, folded, pruned.
        report: takes the stages.
        ui: shows progress.
    """
    wanted = plan.request.recipe.quantize
    if wanted.int8:
        return _int8(plan, model, report, ui)
    return None


def _int8(plan: BuildPlan, model: Model, report: Report, ui: Console) -> Bits:
    wanted = plan.request.recipe.quantize
    table = _calibrate(plan, model, report, ui)
    quantized = _insert(plan, model, table, {}, wanted.exclude, report, ui)
    for_cpu = quantized
    if plan.engine.dialect != CPU_DIALECT:
        for_cpu = qdq_pass(CPU_DIALECT, table, wanted.exclude)(model).model
    return Bits(quantized, model, table, {}, wanted.exclude, for_cpu)


def preview_bits(plan: BuildPlan, model: Model, report: Report, ui: Console) -> None:
    """Show where Q/DQ would go, without a look at the data."""
    wanted = plan.request.recipe.quantize
    if wanted.int8:
        table = placeholder_table(model, wanted_tensors(model, wanted.exclude))
        _insert(plan, model, table, {}, wanted.exclude, report, ui)


def _calibrate(plan: BuildPlan, model: Model, report: Report, ui: Console) -> CalibrationTable:
    if plan.calibration is None:
        raise ValueError("prepare() gives every INT8 plan calibration data")
    recipe = plan.request.recipe
    tensors = wanted_tensors(model, recipe.quantize.exclude)
    if tensors and plan.device.dla:
        tensors = activations(model)
        report.decide("calibrated tensors", str(len(tensors)), "DLA wants a scale for each")
    method = recipe.quantize.calibrator or "entropy"
    with report.stage("calibrate") as stage:
        table = calibration_table(model, plan.calibration, method, tensors, ui)
        stage.facts = {
            "calibrator": table.method,
            "tensors": len(table.ranges),
            "samples": table.samples,
        }
    ui.info(
        f"calibrate: {len(table.ranges)} tensors, {table.samples} samples, "
        f"{table.method} ({stage.seconds:.2f} s)"
    )
    dead = sorted(name for name, r in table.ranges.items() if r.amax == 0)
    if dead:
        ui.warn(f"{len(dead)} tensors are zero on every sample: {', '.join(dead[:4])}")
    return table


def _insert(
    plan: BuildPlan,
    model: Model,
    table: CalibrationTable,
    codes: Codes,
    exclude: Sequence[str],
    report: Report,
    ui: Console,
) -> Model:
    step = qdq_pass(plan.engine.dialect, table, exclude, codes)
    with report.stage(step.name) as stage:
        result = step(model)
        stage.record(result)
        stage.facts = {"dialect": plan.engine.dialect}
    ui.info(
        f"{step.name}: {result.counts().get('quantized', 0)} operators in the "
        f"{plan.engine.dialect} dialect; {len(result.skipped)} left in floating point "
        f"({stage.seconds:.2f} s)"
    )
    for skip in result.skipped:
        ui.detail(f"floating point {skip.where}: {skip.reason}")
    if not result.changes:
        ui.warn("--int8 quantized nothing: every operator stays floating point (-v says why)")
    return result.model
