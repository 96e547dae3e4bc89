"""ONNX Runtime on the CPU: the engine that runs everywhere.

The artifact is the model as it is: portable between machines and versions of ONNX Runtime. The
graph ONNX Runtime makes of it is chosen for one processor (an NCHWc layout, for example), so that
graph is only looked at, for :func:`optimized_ops`, and never shipped.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.engines import Artifact, BuildOptions
from graphopt.engines.feeds import batch_of, check_feeds
from graphopt.engines.shapes import resolve_shapes, to_json
from graphopt.errors import ModelFormatError, UnsupportedModelError, UsageError
from graphopt.files import atomic_path
from graphopt.profiles.latency import LatencyProfile, environment, measure

if TYPE_CHECKING:
    from graphopt.graph import Array
    from graphopt.model import Feeds, Model
    from graphopt.profiles import DeviceProfile

# Operators of ONNX Runtime's optimized graphs that multiply and add, by what they compute in.
INTEGER_COMPUTE = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QAttention",
        "QGemm",
        "QLinearConv",
        "QLinearConvTranspose",
        "QLinearMatMul",
    }
)
FLOAT_COMPUTE = frozenset(
    {
        "Attention",
        "Conv",
        "ConvTranspose",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gemm",
        "MatMul",
        "NhwcConv",
        "NhwcFusedConv",
    }
)


class OnnxRuntime:
    """Saves the model once ONNX Runtime has taken it; runs and times it on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    dialect: ClassVar[str] = "onnxruntime"
    suffix: ClassVar[str] = ".ort.onnx"

    def missing(self) -> str | None:
        """Return None: graphopt depends on ONNX Runtime, unless someone took it away."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install onnxruntime"
        return None

    def cannot_build(self, _device: DeviceProfile, _precision: str, /) -> str | None:
        """Return None: a portable file suits every device."""
        return None

    def cannot_run(self) -> str | None:
        """Return None, unless it is missing."""
        return self.missing()

    def version(self) -> str | None:
        """Return the version of ONNX Runtime."""
        try:
            return importlib.metadata.version("onnxruntime")
        except importlib.metadata.PackageNotFoundError:
            return None

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
            "integer_compute": _count(ops, INTEGER_COMPUTE),
            "float_compute": _count(ops, FLOAT_COMPUTE),
        }
        if shapes:
            facts["shapes"] = to_json(shapes)
        return Artifact(Path(out), facts)

    @contextmanager
    def open(self, path: Path, /) -> Iterator[OnnxRuntimeSession]:
        """Open the artifact on all cores this process may use.

        Raises:
            UsageError: there is no such file.
            UnsupportedModelError: ONNX Runtime refuses it.
        """
        from graphopt.runtime import open_session

        if not Path(path).is_file():
            raise UsageError(f"no such file: {path}")
        with open_session(path) as session:
            yield OnnxRuntimeSession(session)


class OnnxRuntimeSession:
    """An open model."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, feeds: Feeds, /) -> dict[str, Array]:
        """Run one batch; return output name -> array.

        Raises:
            UsageError: an input is missing, unknown, or of the wrong type or shape.
        """
        check_feeds(feeds, [(i.name, i.type, i.shape) for i in self._session.get_inputs()])
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as problem:
            line = " ".join(str(problem).split())[:300]
            raise UsageError(f"ONNX Runtime could not run these inputs: {line}") from problem
        return dict(zip(self._outputs, values, strict=True))

    def time(
        self, feeds: Feeds, /, *, warmup_s: float = 0.2, min_s: float = 1.0, min_runs: int = 30
    ) -> LatencyProfile:
        """Time runs of one batch by the wall clock, from arrays to arrays."""
        self.run(feeds)  # Tells what is wrong with the inputs, outside the timed loop.
        ready = dict(feeds)
        options = self._session.get_session_options()
        return measure(
            lambda: self._session.run(None, ready),
            batch=batch_of(feeds),
            warmup_s=warmup_s,
            min_s=min_s,
            min_runs=min_runs,
            environment={
                **environment(),
                "engine": OnnxRuntime.name,
                "threads": str(options.intra_op_num_threads),
            },
        )


def optimized_ops(path: str | os.PathLike[str], *, threads: int | None = None) -> dict[str, int]:
    """Return how many nodes of each operator ONNX Runtime runs for this file on this processor.

    Whether INT8 is INT8 shows here: a quantized Conv that ONNX Runtime could not turn into an
    integer kernel is still a ``Conv`` (or ``FusedConv``) between ``DequantizeLinear`` nodes.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses the file.
    """
    import onnx

    from graphopt.runtime import open_session, session_options

    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        saved = Path(scratch) / "optimized.onnx"
        options = session_options(threads=threads)
        options.optimized_model_filepath = str(saved)
        # Weights apart: a message of 2 GiB cannot be saved, and only the nodes are read.
        key = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{key}_file_name", "weights")
        options.add_session_config_entry(f"{key}_min_size_in_bytes", "1024")
        with open_session(path, options=options):
            pass
        if not saved.is_file():
            raise ModelFormatError(f"ONNX Runtime did not say what it made of {path}")
        graph = onnx.load_model(saved, load_external_data=False).graph
    counts: dict[str, int] = {}
    for node in _nodes(graph):
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items()))


def _nodes(graph: Any) -> Iterable[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                yield from _nodes(body)


def _count(ops: Mapping[str, int], which: frozenset[str]) -> int:
    return sum(number for op, number in ops.items() if op in which)
