"""ONNX Runtime on the CPU: the engine that runs everywhere.

The artifact is the model as it is: portable between machines and versions of ONNX Runtime. The
graph ONNX Runtime makes of it is chosen for one processor (an NCHWc layout, for example), so that
graph is only looked at, by :mod:`graphopt.coverage`, and never shipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from graphopt.engines import Artifact, BuildOptions
from graphopt.engines.feeds import batch_of, check_feeds
from graphopt.engines.shapes import resolve_shapes, to_json
from graphopt.errors import EnvironmentProblem, UnsupportedModelError, UsageError
from graphopt.files import atomic_path
from graphopt.machine import installed, installed_version
from graphopt.profiles.bursts import Threads
from graphopt.profiles.latency import LatencyProfile, environment, measure
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.graph import Array
    from graphopt.model import Feeds, Inputs, Model
    from graphopt.profiles import DeviceProfile
    from graphopt.profiles.layer_times import LayerTimes


# ONNX Runtime's names of types, where they differ from NumPy's.
_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "object"}


class OnnxRuntime:
    """Saves the model once ONNX Runtime has taken it; runs and times it on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    dialect: ClassVar[str] = "onnxruntime"
    suffix: ClassVar[str] = ".ort.onnx"
    takes: ClassVar[frozenset[str]] = frozenset({"threads"})

    def missing(self) -> str | None:
        """Return None: graphopt depends on ONNX Runtime, unless someone took it away."""
        if not installed("onnxruntime"):
            return "onnxruntime is not installed: pip install onnxruntime"
        return None

    def cannot_build(self, _device: DeviceProfile, _precision: str, /) -> str | None:
        """Return None: a portable file suits every device."""
        return None

    def cannot_run(self) -> str | None:
        """Return None, unless it is missing."""
        return self.missing()

    def version(self) -> str | None:
        """Return the version of ONNX Runtime, or None."""
        return installed_version("onnxruntime")

    def refuses(self, model: Model, options: BuildOptions, /) -> list[str]:
        """Return what ONNX Runtime says against the model; empty if it takes it."""
        from graphopt.runtime import open_session

        try:
            with open_session(model, threads=options.threads):
                return []
        except UnsupportedModelError as problem:
            return [str(problem)]

    def build(self, model: Model, out: Path, options: BuildOptions, /) -> Artifact:
        """Write the model to ``out`` once ONNX Runtime has loaded it from there.

        Raises:
            UnsupportedModelError: ONNX Runtime refuses it.
            UsageError: the shapes do not fit the model.
            OutputError: ``out`` cannot be written.
        """
        from graphopt.coverage import FLOAT_COMPUTE, INTEGER_COMPUTE, count, optimized_ops

        shapes = resolve_shapes(model, options.shapes) if options.shapes else {}
        with atomic_path(out) as beside:
            model.save(beside)
            ops = optimized_ops(beside, threads=options.threads)
        facts: dict[str, Any] = {
            "runtime": self.name,
            "runtime_version": self.version(),
            "device": options.device.name,
            "precision": options.precision,
            "portable": True,
            "op_counts": ops,
            "integer_compute": count(ops, INTEGER_COMPUTE),
            "float_compute": count(ops, FLOAT_COMPUTE),
        }
        if shapes:
            facts["shapes"] = to_json(shapes)
        return Artifact(Path(out), facts)

    @contextmanager
    def open(
        self, path: Path, /, *, optimize: bool = True, threads: int | None = None
    ) -> Iterator[OnnxRuntimeSession]:
        """Open the artifact.

        Args:
            path: an ONNX file.
            optimize: let ONNX Runtime rewrite the graph; without it all is computed as written.
            threads: that one run may use; as many as there are cores for this process by default.

        Raises:
            UsageError: there is no such file.
            UnsupportedModelError: ONNX Runtime refuses it.
        """
        from graphopt.runtime import open_session, timing_options

        if not Path(path).is_file():
            raise UsageError(f"no such file: {path}")
        options = timing_options(threads, optimize=optimize)
        with open_session(path, options=options) as session:
            yield OnnxRuntimeSession(session, Path(path), optimize=optimize)


class OnnxRuntimeSession:
    """An open model."""

    def __init__(self, session: Any, path: Path, *, optimize: bool = True) -> None:
        self._session, self._path, self._optimize = session, path, optimize
        self._inputs = {i.name: (_dtype(i.type), tuple(i.shape)) for i in session.get_inputs()}
        self._outputs = [output.name for output in session.get_outputs()]

    def inputs(self) -> Inputs:
        """Return input name -> (dtype, shape)."""
        return self._inputs

    def run(self, feeds: Feeds, /) -> dict[str, Array]:
        """Run one batch; return output name -> array.

        Raises:
            UsageError: an input is missing, unknown, or of the wrong type or shape.
        """
        check_feeds(feeds, self._inputs)
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as problem:
            raise UsageError(
                f"ONNX Runtime could not run these inputs: {one_line(problem)}"
            ) from problem
        return dict(zip(self._outputs, values, strict=True))

    def time(
        self, feeds: Feeds, /, *, warmup_s: float = 0.2, min_s: float = 1.0, min_runs: int = 30
    ) -> LatencyProfile:
        """Time runs of one batch by the wall clock, from arrays to arrays."""
        timer = self.timer(feeds)
        return measure(
            timer.run,
            batch=timer.batch,
            warmup_s=warmup_s,
            min_s=min_s,
            min_runs=min_runs,
            environment={**environment(), **timer.environment},
        )

    def timer(self, feeds: Feeds, /, *, streams: int = 1) -> Threads:
        """Make one batch ready: a thread for each stream calls the one session.

        They share its threads, as those of a server do.

        Raises:
            UsageError: an input is missing, unknown, or of the wrong type or shape.
        """
        self.run(feeds)  # Tells what is wrong with the inputs, outside the timed loop.
        ready, session = dict(feeds), self._session

        def run() -> None:
            try:
                session.run(None, ready)
            except Exception as problem:
                raise EnvironmentProblem(
                    f"ONNX Runtime stopped while it was timed: {one_line(problem)}"
                ) from problem

        return Threads(
            run,
            batch_of(feeds),
            streams,
            {
                "engine": OnnxRuntime.name,
                "threads": str(session.get_session_options().intra_op_num_threads),
                "streams": str(streams),
                "clock": "wall clock, from arrays to arrays",
            },
        )

    def layer_times(self, feeds: Feeds, /) -> LayerTimes:
        """Return the time of each node, in a pass of its own with the profiler on.

        Raises:
            EnvironmentProblem: the profile cannot be written or read.
        """
        from graphopt.engines._ort_layers import layer_times
        from graphopt.runtime import timing_options

        threads = self._session.get_session_options().intra_op_num_threads
        options = timing_options(threads, optimize=self._optimize)
        return layer_times(self._path, options, feeds)


def _dtype(kind: str) -> Any:
    """Return the NumPy dtype of ``tensor(float)``; None for what NumPy has not."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(_NUMPY_NAMES.get(name, name))
    except TypeError:
        return None
