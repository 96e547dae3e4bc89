"""The model in fewer bits: calibrated, refined, quantized, and what is left in FP16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphopt.calibrators import CalibrationTable
from graphopt.calibrators.judge import table_warnings
from graphopt.calibrators.sources import load_table
from graphopt.console import Console
from graphopt.dialects.codes import Codes
from graphopt.model import Model
from graphopt.passes.base import PassResult
from graphopt.passes.to_fp16 import ToFp16, fp16_tensors
from graphopt.passes.weight_only import WeightOnly
from graphopt.prepare import BuildPlan
from graphopt.pruning import batches_of
from graphopt.quantization.mixed import Found, Limit, Placement, find
from graphopt.quantization.weight_only import weight_codes
from graphopt.quantize import (
    activations,
    calibration_table,
    placeholder_table,
    qdq_pass,
    wanted_tensors,
)
from graphopt.quantize_options import DEFAULT_CALIBRATOR, memory_of
from graphopt.report import Report
from graphopt.stages import run_pass
from graphopt.statistics.collect import MEMORY as STATISTICS_MEMORY

# Rows that share a scale: TensorRT documents blocks of 64 and 128, others take less.
LEAST_BLOCK, LEAST_TENSORRT_BLOCK = 32, 64
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
        found: what a search for layers to leave in floating point came to, where there was one.
    """

    model: Model
    base: Model
    table: CalibrationTable | None = None
    codes: Codes = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    for_cpu: Model | None = None
    found: Found | None = None


def reduce_bits(plan: BuildPlan, model: Model, report: Report, ui: Console) -> Bits | None:
    """Do what the recipe's ``quantize`` asks for; None where that is nothing.

    Args:
        plan: what was asked for.
        model: float32, simplified, folded, pruned.
        report: takes the stages.
        ui: shows progress.

    Raises:
        GraphoptError: a table, a model or samples do not fit.
    """
    wanted = plan.request.recipe.quantize
    if not wanted.asked:
        return None
    if wanted.int8:
        bits = _int8(plan, model, report, ui)
    elif wanted.weights is not None:
        made = _weight_only(plan, model, report, ui)
        bits = Bits(made, model, for_cpu=made)
    else:
        bits = Bits(model, model)
    return _half(plan, bits, report, ui) if wanted.fp16 else bits


def preview_bits(plan: BuildPlan, model: Model, report: Report, ui: Console) -> None:
    """Show what would be quantized and where Q/DQ would go, without a look at the data."""
    wanted = plan.request.recipe.quantize
    if wanted.int8:
        table = placeholder_table(model, wanted_tensors(model, wanted.exclude))
        model = _insert(plan, model, table, {}, wanted.exclude, report, ui)
    elif wanted.weights is not None:
        model = run_pass(_weights(plan), model, report, ui)
    if wanted.fp16:
        run_pass(ToFp16(exclude=wanted.exclude, max_opset=plan.device.max_opset), model, report, ui)


def _int8(plan: BuildPlan, model: Model, report: Report, ui: Console) -> Bits:
    wanted = plan.request.recipe.quantize
    table = _ranges(plan, model, report, ui)
    codes: Codes = {}
    base = model
    exclude, found = wanted.exclude, None
    if plan.request.recipe.gate.asked and not plan.unrunnable:
        found, table = _search(plan, model, table, codes, report, ui)
        exclude = (*exclude, *found.patterns)
    quantized = _insert(plan, model, table, codes, exclude, report, ui)
    for_cpu = quantized
    if plan.engine.dialect != CPU_DIALECT:
        for_cpu = qdq_pass(CPU_DIALECT, table, exclude, codes)(model).model
    return Bits(quantized, base, table, codes, exclude, for_cpu, found)


def _ranges(plan: BuildPlan, model: Model, report: Report, ui: Console) -> CalibrationTable:
    """Read the ranges from a file, or calibrate."""
    recipe = plan.request.recipe
    tensors = wanted_tensors(model, recipe.quantize.exclude)
    if tensors and plan.device.dla:
        tensors = activations(model)
        report.decide("calibrated tensors", str(len(tensors)), "DLA wants a scale for each")
    elif recipe.quantize.fp16:
        known = {*tensors, *fp16_tensors(model)}
        tensors = [name for name in activations(model) if name in known]
    if recipe.quantize.table is not None:
        # What FP16 would like to know besides is not worth refusing a table for.
        needed = wanted_tensors(model, recipe.quantize.exclude)
        method = recipe.quantize.calibrator or ""
        loaded = load_table(recipe.quantize.table, model, wanted=needed, calibrator=method)
        for warning in loaded.warnings:
            ui.warn(warning)
        report.decide("ranges", recipe.quantize.table, f"a table of {loaded.origin}")
        ui.info(f"ranges from {recipe.quantize.table}: {loaded.table.method}")
        return loaded.table
    table = _calibrate(plan, model, tensors, report, ui)
    for warning in table_warnings(table):
        ui.warn(warning)
    return table


