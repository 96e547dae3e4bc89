"""Results taken in: the bundle's files, the engine with its sidecar, times and layers, one report.

The folder is as if ``graphopt build`` had built on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.bundle.lines import by_name
from graphopt.bundle.manifest import MANIFEST, SUMS, Manifest
from graphopt.bundle.pack import CACHE, README, RECIPE, TABLE
from graphopt.bundle.results import (
    BUILD_LOG,
    ENGINE,
    LAYER_TIMES,
    LAYERS,
    TIMES,
    Results,
    open_bundle,
    open_results,
)
from graphopt.bundle.script import SCRIPT
from graphopt.engines.sidecar import read_json, write_sidecar
from graphopt.engines.trtexec.layers import read_layer_times, read_layers
from graphopt.engines.trtexec.output import read_times
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.files import dump_json, scratch_beside, sha256, write_text
from graphopt.output import REPORT, staged
from graphopt.profiles import LatencyProfile
from graphopt.report import versions

LATENCY = "latency.json"
_CLOCK = "GPU compute time by trtexec"
# Of a bundle, what only a device needs.
_FOR_DEVICE = frozenset({MANIFEST, SUMS, README, SCRIPT, REPORT})


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken in.

    Attributes:
        report: what ``report.json`` now holds.
        results: what the device told.
        latency: its times, or None where it measured none.
        engine: the engine's file.
        warnings: what the user must know, a line each.
    """

    report: Mapping[str, Any]
    results: Results
    latency: LatencyProfile | None
    engine: Path
    warnings: tuple[str, ...]


def import_results(results: Path, bundle: Path, out: Path, *, force: bool) -> Taken:
    """Check what a device sent against its bundle, and lay everything into one folder, atomically.

    Args:
        results: what ``build.sh`` packed.
        bundle: what it was packed from.
        out: the folder.
        force: it may exist.

    Raises:
        UsageError: an archive is damaged, holds what it should not, or the two do not belong
            together; the folder exists.
        EnvironmentProblem: the build failed on the device, or its times are none.
        ModelFormatError: the engine is none.
    """
    with staged(out, force=force) as folder, scratch_beside(folder / "unpacked") as scratch:
        sent, packed = scratch / "results", scratch / "bundle"
        sent.mkdir()
        packed.mkdir()
        manifest = open_bundle(bundle, packed)
        found = open_results(results, sent, packed, manifest)
        report = _report(packed, bundle)
        warnings = list(found.warnings)
        for file in sorted(packed.iterdir()):
            if file.name not in _FOR_DEVICE:
                file.rename(folder / file.name)
        kinds = _Taking(folder, report)
        engine = kinds.move("engine", sent / ENGINE)
        sidecar = write_sidecar(engine, _facts(folder, manifest, found, report))
        kinds.add("sidecar", sidecar)
        latency = _latency(sent / TIMES, manifest, found) if found.timed else None
        if latency is not None:
            kinds.add("latency", write_text(folder / LATENCY, dump_json(latency.to_json())))
        else:
            warnings.append("the device did not time the engine")
        for kind, name, read in (
            ("layers", LAYERS, read_layers),
            ("layer-times", LAYER_TIMES, read_layer_times),
        ):
            if (sent / name).is_file():
                try:
                    read(sent / name)
                except EnvironmentProblem as problem:
                    warnings.append(f"left out: {problem}")
                    continue
                kinds.move(kind, sent / name)
        if (sent / BUILD_LOG).is_file():
            kinds.move("engine-log", sent / BUILD_LOG)
        _add_figures(report, manifest, found, latency, engine)
        report["warnings"] = [*report["warnings"], *warnings]
        write_text(folder / REPORT, dump_json(report))
    return Taken(report, found, latency, out / ENGINE, tuple(warnings))


class _Taking:
    """Lays files into the folder and lists each in the report."""

    def __init__(self, folder: Path, report: dict[str, Any]) -> None:
        self.folder, self.report = folder, report

    def add(self, kind: str, path: Path) -> None:
        self.report["artifacts"].append({"kind": kind, "path": path.name, "sha256": sha256(path)})

    def move(self, kind: str, path: Path) -> Path:
        target = path.rename(self.folder / path.name)
        self.add(kind, target)
        return target


