"""From a recipe to a plan: every name resolved, everything missing told, before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphopt.calibrators.sources import load_table
from graphopt.console import Console
from graphopt.data import EXAMPLES, Dataset, Preprocess, load_preprocess, open_data, synthetic
from graphopt.engine_options import (
    build_options,
    check_engine,
    check_recipe,
    choose_target,
    engine_name,
    make_engine,
    refuse_explicit,
)
from graphopt.engines import ENGINES, BuildOptions, Engine, ShapeRange
from graphopt.engines.dla import dla_report
from graphopt.engines.select import choose
from graphopt.engines.shapes import resolve_shapes
from graphopt.engines.target import Target
from graphopt.errors import DataError, UnsupportedModelError, UsageError
from graphopt.graph import is_standard, walk
from graphopt.honesty import check_answers, check_apart, check_repeated, check_scale
from graphopt.model import Model
from graphopt.opening import check_inputs
from graphopt.optimize import Aids, named_pass
from graphopt.passes.lower_opset import LowerOpset
from graphopt.passes.sparsity import check_sparsity, parse_sparsity
from graphopt.profiles import DeviceProfile, load_device
from graphopt.profiles.device import Version
from graphopt.prune_options import check_pruning, choose_align, decide_pruning
from graphopt.quantize_options import (
    check_device,
    check_quantization,
    decide_quantization,
    label,
)
from graphopt.recipe import Recipe
from graphopt.report import Report
from graphopt.verify import check_labels, class_output, numeric, opened
from graphopt.wording import counted, spell

MAX_AUTO_BATCH = 16
CACHE_VERSION = (8, 5, 2)
SYNTHETIC_SAMPLES = 64

NO_DATA = f"""calibration needs samples of what the model will see; one of:
{EXAMPLES}
  --synthetic                              random data: for latency only, accuracy means nothing"""

NO_GATE = (
    "--max-drop needs an output of class scores, of shape (N, C), and this model has none: "
    "use --min-sqnr, in dB"
)


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for.

    Attributes:
        model: path of the ONNX file.
        recipe: every option.
        out: folder for the results.
        force: an existing folder may be written into.
        build_engine: False stops at the optimized ONNX.
    """

    model: Path
    recipe: Recipe
    out: Path
    force: bool = False
    build_engine: bool = True


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """A request with every name resolved.

    Attributes:
        request: what was asked for.
        model: the model as given.
        engine: what builds; its dialect decides where Q/DQ goes.
        device: the target.
        calibration: samples to calibrate on, or None.
        evaluation: samples to measure fidelity on.
        align: pruned widths are a multiple of this.
        shapes: input name -> shapes, for every dynamic input.
        target: how the model is written for the device.
        more_shapes: further optimization profiles.
        unrunnable: why ONNX Runtime cannot run the model, so that nothing is verified or timed;
            empty where it can.
        original: what a model that was pruned elsewhere was before, or None.
    """

    request: Request
    model: Model
    engine: Engine
    device: DeviceProfile
    calibration: Dataset | None
    evaluation: Dataset
    align: int
    shapes: Mapping[str, ShapeRange]
    unrunnable: str = ""
    original: Model | None = None
    target: Target = field(default_factory=lambda: Target(DeviceProfile("host")))
    more_shapes: tuple[Mapping[str, ShapeRange], ...] = ()

    @property
    def implicit(self) -> bool:
        """Whether INT8 is told by ranges beside the graph, and not by Q/DQ in it."""
        return self.request.recipe.quantize.quantization == "implicit"

    @property
    def half(self) -> bool:
        """Whether FP16 is to be written into the graph; else it is the builder's to choose."""
        return self.request.recipe.quantize.fp16 and self.target.fp16_in_graph

    @property
    def cache_version(self) -> Version:
        """The TensorRT that a calibration cache is written for."""
        version = self.target.version or self.device.oldest_tensorrt or CACHE_VERSION
        # Of 8.5 alone there never was a patch 0; it stands for any.
        return CACHE_VERSION if version == (*CACHE_VERSION[:2], 0) else version

    @property
    def cache_is_sure(self) -> bool:
        """Whether no other TensorRT can be meant than the one a cache is written for."""
        device, version = self.device, self.target.version
        if version is None:
            only = device.oldest_tensorrt
            return only is not None and only == device.newest_tensorrt
        # Before 10 a version without its patch, like 8.5, names none that there is.
        return version[0] >= 10 or version[2] > 0

    @property
    def aids(self) -> Aids:
        """What pruning and recovery may use."""
        data = self.calibration
        return Aids(
            samples=None if data is None or data.synthetic or self.unrunnable else data,
            device=self.device,
            shapes={name: s.opt for name, s in self.shapes.items()},
            original=self.original,
        )

    @property
    def precision(self) -> str:
        """What the graph of the result carries."""
        quantize = self.request.recipe.quantize
        return label(quantize if self.half else quantize.model_copy(update={"fp16": False}))

    @property
    def options(self) -> BuildOptions:
        """What the engine needs to know."""
        recipe = self.request.recipe
        return replace(
            build_options(recipe, self.device),
            shapes=self.shapes,
            more_shapes=self.more_shapes,
            precision=self.precision,
            # Beside implicit INT8, what TensorRT leaves out of it is to be no slower than FP16.
            fp16=(recipe.quantize.fp16 or self.implicit) and not self.target.fp16_in_graph,
        )


