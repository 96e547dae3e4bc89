"""trtexec, TensorRT's own command: on this machine, or on another one over ssh.

Nothing is installed on a device. What goes there is the model and, for implicit INT8, a calibration
cache; what comes back is the engine, its log, the time of each run and layer, and what its
inspector tells of the layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from graphopt.calibrators.cache import write_cache
from graphopt.engines import Artifact, BuildOptions
from graphopt.engines._job import is_half, is_quantized
from graphopt.engines.header import identify, is_engine
from graphopt.engines.remote.job import Waits
from graphopt.engines.remote.link import Link
from graphopt.engines.remote.probe import Probe, run_probe
from graphopt.engines.remote.problems import problems
from graphopt.engines.safety import check_engine
from graphopt.engines.shapes import opt_batch, resolve_shapes, to_json
from graphopt.engines.trtexec.command import Command, Timing, command
from graphopt.engines.trtexec.device import Errand, Ran, Work, run_errand
from graphopt.engines.trtexec.exchange import (
    Say,
    beside_engine,
    read_latency,
    saved_model,
    take_timings,
    timing_name,
    with_states,
    write_commands,
)
from graphopt.engines.trtexec.facts import Machine
from graphopt.engines.trtexec.features import Features
from graphopt.engines.trtexec.places import local_trtexec
from graphopt.engines.trtexec.requests import FILES, requests
from graphopt.engines.trtexec.takes import dla_core
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.files import atomic_path

if TYPE_CHECKING:
    from graphopt.engines.trtexec.timed import Timed
    from graphopt.engines.trtexec.values import TrtexecSession
    from graphopt.model import Inputs, Model
    from graphopt.profiles import DeviceProfile, LatencyProfile
    from graphopt.profiles.power import PowerResult


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
            "gpu_fallback",
            "sparse",
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
        if self._link is None:
            self._link = _link_to(self.host)
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
        if self._is_absent():
            if self.program is not None:
                return f"there is no program {self.program} here: --trtexec names the path"
            return "there is no trtexec here: it comes with TensorRT, or --host names a machine"
        blocking = [p for p in problems(self.probe()) if p.blocking]
        if not blocking:
            return None
        first = blocking[0]
        remedy = f": {first.remedy}" if first.remedy else ""
        return f"{self.probe().where}: {first.what}{remedy}"

    def cannot_build(self, device: DeviceProfile, _precision: str, /) -> str | None:
        """Return why the machine cannot build for the device, or None."""
        if self._is_absent():
            return self.missing()
        blocking = [p for p in problems(self.probe(), _named(device)) if p.blocking]
        return f"{self.probe().where}: {blocking[0].what}" if blocking else None

    def cannot_run(self) -> str | None:
        """Return why its engines cannot be run, or None; a host is asked."""
        return self.missing()

    def version(self) -> str | None:
        """Return the version of its TensorRT, or None where there is none."""
        if self._is_absent():
            return None
        return self.probe().version

    def refuses(self, _model: Model, _options: BuildOptions, /) -> list[str]:
        """Tell nothing: trtexec parses only what it builds."""
        return []

    def _is_absent(self) -> bool:
        """Whether there is none, as far as that is told without running it."""
        return self.host is None and local_trtexec(self.program) is None

    def features(self) -> Features:
        """Return what the machine's trtexec takes.

        Raises:
            EnvironmentProblem: there is none, or it is none of TensorRT's.
        """
        return Features.from_help(self.probe().help_text)

    def check(self, model: Model, options: BuildOptions) -> None:
        """Refuse, before any work, what this trtexec cannot be told of a build.

        Raises:
            UsageError: an input's name or a size cannot be said, or the shapes do not fit.
            EnvironmentProblem: this version has no such thing, several profiles for one.
        """
        declared = {tensor.name: tensor.shape for tensor in model.graph.inputs}
        first, *more = [resolve_shapes(model, shapes) for shapes in options.profiles]
        options = replace(options, shapes=first, more_shapes=tuple(more))
        for request in requests(options, declared, int8=False, fp16=False):
            command(request, self.features())

    def build(self, model: Model, out: Path, options: BuildOptions, /) -> Artifact:
        """Build the engine into ``out``, and time it where it was built.

        Raises:
            UsageError: the shapes do not fit the model, or trtexec cannot be told of them.
            UnsupportedModelError: TensorRT refuses the model.
            EnvironmentProblem: the machine cannot be reached or used, or the time is up.
            OutputError: a disk is full, here or there.
        """
        features, probe = self.features(), self.probe()
        say = options.say or _silent
        first, *more = [resolve_shapes(model, shapes) for shapes in options.profiles]
        asked = requests(
            replace(options, shapes=first, more_shapes=tuple(more)),
            {tensor.name: tensor.shape for tensor in model.graph.inputs},
            int8=is_quantized(model),
            fp16=is_half(model),
        )
        commands = write_commands(asked, features, say)
        with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
            folder = Path(scratch)
            inputs = saved_model(model, folder)
            if options.implicit is not None:
                # trtexec's calibrator is IInt8EntropyCalibrator2, whatever chose the ranges.
                cache = folder / FILES.cache
                inputs[FILES.cache] = write_cache(cache, options.implicit, version=features.version)
            with atomic_path(out) as beside:
                places = beside_engine(beside)
                outputs = {
                    FILES.engine: beside,
                    FILES.times: folder / FILES.times,
                    FILES.layer_times: places["layer-times"],
                    FILES.layers: places["layers"],
                }
                if options.timing_cache is not None:
                    outputs[FILES.timing_cache] = folder / FILES.timing_cache
                errand = Errand(
                    title=f"a build of {out.name}",
                    program=probe.trtexec,
                    commands=tuple(each.words for each in commands),
                    inputs=inputs,
                    outputs=outputs,
                    optional=frozenset(outputs) - {FILES.engine},
                    timing_file=options.timing_cache,
                    timing_name=timing_name(probe),
                    time_limit_s=options.time_limit_s,
                    states=folder,
                )
                done = self.run(errand, say)
                done.check("build the model")
                places["engine-log"].write_text(done.finished.log, encoding="utf-8")
                header = identify(beside)
                if header.kind != "tensorrt":
                    raise EnvironmentProblem(f"trtexec wrote an engine of {header.kind}")
                if options.timing_cache is not None:
                    take_timings(folder, options.timing_cache, done.finished.log, say)
            machine = Machine.of(probe)
            latency = _latency(done, folder, machine, commands[1], opt_batch(first), say)
        files = beside_engine(out)
        facts = {
            **machine.sidecar(commands[0].words, [to_json(each) for each in (first, *more)]),
            "device": options.device.name,
            "precision": options.precision,
            "dla": options.dla,
            "layers": files["layers"].name,
        }
        present = {kind: path for kind, path in files.items() if path.is_file()}
        return Artifact(out, facts, present, latency)

    def time(
        self,
        path: Path,
        sizes: Mapping[str, tuple[int, ...]],
        timing: Timing,
        *,
        say: Say | None = None,
        warn: Say | None = None,
    ) -> Timed:
        """Time an engine, or an ONNX model that is built for it and thrown away.

        Args:
            path: of the engine or the model.
            sizes: the shape of every input that may vary.
            timing: how.
            say: told what goes on.
            warn: told of an engine without a sidecar.

        Raises:
            UsageError: there is no such file, or it is not what its sidecar tells of.
            UnsupportedModelError: TensorRT refuses it.
            EnvironmentProblem: the machine cannot be reached or used, or is not what the engine
                was built for.
        """
        from graphopt.engines.trtexec.timed import timed

        return timed(self, path, sizes, timing, say=say or _silent, warn=warn)

    def power(
        self,
        path: Path,
        sizes: Mapping[str, tuple[int, ...]],
        seconds: float,
        say: Say | None = None,
        *,
        warn: Say | None = None,
    ) -> PowerResult:
        """Measure what an engine draws, in a job of its own: a meter is read beside it.

        Args:
            path: of the engine.
            sizes: the shape of every input that may vary.
            seconds: run it for so long, 1 to 3600.
            say: told what goes on.
            warn: told of an engine without a sidecar.

        Raises:
            UsageError: there is no such file, or it is no engine.
            UnsupportedModelError: TensorRT refuses it.
            EnvironmentProblem: the machine cannot be reached or used, or nothing there tells power.
        """
        from graphopt.engines.trtexec.power import measure_power

        return measure_power(self, path, sizes, seconds, say=say or _silent, warn=warn)

    def run(self, errand: Work, say: Say) -> Ran:
        """Do an errand, or another job of trtexec, on the machine."""
        # Here nothing has to be sent, so nothing is to be kept from one job to the next.
        waits = Waits(store_limit=0) if self.host is None else None
        with self.link() as link:
            return run_errand(link, errand, say, waits=waits)

    @contextmanager
    def open(
        self,
        path: Path,
        /,
        *,
        reference: Inputs | None = None,
        say: Say | None = None,
        warn: Say | None = None,
    ) -> Iterator[TrtexecSession]:
        """Open an engine for its values and times; each use of it is a job on the machine.

        Args:
            path: the engine.
            reference: the inputs of the model it was built from, for what its sidecar lacks.
            say: told what goes on.
            warn: told of an engine without a sidecar.

        Raises:
            UsageError: it is no engine, or not the one its sidecar tells of, or nothing tells what
                it takes.
            EnvironmentProblem: the machine cannot be reached or used, or is not what the engine
                was built for.
        """
        from graphopt.engines.trtexec.takes import takes_of
        from graphopt.engines.trtexec.values import TrtexecSession

        if not path.is_file():
            raise UsageError(f"no such file: {path}")
        if not is_engine(path):
            raise UsageError(
                f"{path.name} is no engine of TensorRT's: build one of it first (graphopt build)"
            )
        lacks = self.missing()
        if lacks:
            raise EnvironmentProblem(lacks)
        check_engine(path, self.probe().place(), warn=warn)
        takes = takes_of(path, reference)
        yield TrtexecSession(self, path, takes, dla=dla_core(path), say=say)


def _link_to(host: str | None) -> Link:
    if host is None:
        from graphopt.engines.remote.local import LocalLink

        return LocalLink()
    from graphopt.engines.remote.ssh import SshLink

    return SshLink(host)


def _latency(
    done: Ran, folder: Path, machine: Machine, measured: Command, batch: int, say: Say
) -> LatencyProfile | None:
    """Return the times that came with a build, with the states around them; None where none did."""
    why = done.problem(1) or "nothing was told"
    try:
        latency = read_latency(folder, machine, measured, batch)
    except EnvironmentProblem as problem:  # a disk that was full there cuts files short
        latency, why = None, str(problem)
    if latency is None:
        say(f"the engine was built and not timed: {why}")
        return None
    return with_states(latency, folder, say)


def _silent(_: str) -> None:
    pass


def _named(device: DeviceProfile) -> DeviceProfile | None:
    return None if device.name == "host" else device


__all__ = ["Timing", "Trtexec", "local_trtexec"]