def _calibrate(
    plan: BuildPlan, model: Model, tensors: Sequence[str], report: Report, ui: Console
) -> CalibrationTable:
    if plan.calibration is None:
        raise ValueError("prepare() gives every INT8 plan calibration data")
    recipe = plan.request.recipe
    method, memory = recipe.quantize.calibrator or DEFAULT_CALIBRATOR, memory_of(recipe)
    with report.stage("calibrate") as stage:
        table = calibration_table(model, plan.calibration, method, tensors, ui, memory=memory)
        stage.facts = {
            "calibrator": table.method,
            "tensors": len(table.ranges),
            "samples": table.samples,
        }
    ui.info(
        f"calibrate: {len(table.ranges)} tensors, {table.samples} samples, "
        f"{table.method} ({stage.seconds:.2f} s)"
    )
    return table


def _search(
    plan: BuildPlan,
    model: Model,
    table: CalibrationTable,
    codes: Codes,
    report: Report,
    ui: Console,
) -> tuple[Found, CalibrationTable]:
    """Find the layers to leave in floating point so that the limit is met.

    The table comes back with what those choices want besides.
    """
    recipe = plan.request.recipe
    gate = recipe.gate

    def extend(tensors: Sequence[str]) -> CalibrationTable:
        return _calibrate(plan, model, tensors, Report(), Console(verbosity=-1))

    place = Placement(
        model,
        table,
        plan.engine.dialect,
        codes,
        recipe.quantize.exclude,
        extend if plan.calibration is not None else None,
    )
    original = recipe.recover.original
    with report.stage("mixed-precision") as stage:
        found = find(
            place,
            plan.request.model if original is None else Path(original),
            plan.evaluation,
            Limit(gate.max_drop, gate.min_sqnr),
            calibration=plan.calibration,
            ui=ui,
        )
        stage.facts = found.to_json()
    for line in found.lines():
        ui.info(f"mixed-precision: {line}")
    if found.exclude:
        names = ", ".join(found.exclude)
        report.decide("left in floating point", names, f"the fewest that meet {found.limit}")
    return found, place.table


def _weights(plan: BuildPlan) -> WeightOnly:
    wanted = plan.request.recipe.quantize
    return WeightOnly(
        bits=4 if wanted.weights == "int4" else 8,
        block=wanted.block,
        least=LEAST_TENSORRT_BLOCK if plan.engine.name == "tensorrt" else LEAST_BLOCK,
        exclude=wanted.exclude,
        max_opset=plan.device.max_opset,
    )


def _weight_only(plan: BuildPlan, model: Model, report: Report, ui: Console) -> Model:
    quantizer, data = _weights(plan), plan.calibration
    wanted = plan.request.recipe
    if wanted.quantize.rounding == "second-order" and data is not None:
        with report.stage("round-weights") as stage, ui.progress("rounding weights", None) as tick:
            codes = weight_codes(
                model,
                quantizer,
                batches_of(data),
                memory=memory_of(wanted) or STATISTICS_MEMORY,
                progress=tick,
            )
            stage.facts = {"weights": len(codes)}
        ui.info(f"round-weights: {len(codes)} by second order ({stage.seconds:.2f} s)")
        quantizer = replace(quantizer, codes=codes)
    return run_pass(quantizer, model, report, ui)


def _half(plan: BuildPlan, bits: Bits, report: Report, ui: Console) -> Bits:
    """Run what is left in FP16."""
    recipe = plan.request.recipe
    table, data = bits.table, plan.calibration
    if table is None and data is not None and not plan.unrunnable:
        quiet = Console(verbosity=-1)
        tensors = fp16_tensors(bits.base)
        if tensors:
            with report.stage("ranges"):
                table = calibration_table(
                    bits.base, data, "minmax", tensors, quiet, memory=memory_of(recipe)
                )
    step = ToFp16(table=table, exclude=recipe.quantize.exclude, max_opset=plan.device.max_opset)
    with report.stage(step.name) as stage:
        result = step(bits.model)
        stage.record(result)
    say_fp16(result, stage.seconds, ui)
    return replace(bits, model=result.model, for_cpu=None)


def say_fp16(result: PassResult, seconds: float, ui: Console) -> None:
    """Say how much runs in FP16, and why the rest does not."""
    counts = result.counts()
    stay = [s for s in result.skipped if s.reason.startswith("stays in fp32")]
    first = f" (first {stay[0].where}: {stay[0].reason})" if stay else ""
    ui.info(
        f"{result.name}: {counts.get('fp16', 0)} nodes, {counts.get('cast', 0)} casts; "
        f"{len(stay)} stay in fp32{first} ({seconds:.2f} s)"
    )
    for skip in result.skipped:
        (ui.detail if skip in stay else ui.warn)(f"fp16 {skip.where}: {skip.reason}")


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
