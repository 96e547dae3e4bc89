"""Looking at one file: what a model is made of and what can be done with it; what an engine is."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.channels import analyze
from graphopt.console import Console
from graphopt.cost import cost
from graphopt.engines import ENGINES, BuildOptions, Engine, ShapeRange
from graphopt.engines.header import EngineHeader, identify
from graphopt.engines.safety import TRUST, here, reasons_against
from graphopt.engines.shapes import resolve_shapes
from graphopt.engines.sidecar import check_sidecar, find_sidecar, read_json, sidecar_path
from graphopt.errors import GraphoptError, UnsupportedModelError, UsageError
from graphopt.files import dump_json, sha256
from graphopt.graph import QUANTIZE_OPS, is_op, is_standard, walk
from graphopt.linting import lint_model
from graphopt.model import Model
from graphopt.optimize import optimize
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.profiles import load_device
from graphopt.quantize import placeholder_table, wanted_tensors
from graphopt.recipe import Recipe
from graphopt.report import Report, human
from graphopt.wording import counted, one_line, spell


def inspect_engine(path: Path, ui: Console) -> None:
    """Print what an engine's first bytes and its sidecar tell, and whether it would load here.

    It is read, hashed and never loaded.
    """
    header = identify(path)
    problems: list[str] = []
    side: dict[str, Any] | None = None
    try:
        side = find_sidecar(path)
    except UsageError as problem:
        problems.append(str(problem))
    if side is not None:
        problems += check_sidecar(path)
    loads, why_not = _loads_here(path, header)
    value: dict[str, Any] = {
        "file": path.name,
        "bytes": header.size,
        "sha256": sha256(path),
        "runtime": header.kind,
        "runtime_version": header.version,
        "version_is_sure": header.sure,
        "serialization": header.serialization,
        "sidecar": side,
        "problems": problems,
        "loads_here": loads,
        "why_not": why_not,
        "layers": _layers_beside(path),
        "trust": TRUST,
    }
    if ui.json:
        ui.raw(dump_json(value))
        return
    _print_engine(value, path, ui)


def _loads_here(path: Path, header: EngineHeader) -> tuple[bool, list[str]]:
    """Return whether nothing speaks against loading it on this machine, and what does."""
    engine: Engine = ENGINES.load(header.kind)()
    reasons = [why for why in (engine.missing() or engine.cannot_run(),) if why]
    reasons += reasons_against(path, here(engine))
    return not reasons, reasons


def _layers_beside(path: Path) -> dict[str, Any] | None:
    """Return the file of layer information beside an engine, and how many layers it tells of."""
    file = path.with_name(f"{path.name}.layers.json")
    if not file.is_file():
        return None
    try:
        value = read_json(file, "list of layers")
    except UsageError as problem:
        return {"file": file.name, "count": None, "problem": str(problem)}
    layers = value.get("Layers") if isinstance(value, dict) else None
    return {"file": file.name, "count": len(layers) if isinstance(layers, list) else None}


def _print_engine(value: Mapping[str, Any], path: Path, ui: Console) -> None:
    version = value["runtime_version"] or "unknown"
    if value["runtime_version"] and not value["version_is_sure"]:
        version += " as it seems (bytes 24 to 26 of a header of another layout)"
    ui.result(
        f"{path.name}: {value['runtime']} engine, version {version}, "
        f"{human(value['bytes'], 'bytes')}"
    )
    for problem in value["problems"]:
        ui.warn(one_line(problem))
    if value["loads_here"]:
        ui.result("would load here, as far as its header and its sidecar tell")
    for reason in value["why_not"]:
        if reason not in value["problems"]:
            ui.result(f"would not load here: {one_line(reason)}")
    layers = value["layers"]
    if layers is not None:
        count = "" if layers["count"] is None else f", {counted(layers['count'], 'layer')}"
        ui.result(f"layers: {layers['file']}{count}")
    if value["sidecar"] is None:
        ui.result(f"no sidecar ({sidecar_path(path).name}): where it came from is not known")
    for key, item in (value["sidecar"] or {}).items():
        if item not in (None, {}, [], ""):
            ui.result(f"  {one_line(key, 60)}: {one_line(_plain(item), 1000)}")
    ui.result(value["trust"])


def _plain(item: Any) -> str:
    """Return a sidecar's value as people and shells write it."""
    if isinstance(item, list) and all(isinstance(each, str) for each in item):
        return shlex.join(item)
    return item if isinstance(item, str) else json.dumps(item, sort_keys=True)


def inspect_model(
    path: Path, device_name: str, shapes: Mapping[str, Mapping[str, Any]], ui: Console
) -> None:
    """Print what a model is, what can be pruned and quantized, and what TensorRT says of it."""
    model = Model.load(path)
    device = load_device(device_name)
    ranges = _ranges(model, shapes)
    resolve_shapes(model, ranges)  # refuses names and sizes that are not the model's
    opt = {name: tuple(s["opt"]) for name, s in shapes.items()}
    value = _facts(path, model)
    quiet = Console(verbosity=-1)
    recipe = Recipe.from_dict({"quantize": {"int8": not value["quantized"]}})
    folded = model
    try:
        folded = optimize(model, recipe, 1, Report(), quiet).model
    except UnsupportedModelError as problem:
        value["cannot_optimize"] = str(problem)
    # As given, a model may compute its shapes; simplified, it says them.
    total = cost(folded, opt)
    value |= {"macs": total.macs, "macs_unknown": list(total.unknown)}
    groups = analyze(folded)
    value["groups"] = [{"name": g.name, "width": g.width} for g in groups.groups]
    value["frozen"] = [
        {"name": g.name, "width": g.width, "reasons": list(g.reasons)} for g in groups.frozen
    ]
    value["quantizable"], value["left_in_fp32"] = _quantizable(folded, value["quantized"])
    value["tensorrt_refuses"] = _refused(folded, BuildOptions(device, ranges))
    found = lint_model(model, BuildOptions(device, ranges)) if value["quantized"] else None
    value["lint"] = None if found is None else found.to_json()
    if ui.json:
        ui.raw(dump_json(value))
        return
    _print(value, ui)
    if found is not None:
        for line in found.lines(verbose=ui.verbosity > 0):
            ui.result(line)


