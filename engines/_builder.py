"""What TensorRT and TensorRT-RTX share: jobs for the worker process, and its answers told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.engines import Artifact, BuildOptions, Session
from graphopt.engines._job import CACHE, asked_facts, check_asked, is_implicit, make_job
from graphopt.engines._messages import advice, log_errors, parser_message
from graphopt.engines._worker import LAYERS, Job, ParserError, Result
from graphopt.engines.header import identify
from graphopt.engines.network import ParsedNetwork, parsed_network
from graphopt.engines.shapes import resolve_shapes, to_json
from graphopt.errors import (
    EnvironmentProblem,
    MissingDependencyError,
    OutputError,
    UnsupportedModelError,
    UsageError,
)
from graphopt.files import atomic_path
from graphopt.graph import is_constant, is_op
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.model import Model
    from graphopt.profiles import DeviceProfile

# The child sees the modules this process sees, wherever either was started.
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.load(open(sys.argv[2])); "
    "from graphopt.engines._worker import main, settle; settle(); main(sys.argv[1])"
)
_MOST_HINTS = 10
_SIGKILL = 9  # Windows has no signal.SIGKILL.


class Builder(ABC):
    """A TensorRT-like engine; sub-classes say what is installed and what can be targeted."""

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]
    dialect: ClassVar[str] = "tensorrt"
    suffix: ClassVar[str] = ".engine"
    takes: ClassVar[frozenset[str]]

    @abstractmethod
    def missing(self) -> str | None:
        """Return what must be installed to build, or None."""

    @abstractmethod
    def cannot_build(self, device: DeviceProfile, precision: str, /) -> str | None:
        """Return why it cannot build here for that device, or None."""

    @abstractmethod
    def version(self) -> str | None:
        """Return the version installed, or None."""

    @abstractmethod
    def targets(self, device: DeviceProfile, /) -> list[list[int]] | None:
        """Return the compute capabilities to name to the builder, or None to name none."""

    def gpu(self) -> str:
        """Return the name of the GPU that it builds on, "" where that does not matter."""
        return ""

    def cannot_run(self) -> str | None:
        """Return why an engine cannot be run or timed on this machine, or None."""
        from graphopt.engines.cuda import missing_cuda
        from graphopt.machine import installed
        from graphopt.profiles.host import gpus

        if not gpus():
            return f"no NVIDIA GPU here: {self.title} engines run on the GPU they are built for"
        if not installed(self.module):
            return self.missing()
        return missing_cuda()

    def refuses(self, model: Model, options: BuildOptions, /) -> list[str]:
        """Parse the model, without building; return a line for each thing refused.

        Raises:
            MissingDependencyError: the runtime is not installed.
            EnvironmentProblem: its libraries cannot be loaded.
        """
        self._require()
        result, log = self._run(model, options)
        if result["outcome"] == "ok":
            return []
        if result["outcome"] == "refused":
            lines = [_error_line(error, model) for error in result["errors"]]
            return lines or ["the parser stopped without saying why"]
        raise self._failure(result, log, "parse")

    def network(self, model: Model, options: BuildOptions, /) -> ParsedNetwork:
        """Parse the model, without building; return the network that came of it.

        Raises:
            MissingDependencyError: the runtime is not installed.
            EnvironmentProblem: its libraries cannot be loaded.
            UnsupportedModelError: it refuses the model.
        """
        self._require()
        result, log = self._run(model, options, walk=True)
        if result["outcome"] != "ok":
            raise self._failure(result, log, "parse", model)
        raw = result["facts"]["network"]
        return parsed_network(raw, runtime=self.name, version=result["version"])

    def build(self, model: Model, out: Path, options: BuildOptions, /) -> Artifact:
        """Build the engine into ``out``.

        Raises:
            MissingDependencyError: the runtime is not installed.
            EnvironmentProblem: it cannot build for the device here, or was stopped.
            UnsupportedModelError: it refuses the model.
            UsageError: the shapes do not fit the model, or this TensorRT has not what is asked for.
            OutputError: ``out`` cannot be written.
        """
        self._require()
        check_asked(self.title, self.takes, model, options)
        profiles = [to_json(resolve_shapes(model, shapes)) for shapes in options.profiles]
        precision = "int8" if _is_int8(model, options) else options.precision
        reason = self.cannot_build(options.device, precision)
        if reason:
            raise EnvironmentProblem(reason)
        with atomic_path(out) as beside:
            result, log = self._run(model, options, engine=beside, profiles=profiles)
            if result["outcome"] == "output" and result.get("errno"):
                raise OSError(result["errno"], os.strerror(result["errno"]))
            if result["outcome"] != "ok":
                raise self._failure(result, log, "build", model)
            header = identify(beside)
            if header.kind != self.name:
                raise EnvironmentProblem(f"{self.title} wrote an engine of {header.kind}")
        for note in result["facts"].get("notes", ()):
            if options.say is not None:
                options.say(note)
        targets = self.targets(options.device)
        facts: dict[str, Any] = {
            "runtime": self.name,
            "runtime_version": result["version"],
            "device": options.device.name,
            "precision": precision,
            "shapes": profiles[0],
            "compute_capabilities": [f"{a}.{b}" for a, b in targets] if targets else None,
            **result["facts"],
            **asked_facts(options, profiles),
        }
        return Artifact(Path(out), facts, _files_beside(Path(out), facts))

    def open(self, path: Path, /) -> AbstractContextManager[Session]:
        """Open an engine on this machine's GPU.

        Raises:
            EnvironmentProblem: there is no GPU or no CUDA package, or the engine is for another
                GPU or version.
            ModelFormatError: it is no engine.
            UsageError: it is an engine of another runtime.
        """
        header = identify(path)
        if header.kind != self.name:
            raise UsageError(f"{path} is an engine of {header.kind}, not of {self.name}")
        reason = self.cannot_run()
        if reason:
            raise EnvironmentProblem(reason)
        from graphopt.engines._session import open_engine

        return open_engine(self.module, Path(path))

    def _require(self) -> None:
        reason = self.missing()
        if reason:
            raise MissingDependencyError(reason)

    def _run(
        self,
        model: Model,
        options: BuildOptions,
        *,
        engine: Path | None = None,
        profiles: Sequence[Mapping[str, Any]] = (),
        walk: bool = False,
    ) -> tuple[Result, str]:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
            folder = Path(scratch)
            job = make_job(model, options, folder, engine)
            job["runtime"], job["walk"] = self.name, walk
            job["profiles"] = [dict(shapes) for shapes in profiles]
            if engine is not None:
                job["targets"], job["gpu"] = self.targets(options.device), self.gpu()
            return run_job(job, folder, self.title, options.time_limit_s)

    def _failure(
        self, result: Result, log: str, verb: str, model: Model | None = None
    ) -> UnsupportedModelError | EnvironmentProblem | OutputError | UsageError:
        if result["outcome"] == "unable":
            return UsageError(result["message"])
        if result["outcome"] == "environment":
            return EnvironmentProblem(f"{self.title} cannot be used: {one_line(result['message'])}")
        if result["outcome"] == "output":
            return OutputError(f"{self.title} could not write: {one_line(result['message'])}")
        if result["outcome"] == "refused" and model is not None:
            lines = [_error_line(error, model) for error in result["errors"]]
        else:
            lines = log_errors(log)
        first = lines[0] if lines else one_line(result.get("message", "it does not say why"))
        hint = [advice(first)] if advice(first) else []
        if len(lines) > 1:
            hint += ["it also says:", *(f"  {line}" for line in lines[1:_MOST_HINTS])]
        if len(lines) > _MOST_HINTS:
            hint.append(f"  and {len(lines) - _MOST_HINTS} more")
        return UnsupportedModelError(
            f"{self.title} cannot {verb} the model: {first}", hint="\n".join(hint)
        )


def _files_beside(out: Path, facts: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files written beside the engine; one of an earlier build of it is taken away."""
    files: dict[str, Path] = {}
    for kind, fact, suffix in (
        ("layers", "layer_information", LAYERS),
        ("calibration-cache", "calibration_cache", CACHE),
    ):
        path = out.with_name(out.name + suffix)
        if facts.get(fact):
            files[kind] = path
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return files


