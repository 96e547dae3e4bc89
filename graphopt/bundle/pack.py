"""A bundle from the output folder of a build: what a device needs to do the rest by itself."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import graphopt
from graphopt.bundle.archive import write_archive
from graphopt.bundle.contents import Contents
from graphopt.bundle.lines import Line, lines
from graphopt.bundle.manifest import KIND, MANIFEST, SCHEMA, SUMS, Manifest, describe, sums
from graphopt.bundle.script import RESULTS, SCRIPT, render
from graphopt.calibrators import CalibrationTable
from graphopt.calibrators.cache import DEFAULT_ALGORITHM, read_cache
from graphopt.engine_options import build_options, check_recipe
from graphopt.engines import ENGINES, BuildOptions, ShapeRange
from graphopt.engines.releases import spell_version
from graphopt.engines.shapes import to_json
from graphopt.engines.sidecar import read_json
from graphopt.errors import UsageError
from graphopt.files import dump_json, scratch_beside, sha256, write_text
from graphopt.output import CACHE, RECIPE, REPORT, TABLE
from graphopt.profiles import DeviceProfile, load_device
from graphopt.recipe import Recipe, Shapes

README = "README.txt"
_SIMULATED, _DIALECT = "onnx-simulated", "tensorrt"
_ENGINES = ("tensorrt", "trtexec")
# What a build on the device needs besides the model: the engine, its log, a timing cache.
_ROOM_BYTES, _ROOM_TIMES = 64 << 20, 3

_README = """\
{name}: an ONNX model for {title}, to be built into a TensorRT engine there.

    sh build.sh

build.sh needs trtexec, which comes with TensorRT, and nothing else: no Python, no network. It
installs nothing and writes into the folder out. sh build.sh --help tells more.

Take out/{results} back, and where graphopt is:

    graphopt import-results {results} --bundle THE-BUNDLE.tar.gz

where THE-BUNDLE.tar.gz is the archive that this folder was unpacked from.
Files are checked against manifest.sha256; manifest.json tells what each is. Made by graphopt
{version}.
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was packed.

    Attributes:
        path: the archive.
        manifest: what is in it.
        lines: what each TensorRT is given, or why it cannot build the model.
        theirs: the lines of them that the device may have.
    """

    path: Path
    manifest: Manifest
    lines: tuple[Line, ...]
    theirs: tuple[Line, ...]


def bundle_name(model: str, device: str) -> str:
    """Return the folder a bundle unpacks into: plain letters, whatever the model is called."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).stem).strip("-._")[:60] or "model"
    return f"{stem}-{re.sub(r'[^a-z0-9.-]', '-', device)}"[:99].rstrip("-.")


def needs_nvidia(device: DeviceProfile) -> None:
    """Refuse a device without an NVIDIA GPU.

    Raises:
        UsageError: there is no TensorRT for it.
    """
    if device.sm is None:
        raise UsageError(
            f"a bundle builds a TensorRT engine, and {device.name} is no NVIDIA GPU: name the "
            "device with --device (graphopt devices lists them)"
        )


def check_request(model: Path, recipe: Recipe) -> None:
    """Refuse, before any work, what no TensorRT of the device could be asked for.

    Raises:
        UsageError: the engine is not TensorRT, or the options are none of theirs.
        ModelFormatError: the file is no model.
    """
    check_recipe(recipe)
    name = recipe.engine.name
    if name != "auto" and ENGINES.canonical(name) not in _ENGINES:
        raise UsageError(
            f"a bundle is built by TensorRT's trtexec, and not by {name}: leave --engine out"
        )
    device = load_device(recipe.engine.device)
    needs_nvidia(device)
    # What its file holds is not known yet, and is looked at when it is.
    contents = replace(Contents.read(model), opset=1, qdq=False, fp16=False, int8_weights=False)
    options = _options(recipe, device, "fp32", None, replace(contents, int4_weights=False))
    _check_device(tuple(lines(contents, options)), device)


