"""What each verb of the command line does: turn flags into values, run, print."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.console import Console
from graphopt.errors import DataError, GateError, OutputExistsError, UsageError
from graphopt.files import dump_json, output_error, scratch_beside
from graphopt.output import REPORT
from graphopt.recipe import DEFAULT_SAMPLES, Recipe, parse_one_profile, parse_shapes
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.data import Dataset
    from graphopt.engines.trtexec.values import TrtexecSession
    from graphopt.graph import Shape
    from graphopt.model import Inputs
    from graphopt.verify import Runner

SAMPLES_BY_TRTEXEC = 64
"""``--samples`` by default where each batch is a run of trtexec, which loads the engine anew."""


def recipe_of(flags: Mapping[str, Any]) -> Recipe:
    """Lay the flags over the recipe file, or over the defaults."""
    base = Recipe.load(flags["recipe"]) if flags["recipe"] else Recipe()
    profiles = parse_shapes(flags["min_shapes"], flags["opt_shapes"], flags["max_shapes"])
    return base.override(
        {
            "prune": {
                "ratio": flags["prune"],
                "to": flags["prune_to"],
                "importance": flags["importance"],
                "allocation": flags["allocation"],
                "align": flags["align"],
                "floor": flags["floor"],
                "keep": flags["keep"] or None,
                "steps": flags["prune_steps"],
                "heads": flags["prune_heads"] or None,
                "plan": None if flags["plan"] is None else str(flags["plan"]),
            },
            "recover": {
                "method": flags["recover_with"],
                "original": None if flags["recover_from"] is None else str(flags["recover_from"]),
            },
            "weights": {
                "sparsity": flags["sparsity"],
                "sparsity_by": flags["sparsity_by"],
                "low_rank": flags["low_rank"],
            },
            "quantize": {
                "int8": flags["int8"] or None,
                "quantization": flags["quantization"],
                "gpu_calibration": flags["calibrate_on_gpu"] or None,
                "fp16": flags["fp16"] or None,
                "weights": flags["weights"],
                "block": flags["block"],
                "calibrator": flags["calibrator"],
                "table": None if flags["calibration"] is None else str(flags["calibration"]),
                "exclude": flags["exclude_nodes"] or None,
                "rounding": flags["rounding"],
                "bias": flags["bias"],
                "equalize": flags["equalize"],
                "smooth": flags["smooth"],
            },
            "data": {
                "calibration": flags["data"],
                "evaluation": flags["eval_spec"],
                "preprocess": flags["preprocess"],
                "samples": flags["samples"],
                "seed": flags["seed"],
                "synthetic": flags["synthetic"] or None,
                "memory": flags["memory"],
            },
            "engine": {
                "name": flags["engine"],
                "device": flags["device"],
                "host": flags["host"],
                "trtexec": flags["trtexec"],
                "tensorrt": flags["trt_version"],
                "dla": flags["dla"],
                "gpu_fallback": False if flags["no_gpu_fallback"] else None,
                "level": flags["builder_level"],
                "workspace": flags["workspace"],
                "timing_cache": None
                if flags["timing_cache"] is None
                else str(flags["timing_cache"]),
                "time_limit": flags["time_limit"],
                "shapes": profiles[0] if profiles else None,
                "more_shapes": profiles[1:] if profiles else None,
            },
            "gate": {"max_drop": flags["max_drop"], "min_sqnr": flags["min_sqnr"]},
        }
    )


def run_optimize(model: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt optimize``.

    Raises:
        UsageError: a flag says how to build an engine, and none is built.
    """
    for name in ("builder_level", "workspace", "timing_cache", "time_limit"):
        if flags[name] is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag} is about building, and optimize builds no engine: leave it out"
            )
    run_build(model, flags, ui, engine=False)


def run_build(model: Path, flags: dict[str, Any], ui: Console, *, engine: bool) -> None:
    """``graphopt build``; without an engine all of it but that.

    Raises:
        GateError: a limit was not met, after all was written, shown and published.
    """
    from graphopt.pipeline import build, preview
    from graphopt.plan import Request
    from graphopt.publish import check_outputs, publish
    from graphopt.runs import run_of_report

    out = flags["output"] or Path(f"{model.stem}-graphopt")
    read = [flags[name] for name in ("recipe", "calibration", "plan", "recover_from")]
    check_outputs(flags, inputs=[model, *read], folder=out)
    request = Request(model, recipe_of(flags), out, flags["force"], build_engine=engine)
    if flags["dry_run"]:
        _show_preview(*preview(request, ui), ui)
        return
    failure: GateError | None = None
    try:
        report = build(request, ui).to_json()
    except GateError as problem:
        failure, report = problem, json.loads((out / REPORT).read_text(encoding="utf-8"))
    if ui.json:
        ui.raw(dump_json(report))
    else:
        _show_report(report, out, ui)
    publish(run_of_report(report, verb="build" if engine else "optimize"), flags, ui)
    if failure is not None:
        raise failure