def run_job(job: Job, folder: Path, title: str, limit_s: float | None) -> tuple[Result, str]:
    """Run a job in a process of its own; return its result and its log.

    The process is killed when the time is up, on Ctrl-C, and on any other error here.

    Raises:
        EnvironmentProblem: the time is up, or the system killed the process.
        UnsupportedModelError: the process crashed.
    """
    job_file, log_file, paths = folder / "job.json", folder / "log.txt", folder / "paths.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    paths.write_text(json.dumps([str(Path(p or ".").absolute()) for p in sys.path]))
    command = [sys.executable, "-c", _BOOTSTRAP, str(job_file), str(paths)]
    with log_file.open("wb") as log:
        # In the scratch folder, so that a file of the user's named like a module is not imported.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired as problem:
            raise EnvironmentProblem(
                f"{title} was stopped after {limit_s:g} s, the time limit of a build; "
                "give it more time, or a smaller model"
            ) from problem
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    text = log_file.read_text(encoding="utf-8", errors="replace")
    result_file = Path(job["result"])
    if code == 0 and result_file.is_file():
        result: Result = json.loads(result_file.read_text(encoding="utf-8"))
        return result, text
    raise _crash(code, text, title)


def _crash(code: int, log: str, title: str) -> UnsupportedModelError | EnvironmentProblem:
    if code == -_SIGKILL:
        return EnvironmentProblem(
            f"the system killed {title} while it worked: most likely it ran out of memory"
        )
    lines = log_errors(log) or [line for line in log.splitlines() if line.strip()][-1:]
    how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
    said = f": {one_line(lines[0])}" if lines else ""
    return UnsupportedModelError(f"{title} {how} on this model{said}")


def _error_line(error: ParserError, model: Model) -> str:
    operator = error["operator"]
    message = parser_message(error["message"], operator)
    where = error["node"]
    nodes = model.graph.nodes
    index = error["index"]
    if not where and 0 <= index < len(nodes) and operator in ("", nodes[index].op):
        # The file's order is the graph's; a node without a name is known by what it writes.
        node = nodes[index]
        where = node.name or (node.outputs[0].name if node.outputs else "")
        operator = operator or node.op
    if not where:
        return message if index < 0 else f"node {index} ({operator}): {message}"
    return f"node '{where}' ({operator}): {message}" if operator else f"node '{where}': {message}"


def _is_int8(model: Model, options: BuildOptions) -> bool:
    return is_implicit(options) or any(
        is_op(node, "QuantizeLinear") and not is_constant(node.inputs[0])
        for node in model.graph.nodes
    )