def prepare(request: Request, report: Report, ui: Console) -> BuildPlan:
    """Resolve a request, echoing what was decided and what data was read.

    Raises:
        GraphoptError: anything that would stop the build later, as early as it can be known.
    """
    recipe = request.recipe
    check_names(recipe)
    if recipe.quantize.table is not None:
        load_table(recipe.quantize.table)  # told before any work where it is none
    device = _device(recipe, report, ui)
    if recipe.weights.sparsity is not None:
        check_sparsity(parse_sparsity(recipe.weights.sparsity), device)
    engine, reason = _engine(request, device)
    reason = reason.removeprefix(f"{engine.name}: ")
    report.decide("engine", engine.name, reason)
    ui.info(f"engine {engine.name}: {reason}")
    if request.build_engine:
        check_engine(recipe, engine)
    target = choose_target(recipe, engine, device, built=request.build_engine)
    check_device(recipe, target)
    for line in target.reasons:
        report.decide("target", target.device.name, line)
        ui.info(line)
    model = Model.load(request.model)
    check_inputs(model)
    report.source = describe(request.model, model)
    preprocess = load_preprocess(recipe.data.preprocess) if recipe.data.preprocess else None
    calibration = _calibration(model, recipe, preprocess, report, ui)
    evaluation = _evaluation(model, recipe, preprocess, calibration, report, ui)
    done_before = (calibration or evaluation).preprocess
    report.source["preprocessing"] = None if done_before is None else done_before.to_json()
    align = recipe.prune.align
    if align is None and recipe.prune.asked and recipe.prune.plan is None:
        align, why = choose_align(model, recipe, device)
        report.decide("align", str(align), why)
        ui.info(f"align {align}: {why}")
    shapes = choose_shapes(model, recipe, evaluation, report, ui)
    more = more_profiles(model, recipe, shapes)
    if target.dla is not None:
        _list_for_dla(model, recipe, target, shapes, report, ui)
    _keep_apart(request, calibration, evaluation)
    for warning in _doubts(calibration, evaluation):
        ui.warn(warning)
    model = fit_opset(model, target, report, ui)
    unrunnable = _custom_ops_refused(request, model, engine)
    if unrunnable:
        report.decide("verification", "none", unrunnable)
        ui.warn(f"nothing is verified or timed: {unrunnable}")
    else:
        for warning in check_scale(model, calibration or evaluation):
            ui.warn(warning)
        _try_out(request, evaluation, ui)
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
    request = replace(request, recipe=_resolved(recipe, engine, align, pruning, bits, shapes))
    report.recipe = request.recipe.model_dump(mode="json")
    return BuildPlan(
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
) -> Recipe:
    """Return the recipe with what was decided written into it: to run again, the same way."""
    return recipe.override(
        {
            "prune": {"align": align, **pruning["prune"]},
            "recover": pruning["recover"],
            "quantize": bits,
            "engine": {
                "name": engine.name,
                "shapes": {
                    name: {"min": s.min, "opt": s.opt, "max": s.max} for name, s in shapes.items()
                },
            },
        }
    )