def _report(packed: Path, bundle: Path) -> dict[str, Any]:
    if not (packed / REPORT).is_file():
        raise UsageError(f"{bundle} has no {REPORT}")
    report = read_json(packed / REPORT, "report written by graphopt")
    lists = ("artifacts", "warnings", "stages", "metrics")
    if (
        not isinstance(report, dict)
        or not all(isinstance(report.get(key), list) for key in lists)
        or not all(isinstance(report.get(key), dict) for key in ("latency", "source"))
    ):
        raise UsageError(f"{bundle}: its {REPORT} is not one that graphopt writes")
    return report


def _facts(
    folder: Path, manifest: Manifest, found: Results, report: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the facts of the engine's sidecar, as a build has them, and where it came from."""
    told = found.told
    quantization = manifest.value.get("quantization")
    table, recipe = folder / TABLE, folder / RECIPE
    return {
        "engine": "trtexec",
        "runtime": "tensorrt",
        "runtime_version": ".".join(map(str, found.version)),
        "precision": manifest.precision,
        "shapes": manifest.shapes,
        "device": manifest.device,
        "dla": manifest.value.get("dla"),
        "gpu": {"name": told.get("gpu", ""), "sm": told.get("sm", "")},
        "host": {
            key: told[key].strip()
            for key in ("machine", "system", "model", "l4t", "driver", "power_mode")
            if told.get(key, "").strip()
        },
        "command": _command(manifest, told),
        "bundle_sha256": manifest.digest,
        "dialect": "tensorrt" if quantization == "explicit" else None,
        "source": report["source"].get("name"),
        "source_digest": report["source"].get("digest"),
        "onnx_sha256": sha256(folder / manifest.onnx),
        "calibration_sha256": sha256(table) if table.is_file() else None,
        "cache_sha256": sha256(folder / CACHE) if (folder / CACHE).is_file() else None,
        "recipe_sha256": sha256(recipe) if recipe.is_file() else None,
        "synthetic": bool(report.get("synthetic")),
        "versions": versions(),
    }


def _command(manifest: Manifest, told: Mapping[str, str]) -> list[str]:
    """Return the words trtexec was given, files by their names; those left out are not there."""
    taken = set(told.get("flags", "").split())
    for line in manifest.value["tensorrt"]:
        if line["name"] == told.get("line"):
            return [
                by_name(word) for word in line.get("build", []) if word.partition("=")[0] in taken
            ]
    return []


def _latency(file: Path, manifest: Manifest, found: Results) -> LatencyProfile:
    told = found.told
    environment = {
        "clock": _CLOCK,
        "device": manifest.device,
        "tensorrt": ".".join(map(str, found.version)),
    }
    for key in ("gpu", "model", "driver", "clocks", "power_mode", "l4t", "machine"):
        if told.get(key, "").strip():
            environment[key] = told[key].strip()
    environment.setdefault("gpu", environment.get("model", manifest.device))
    return read_times(file, batch=manifest.batch, environment=environment).latency


def _add_figures(
    report: dict[str, Any],
    manifest: Manifest,
    found: Results,
    latency: LatencyProfile | None,
    engine: Path,
) -> None:
    """Add what the device did to the report: a stage, and the figures of the engine."""
    told = found.told
    facts = {key: value.strip() for key, value in sorted(told.items()) if value.strip()}
    report["stages"].append(
        {
            "name": "build-bundle",
            "counts": {},
            "changes": [],
            "refusals": [],
            "facts": {**facts, "bundle_sha256": manifest.digest},
        }
    )
    size = {manifest.precision: engine.stat().st_size}
    report["metrics"].append({"name": "engine size", "unit": "bytes", "values": size, "note": ""})
    if latency is None:
        return
    report["latency"]["engine"] = latency.to_json()
    where = latency.environment
    report["metrics"].append(
        {
            "name": "engine latency",
            "unit": "ms",
            "values": {manifest.precision: latency.p50},
            "note": f"{where['gpu']}, TensorRT {where['tensorrt']}, {_CLOCK}, median, "
            f"batch {latency.batch}",
        }
    )
