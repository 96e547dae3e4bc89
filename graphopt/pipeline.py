"""The pipeline: the only module that sees everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from graphopt.bits import Bits, preview_bits, reduce_bits
from graphopt.calibrators.cache import write_cache
from graphopt.channels import ChannelAnalysis, PrunePlan
from graphopt.channels.allocation.limits import unmatched
from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.data.contact_sheet import contact_sheet
from graphopt.engines import Artifact, GpuCalibration
from graphopt.engines.releases import release_of, spell_version
from graphopt.engines.shapes import input_facts
from graphopt.engines.sidecar import write_sidecar
from graphopt.errors import GateError
from graphopt.files import write_bytes, write_text
from graphopt.linting import lint_model, say_lint
from graphopt.model import Model
from graphopt.optimize import Optimized, optimize, precision_of
from graphopt.outcome import Outcome
from graphopt.output import CACHE, CONTACT_SHEET, MODEL, RECIPE, TABLE, staged
from graphopt.plan import BuildPlan, Request
from graphopt.prepare import prepare
from graphopt.quantize_options import BLOCK_OPSET
from graphopt.recipe import Prune, Recipe
from graphopt.report import Report, origin
from graphopt.runtime import open_session

SIMULATED = "model.simulated.onnx"
ENGINE_STEM, TENSORRT = "model", "tensorrt"


def file_of(precision: str) -> str:
    """Return the name of the ONNX file that holds a model of that precision."""
    return f"model.{precision.replace('+', '-')}.onnx"


def build(request: Request, ui: Console | None = None) -> Report:
    """Do the whole job and return the report, which is also written to the output folder.

    Args:
        request: what to do, and where the results go.
        ui: where messages go; the terminal by default.

    Raises:
        GateError: a limit was not met; the files and the report are there all the same.
        GraphoptError: anything else; then nothing was written.
    """
    ui = ui or Console()
    report = Report(warnings=ui.warnings)
    with staged(request.out, force=request.force) as folder:
        plan = prepare(request, report, ui)
        request = plan.request
        done = optimize(plan.model, request.recipe, plan.align, report, ui, plan.aids)
        warn_of_pruning(plan, done, ui)
        files = _Files(folder, report, runnable=not plan.unrunnable)
        bits = reduce_bits(plan, done.model, report, ui)
        if bits is not None:
            done = replace(done, model=bits.base)
            request = replace(request, recipe=_found(request.recipe, bits))
            report.recipe = request.recipe.model_dump(mode="json")
        onnx = {"fp32": files.save_model("onnx-fp32", MODEL, done.model)}
        if done.plan is not None:
            files.save_text("prune-plan", "prune-plan.json", done.plan.to_json())
        if bits is not None:
            onnx[plan.precision] = files.save_bits(plan, bits)
        files.save_text("recipe", RECIPE, request.recipe.to_toml())
        files.save_pictures(plan.calibration or plan.evaluation)
        for_tensorrt = plan.engine.dialect == TENSORRT
        _mind_opset(plan, done.model if bits is None or plan.implicit else bits.model, ui)
        _mind_cache(plan, ui)
        wanted = request.recipe.quantize
        explicit = (wanted.int8 or wanted.weights) and not plan.implicit
        if bits is not None and explicit and for_tensorrt:
            with report.stage("lint"):
                found = lint_model(bits.model, plan.options)
            report.lint = found.to_json()
            say_lint(found, ui, meant=bits.found is not None and bool(bits.found.exclude))
        engine = None
        if request.build_engine:
            engine = _build_engine(plan, done.model, bits, onnx[plan.precision], report, ui)
        outcome = Outcome(plan, done, bits)
        outcome.measure(onnx, engine, report, ui)
        failure = outcome.gate(report)
        report.save(folder)
        if failure:
            raise GateError(failure)
    return report


def preview(request: Request, ui: Console) -> tuple[Report, Optimized]:
    """Do all that needs no calibration and writes nothing: ``--dry-run``.

    Raises:
        GraphoptError: what would stop the build too.
    """
    report = Report(warnings=ui.warnings)
    plan = prepare(request, report, ui)
    request = plan.request
    aids = replace(plan.aids, recover=False)
    done = optimize(plan.model, request.recipe, plan.align, report, ui, aids)
    warn_of_pruning(plan, done, ui)
    preview_bits(plan, done.model, report, ui)
    return report, done


def _found(recipe: Recipe, bits: Bits) -> Recipe:
    """Return the recipe with the layers a search left in floating point: to run again without."""
    return recipe.override({"quantize": {"exclude": bits.exclude or None}})


class _Files:
    """Saves into the staging folder and lists each file in the report."""

    def __init__(self, folder: Path, report: Report, *, runnable: bool) -> None:
        self.folder, self.report, self.runnable = folder, report, runnable

    def save_model(self, kind: str, name: str, model: Model) -> Path:
        """Save a model; ONNX Runtime must take the file as it lies there."""
        path = model.save(self.folder / name)
        if self.runnable:
            # As written: what ONNX Runtime's optimizer makes of another runtime's Q/DQ may be
            # invalid (from opset 21 on), and is never run.
            with open_session(path, optimize=False):
                pass
        self.report.add_artifact(kind, path)
        data = path.with_name(path.name + ".data")
        if data.exists():
            self.report.add_artifact(f"{kind}-data", data)
        return path

    def save_bits(self, plan: BuildPlan, bits: Bits) -> Path:
        """Save the model in fewer bits, with the ranges it was made with; return what ships."""
        shipped = self.folder / MODEL
        if plan.implicit:
            # For people to look at, and for compare: what ships is model.onnx and the cache.
            self.save_model("onnx-simulated", SIMULATED, bits.model)
        else:
            name = file_of(plan.precision)
            shipped = self.save_model(f"onnx-{plan.precision}", name, bits.model)
        if bits.table is not None:
            self.report.add_artifact("calibration-table", bits.table.save(self.folder / TABLE))
            if release_of(plan.cache_version).implicit:
                cache = write_cache(self.folder / CACHE, bits.table, version=plan.cache_version)
                self.report.add_artifact("calibration-cache", cache)
        return shipped

    def save_text(self, kind: str, name: str, text: str) -> None:
        """Save a text file."""
        self.report.add_artifact(kind, write_text(self.folder / name, text))

    def save_pictures(self, data: Dataset) -> None:
        """Save what the network is shown, where that is pictures."""
        sheet = contact_sheet(data)
        if sheet is not None:
            path = write_bytes(self.folder / CONTACT_SHEET, sheet)
            self.report.add_artifact("contact-sheet", path)


def warn_of_pruning(plan: BuildPlan, done: Optimized, ui: Console) -> None:
    """Say what was pruned, and why where it is less than asked."""
    wanted = plan.request.recipe.prune
    if done.plan is None or done.groups is None or not wanted.asked:
        return
    _say_unmatched(done.groups, wanted, ui)
    groups = done.plan.groups
    before, after = sum(g.before for g in groups), sum(g.after for g in groups)
    asked = f"--prune-to {wanted.to}" if wanted.to else f"--prune {wanted.ratio or 0:g}"
    asked = f"--plan {wanted.plan}" if wanted.plan else asked
    if not done.groups.groups:
        frozen = len(done.groups.frozen)
        ui.warn(
            f"{asked} removed nothing: no channel group can be pruned "
            f"({frozen} are frozen; graphopt inspect says by what)"
        )
        return
    if before == after:
        ui.warn(
            f"{asked} removed nothing: every width rounds up to what it was with "
            f"--align {done.plan.align}; try --align 1, or a larger ratio"
        )
        return
    goal = f"{100 * wanted.ratio:g} % asked" if wanted.ratio else f"asked: {asked}"
    if done.plan.reached is not None:
        what: str = done.plan.target.kind if done.plan.target is not None else "cost"
        if what == "latency":
            # A model without Q/DQ is taken to run in FP16 there.
            there = precision_of(plan.request.recipe, plan.device)
            what += f", an estimate in {there} on {plan.device.name},"
        goal += f"; {100 * done.plan.reached:.1f} % of {what} remain"
    ui.info(
        f"pruned {before} -> {after} channels in {len(groups)} groups "
        f"({100 * (1 - after / before):.1f} % removed, {goal})"
    )
    _say_widths(plan, done.plan, ui)


def _say_unmatched(groups: ChannelAnalysis, wanted: Prune, ui: Console) -> None:
    """Say which patterns name nothing, which most often is a typing error."""
    if wanted.plan is not None:
        return
    keep, ratios = unmatched(groups, wanted.keep, wanted.ratios)
    for pattern in keep:
        ui.warn(f"--keep {pattern} matches no prunable group, node or tensor")
    for pattern in ratios:
        ui.warn(f"[prune.ratios] '{pattern}' matches no prunable group, node or weight")


def _say_widths(plan: BuildPlan, pruned: PrunePlan, ui: Console) -> None:
    """Say which groups keep their width, and which widths give no speed."""
    groups = pruned.groups
    stuck = [g for g in groups if g.after == g.before and g.ratio > 0]
    rounded = [g.name for g in stuck if g.align > 1 and g.asked < g.before]
    few = [g.name for g in stuck if g.asked == g.before and g.floor < g.before]
    narrow = [
        g.name
        for g in groups
        if g.after == g.before and g.before < 2 * g.align and not g.note.startswith("kept by")
    ]
    rounded = [name for name in rounded if name not in narrow]
    for names, why in (
        (narrow, f"--align {pruned.align} leaves no smaller one (try --align 1)"),
        (rounded, f"--align {pruned.align} rounds up"),
        (few, "the ratio is less than one channel of them"),
    ):
        if names:
            ui.warn(
                f"{len(names)} of {len(groups)} groups keep their width, because {why}: "
                f"{', '.join(names[:4])}" + (" …" if len(names) > 4 else "")
            )
    slow = [f"{g.name}: {g.note}" for g in groups if g.removed and g.note]
    if slow and plan.device.sm is not None:
        ui.warn(
            f"{len(slow)} of {len(groups)} pruned widths give no speed on {plan.device.name}, such "
            f"as {slow[0]} (prune-plan.json has them all)"
        )


def _build_engine(
    plan: BuildPlan,
    model: Model,
    bits: Bits | None,
    onnx: Path,
    report: Report,
    ui: Console,
) -> Artifact:
    engine, folder = plan.engine, onnx.parent
    with report.stage(f"build-{engine.name}") as stage:
        shipped = model if bits is None or plan.implicit else bits.model
        options = replace(plan.options, say=ui.info)
        if bits is not None and plan.implicit:
            on_gpu = _calibration(plan)
            options = replace(options, implicit=None if on_gpu else bits.table, calibration=on_gpu)
        artifact = engine.build(shipped, folder / f"{ENGINE_STEM}{engine.suffix}", options)
        stage.facts = dict(artifact.facts)
    calibrated = bits is not None and bits.table is not None
    facts: dict[str, Any] = {
        **artifact.facts,
        "engine": engine.name,
        "inputs": input_facts(shipped),
        "dialect": engine.dialect if calibrated and not plan.implicit else None,
        **origin(folder, onnx, report.source, synthetic=report.synthetic),
    }
    report.add_artifact("engine", artifact.path)
    report.add_artifact("sidecar", write_sidecar(artifact.path, facts))
    for kind, path in artifact.files.items():
        report.add_artifact(kind, path)
    ui.info(f"build-{engine.name}: {artifact.path.name} ({stage.seconds:.2f} s)")
    return artifact


def _calibration(plan: BuildPlan) -> GpuCalibration | None:
    """Return the batches TensorRT is to calibrate on by itself, where that was asked for."""
    wanted, data = plan.request.recipe.quantize, plan.calibration
    if not wanted.gpu_calibration or data is None:
        return None
    method = "minmax" if (wanted.calibrator or "").startswith("minmax") else "entropy"
    first = next(iter(plan.shapes.values()), None)
    size = data.batch_size(1 if first is None else first.opt[0])
    whole = (b for b in data.batches(size) if all(len(v) == size for v in b.values()))
    return GpuCalibration(whole, method)


def _mind_opset(plan: BuildPlan, model: Model, ui: Console) -> None:
    """Say so where some TensorRT of the device does not parse what was written."""
    safe = plan.target.safe_opset
    if safe is not None and model.opset > safe:
        ui.warn(
            f"the model is of opset {model.opset}, and the oldest TensorRT for "
            f"{plan.device.name} parses up to {safe}: --trt-version names the one that it has"
        )
    elif plan.request.recipe.quantize.weights and safe is not None and safe < BLOCK_OPSET:
        ui.warn(
            f"integer weights need TensorRT 10, and {plan.device.name} may have an older one: "
            "--trt-version names the one that it has"
        )


def _mind_cache(plan: BuildPlan, ui: Console) -> None:
    """Say so where the TensorRT that is there may not take the calibration cache for its own."""
    if plan.implicit and not plan.request.build_engine and not plan.cache_is_sure:
        ui.warn(
            f"{CACHE} is headed for TensorRT {spell_version(plan.cache_version)}, and no other "
            "reads it: --trt-version names the one that is there (a bundle heads it by itself)"
        )