def pack(folder: Path, out: Path) -> Bundle:
    """Pack the results of a build or an optimize into a bundle, atomically.

    The same folder gives the same bytes. What was timed on the machine that made it is left out.

    Args:
        folder: the output folder; it needs no engine.
        out: the archive.

    Raises:
        UsageError: it is no such folder, its files are not what its report says, or no TensorRT of
            the device can build the model.
        OutputError: the archive cannot be written.
    """
    report = _report(folder)
    recipe = Recipe.load(folder / RECIPE)
    device = _device_of(folder, recipe)
    kinds = {str(a["kind"]): str(a["path"]) for a in report["artifacts"]}
    implicit = _SIMULATED in kinds
    kind = (
        "onnx-fp32" if implicit else [k for k in kinds if re.fullmatch(r"onnx-[a-z0-9+]+", k)][-1]
    )
    onnx = folder / kinds[kind]
    contents = Contents.read(onnx)
    precision = "int8" if implicit else kind.removeprefix("onnx-")
    options = _options(recipe, device, precision, folder if implicit else None, contents)
    found = tuple(lines(contents, options))
    _check_device(found, device)
    files = _taken(onnx, contents, implicit)
    with scratch_beside(out) as scratch:
        bundled = _bundled(report, set(files))
        written = {
            REPORT: ("what was done and measured", dump_json(bundled)),
            SCRIPT: ("builds, times and packs on the device", _script(files, found, options, onnx)),
        }
        name = bundle_name(str(report["source"].get("name", "model")), device.name)
        written[README] = (
            "how to use it",
            _README.format(
                name=name,
                title=device.title or device.name,
                results=RESULTS,
                version=graphopt.__version__,
            ),
        )
        for file, (what, text) in written.items():
            files[file] = (what, write_text(scratch / file, text))
        value = {
            **_told_of_model(recipe, device, contents, options),
            "name": name,
            "source": report["source"],
            "onnx": onnx.name,
            "tensorrt": [_told(line) for line in found],
            "files": describe(files),
        }
        manifest = write_text(scratch / MANIFEST, dump_json(value))
        digest = sha256(manifest)
        packed = {name: path for name, (_, path) in files.items()}
        packed[MANIFEST] = manifest
        packed[SUMS] = write_text(scratch / SUMS, sums(value, digest))
        write_archive(out, packed, folder=name)
    return Bundle(out, Manifest(value, digest), found, _of_device(found, device))


def _taken(onnx: Path, contents: Contents, implicit: bool) -> dict[str, tuple[str, Path]]:
    """Return name -> what it is, and where, of the files that go as they are."""
    folder = onnx.parent
    files = {onnx.name: ("the model that is built", onnx)}
    for name in contents.data:
        if name != f"{onnx.name}.data" or not (folder / name).is_file():
            raise UsageError(f"{onnx} keeps weights in {name!r}, which is not beside it")
        files[name] = ("weights of the model", folder / name)
    for name, what in (
        (CACHE, "ranges for TensorRT" if implicit else None),
        (TABLE, "ranges, as graphopt reads them"),
        (RECIPE, "how the model was made"),
    ):
        if what is not None and (folder / name).is_file():
            files[name] = (what, folder / name)
    return files


def _device_of(folder: Path, recipe: Recipe) -> DeviceProfile:
    """Return the device an output folder was made for.

    Raises:
        UsageError: it was not made for one whose TensorRT can build it from a bundle.
    """
    if recipe.engine.host and recipe.engine.device == Recipe().engine.device:
        raise UsageError(
            f"{folder} was made for the machine that --host named: bundle the model itself, and "
            "name the device with --device"
        )
    if recipe.quantize.gpu_calibration:
        raise UsageError(
            f"{folder} was made with --calibrate-on-gpu, which wants the samples on the GPU, and a "
            "bundle has none: make it again without"
        )
    device = load_device(recipe.engine.device)
    needs_nvidia(device)
    if recipe.engine.name != "auto" and ENGINES.load(recipe.engine.name).dialect != _DIALECT:
        raise UsageError(
            f"{folder} was made for the engine {recipe.engine.name}: a bundle is for TensorRT"
        )
    return device


def _told_of_model(
    recipe: Recipe, device: DeviceProfile, contents: Contents, options: BuildOptions
) -> dict[str, Any]:
    """Return what a manifest tells of the model and what it is for."""
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "graphopt": graphopt.__version__,
        "device": json.loads(dump_json(device.to_json())),
        "precision": options.precision,
        "quantization": recipe.quantize.quantization if recipe.quantize.int8 else None,
        "opset": contents.opset,
        "inputs": {n: [d, s] for n, (d, s) in contents.inputs.items()},
        "outputs": {n: [d, s] for n, (d, s) in contents.outputs.items()},
        "profiles": [to_json(profile) for profile in options.profiles if profile],
        "dla": options.dla,
        "results": RESULTS,
    }