def _device(recipe: Recipe, report: Report, ui: Console) -> DeviceProfile:
    """Return the target: the one named, or the machine that ``--host`` names."""
    wanted = recipe.engine
    if wanted.host is None or wanted.device != "host":
        return load_device(wanted.device)
    engine = make_engine(engine_name(recipe), recipe)
    device: DeviceProfile = engine.device()  # type: ignore[attr-defined]
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


def _keep_apart(request: Request, *data: Dataset | None) -> None:
    """Refuse an output folder whose files would overwrite the model, or become a class of data.

    Raises:
        UsageError: one line that says which.
    """
    out, model = request.out.resolve(), request.model.resolve()
    if model.parent == out and model.name.startswith("model."):
        raise UsageError(
            f"{request.model} lies in the output folder and could be overwritten: "
            "use another -o, or another name for the model"
        )
    for dataset in data:
        if dataset is None or not dataset.classes:
            continue
        root = Path(dataset.spec).resolve()
        if out == root or root in out.parents:
            raise UsageError(
                f"{request.out} lies in {dataset.spec}, whose sub-folders are classes: "
                "use an -o outside the data"
            )


def _doubts(calibration: Dataset | None, evaluation: Dataset) -> list[str]:
    """Return what makes the samples a poor judge of anything."""
    if calibration is None:
        return []
    return [*check_apart(calibration, evaluation), *check_repeated(calibration)]


def _try_out(request: Request, data: Dataset, ui: Console) -> None:
    """Run the model as given on one batch, so that what it refuses is told before any work.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses it, or a gate has nothing to judge by.
        DataError: a label is no class of the model.
    """
    with opened(request.model) as run:
        for warning in check_answers(run, data):
            ui.warn(warning)
        feeds = next(iter(data.batches(1)))
        outputs = {name: numeric(name, value) for name, value in run(feeds).items()}
    output = class_output(outputs, min(len(array) for array in feeds.values()))
    if output is not None and data.labels is not None:
        check_labels(data.labels, output, outputs[output].shape[1])
    if output is None and request.recipe.gate.max_drop is not None:
        raise UnsupportedModelError(NO_GATE)


def _engine(request: Request, device: DeviceProfile) -> tuple[Engine, str]:
    """Choose what builds; where nothing is built, what the Q/DQ is placed for."""
    recipe = request.recipe
    name = engine_name(recipe)
    if request.build_engine or (name == "auto" and device.sm is None):
        precision = "int8" if recipe.quantize.int8 else "fp32"
        return choose(
            name, device, precision=precision, make=lambda name: make_engine(name, recipe)
        )
    if name != "auto":
        return make_engine(name, recipe), "asked for; nothing is built, Q/DQ is placed for it"
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


def read(
    spec: str, model: Model, recipe: Recipe, preprocess: Preprocess | None, *, all_of_it: bool
) -> Dataset:
    """Open a data SPEC for a model; ``--samples`` limits calibration, never evaluation."""
    return open_data(
        spec,
        model.inputs(),
        preprocess=preprocess,
        limit=None if all_of_it else recipe.data.samples,
        seed=recipe.data.seed,
    )