def _facts(path: Path, model: Model) -> dict[str, Any]:
    tensors = [*model.graph.inputs, *model.graph.outputs]
    spelled = {t.name: f"{t.dtype} {spell(t.shape)}" for t in tensors}
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "digest": model.digest(),
        "opset": model.opset,
        "ir_version": model.graph.ir_version,
        "producer": " ".join(
            filter(None, [model.graph.producer_name, model.graph.producer_version])
        ),
        "inputs": {t.name: spelled[t.name] for t in model.graph.inputs},
        "outputs": {t.name: spelled[t.name] for t in model.graph.outputs},
        "parameters": model.parameters(),
        "ops": dict(sorted(Counter(n.op for n in walk(model.graph)).items())),
        "custom_ops": sorted(
            {f"{n.domain}:{n.op}" for n in walk(model.graph) if not is_standard(n)}
        ),
        "quantized": any(is_op(n, *QUANTIZE_OPS) for n in model.graph.nodes),
    }


def _quantizable(model: Model, quantized: bool) -> tuple[dict[str, int], list[dict[str, str]]]:
    if quantized:
        return {}, []
    try:
        table = placeholder_table(model, wanted_tensors(model, ()))
        result = InsertQDQ(dialect="tensorrt", table=table)(model)
    except GraphoptError as problem:
        return {}, [{"where": "model", "reason": str(problem)}]
    ops = {n.name: n.op for n in model.graph.nodes}
    counts = Counter(ops.get(c.where, "?") for c in result.changes if c.kind == "quantized")
    return dict(sorted(counts.items())), [
        {"where": s.where, "reason": s.reason} for s in result.skipped
    ]


def _ranges(model: Model, shapes: Mapping[str, Mapping[str, Any]]) -> dict[str, ShapeRange]:
    ranges = {
        name: ShapeRange(tuple(s["min"]), tuple(s["opt"]), tuple(s["max"]))
        for name, s in shapes.items()
    }
    for name, (_, shape) in model.inputs().items():
        if name not in ranges and not all(isinstance(d, int) for d in shape):
            one = tuple(d if isinstance(d, int) else 1 for d in shape)
            ranges[name] = ShapeRange(one, one, one)
    return ranges


def _refused(model: Model, options: BuildOptions) -> dict[str, Any]:
    for name in ("tensorrt", "tensorrt-rtx"):
        engine = ENGINES.load(name)()
        if engine.missing() is None:
            return {"checked_with": name, "errors": engine.refuses(model, options)}
    return {"checked_with": None, "errors": [], "missing": 'pip install "graphopt[rtx]"'}


def _print(value: Mapping[str, Any], ui: Console) -> None:
    by = f", by {value['producer']}" if value["producer"] else ""
    ui.result(
        f"{value['file']}: opset {value['opset']}, IR {value['ir_version']}{by}, "
        f"{human(value['bytes'], 'bytes')}"
    )
    for kind in ("inputs", "outputs"):
        for name, spelled in value[kind].items():
            ui.result(f"  {kind[:-1]} {name}: {spelled}")
    ui.result(
        f"  parameters {human(value['parameters'], '')}, MACs {human(value['macs'], '')}"
        + (
            f" ({len(value['macs_unknown'])} nodes of unknown shape)"
            if value["macs_unknown"]
            else ""
        )
    )
    ui.result("  ops: " + ", ".join(f"{n} {op}" for op, n in value["ops"].items()))
    if value["custom_ops"]:
        ui.result("  custom ops, left as they are: " + ", ".join(value["custom_ops"]))
    if "cannot_optimize" in value:
        ui.result(f"  cannot be optimized: {value['cannot_optimize']}")
    rows = [[g["name"], str(g["width"]), ""] for g in value["groups"]]
    rows += [[g["name"], str(g["width"]), "; ".join(g["reasons"])] for g in value["frozen"]]
    ui.table(
        f"channel groups: {len(value['groups'])} can be pruned, {len(value['frozen'])} frozen",
        ["group", "width", "frozen by"],
        rows,
    )
    if value["quantized"]:
        ui.result("quantized already: carries Q/DQ")
    else:
        counts = ", ".join(f"{n} {op}" for op, n in value["quantizable"].items()) or "nothing"
        ui.result(f"INT8 would quantize: {counts}")
        for left in value["left_in_fp32"]:
            ui.result(f"  fp32 {left['where']}: {left['reason']}")
    refused = value["tensorrt_refuses"]
    if refused["checked_with"] is None:
        ui.result(f"TensorRT's parser was not asked: {refused['missing']}")
    elif refused["errors"]:
        ui.result(f"{refused['checked_with']} refuses it, simplified:")
        for error in refused["errors"]:
            ui.result(f"  {error}")
    else:
        ui.result(f"{refused['checked_with']} parses it, simplified")
