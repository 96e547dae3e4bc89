"""The model in fewer bits: calibrated, refined, quantized, and what is left in FP16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from graphopt.calibrators import CalibrationTable
from graphopt.console import Console
from graphopt.int8 import CPU_DIALECT, Finish, insert, load_ranges, to_int8
from graphopt.model import Model
from graphopt.passes.base import PassResult
from graphopt.passes.insert_qdq import excluded_nodes
from graphopt.passes.to_fp16 import ToFp16, fp16_tensors
from graphopt.passes.weight_only import WeightOnly
from graphopt.plan import BuildPlan
from graphopt.pruning import batches_of
from graphopt.quantization.mixed import Found
from graphopt.quantization.weight_only import weight_codes
from graphopt.quantize import (
    calibration_table,
    placeholder_table,
    require_quantizable,
    wanted_tensors,
)
from graphopt.quantize_options import memory_of
from graphopt.report import Report
from graphopt.stages import run_pass
from graphopt.statistics.collect import MEMORY as STATISTICS_MEMORY

# Rows that share a scale: TensorRT documents blocks of 64 and 128, others take less.
LEAST_BLOCK, LEAST_TENSORRT_BLOCK = 32, 64


@dataclass(frozen=True, slots=True)
class Bits:
    """A model in fewer bits, and what it was made with.

    Attributes:
        model: what ships; where quantization is implicit, what stands for it in ONNX Runtime, and
            ``base`` ships, with the table beside it.
        base: the float32 model it was made from, which a calibration table speaks of.
        table: the ranges; None where no activation is quantized.
        exclude: patterns of nodes that stay floating point, those a search found too.
        for_cpu: the same placed as ONNX Runtime wants it, or None where timing it means nothing.
        found: what a search for layers to leave in floating point came to, where there was one.
    """

    model: Model
    base: Model
    table: CalibrationTable | None = None
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
    if not (wanted.int8 or wanted.weights or plan.half):
        return None
    _say_unmatched(wanted.exclude, model, ui)
    if wanted.int8:
        made = to_int8(plan, model, report, ui, _finish(plan) if plan.half else None)
        bits = Bits(made.model, made.base, made.table, made.exclude, made.for_cpu, made.found)
    elif wanted.weights is not None:
        lighter = _weight_only(plan, model, report, ui)
        bits = Bits(lighter, model, for_cpu=lighter)
    else:
        bits = Bits(model, model)
    return _half(plan, bits, report, ui) if plan.half else bits


def preview_bits(plan: BuildPlan, model: Model, report: Report, ui: Console) -> None:
    """Show what would be quantized and where Q/DQ would go, without a look at the data."""
    wanted = plan.request.recipe.quantize
    _say_unmatched(wanted.exclude, model, ui)
    if wanted.int8:
        tensors = wanted_tensors(model, wanted.exclude)
        require_quantizable(model, tensors)
        if wanted.table is not None:
            load_ranges(plan, model)
        table = placeholder_table(model, tensors)
        model = insert(plan, model, table, {}, wanted.exclude, report, ui)
    elif wanted.weights is not None:
        model = run_pass(_weights(plan), model, report, ui)
    if plan.half:
        run_pass(_fp16(plan), model, report, ui)


def _say_unmatched(patterns: Sequence[str], model: Model, ui: Console) -> None:
    """Say which patterns name nothing, which most often is a typing error."""
    for pattern in patterns:
        if not excluded_nodes(model, (pattern,)):
            ui.warn(f"--exclude-nodes {pattern} matches no node name or operator of the model")


def _weights(plan: BuildPlan) -> WeightOnly:
    wanted = plan.request.recipe.quantize
    least = LEAST_TENSORRT_BLOCK if plan.engine.name in ("tensorrt", "trtexec") else LEAST_BLOCK
    return WeightOnly(
        bits=4 if wanted.weights == "int4" else 8,
        block=wanted.block,
        least=min(least, wanted.block or least),
        exclude=wanted.exclude,
        max_opset=plan.target.max_opset,
    )


def _weight_only(plan: BuildPlan, model: Model, report: Report, ui: Console) -> Model:
    quantizer, data = _weights(plan), plan.calibration
    wanted = plan.request.recipe
    if not quantizer.targets(model)[0]:
        ui.warn(
            f"--weights {wanted.quantize.weights} quantized nothing: no Gemm or MatMul has a "
            "constant weight that can be (-v says why)"
        )
    elif wanted.quantize.rounding == "second-order" and data is not None:
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
    step = replace(_fp16(plan), table=_fp16_ranges(plan, bits, report))
    with report.stage(step.name) as stage:
        result = step(bits.model)
        stage.record(result)
    say_fp16(result, stage.seconds, ui)
    return replace(bits, model=result.model, for_cpu=None)


def _finish(plan: BuildPlan) -> Finish:
    """Return what takes the rest to FP16, for a search that has to judge what ships."""

    def finish(base: Model, table: CalibrationTable) -> Callable[[Model], Model]:
        ranges = _fp16_ranges(plan, Bits(base, base, table), Report())
        step = replace(_fp16(plan), table=ranges)
        return lambda model: step(model).model

    return finish


def _fp16(plan: BuildPlan) -> ToFp16:
    wanted = plan.request.recipe.quantize
    # Beside INT8, what is left out of it is floating point, which is to be FP16.
    exclude = () if wanted.int8 or wanted.weights is not None else wanted.exclude
    return ToFp16(
        exclude=exclude,
        max_opset=plan.target.max_opset,
        integer_kernels=wanted.int8 and plan.engine.dialect == CPU_DIALECT,
    )


def _fp16_ranges(plan: BuildPlan, bits: Bits, report: Report) -> CalibrationTable | None:
    """Return the ranges there are, and those FP16 wants besides where there is data."""
    table, data = bits.table, plan.calibration
    if data is None or plan.unrunnable:
        return table
    known = {} if table is None else table.ranges
    lacking = [name for name in fp16_tensors(bits.base) if name not in known]
    if not lacking:
        return table
    with report.stage("ranges") as stage:
        quiet, memory = Console(verbosity=-1), memory_of(plan.request.recipe)
        more = calibration_table(bits.base, data, "minmax", lacking, quiet, memory=memory)
        stage.facts = {"tensors": len(more.ranges), "samples": more.samples}
    return replace(more, ranges={**more.ranges, **known}, counts=None)


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