def _calibration(
    model: Model, recipe: Recipe, preprocess: Preprocess | None, report: Report, ui: Console
) -> Dataset | None:
    if recipe.data.calibration:
        data = read(recipe.data.calibration, model, recipe, preprocess, all_of_it=False)
        ui.info(f"calibration data: {data.summary()}")
        return data
    if not recipe.quantize.int8 or recipe.quantize.table:
        return None
    report.synthetic = True
    ui.warn(
        "SYNTHETIC calibration data: latency is real, accuracy is meaningless; do not ship this"
    )
    return _synthetic(model, recipe)


def _evaluation(
    model: Model,
    recipe: Recipe,
    preprocess: Preprocess | None,
    calibration: Dataset | None,
    report: Report,
    ui: Console,
) -> Dataset:
    if recipe.data.evaluation:
        data = read(recipe.data.evaluation, model, recipe, preprocess, all_of_it=True)
        ui.info(f"evaluation data: {data.summary()}")
        if calibration is not None and calibration.digest == data.digest:
            ui.warn("--eval is the calibration data: the accuracy shown is optimistic")
        return data
    if calibration is not None and not calibration.synthetic:
        report.decide("evaluation", "calibration data", "no --eval was given")
        ui.warn("no --eval: fidelity is measured on the calibration data, which is optimistic")
        return calibration
    report.decide("evaluation", "random inputs", "no --eval and no --data was given")
    ui.info("fidelity is measured on random inputs: give --eval for figures that mean something")
    return calibration or _synthetic(model, recipe)


def _synthetic(model: Model, recipe: Recipe) -> Dataset:
    shapes = {name: s.opt for name, s in recipe.engine.shapes.items()}
    count = min(recipe.data.samples, SYNTHETIC_SAMPLES)
    return synthetic(model.inputs(), count, seed=recipe.data.seed, shapes=shapes)


def choose_shapes(
    model: Model, recipe: Recipe, data: Dataset, report: Report, ui: Console
) -> dict[str, ShapeRange]:
    """Give every dynamic input its min, opt and max shapes.

    A dynamic first dimension becomes 1 .. 16 tuned for 1; other open dimensions take the size
    the data has.

    Raises:
        UsageError: a named input does not exist, or a given shape contradicts the model.
    """
    shapes = {
        name: ShapeRange(given.min, given.opt, given.max)
        for name, given in recipe.engine.shapes.items()
    }
    sample = {name: array.shape[1:] for name, array in next(iter(data.batches(1))).items()}
    for name, (_, shape) in model.inputs().items():
        if name in shapes or all(isinstance(d, int) for d in shape):
            continue
        rest = tuple(
            d if isinstance(d, int) else int(sample[name][i]) for i, d in enumerate(shape[1:])
        )
        batch = shape[0]
        most = MAX_AUTO_BATCH if recipe.engine.dla is None else 1  # a DLA takes fixed shapes
        low, high = (batch, batch) if isinstance(batch, int) else (1, most)
        shapes[name] = ShapeRange((low, *rest), (low, *rest), (high, *rest))
        spelled = spell((low, *rest))
        report.decide(
            f"shapes of {name}", f"{spelled}, batch up to {high}", "dynamic, none were given"
        )
        ui.info(
            f"input {name}: built for {spelled}, batch {low} to {high}; "
            "--min-shapes/--opt-shapes/--max-shapes change it"
        )
    resolve_shapes(model, shapes)  # what the engine would refuse, before any work
    return shapes


def more_profiles(
    model: Model, recipe: Recipe, first: Mapping[str, ShapeRange]
) -> tuple[Mapping[str, ShapeRange], ...]:
    """Return the optimization profiles after the first; what one leaves out is as in the first.

    Raises:
        UsageError: a shape contradicts the model.
    """
    found = []
    for given in recipe.engine.more_shapes:
        shapes = {name: ShapeRange(s.min, s.opt, s.max) for name, s in given.items()}
        profile = {**first, **shapes}
        resolve_shapes(model, profile)
        found.append(profile)
    return tuple(found)
