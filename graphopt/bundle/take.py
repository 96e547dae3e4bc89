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
from graphopt.bundle.pack import README
from graphopt.bundle.results import BUILD_LOG, Results, open_bundle, open_results
from graphopt.bundle.script import SCRIPT
from graphopt.engines.sidecar import read_json, write_sidecar
from graphopt.engines.trtexec.exchange import BESIDE
from graphopt.engines.trtexec.facts import Machine
from graphopt.engines.trtexec.layers import read_layer_times, read_layers
from graphopt.engines.trtexec.output import read_times
from graphopt.engines.trtexec.requests import FILES
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.files import dump_json, scratch_beside, sha256, write_text
from graphopt.output import REPORT, staged
from graphopt.profiles import LatencyProfile
from graphopt.report import Metric, engine_latency, origin

LATENCY = "latency.json"
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
        engine = kinds.move("engine", sent / FILES.engine, FILES.engine)
        machine = _machine(found)
        facts = {
            **machine.sidecar(_command(manifest, found.told), manifest.value["profiles"]),
            "engine": "trtexec",
            "device": manifest.device,
            "precision": manifest.precision,
            "dla": manifest.value.get("dla"),
            "dialect": "tensorrt" if manifest.value.get("quantization") == "explicit" else None,
            "bundle_sha256": manifest.digest,
            **origin(
                folder,
                folder / manifest.onnx,
                report["source"],
                synthetic=bool(report.get("synthetic")),
            ),
        }
        kinds.add("sidecar", write_sidecar(engine, facts))
        latency = None
        if found.timed:
            environment = machine.environment(_words(manifest, found.told, "time"))
            times = read_times(sent / FILES.times, batch=manifest.batch, environment=environment)
            latency = times.latency
            kinds.add("latency", write_text(folder / LATENCY, dump_json(latency.to_json())))
        else:
            warnings.append("the device did not time the engine")
        for kind, name, read in (
            ("layers", FILES.layers, read_layers),
            ("layer-times", FILES.layer_times, read_layer_times),
        ):
            if (sent / name).is_file():
                try:
                    read(sent / name)
                except EnvironmentProblem as problem:
                    warnings.append(f"left out: {problem}")
                    continue
                kinds.move(kind, sent / name, FILES.engine + BESIDE[kind])
        if (sent / BUILD_LOG).is_file():
            kinds.move("engine-log", sent / BUILD_LOG, FILES.engine + BESIDE["engine-log"])
        _add_figures(report, manifest, found, latency, engine)
        report["warnings"] = [*report["warnings"], *warnings]
        write_text(folder / REPORT, dump_json(report))
    return Taken(report, found, latency, out / FILES.engine, tuple(warnings))


class _Taking:
    """Lays files into the folder and lists each in the report."""

    def __init__(self, folder: Path, report: dict[str, Any]) -> None:
        self.folder, self.report = folder, report

    def add(self, kind: str, path: Path) -> None:
        self.report["artifacts"].append({"kind": kind, "path": path.name, "sha256": sha256(path)})

    def move(self, kind: str, path: Path, name: str) -> Path:
        target = path.rename(self.folder / name)
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


def _machine(found: Results) -> Machine:
    """Return the device, as build.sh tells of it."""
    told = {key: text for key, text in found.told.items() if text.strip()}
    name = told.get("gpu") or told.get("model", "")
    more = ("driver", "l4t", "power_mode", "clocks", "model")
    return Machine(
        found.version,
        {"name": name, "sm": told.get("sm")},
        f"{told.get('system', '')} {told.get('machine', '')}".strip(),
        {key: told[key].strip() for key in more if key in told},
    )


def _command(manifest: Manifest, told: Mapping[str, str]) -> list[str]:
    """Return the words trtexec built with, files by their names; those left out are not there."""
    taken = set(told.get("flags", "").split())
    words = _words(manifest, told, "build")
    return [by_name(word) for word in words if word.partition("=")[0] in taken]


def _words(manifest: Manifest, told: Mapping[str, str], which: str) -> list[str]:
    lines = manifest.value["tensorrt"]
    return next((list(x.get(which, [])) for x in lines if x["name"] == told.get("line")), [])


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
    report["metrics"].append(Metric("engine size", "bytes", size, engine.name).to_json())
    if latency is None:
        return
    report["latency"]["engine"] = latency.to_json()
    metric = engine_latency(latency, manifest.precision)
    report["metrics"].append(metric.to_json())