def _show_report(report: Mapping[str, Any], out: Path, ui: Console) -> None:
    from graphopt.report import Metric, summary_rows

    metrics = [Metric(m["name"], m["unit"], m["values"], m["note"]) for m in report["metrics"]]
    columns = list(dict.fromkeys(["before", "fp32", *(n for m in metrics for n in m.values)]))
    ui.table("", ["", *columns, "change"], summary_rows(metrics, columns))
    for note in dict.fromkeys(f"{m.name}: {m.note}" for m in metrics if m.note):
        ui.result(f"  {note}")
    if report["synthetic"]:
        ui.result("  SYNTHETIC calibration data: accuracy means nothing, do not ship this")
    for gate in report["gates"]:
        ui.result(f"  gate {gate['name']}: {gate['status']} ({_gate(gate)})")
    names = ", ".join(a["path"] for a in report["artifacts"])
    ui.result(f"wrote {one_line(out)}/: {names}, report.json")


def _gate(gate: Mapping[str, Any]) -> str:
    if gate["unit"] == "dB":
        value = "no error" if gate["value"] is None else f"{gate['value']:.2f} dB"
        return f"{gate['metric']} {value}, at least {gate['limit']:g}"
    return f"{gate['metric']} fell {gate['value']:.2f} points, limit {gate['limit']:g}"


def _show_preview(report: Any, done: Any, ui: Console) -> None:
    if ui.json:
        value = report.to_json()
        value["prune_plan"] = json.loads(done.plan.to_json()) if done.plan else None
        ui.raw(dump_json(value))
        return
    for decision in report.decisions:
        ui.result(f"{decision['what']}: {decision['value']} ({decision['reason']})")
    if done.plan is not None:
        rows = [[g.name, str(g.before), str(g.asked), str(g.after)] for g in done.plan.groups]
        ui.table("channels", ["group", "now", "asked", "kept"], rows)
    for stage in report.stages:
        for refusal in stage.skipped:
            ui.result(f"{stage.name} leaves {refusal['where']}: {refusal['reason']}")
    ui.result("dry run: nothing was written")