def _report(folder: Path) -> dict[str, Any]:
    """Return the report of an output folder whose files are what it says.

    Raises:
        UsageError: it is none.
    """
    if not (folder / REPORT).is_file() or not (folder / RECIPE).is_file():
        raise UsageError(
            f"{folder} is not the output of graphopt build or optimize: it has no "
            f"{REPORT if not (folder / REPORT).is_file() else RECIPE}"
        )
    report = read_json(folder / REPORT, "report written by graphopt")
    try:
        if report["kind"] != "graphopt-report":
            raise ValueError("it is of another kind")
        listed = [(str(a["path"]), str(a["sha256"]), str(a["kind"])) for a in report["artifacts"]]
        if not any(kind == "onnx-fp32" for _, _, kind in listed):
            raise ValueError("it lists no model")
        if not isinstance(report["source"], dict):
            raise ValueError("it has no source")
    except (KeyError, TypeError, ValueError) as problem:
        raise UsageError(f"{folder / REPORT} is not a report of graphopt: {problem}") from problem
    for name, digest, kind in listed:
        if kind in ("engine", "sidecar"):
            continue
        if Path(name).name != name or not (folder / name).is_file():
            raise UsageError(f"{folder} lacks {name!r}, which its report lists: build it again")
        if sha256(folder / name) != digest:
            raise UsageError(f"{folder / name} was changed after the build: build it again")
    return dict(report)


def _options(
    recipe: Recipe,
    device: DeviceProfile,
    precision: str,
    implicit: Path | None,
    contents: Contents,
) -> BuildOptions:
    """Return what the build on the device is told; ``implicit`` is where table and cache lie."""
    table = None
    if implicit is not None:
        table = CalibrationTable.load(implicit / TABLE)
        header, _ = read_cache(implicit / CACHE)
        if header.algorithm != DEFAULT_ALGORITHM:
            raise UsageError(
                f"{implicit / CACHE} is of {header.algorithm}: trtexec reads {DEFAULT_ALGORITHM}"
            )
    shapes = _ranges(recipe.engine.shapes)
    options = replace(
        build_options(recipe, device),
        shapes=shapes,
        more_shapes=tuple({**shapes, **_ranges(s)} for s in recipe.engine.more_shapes),
        precision=precision,
        implicit=table,
        fp16=recipe.quantize.fp16 and not contents.fp16,
    )
    unknown = sorted({n for profile in options.profiles for n in profile} - set(contents.inputs))
    if unknown:
        raise UsageError(
            f"'{unknown[0]}' is given shapes, and is no input of the model; its inputs: "
            f"{', '.join(contents.inputs)}"
        )
    return options


def _ranges(shapes: Mapping[str, Shapes]) -> dict[str, ShapeRange]:
    return {name: ShapeRange(s.min, s.opt, s.max) for name, s in shapes.items()}


def _check_device(found: tuple[Line, ...], device: DeviceProfile) -> None:
    """Refuse a bundle that no TensorRT of its device could build.

    Raises:
        UsageError: the reason the nearest one has.
    """
    theirs = _of_device(found, device)
    if all(line.refused for line in theirs):
        raise UsageError(
            f"no TensorRT of {device.title or device.name} builds this model: TensorRT "
            f"{theirs[-1].name}: {theirs[-1].refused}"
        )


def _of_device(found: tuple[Line, ...], device: DeviceProfile) -> tuple[Line, ...]:
    return tuple(line for line in found if _is_of(line, found, device)) or found


def _is_of(line: Line, found: tuple[Line, ...], device: DeviceProfile) -> bool:
    at = found.index(line)
    following = found[at + 1].since if at + 1 < len(found) else None
    oldest, newest = device.oldest_tensorrt, device.newest_tensorrt
    return not (
        (oldest is not None and following is not None and following <= oldest)
        or (newest is not None and line.since > newest)
    )


def _script(
    files: Mapping[str, tuple[str, Path]],
    found: tuple[Line, ...],
    options: BuildOptions,
    onnx: Path,
) -> str:
    weights = sum(path.stat().st_size for name, (_, path) in files.items() if onnx.name in name)
    return render(
        found,
        onnx=onnx.name,
        cache=CACHE if options.implicit is not None else "",
        device=options.device.name,
        versions=options.device.tensorrt_versions,
        need_kb=(_ROOM_TIMES * weights + _ROOM_BYTES) // 1024,
        limit_s=math.ceil(options.time_limit_s or 0),
    )


def _told(line: Line) -> dict[str, Any]:
    told: dict[str, Any] = {"name": line.name, "since": spell_version(line.since)}
    if line.refused:
        return {**told, "refused": line.refused}
    return {**told, "build": list(line.build), "time": list(line.time), "notes": list(line.notes)}


def _bundled(report: Mapping[str, Any], files: set[str]) -> dict[str, Any]:
    """Return the report without what was timed here: it is not the device, and never the same."""
    return {
        **report,
        "stages": [
            {k: v for k, v in stage.items() if k != "seconds"} for stage in report["stages"]
        ],
        "metrics": [m for m in report["metrics"] if m["unit"] != "ms"],
        "latency": {},
        "artifacts": [a for a in report["artifacts"] if a["path"] in files],
    }
