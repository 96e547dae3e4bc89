"""trtexec, TensorRT's own command: on this machine, or on another one over ssh.

Nothing is installed on a device. What goes there is the model and, for implicit INT8, a calibration
cache; what comes back is the engine, its log, the time of each run and layer, and what its
inspector tells of the layers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.engines import Artifact, BuildOptions, Session, ShapeRange
from graphopt.engines._job import is_half, is_quantized
from graphopt.engines.header import identify, is_engine
from graphopt.engines.remote.job import Waits
from graphopt.engines.remote.link import Link
from graphopt.engines.remote.probe import Probe, run_probe
from graphopt.engines.remote.problems import problems
from graphopt.engines.safety import check_engine
from graphopt.engines.shapes import resolve_shapes, to_json
from graphopt.engines.trtexec.command import Request, Timing, command, dynamic_only
from graphopt.engines.trtexec.device import TIMING_CACHE, Errand, Ran, run_errand
from graphopt.engines.trtexec.features import Features
from graphopt.engines.trtexec.output import read_times
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.files import atomic_path, write_bytes

if TYPE_CHECKING:
    from graphopt.model import Model
    from graphopt.profiles import DeviceProfile, LatencyProfile

HOME = Path("/usr/src/tensorrt/bin/trtexec")
MODEL, ENGINE, CACHE = "model.onnx", "model.engine", "calibration.cache"
TIMES, LAYER_TIMES, LAYERS = "times.json", "layer-times.json", "layers.json"
_NO_VALUES = "trtexec builds and times engines, and hands out no values"
Say = Callable[[str], None]


@dataclass(slots=True)
class Trtexec:
    """Builds and times with trtexec.

    Attributes:
        host: another machine, as ssh knows it; None for this one.
        program: the path of trtexec there, where it is not to be looked for.
    """

    name: ClassVar[str] = "trtexec"
    dialect: ClassVar[str] = "tensorrt"
    suffix: ClassVar[str] = ".engine"
    takes: ClassVar[frozenset[str]] = frozenset(
        {
            "host",
            "more_shapes",
            "implicit",
            "fp16",
            "dla",
            "level",
            "workspace_bytes",
            "timing_cache",
            "time_limit_s",
        }
    )

    host: str | None = None
    program: str | None = None
    _found: Probe | None = field(default=None, init=False, repr=False)
    _link: Link | None = field(default=None, init=False, repr=False)

    def link(self) -> Link:
        """Return the link to the machine; one that was closed connects anew.

        The same one each time: it knows that the machine has answered before, and that trying
        again may help.

        Raises:
            UsageError: no host is named by that.
        """
        if self._link is None and self.host is None:
            from graphopt.engines.remote.local import LocalLink

            self._link = LocalLink()
        elif self._link is None and self.host is not None:
            from graphopt.engines.remote.ssh import SshLink

            self._link = SshLink(self.host)
        assert self._link is not None
        return self._link

    def probe(self) -> Probe:
        """Return what the machine has; it is asked once.

        Raises:
            UsageError: no host is named by that.
            EnvironmentProblem: the machine cannot be reached.
        """
        if self._found is None:
            with self.link() as link:
                self._found = run_probe(link, trtexec=self.program or "")
        return self._found

    def device(self) -> DeviceProfile:
        """Return the profile of the machine: a known one, or what can be told of its GPU.

        Raises:
            EnvironmentProblem: the machine cannot be reached.
        """
        from graphopt.profiles import DeviceProfile
        from graphopt.profiles.device import PRECISIONS

        probe = self.probe()
        known = probe.device()
        if known is not None:
            return known
        title = probe.gpus[0].name if probe.gpus else "a machine without a GPU"
        sm = probe.gpus[0].sm if probe.gpus else None
        return DeviceProfile("host", title=title, sm=sm, precisions=PRECISIONS)

    def missing(self) -> str | None:
        """Return what must be installed to build, or None; a host is asked.

        Raises:
            EnvironmentProblem: the host cannot be reached.
        """
        if self.host is None and local_trtexec(self.program) is None:
            if self.program is not None:
                return f"there is no program {self.program} here: --trtexec names the path"
            return "there is no trtexec here: it comes with TensorRT, or --host names a machine"
        blocking = [p for p in problems(self.probe()) if p.blocking]
        if not blocking:
            return None
        first = blocking[0]
        return f"{first.what}: {first.remedy}" if first.remedy else first.what

    def cannot_build(self, device: DeviceProfile, _precision: str, /) -> str | None:
        """Return why the machine cannot build for the device, or None."""
        if self.host is None and local_trtexec(self.program) is None:
            return self.missing()
        blocking = [p for p in problems(self.probe(), _named(device)) if p.blocking]
        return blocking[0].what if blocking else None

    def cannot_run(self) -> str | None:
        """Return that it hands out no values; :meth:`time` is for times."""
        return _NO_VALUES

    def version(self) -> str | None:
        """Return the version of its TensorRT, or None where there is none."""
        if self.host is None and local_trtexec(self.program) is None:
            return None
        return self.probe().version

    def refuses(self, _model: Model, _options: BuildOptions, /) -> list[str]:
        """Tell nothing: trtexec parses only what it builds."""
        return []

    def features(self) -> Features:
        """Return what the machine's trtexec takes.

        Raises:
            EnvironmentProblem: there is none, or it is none of TensorRT's.
        """
        return Features.from_help(self.probe().help_text)

    def build(self, model: Model, out: Path, options: BuildOptions, /) -> Artifact:
        """Build the engine into ``out``, and time it where it was built.

        Raises:
            UsageError: the shapes do not fit the model, or trtexec cannot be told of them.
            UnsupportedModelError: TensorRT refuses the model.
            EnvironmentProblem: the machine cannot be reached or used, or the time is up.
            OutputError: a disk is full, here or there.
        """
        features, probe = self.features(), self.probe()
        declared = {t.name: t.shape for t in model.graph.inputs}
        profiles = [resolve_shapes(model, shapes) for shapes in options.profiles]
        dynamic = tuple(dynamic_only(ranges, declared) for ranges in profiles)
        with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
            folder = Path(scratch)
            inputs = {MODEL: model.save(folder / MODEL)}
            data = folder / f"{MODEL}.data"
            if data.exists():
                inputs[data.name] = data
            if options.implicit is not None:
                inputs[CACHE] = _write_cache(folder / CACHE, options, features)
            building = Request(
                onnx=MODEL,
                save=ENGINE,
                profiles=dynamic,
                int8=is_quantized(model),
                fp16=options.fp16 or is_half(model),
                calibration=CACHE if CACHE in inputs else None,
                dla=options.dla,
                gpu_fallback=options.gpu_fallback,
                sparsity="enable" if options.sparse else "disable",
                level=options.level,
                workspace_bytes=options.workspace_bytes,
                timing_cache=TIMING_CACHE,
                layers=LAYERS,
            )
            timing = Request(
                load=ENGINE,
                dla=options.dla,
                gpu_fallback=options.gpu_fallback,
                timing=Timing(),
                shapes={name: each.opt for name, each in dynamic[0].items()},
                times=TIMES,
                layer_times=LAYER_TIMES,
            )
            commands = [command(building, features), command(timing, features)]
            say = options.say or _silent
            for note in dict.fromkeys(note for each in commands for note in each.notes):
                say(f"trtexec: {note}")
            with atomic_path(out) as beside:
                kept = beside.parent
                errand = Errand(
                    title=f"a build of {out.name}",
                    program=probe.trtexec,
                    commands=tuple(each.words for each in commands),
                    inputs=inputs,
                    outputs={
                        ENGINE: beside,
                        TIMES: folder / TIMES,
                        LAYER_TIMES: kept / f"{out.name}.{LAYER_TIMES}",
                        LAYERS: kept / f"{out.name}.{LAYERS}",
                    },
                    optional=frozenset({TIMES, LAYER_TIMES, LAYERS}),
                    timing_file=options.timing_cache,
                    timing_name=_timing_name(probe),
                    time_limit_s=options.time_limit_s,
                )
                done = self._run(errand, say)
                done.check("build the model")
                (kept / f"{out.name}.log").write_text(done.finished.log, encoding="utf-8")
                header = identify(beside)
                if header.kind != "tensorrt":
                    raise EnvironmentProblem(f"trtexec wrote an engine of {header.kind}")
            latency = None
            if (folder / TIMES).is_file():
                where = environment(probe, commands[1].words)
                batch = _batch(profiles[0])
                latency = read_times(folder / TIMES, batch=batch, environment=where).latency
            else:
                say(f"the engine was built and not timed: {done.problem(1) or 'nothing was told'}")
        files = {
            kind: out.with_name(f"{out.name}.{name}")
            for kind, name in (
                ("layers", LAYERS),
                ("layer-times", LAYER_TIMES),
                ("engine-log", "log"),
            )
        }
        facts: dict[str, Any] = {
            "runtime": "tensorrt",
            "runtime_version": probe.version,
            "device": options.device.name,
            "precision": options.precision,
            "shapes": to_json(profiles[0]),
            "more_shapes": [to_json(each) for each in profiles[1:]],
            "dla": options.dla,
            "typing": "strong" if "--stronglyTyped" in commands[0].words else None,
            "trtexec": list(commands[0].words),
            "layers": files["layers"].name,
            **{k: v for k, v in probe.facts().items() if k != "tensorrt"},
        }
        present = {kind: path for kind, path in files.items() if path.is_file()}
        return Artifact(out, facts, present, latency)

    def time(
        self,
        path: Path,
        sizes: Mapping[str, tuple[int, ...]],
        timing: Timing,
        *,
        layers: Path | None = None,
        options: BuildOptions | None = None,
        say: Say | None = None,
        warn: Say | None = None,
    ) -> LatencyProfile:
        """Time an engine, or an ONNX model that is built for it and thrown away.

        Args:
            path: of the engine or the model.
            sizes: the shape of every input that may vary.
            timing: how.
            layers: a file for the time of each layer, or None.
            options: how a model is built.
            say: told what goes on.
            warn: told of an engine without a sidecar.

        Raises:
            UsageError: there is no such file, or it is not what its sidecar tells of.
            UnsupportedModelError: TensorRT refuses it.
            EnvironmentProblem: the machine cannot be reached or used, or is not what the engine
                was built for.
        """
        lacks = self.missing()
        if lacks:
            raise EnvironmentProblem(lacks)
        features, probe = self.features(), self.probe()
        say = say or _silent
        if not path.is_file():
            raise UsageError(f"no such file: {path}")
        with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
            folder = Path(scratch)
            results: dict[str, Any] = {"times": TIMES, "layer_times": LAYER_TIMES}
            if is_engine(path):
                check_engine(path, probe.place(), warn=warn)
                inputs = {ENGINE: path}
                requests = [Request(load=ENGINE, timing=timing, shapes=sizes, **results)]
            else:
                inputs, requests = _build_and_time(path, folder, sizes, timing, options, results)
            commands = [command(request, features) for request in requests]
            for note in dict.fromkeys(note for each in commands for note in each.notes):
                say(f"trtexec: {note}")
            errand = Errand(
                title=f"timing {path.name}",
                program=probe.trtexec,
                commands=tuple(each.words for each in commands),
                inputs=inputs,
                outputs={name: folder / name for name in (TIMES, LAYER_TIMES)},
                optional=frozenset({TIMES, LAYER_TIMES} if len(commands) > 1 else {LAYER_TIMES}),
                timing_name=_timing_name(probe) if len(commands) > 1 else "",
            )
            done = self._run(errand, say)
            done.check(f"time {path.name}")
            if not (folder / TIMES).is_file():
                raise EnvironmentProblem(
                    f"trtexec on {probe.where} did not time {path.name}: {done.problem(1)}"
                )
            batch = next((shape[0] for shape in sizes.values() if shape), None)
            where = environment(probe, commands[-1].words)
            times = read_times(
                folder / TIMES, batch=batch or _batch_of_file(path), environment=where
            )
            if layers is not None and (folder / LAYER_TIMES).is_file():
                write_bytes(layers, (folder / LAYER_TIMES).read_bytes())
        return times.latency

    def _run(self, errand: Errand, say: Say) -> Ran:
        # Here nothing has to be sent, so nothing is to be kept from one job to the next.
        waits = Waits(store_limit=0) if self.host is None else None
        with self.link() as link:
            return run_errand(link, errand, say, waits=waits)

    def open(self, path: Path, /) -> AbstractContextManager[Session]:
        """Refuse: it hands out no values.

        Raises:
            EnvironmentProblem: always.
        """
        raise EnvironmentProblem(f"{path.name} cannot be opened: {_NO_VALUES}")


def local_trtexec(program: str | None = None) -> str | None:
    """Return the trtexec of this machine: the one asked for, on PATH, or where JetPack has it."""
    if program is not None:
        return shutil.which(program)
    found = shutil.which("trtexec")
    if found is None and os.access(HOME, os.X_OK):
        found = str(HOME)
    return found


def environment(probe: Probe, words: tuple[str, ...]) -> dict[str, str]:
    """Return what times taken by trtexec depend on."""
    facts = {
        "engine": "tensorrt",
        "engine_version": probe.version or "unknown",
        "gpu": probe.gpus[0].name if probe.gpus else "unknown",
        "clock": "GPU compute time by trtexec",
        "cuda_graph": "no" if "--noCudaGraph" in words else "yes",
        "system": f"{probe.system} {probe.machine}",
    }
    for key, value in probe.facts().items():
        if key in ("driver", "l4t", "jetpack", "power_mode", "clocks_fixed", "cuda"):
            facts[key] = str(value)
    return facts


def _silent(_: str) -> None:
    pass


def _named(device: DeviceProfile) -> DeviceProfile | None:
    return None if device.name == "host" else device


def _timing_name(probe: Probe) -> str:
    """Return a file name of its own for each TensorRT and GPU: kernels are timed on both."""
    gpu = probe.gpus[0].name if probe.gpus else "gpu"
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in gpu.lower())
    return f"tensorrt-{probe.version or 'unknown'}-{plain[:60]}.cache"


def _write_cache(path: Path, options: BuildOptions, features: Features) -> Path:
    from graphopt.calibrators.cache import write_cache

    if options.implicit is None:
        raise ValueError("there are no ranges")
    # trtexec's calibrator is always IInt8EntropyCalibrator2, whatever chose the ranges.
    return write_cache(path, options.implicit, version=features.version)


def _batch(ranges: Mapping[str, ShapeRange]) -> int:
    return next((each.opt[0] for each in ranges.values() if each.opt), 1)


def _batch_of_file(path: Path) -> int:
    """Return the batch of what has fixed shapes, as far as it can be told."""
    from graphopt.engines.sidecar import read_sidecar, sidecar_path
    from graphopt.model import Model

    if not is_engine(path):
        shapes = [shape for _, shape in Model.load(path).inputs().values()]
        first = next((shape[0] for shape in shapes if shape), 1)
        return first if isinstance(first, int) else 1
    if not sidecar_path(path).exists():
        return 1
    known = read_sidecar(path).get("shapes") or {}
    return next((int(each["opt"][0]) for each in known.values() if each["opt"]), 1)


def _build_and_time(
    path: Path,
    folder: Path,
    sizes: Mapping[str, tuple[int, ...]],
    timing: Timing,
    options: BuildOptions | None,
    results: Mapping[str, Any],
) -> tuple[dict[str, Path], list[Request]]:
    """Return what goes there and what is asked, to build a model only to time it."""
    from graphopt.model import Model

    model = Model.load(path)
    inputs = {MODEL: model.save(folder / MODEL)}
    data = folder / f"{MODEL}.data"
    if data.exists():
        inputs[data.name] = data
    profile = {name: ShapeRange(shape, shape, shape) for name, shape in sizes.items()}
    resolve_shapes(model, profile)
    building = Request(
        onnx=MODEL,
        save=ENGINE,
        profiles=(profile,),
        int8=is_quantized(model),
        fp16=is_half(model),
        timing_cache=TIMING_CACHE,
    )
    if options is not None:
        building = replace(building, dla=options.dla, gpu_fallback=options.gpu_fallback)
    loading = Request(load=ENGINE, timing=timing, shapes=sizes, **results)
    return inputs, [building, loading]


__all__ = ["Timing", "Trtexec", "environment", "local_trtexec"]