def run_inspect(path: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt inspect``."""
    from graphopt.calibrators.sources import is_table
    from graphopt.engines.header import is_engine
    from graphopt.inspection import inspect_engine, inspect_model
    from graphopt.verbs_calibrate import inspect_table

    if not os.path.exists(path):  # noqa: PTH110 - Path.exists() raises for a name too long
        raise UsageError(f"no such file: {path}")
    if path.name.lower().endswith((".tar.gz", ".tgz")):
        raise UsageError(
            f"{path} is an archive: unpack it with tar xzf, and inspect a file of it; a bundle "
            "tells what it is in manifest.json"
        )
    if is_engine(path):
        inspect_engine(path, ui)
        return
    if is_table(path):
        inspect_table(path, ui)
        return
    shapes = parse_one_profile(flags["min_shapes"], flags["opt_shapes"], flags["max_shapes"])
    inspect_model(path, flags["device"], shapes, ui)


def run_compare(a: Path, b: Path, flags: dict[str, Any], ui: Console) -> None:
    """``graphopt compare``."""
    from graphopt.engines.trtexec.engine import Trtexec
    from graphopt.opening import opened
    from graphopt.verify import BATCH, compare

    if not flags["data"]:
        raise DataError(
            "compare needs --data", hint="for example --data images/ --preprocess cifar"
        )
    batch = BATCH
    with ExitStack() as stack:
        session_a = stack.enter_context(opened(a, faithful=True, warn=ui.warn))
        if flags["host"] or flags["trtexec"]:
            engine = Trtexec(flags["host"], flags["trtexec"])
            there = stack.enter_context(
                engine.open(b, reference=session_a.inputs(), say=ui.info, warn=ui.warn)
            )
            few = {**flags, "samples": flags["samples"] or SAMPLES_BY_TRTEXEC}
            data = open_samples(few, common_inputs(session_a.inputs(), there.inputs()))
            data, run_b, batch = _by_trtexec(there, data, stack, ui)
        else:
            session_b = stack.enter_context(opened(b, faithful=True, warn=ui.warn))
            data = open_samples(flags, common_inputs(session_a.inputs(), session_b.inputs()))
            run_b = session_b.run
        ui.info(f"data: {data.summary()}")
        advance = stack.enter_context(ui.progress("comparing", len(data)))
        result = compare(session_a.run, run_b, data, batch=batch, progress=advance)
    if ui.json:
        ui.raw(dump_json(result.to_json()))
    else:
        for line in result.lines():
            ui.result(line)
    if flags["max_drop"] is not None:
        drop = result.drop_points()
        if drop is None:
            raise UsageError("--max-drop needs labels, or an output of class scores")
        if drop > flags["max_drop"] + 1e-9:
            raise GateError(f"fell by {drop:.2f} points; --max-drop allows {flags['max_drop']:g}")


def _by_trtexec(
    there: TrtexecSession, data: Dataset, stack: ExitStack, ui: Console
) -> tuple[Dataset, Runner, int]:
    """Return the samples that trtexec can be given, what runs each batch there, and its size.

    Many batches are run ahead in one job, so the samples are read twice.
    """
    from graphopt.engines.trtexec.values import told_digits

    batch = data.batch_size(there.batch)
    odd = len(data) % batch
    if odd < there.least and odd:
        if odd == len(data):
            raise DataError(
                f"the engine takes {there.least} samples at a time at least, and there are {odd}"
            )
        ui.info(f"the last {odd} samples are left out: the engine takes {there.least} at least")
        data = replace(data, indices=data.indices[:-odd])
    ui.info(f"{-(-len(data) // batch)} runs of {batch} samples; {told_digits()}")
    values = stack.enter_context(closing(there.values(data.batches(batch))))
    return data, lambda _: next(values), batch


def run_engines(ui: Console) -> None:
    """``graphopt engines``."""
    from graphopt.engines import ENGINES

    values = []
    for name in ENGINES.names():
        engine = ENGINES.load(name)()
        values.append(
            {
                "name": name,
                "version": engine.version(),
                "dialect": engine.dialect,
                "missing": engine.missing(),
                "cannot_run": engine.cannot_run(),
            }
        )
    if ui.json:
        ui.raw(dump_json(values))
        return
    for value in values:
        ui.result(f"{value['name']} {value['version'] or ''}".rstrip())
        ui.result(f"    build: {value['missing'] or 'here'}")
        ui.result(f"    run:   {value['cannot_run'] or 'here'}")


def run_doctor(flags: Mapping[str, Any], ui: Console) -> int:
    """``graphopt doctor``; returns the exit code."""
    from graphopt.engines.doctor import doctor, exit_code

    findings = doctor(flags["host"], trtexec=flags["trtexec"] or "")
    if ui.json:
        ui.raw(dump_json([asdict(finding) for finding in findings]))
        return exit_code(findings)
    place = ""
    for finding in findings:
        if flags["host"] and finding.place != place:
            place = finding.place
            ui.result(f"{place}:")
        ui.result(f"{finding.status:10}{finding.name:20}{finding.detail}")
        if finding.remedy:
            ui.result(f"{'':30}-> {finding.remedy}")
    return exit_code(findings)


def run_schema(name: str | None, ui: Console) -> None:
    """``graphopt schema``."""
    from graphopt import schemas

    if name is not None:
        ui.raw(schemas.text(name))
        return
    known = [(each, schemas.load(each)["title"]) for each in schemas.names()]
    if ui.json:
        ui.raw(dump_json(dict(known)))
        return
    ui.table("", ["name", "what"], [list(row) for row in known])


def refuse_overwrite(path: Path, force: bool, *, keep: Sequence[Path] = ()) -> None:
    """Refuse, before any work, an output file that exists (unless ``--force``) or cannot be made.

    Args:
        path: the file to write.
        force: it may exist.
        keep: files that are read, and never overwritten.

    Raises:
        OutputExistsError: it exists, is a folder, or is one of ``keep``.
        OutputError: it cannot be made.
    """
    try:
        if path.is_dir():
            raise OutputExistsError(f"{path} is a folder: name a file in it")
        if any(path.exists() and other.exists() and path.samefile(other) for other in keep):
            raise OutputExistsError(f"{path} is what is read: use another name for the output")
        if path.exists() and not force:
            raise OutputExistsError(f"{path} exists; use --force or another name")
        with scratch_beside(path):
            pass
    except OSError as problem:
        raise output_error(path, problem) from problem


def common_inputs(a: Inputs, b: Inputs) -> Inputs:
    """Return what both take: A's inputs, with sizes fixed that B fixes (its batch, often)."""
    common: dict[str, tuple[Any, Shape]] = {}
    for name, (dtype, shape) in a.items():
        other = b.get(name, (dtype, shape))[1]
        if len(other) == len(shape):
            shape = tuple(s if isinstance(s, int) else o for s, o in zip(shape, other, strict=True))
        common[name] = (dtype, shape)
    return common


def open_samples(flags: Mapping[str, Any], inputs: Inputs) -> Dataset:
    """Open the samples that ``--data`` and its companions name."""
    from graphopt.data import open_data
    from graphopt.data.preprocess import load_preprocess

    preprocess = load_preprocess(flags["preprocess"]) if flags["preprocess"] else None
    return open_data(
        flags["data"],
        inputs,
        preprocess=preprocess,
        limit=flags["samples"] or DEFAULT_SAMPLES,
        seed=flags["seed"] or 0,
    )
