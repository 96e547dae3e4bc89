"""INT8: ranges, weights made to bear it, layers left out where a limit asks for it, Q/DQ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphopt.calibrators import CalibrationTable
from graphopt.calibrators.judge import table_warnings
from graphopt.calibrators.sources import Loaded, load_table, only
from graphopt.console import Console
from graphopt.dialects.codes import Codes
from graphopt.engines.dla_ranges import joined_ranges
from graphopt.model import Model
from graphopt.passes.to_fp16 import fp16_tensors
from graphopt.plan import BuildPlan
from graphopt.pruning import batches_of
from graphopt.quantization.mixed import Found, Limit, Placement, find
from graphopt.quantization.refine import NEAREST, WeightOptions, prepare_weights, refine
from graphopt.quantization.refined import Refined
from graphopt.quantization.rounding import FLOAT
from graphopt.quantize import (
    activations,
    calibration_table,
    in_order,
    qdq_pass,
    require_quantizable,
    wanted_tensors,
)
from graphopt.quantize_options import DEFAULT_CALIBRATOR, memory_of
from graphopt.report import Report
from graphopt.stages import say_pass
from graphopt.statistics.collect import MEMORY as STATISTICS_MEMORY
from graphopt.statistics.collect import Batches

CPU_DIALECT = "onnxruntime"
Finish = Callable[[Model, CalibrationTable], Callable[[Model], Model]]
"""Given the float model and its ranges, returns what a model with Q/DQ goes through to ship."""


@dataclass(frozen=True, slots=True)
class Int8:
    """A model in INT8, and what it was made with.

    Attributes:
        model: with Q/DQ as the engine wants it.
        for_cpu: with Q/DQ as ONNX Runtime wants it; None where a table from a file lacks ranges.
        base: the float32 model that the ranges are of.
        table: the ranges.
        codes: how weights are rounded; to nearest where it says nothing.
        exclude: patterns of nodes that stay floating point, those a search found too.
        found: what the search came to, where there was one.
    """

    model: Model
    for_cpu: Model | None
    base: Model
    table: CalibrationTable
    codes: Codes = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    found: Found | None = None


def to_int8(
    plan: BuildPlan, model: Model, report: Report, ui: Console, finish: Finish | None = None
) -> Int8:
    """Quantize weights and activations.

    Args:
        plan: what was asked for.
        model: float32, simplified, folded, pruned.
        report: takes the stages.
        ui: shows progress.
        finish: what is done to the model afterwards, which a limit has to bear too.

    Raises:
        GraphoptError: a table, a model or samples do not fit.
    """
    recipe, wanted = plan.request.recipe, plan.request.recipe.quantize
    options = WeightOptions(
        equalize=bool(wanted.equalize),
        smooth=bool(wanted.smooth),
        rounding=FLOAT if wanted.rounding == "second-order" else NEAREST,
        bias=bool(wanted.bias),
    )
    base = _prepared(plan, model, options, report, ui)
    table = _ranges(plan, base, report, ui)
    if plan.target.dla is not None:
        table = joined_ranges(base, table)
    refined = _refined(plan, base, table, options, report, ui)
    exclude, found = wanted.exclude, None
    if recipe.gate.asked and plan.implicit:
        why = "TensorRT chooses the layers of implicit INT8 by itself"
        report.decide("search", "none", why)
        ui.warn(f"no layers are searched for that meet the limit: {why}; Q/DQ stands for it here")
    if recipe.gate.asked and not plan.unrunnable and not plan.implicit:
        done = None if finish is None else finish(base, table)
        found, table = _search(plan, base, refined, table, done, report, ui)
        exclude = (*exclude, *found.patterns)
        if wanted.table is None:
            # What a build with the recipe that is written would calibrate.
            table = only(table, _to_calibrate(plan, base, exclude))
        refined = refined.without(base, found.exclude)
    made = insert(plan, refined.model, table, refined.codes, exclude, report, ui)
    for_cpu = _for_cpu(plan, made, refined, table, exclude)
    return Int8(made, for_cpu, base, table, refined.codes, exclude, found)


def _for_cpu(
    plan: BuildPlan,
    made: Model,
    refined: Refined,
    table: CalibrationTable,
    exclude: tuple[str, ...],
) -> Model | None:
    """Return the same with Q/DQ placed for ONNX Runtime, which is what can be timed here."""
    if plan.engine.dialect == CPU_DIALECT:
        return made
    wanted = wanted_tensors(refined.model, exclude, (CPU_DIALECT,))
    lacking = [name for name in wanted if name not in table.ranges]
    if lacking:
        if plan.calibration is None or plan.request.recipe.quantize.table is not None:
            return None
        quiet = Console(verbosity=-1)
        more = _calibrate(plan, refined.model, lacking, Report(), quiet)
        table = replace(table, ranges={**more.ranges, **table.ranges}, counts=None)
    return qdq_pass(CPU_DIALECT, table, exclude, refined.codes)(refined.model).model


def _batches(plan: BuildPlan) -> Batches | None:
    """Return the samples that weights may be fitted to: real ones."""
    data = plan.calibration
    return None if data is None or data.synthetic else batches_of(data)


def _memory(plan: BuildPlan) -> int:
    return memory_of(plan.request.recipe) or STATISTICS_MEMORY


def _prepared(
    plan: BuildPlan, model: Model, options: WeightOptions, report: Report, ui: Console
) -> Model:
    """Even out channels before ranges are measured; the function stays the same."""
    if not (options.equalize or options.smooth):
        return model
    with report.stage("prepare-weights") as stage:
        with ui.progress("evening out channels", None) as tick:
            done = prepare_weights(
                model, _batches(plan), options, memory=_memory(plan), progress=tick
            )
        stage.facts = {result.name: result.counts() for result in done}
    for result in done:
        if result.changes:
            say_pass(result, stage.seconds, ui)
        else:
            ui.detail(f"{result.name}: nothing to do")
    return done[-1].model if done else model


def _refined(
    plan: BuildPlan,
    model: Model,
    table: CalibrationTable,
    options: WeightOptions,
    report: Report,
    ui: Console,
) -> Refined:
    """Choose how weights are rounded, and take mean errors back."""
    batches = _batches(plan)
    if batches is None or (options.rounding == NEAREST and not options.bias):
        return Refined(model)
    with report.stage("round-weights") as stage:
        with ui.progress("rounding weights", None) as tick:
            refined = refine(
                model,
                table,
                batches,
                options,
                dialect=plan.engine.dialect,
                exclude=plan.request.recipe.quantize.exclude,
                memory=_memory(plan),
                progress=tick,
            )
        stage.skipped = [{"where": s.where, "reason": s.reason} for s in refined.skipped]
        stage.facts = {"layers": [one.to_json() for one in refined.solved]}
    corrected = ", biases corrected" if options.bias else ""
    ui.info(
        f"round-weights: {len(refined.codes)} layers by second order{corrected}; "
        f"{len(refined.skipped)} to nearest ({stage.seconds:.2f} s)"
    )
    for skip in refined.skipped:
        ui.detail(f"to nearest {skip.where}: {skip.reason}")
    return refined


def _ranges(plan: BuildPlan, model: Model, report: Report, ui: Console) -> CalibrationTable:
    """Read the ranges from a file, or calibrate."""
    recipe = plan.request.recipe
    tensors = wanted_tensors(model, recipe.quantize.exclude)
    require_quantizable(model, tensors)
    if recipe.quantize.table is not None:
        loaded = load_ranges(plan, model)
        for warning in (*loaded.warnings, *table_warnings(loaded.table)):
            ui.warn(warning)
        report.synthetic = report.synthetic or loaded.table.synthetic
        report.decide("ranges", recipe.quantize.table, f"a table of {loaded.origin}")
        ui.info(f"ranges from {recipe.quantize.table}: {loaded.table.method}")
        if plan.implicit:
            _say_lacking(model, loaded.table, ui)
        return loaded.table
    tensors = _to_calibrate(plan, model, recipe.quantize.exclude)
    if plan.implicit or plan.device.dla:
        why = "implicit quantization" if plan.implicit else "its DLA"
        report.decide("calibrated tensors", str(len(tensors)), f"{why} wants a scale for each")
    table = _calibrate(plan, model, tensors, report, ui)
    for warning in table_warnings(table):
        ui.warn(warning)
    return table


def _say_lacking(model: Model, table: CalibrationTable, ui: Console) -> None:
    """Say which tensors have no range: TensorRT leaves the layers at those in floating point."""
    every = activations(model)
    lacking = [name for name in every if name not in table.ranges]
    if lacking:
        ui.warn(
            f"the table has no range for {len(lacking)} of {len(every)} tensors (first "
            f"'{lacking[0]}'): TensorRT may leave layers at those in floating point; --data in "
            "place of --calibration measures all"
        )


def _to_calibrate(plan: BuildPlan, model: Model, exclude: tuple[str, ...]) -> list[str]:
    """Return the tensors to have ranges: what is quantized, and what else wants them."""
    tensors = wanted_tensors(model, exclude)
    if plan.implicit or plan.device.dla:
        return in_order(model, {*tensors, *activations(model)})
    if plan.half:
        return in_order(model, {*tensors, *fp16_tensors(model)})
    return tensors


def load_ranges(plan: BuildPlan, model: Model) -> Loaded:
    """Read the table that was named; it must have what the engine's dialect wants, no more."""
    wanted = plan.request.recipe.quantize
    needed = wanted_tensors(model, wanted.exclude, (plan.engine.dialect,))
    return load_table(wanted.table or "", model, wanted=needed, calibrator=wanted.calibrator or "")


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
    base: Model,
    refined: Refined,
    table: CalibrationTable,
    finish: Callable[[Model], Model] | None,
    report: Report,
    ui: Console,
) -> tuple[Found, CalibrationTable]:
    """Find the layers to leave in floating point so that the limit is met.

    The table comes back with what those choices want besides.
    """
    recipe = plan.request.recipe
    gate = recipe.gate

    def extend(tensors: Sequence[str]) -> CalibrationTable:
        return _calibrate(plan, base, tensors, Report(), Console(verbosity=-1))

    place = Placement(
        base,
        table,
        plan.engine.dialect,
        refined.codes,
        recipe.quantize.exclude,
        extend if plan.calibration is not None else None,
        lambda names: refined.without(base, names).model,
        finish,
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


def insert(
    plan: BuildPlan,
    model: Model,
    table: CalibrationTable,
    codes: Codes,
    exclude: Sequence[str],
    report: Report,
    ui: Console,
) -> Model:
    """Write the ranges into the graph as the engine wants them."""
    small = {"int8_weights": True} if plan.target.int8_weights else {}
    step = replace(qdq_pass(plan.engine.dialect, table, exclude, codes), options=small)
    with report.stage(step.name) as stage:
        result = step(model)
        stage.record(result)
        stage.facts = {"dialect": plan.engine.dialect}
        if plan.implicit:
            stage.facts["stands_for"] = "implicit INT8: the model that is built has no Q/DQ"
    ui.info(
        f"{step.name}: {result.counts().get('quantized', 0)} operators in the "
        f"{plan.engine.dialect} dialect; {len(result.skipped)} left in floating point "
        f"({stage.seconds:.2f} s)"
        + ("; to measure by: what is built has no Q/DQ" if plan.implicit else "")
    )
    for skip in result.skipped:
        ui.detail(f"floating point {skip.where}: {skip.reason}")
    if not result.changes:
        ui.warn("--int8 quantized nothing: every operator stays floating point (-v says why)")
    return result.model
