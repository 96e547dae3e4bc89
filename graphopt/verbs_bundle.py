"""What ``graphopt bundle`` and ``graphopt import-results`` do: for devices one cannot reach."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.errors import GateError, UsageError
from graphopt.files import dump_json, scratch_beside
from graphopt.output import RECIPE, REPORT
from graphopt.recipe import Recipe
from graphopt.verbs import recipe_of, refuse_overwrite
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.bundle.pack import Bundle

TRUST = (
    "an engine is code that runs on your GPU: load this one only if you trust whoever built it, "
    "for no check can tell a harmful one"
)


def run_bundle(model: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt bundle``."""
    from graphopt.bundle.pack import bundle_name, check_request, pack
    from graphopt.profiles import load_device

    recipe = recipe_of(flags)
    _refuse_reaching(recipe)
    if os.path.isdir(model):  # noqa: PTH112 - Path.is_dir() raises for a name too long
        _bundle_folder(model, recipe, flags, ui)
        return
    if not os.path.exists(model):  # noqa: PTH110 - Path.exists() raises for a name too long
        raise UsageError(f"no such file: {model}")
    check_request(model, recipe)
    device = load_device(recipe.engine.device)
    out = flags["output"] or Path(f"{bundle_name(model.name, device.name)}.tar.gz")
    if flags["dry_run"]:
        from graphopt.verbs import run_build

        run_build(model, {**flags, "output": None}, ui, engine=False)
        return
    refuse_overwrite(out, flags["force"], keep=[model])
    failure = None
    with scratch_beside(out) as scratch:
        folder = scratch / "build"
        failure = _optimize(model, recipe, folder, ui)
        bundle = pack(folder, out)
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    _show(bundle, report, ui)
    if failure is not None:
        raise failure


def run_import_results(results: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt import-results``."""
    from graphopt.bundle.take import import_results

    bundle: Path = flags["bundle"]
    out: Path = flags["output"] or Path(f"{_stem(bundle)}-graphopt")
    taken = import_results(results, bundle, out, force=flags["force"])
    for warning in taken.warnings:
        ui.warn(warning)
    ui.warn(TRUST)
    if ui.json:
        ui.raw(dump_json(dict(taken.report)))
        return
    told = taken.results.told
    where = " ".join((told.get("model") or told.get("gpu") or "the device").split())
    version = ".".join(map(str, taken.results.version))
    ui.result(f"built on {one_line(where, 80)}, TensorRT {version}, from this bundle")
    if taken.latency is not None:
        profile = taken.latency
        row = [f"{profile.mean:.3f}", *(f"{profile.percentile(q):.3f}" for q in (50, 90, 99))]
        ui.table(
            f"{taken.engine.name}, batch {profile.batch}, {len(profile.samples_ms)} runs",
            ["", "mean ms", "p50", "p90", "p99", "items/s"],
            [["latency", *row, f"{profile.throughput:.1f}"]],
        )
    names = ", ".join(a["path"] for a in taken.report["artifacts"])
    ui.result(f"wrote {out}/: {names}, report.json")


def _refuse_reaching(recipe: Recipe) -> None:
    """Refuse options that only a build with the device at hand can heed."""
    wanted = recipe.engine
    for flag, given, instead in (
        ("--host", wanted.host, "graphopt build --host builds on a device that can be reached"),
        ("--trtexec", wanted.trtexec, "build.sh takes --trtexec on the device"),
        ("--timing-cache", wanted.timing_cache, "build.sh keeps one beside the engine"),
        (
            "--calibrate-on-gpu",
            recipe.quantize.gpu_calibration,
            "it wants the samples on the GPU, and a bundle has none",
        ),
    ):
        if given:
            raise UsageError(f"a bundle has no {flag}: {instead}")


def _optimize(model: Path, recipe: Recipe, folder: Path, ui: Console) -> GateError | None:
    """Do all of a build but the engine; a limit that was not met is told at the end."""
    from graphopt.pipeline import build
    from graphopt.plan import Request

    try:
        build(Request(model, recipe, folder, build_engine=False), ui)
    except GateError as problem:
        return problem
    return None


def _bundle_folder(folder: Path, asked: Recipe, flags: Mapping[str, Any], ui: Console) -> None:
    """Bundle what an earlier build or optimize left: its options are in its recipe."""
    from graphopt.bundle.pack import bundle_name, pack
    from graphopt.engines.sidecar import read_json
    from graphopt.profiles import load_device

    made = Recipe.load(folder / RECIPE) if (folder / RECIPE).is_file() else Recipe()
    device = load_device(made.engine.device)
    if asked.engine.device != Recipe().engine.device:
        wanted = load_device(asked.engine.device)
        if wanted.name != device.name:
            raise UsageError(
                f"{folder} was made for {device.name}, and how a model is written depends on the "
                f"device: bundle the model itself with --device {wanted.name}"
            )
    rest = asked.model_copy(
        update={"engine": asked.engine.model_copy(update={"device": Recipe().engine.device})}
    )
    if rest != Recipe():
        raise UsageError(
            f"{folder} is the output of a build, whose options are settled: give --device, -o and "
            "--force only, or the model"
        )
    if flags["dry_run"]:
        raise UsageError("--dry-run says what a build would do, and this one is done")
    name = "model"
    if (folder / REPORT).is_file():
        report = read_json(folder / REPORT, "report written by graphopt")
        source = report.get("source") if isinstance(report, dict) else None
        name = str(source.get("name", name)) if isinstance(source, dict) else name
    out = flags["output"] or Path(f"{bundle_name(name, device.name)}.tar.gz")
    refuse_overwrite(out, flags["force"])
    bundle = pack(folder, out)
    _show(bundle, json.loads((folder / REPORT).read_text(encoding="utf-8")), ui)


def _show(bundle: Bundle, report: Mapping[str, Any], ui: Console) -> None:
    if report.get("synthetic"):
        ui.warn("SYNTHETIC calibration data: accuracy means nothing, do not ship this")
    if ui.json:
        ui.raw(dump_json({**bundle.manifest.value, "sha256": bundle.manifest.digest}))
        return
    rows = [
        [line.name, "refused: " + line.refused if line.refused else _flags(line.build)]
        for line in bundle.theirs
    ]
    ui.table("", ["TensorRT", "what build.sh gives trtexec"], rows)
    size = bundle.path.stat().st_size / 1e6
    ui.result(f"wrote {bundle.path} ({size:.2f} MB), for {bundle.manifest.device}")
    name = bundle.manifest.name
    ui.result(f"there: tar xzf {_word(bundle.path.name)} && cd {name} && sh build.sh")
    ui.result(
        f"then here: graphopt import-results {bundle.manifest.value['results']} "
        f"--bundle {shlex.quote(str(bundle.path))}"
    )


def _flags(words: tuple[str, ...]) -> str:
    """Return the words that differ from one model to the next: those that choose."""
    from graphopt.bundle.lines import by_name

    dull = ("--onnx", "--saveEngine", "--timingCacheFile", "--profilingVerbosity")
    return " ".join(by_name(w) for w in words if not w.startswith(dull))


def _word(name: str) -> str:
    """Return the name of a file as a shell and a program want it."""
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def _stem(path: Path) -> str:
    for ending in (".tar.gz", ".tgz"):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)] or "results"
    return path.stem or "results"
