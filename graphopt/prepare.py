"""From a recipe to a plan: every name resolved, everything missing told, before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from graphopt.calibrators.sources import load_table
from graphopt.console import Console
from graphopt.data import Dataset, load_preprocess
from graphopt.engine_options import (
    check_build,
    check_engine,
    check_recipe,
    choose_target,
    engine_name,
    make_engine,
    refuse_explicit,
)
from graphopt.engines import ENGINES, Engine, Remote, ShapeRange
from graphopt.engines.dla import dla_report
from graphopt.engines.select import choose
from graphopt.engines.target import Target
from graphopt.errors import DataError, UnsupportedModelError, UsageError
from graphopt.graph import is_standard, walk
from graphopt.honesty import check_scale
from graphopt.model import Model
from graphopt.opening import check_inputs
from graphopt.optimize import named_pass
from graphopt.passes.lower_opset import LowerOpset
from graphopt.passes.sparsity import check_sparsity, parse_sparsity
from graphopt.plan import BuildPlan, Request
from graphopt.prepare_data import (
    NO_DATA,
    doubts,
    keep_apart,
    open_calibration,
    open_evaluation,
    try_out,
)
from graphopt.profiles import DeviceProfile, load_device
from graphopt.prune_options import check_pruning, choose_align, decide_pruning
from graphopt.quantize_options import (
    check_device,
    check_quantization,
    decide_quantization,
)
from graphopt.recipe import Recipe
from graphopt.report import Report
from graphopt.shape_options import choose_shapes, more_profiles
from graphopt.verify import opened
from graphopt.wording import counted

Make = Callable[[str], Engine]


def prepare(request: Request, report: Report, ui: Console) -> BuildPlan:
    """Resolve a request, echoing what was decided and what data was read.

    Raises:
        GraphoptError: anything that would stop the build later, as early as it can be known.
    """
    recipe = request.recipe
    check_names(recipe)
    if recipe.quantize.table is not None:
        load_table(recipe.quantize.table)  # told before any work where it is none
    make = _maker(recipe)
    device = _device(recipe, make, report, ui)
    if recipe.weights.sparsity is not None:
        check_sparsity(parse_sparsity(recipe.weights.sparsity), device)
    engine = _engine(request, device, make, report, ui)
    if request.build_engine:
        check_engine(recipe, engine)
    target = _target(request, engine, device, report, ui)
    model = Model.load(request.model)
    check_inputs(model)
    report.source = describe(request.model, model)
    preprocess = load_preprocess(recipe.data.preprocess) if recipe.data.preprocess else None
    calibration = open_calibration(model, recipe, preprocess, report, ui)
    evaluation = open_evaluation(model, recipe, preprocess, calibration, report, ui)
    done_before = (calibration or evaluation).preprocess
    report.source["preprocessing"] = None if done_before is None else done_before.to_json()
    align = _align(model, recipe, device, report, ui)
    shapes = choose_shapes(model, recipe, evaluation, report, ui)
    more = more_profiles(model, recipe, shapes)
    if target.dla is not None:
        _list_for_dla(model, recipe, target, shapes, report, ui)
    keep_apart(request, calibration, evaluation)
    for warning in doubts(calibration, evaluation):
        ui.warn(warning)
    model = fit_opset(model, target, report, ui)
    unrunnable = _tried_out(request, model, engine, calibration, evaluation, report, ui)
    pruning = decide_pruning(recipe, calibration, bool(unrunnable), report, ui)
    if target.quantization == "implicit":
        refuse_explicit(recipe)
    bits = decide_quantization(
        recipe,
        calibration,
        report,
        ui,
        quantization=target.quantization,
        unrunnable=bool(unrunnable),
    )
    request = replace(
        request, recipe=_resolved(recipe, engine, align, pruning, bits, shapes, device)
    )
    report.recipe = request.recipe.model_dump(mode="json")
    plan = BuildPlan(
        request,
        model,
        engine,
        device,
        calibration,
        evaluation,
        align or 8,
        shapes,
        unrunnable,
        _original(recipe, model),
        target,
        more,
    )
    if request.build_engine:
        check_build(engine, model, plan.options)
    return plan


def _target(
    request: Request, engine: Engine, device: DeviceProfile, report: Report, ui: Console
) -> Target:
    """Choose how the model is written for the device and its TensorRT, and say why."""
    target = choose_target(request.recipe, engine, device, built=request.build_engine)
    check_device(request.recipe, target)
    for line in target.reasons:
        report.decide("target", target.device.name, line)
        ui.info(line)
    return target


def _tried_out(
    request: Request,
    model: Model,
    engine: Engine,
    calibration: Dataset | None,
    evaluation: Dataset,
    report: Report,
    ui: Console,
) -> str:
    """Run the model once on what it will be verified with; return why it cannot, or nothing."""
    unrunnable = _custom_ops_refused(request, model, engine)
    if unrunnable:
        report.decide("verification", "none", unrunnable)
        ui.warn(f"nothing is verified or timed: {unrunnable}")
        return unrunnable
    for warning in check_scale(model, calibration or evaluation):
        ui.warn(warning)
    try_out(request, evaluation, ui)
    return ""


def _align(
    model: Model, recipe: Recipe, device: DeviceProfile, report: Report, ui: Console
) -> int | None:
    """Return the multiple that widths are kept at; one that is chosen is told."""
    if recipe.prune.align is not None or not recipe.prune.asked or recipe.prune.plan is not None:
        return recipe.prune.align
    align, why = choose_align(model, recipe, device)
    report.decide("align", str(align), why)
    ui.info(f"align {align}: {why}")
    return align


def _original(recipe: Recipe, model: Model) -> Model | None:
    """Read what a model pruned elsewhere was before.

    Raises:
        UsageError: it takes other inputs.
    """
    if recipe.recover.original is None:
        return None
    original = Model.load(recipe.recover.original)
    if list(original.inputs()) != list(model.inputs()):
        raise UsageError(
            f"--recover-from {recipe.recover.original} takes the inputs "
            f"{', '.join(original.inputs())}, and the model {', '.join(model.inputs())}"
        )
    return original


def _resolved(
    recipe: Recipe,
    engine: Engine,
    align: int | None,
    pruning: Mapping[str, Mapping[str, object]],
    bits: Mapping[str, object],
    shapes: Mapping[str, ShapeRange],
    device: DeviceProfile,
) -> Recipe:
    """Return the recipe with what was decided written into it: to run again, the same way."""
    found = device.name if recipe.engine.host else None
    return recipe.override(
        {
            "prune": {"align": align, **pruning["prune"]},
            "recover": pruning["recover"],
            "quantize": bits,
            "engine": {
                "name": engine.name,
                "device": found,
                "shapes": {
                    name: {"min": s.min, "opt": s.opt, "max": s.max} for name, s in shapes.items()
                },
            },
        }
    )


def _maker(recipe: Recipe) -> Make:
    """Return what makes each engine once: on a device it asks what is there, which takes time."""
    made: dict[str, Engine] = {}

    def make(name: str) -> Engine:
        if name not in made:
            made[name] = make_engine(name, recipe)
        return made[name]

    return make


def _device(recipe: Recipe, make: Make, report: Report, ui: Console) -> DeviceProfile:
    """Return the target: the one named, or the machine that ``--host`` names."""
    wanted = recipe.engine
    if wanted.host is None or wanted.device != "host":
        return load_device(wanted.device)
    engine = make(engine_name(recipe))
    if not isinstance(engine, Remote):
        raise UsageError(f"the engine {engine.name} builds here, and --host names another machine")
    device = engine.device()
    report.decide("device", device.name, f"what {wanted.host} is")
    ui.info(f"device {device.name}: {device.title}, what {wanted.host} is")
    return device


def _list_for_dla(
    model: Model,
    recipe: Recipe,
    target: Target,
    shapes: Mapping[str, ShapeRange],
    report: Report,
    ui: Console,
) -> None:
    """Say what does not run on the DLA, before any work.

    Raises:
        UsageError: a shape is a range.
        UnsupportedModelError: nothing runs there, or not all of it and the GPU may not help.
    """
    quantize = recipe.quantize
    found = dla_report(
        model,
        target.device,
        int8=quantize.int8,
        fp16=quantize.fp16 or target.quantization == "implicit",
        explicit=target.quantization == "explicit",
        shapes=shapes,
    )
    report.dla = found.to_json()
    for line in found.lines():
        ui.info(line)
    found.require(gpu_fallback=recipe.engine.gpu_fallback)


def fit_opset(model: Model, target: Target, report: Report, ui: Console) -> Model:
    """Lower a model to what TensorRT for the target parses.

    Raises:
        UnsupportedModelError: it holds an operator that has no form there.
    """
    newest, safe = target.max_opset, target.safe_opset
    for ceiling, required in ((safe, False), (newest, True)):
        if ceiling is None or model.opset <= ceiling:
            continue
        with report.stage("lower-opset") as stage:
            result = LowerOpset(ceiling, required=required)(model)
            stage.record(result)
        lowered = result.model
        if lowered.opset < model.opset:
            which = "the newest that" if ceiling == newest else "what the oldest"
            why = f"{which} TensorRT for {target.device.name} parses"
            report.decide("opset", str(lowered.opset), why)
            ui.info(
                f"lower-opset: {model.opset} -> {lowered.opset}, {why}; "
                f"{counted(len(result.changes), 'node')} rewritten"
            )
        model = lowered
    return model


def _custom_ops_refused(request: Request, model: Model, engine: Engine) -> str:
    """Return why ONNX Runtime cannot run a model with custom operators, or an empty string.

    Such a model passes through, unverified, where nothing that was asked for has to run it.

    Raises:
        UnsupportedModelError: something has to.
    """
    custom = sorted({f"{n.domain}::{n.op}" for n in walk(model.graph) if not is_standard(n)})
    if not custom:
        return ""
    try:
        with opened(request.model):
            return ""
    except UnsupportedModelError as problem:
        recipe = request.recipe
        needs = {
            "--int8 calibrates on ONNX Runtime": recipe.quantize.int8,
            "--rounding second-order runs it": recipe.quantize.rounding == "second-order",
            "a limit is measured on ONNX Runtime": recipe.gate.asked,
            "--engine onnxruntime builds for it": request.build_engine
            and engine.name == "onnxruntime",
        }
        asked = [why for why, needed in needs.items() if needed]
        lacks = f"ONNX Runtime cannot run {', '.join(custom)}"
        if asked:
            raise UnsupportedModelError(f"{lacks}, and {asked[0]}: leave that out") from problem
        return lacks


def _engine(
    request: Request, device: DeviceProfile, make: Make, report: Report, ui: Console
) -> Engine:
    """Choose the engine, and say why."""
    engine, reason = _chosen(request, device, make)
    reason = reason.removeprefix(f"{engine.name}: ")
    report.decide("engine", engine.name, reason)
    ui.info(f"engine {engine.name}: {reason}")
    return engine


def _chosen(request: Request, device: DeviceProfile, make: Make) -> tuple[Engine, str]:
    """Choose what builds; where nothing is built, what the Q/DQ is placed for."""
    recipe = request.recipe
    name = engine_name(recipe)
    if request.build_engine or (name == "auto" and device.sm is None):
        precision = "int8" if recipe.quantize.int8 else "fp32"
        return choose(name, device, precision=precision, make=make)
    if name != "auto":
        return make(name), "asked for; nothing is built, Q/DQ is placed for it"
    return ENGINES.load("tensorrt")(), f"{device.name} is an NVIDIA GPU; nothing is built"


def check_names(recipe: Recipe) -> None:
    """Refuse unknown names and contradictions before anything is read.

    Raises:
        UsageError: one line with what is known.
    """
    check_quantization(recipe)
    check_pruning(recipe)
    check_recipe(recipe)
    for name in recipe.optimize.passes:
        named_pass(name)
    given = recipe.data.calibration or recipe.data.synthetic or recipe.quantize.table
    if recipe.quantize.int8 and not given:
        raise DataError("--int8 needs --data, or --calibration", hint=NO_DATA)
    if recipe.recover.original and not recipe.data.calibration:
        raise DataError("--recover-from needs --data", hint=NO_DATA)
    if recipe.data.synthetic and recipe.data.calibration:
        raise UsageError("--synthetic makes data up and --data names real data: choose one")
    if recipe.data.synthetic and not recipe.quantize.int8:
        raise UsageError("--synthetic makes up data for the ranges of --int8: leave it out")
    if recipe.data.synthetic and recipe.quantize.table:
        raise UsageError("--synthetic makes up ranges and --calibration brings them: choose one")


def describe(path: Path, model: Model) -> dict[str, object]:
    """Return what identifies the model as given."""
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "digest": model.digest(),
        "opset": model.opset,
        "inputs": {n: [str(d), list(s)] for n, (d, s) in model.inputs().items()},
        "outputs": [t.name for t in model.graph.outputs],
    }
