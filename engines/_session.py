"""An engine on a GPU: the same calls for TensorRT from 8.5 and for TensorRT-RTX.

Latency is the GPU's own time between two events around the launch, without copies: what trtexec
calls GPU Compute Time. Not run where this was written (no GPU).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.engines._lanes import Lane, Lanes
from graphopt.engines._messages import builder_message
from graphopt.engines.cuda import Cuda, open_cuda
from graphopt.engines.feeds import batch_of, check_feeds
from graphopt.errors import EnvironmentProblem, UnsupportedModelError, UsageError
from graphopt.profiles.latency import LatencyProfile, environment, sample
from graphopt.wording import spell

if TYPE_CHECKING:
    from graphopt.graph import Array, Shape
    from graphopt.model import Feeds, Inputs
    from graphopt.profiles.layer_times import LayerTimes

# By name: the ``nptype`` of TensorRT 8.5 asks for ``numpy.bool``, which NumPy 1.24 took away.
_NUMPY: dict[str, Any] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


@contextmanager
def open_engine(module: str, path: Path) -> Iterator[EngineSession]:
    """Open an engine with the runtime of this module, ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        EnvironmentProblem: the GPU or the runtime cannot be used, or not with this engine.
    """
    try:
        trt = importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as problem:
        raise EnvironmentProblem(f"{module} cannot be loaded: {problem}") from problem
    with open_cuda() as cuda:
        log: list[str] = []
        logger = collecting_logger(trt, log)
        runtime = trt.Runtime(logger)
        trt.init_libnvinfer_plugins(logger, "")
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise EnvironmentProblem(f"{path} cannot be loaded on this machine: {_why(log)}")
        session = EngineSession(trt, engine, cuda, log)
        try:
            yield session
        finally:
            session.close()


def collecting_logger(trt: Any, log: list[str]) -> Any:
    """Return a logger that keeps errors in ``log`` and prints nothing."""
    kept = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

    class Collecting(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            # TensorRT requires this very call, not super().
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in kept:
                log.append(message)

    return Collecting()


class EngineSession:
    """An engine with its execution context, one stream and its buffers."""

    def __init__(self, trt: Any, engine: Any, cuda: Cuda, log: list[str]) -> None:
        self._trt, self._engine, self.cuda, self._log = trt, engine, cuda, log
        self._lanes: list[Lane] = []
        self._others: list[EngineSession] = []
        self._graph: Any = None
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EnvironmentProblem(f"the engine cannot be run: {_why(log)}")
        self.stream = cuda.stream()
        self._buffers: dict[str, tuple[int, int]] = {}
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        is_input = {n: engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
        self._inputs = [n for n in names if is_input[n]]
        self._outputs = [n for n in names if not is_input[n]]
        # What TensorRT reads on the host (shape tensors) must stay alive while it does.
        self._host: dict[str, Array] = {}
        # A context starts on the first optimization profile.
        self._profile = 0

    def inputs(self) -> Inputs:
        """Return input name -> (dtype, shape); a dimension that may vary is None."""
        found: dict[str, tuple[Any, Shape]] = {}
        for name in self._inputs:
            shape = tuple(d if d >= 0 else None for d in self._engine.get_tensor_shape(name))
            found[name] = (self._dtype(name), shape)
        return found

    def device_bytes(self) -> int:
        """Return the GPU memory a run takes, as the engine tells it: scratch, inputs, outputs.

        Weights are not counted; the size of the file tells them.
        """
        scratch = getattr(self._engine, "device_memory_size_v2", None)  # from 10.1 on
        if scratch is None:
            scratch = self._engine.device_memory_size
        return int(scratch) + sum(size for _, size in self._buffers.values())

    def close(self) -> None:
        """Give the GPU's memory back."""
        for other in self._others:
            other.close()
        self._others.clear()
        self._lanes.clear()
        self.cuda.synchronize(self.stream)
        for address, _ in self._buffers.values():
            self.cuda.free(address)
        self._buffers.clear()
        self._context = None

    def run(self, feeds: Feeds, /) -> dict[str, Array]:
        """Run one batch; return output name -> array.

        Raises:
            UsageError: an input is missing, unknown, of the wrong type, or out of the shapes the
                engine was built for.
            UnsupportedModelError: an output's shape depends on the data.
            EnvironmentProblem: the run failed.
        """
        results = self._bind(feeds)
        self._enqueue()
        for name, array in results.items():
            self.cuda.to_host(array, self._buffers[name][0], self.stream)
        self.cuda.synchronize(self.stream)
        return results

    def time(
        self, feeds: Feeds, /, *, warmup_s: float = 0.2, min_s: float = 1.0, min_runs: int = 30
    ) -> LatencyProfile:
        """Time runs of one batch by CUDA events, without copies, in a CUDA graph where possible."""
        timer = self.timer(feeds)
        (lane,) = timer.lanes

        def timed() -> float:
            lane.launch()
            return lane.elapsed_ms()

        return sample(
            timed,
            batch=timer.batch,
            warmup_s=warmup_s,
            min_s=min_s,
            min_runs=min_runs,
            environment={**environment(), **timer.environment},
        )

    def timer(self, feeds: Feeds, /, *, streams: int = 1) -> Lanes:
        """Make one batch ready on some streams, each with a context and buffers of its own.

        Raises:
            UsageError: the engine does not take this batch.
            EnvironmentProblem: this TensorRT has no room for so many contexts.
        """
        self._check_streams(streams)
        while len(self._lanes) < streams:
            self._lanes.append(Lane(self if not self._lanes else self._another()))
        lanes = tuple(self._lanes[:streams])
        for lane in lanes:
            lane.ready(feeds)
        found = self._environment(all(lane.graph for lane in lanes))
        return Lanes(lanes, feeds, batch_of(feeds), {**found, "streams": str(streams)})

    def launcher(self, feeds: Feeds) -> tuple[Callable[[], None], bool]:
        """Bind a batch; return what queues a run of it, and whether by a CUDA graph."""
        self._bind(feeds)
        self._enqueue()  # Some kernels are loaded by the first run, which no graph may hold.
        self.cuda.synchronize(self.stream)
        close = getattr(self._graph, "close", None)
        if close is not None:  # each batch has a graph of its own
            close()
        self._graph = self.cuda.capture(self.stream, self._enqueue)
        return self._graph or self._enqueue, self._graph is not None

    def layer_times(self, feeds: Feeds, /, *, runs: int = 50) -> LayerTimes:
        """Return the time of each layer, by TensorRT's profiler, in a pass of its own.

        No CUDA graph is used, since layers inside one cannot be told apart. The context is a
        fresh one: a profiler cannot be taken off again.

        Raises:
            UsageError: the engine does not take this batch.
            EnvironmentProblem: the profiler told nothing.
        """
        from graphopt.engines._layer_profiler import layer_times

        other = self if self._alone() else self._another()
        if other is self:
            self._lanes.clear()  # what they hold is about to be bound anew
        try:
            return layer_times(self._trt, other, feeds, runs)
        finally:
            if other is not self:
                other.close()
                self._others.remove(other)

    def profiled(self, profiler: Any, feeds: Feeds) -> Callable[[], None]:
        """Bind a batch and set a profiler; return what runs once and waits."""
        self._bind(feeds)
        self._context.profiler = profiler

        def run() -> None:
            self._enqueue()
            self.cuda.synchronize(self.stream)

        return run

    def _another(self) -> EngineSession:
        """Open a second context of the same engine."""
        other = EngineSession(self._trt, self._engine, self.cuda, self._log)
        self._others.append(other)
        return other

    def _alone(self) -> bool:
        """Whether one context takes the only optimization profile: TensorRT 8, dynamic shapes."""
        old = self._trt.__name__ == "tensorrt" and int(self._trt.__version__.split(".")[0]) < 10
        open_ = any(None in shape for _, shape in self.inputs().values())
        return old and open_

    def _check_streams(self, streams: int) -> None:
        if streams > 1 and self._alone():
            raise EnvironmentProblem(
                f"{streams} streams: TensorRT {self._trt.__version__} gives an optimization "
                "profile to one context alone, and this engine has dynamic shapes: build it for "
                "one shape, or time it with TensorRT 10"
            )

    def _environment(self, graph: bool) -> dict[str, str]:
        from graphopt.profiles.host import gpus

        cards = gpus()
        return {
            "engine": str(self._trt.__name__),
            "engine_version": str(self._trt.__version__),
            "gpu": cards[0].name if cards else "unknown",
            "driver": cards[0].driver if cards else "unknown",
            "clock": f"CUDA events ({self.cuda.backend})",
            "cuda_graph": "yes" if graph else "no",
        }

    def _bind(self, feeds: Feeds) -> dict[str, Array]:
        """Set shapes and addresses, copy the inputs; return empty arrays for the outputs."""
        check_feeds(feeds, self.inputs())
        self._choose_profile(feeds)
        for name in self._inputs:
            array = np.ascontiguousarray(feeds[name])
            self._host[name] = array
            if not self._context.set_input_shape(name, array.shape):
                raise UsageError(
                    f"input '{name}': the engine was not built for the shape "
                    f"{spell(array.shape)}{self._built_for(name)}"
                )
            on_host = self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST
            address = array.ctypes.data if on_host else self._reserve(name, array.nbytes)
            if not on_host:
                self.cuda.to_device(address, array, self.stream)
            self._context.set_tensor_address(name, address)
        results: dict[str, Array] = {}
        for name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            if any(d < 0 for d in shape):
                raise UnsupportedModelError(
                    f"output '{name}': its shape depends on the data, which graphopt cannot run"
                )
            results[name] = np.empty(shape, self._dtype(name))
            self._context.set_tensor_address(name, self._reserve(name, results[name].nbytes))
        return results

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self.stream):
            raise EnvironmentProblem(f"the engine failed while it ran: {_why(self._log)}")

    def _reserve(self, name: str, size: int) -> int:
        address, held = self._buffers.get(name, (0, 0))
        if held >= size and address:
            return address
        if address:
            self.cuda.synchronize(self.stream)
            self.cuda.free(address)
        size = max(size, 1)  # An empty tensor needs an address too.
        self._buffers[name] = (self.cuda.allocate(size), size)
        return self._buffers[name][0]

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name)
        found = _NUMPY.get(kind.name)
        if found is None:
            raise UnsupportedModelError(f"'{name}' is of {kind}, which NumPy has not")
        dtype: np.dtype[Any] = np.dtype(found)
        return dtype

    def _choose_profile(self, feeds: Feeds) -> None:
        """Switch to the optimization profile that these shapes fit best, where there are several.

        That is the one tuned for the nearest size; of equal ones the first. Where none fits the
        present one is kept, and refuses the shape.
        """
        count = int(self._engine.num_optimization_profiles)
        if count < 2:
            return
        shapes = {name: np.shape(feeds[name]) for name in self._on_device()}
        found = [(d, i) for i in range(count) if (d := self._distance(shapes, i)) is not None]
        if not found or min(found)[1] == self._profile:
            return
        index = min(found)[1]
        if not self._context.set_optimization_profile_async(index, self.stream):
            raise EnvironmentProblem(
                f"optimization profile {index} of the engine cannot be used: {_why(self._log)}"
            )
        self.cuda.synchronize(self.stream)
        self._profile = index

    def _distance(self, shapes: dict[str, tuple[int, ...]], profile: int) -> float | None:
        """Return how far in size a profile's optimum is from these shapes; None: none fits."""
        total = 0.0
        for name, shape in shapes.items():
            low, mid, high = self._engine.get_tensor_profile_shape(name, profile)
            if not all(a <= d <= b for a, d, b in zip(low, shape, high, strict=True)):
                return None
            total += sum(
                abs(math.log(max(d, 1) / max(m, 1))) for d, m in zip(shape, mid, strict=True)
            )
        return total

    def _on_device(self) -> list[str]:
        host = self._trt.TensorLocation.HOST
        return [n for n in self._inputs if self._engine.get_tensor_location(n) != host]

    def _built_for(self, name: str) -> str:
        ranges = []
        for index in range(int(self._engine.num_optimization_profiles)):
            low, _, high = self._engine.get_tensor_profile_shape(name, index)
            ranges.append(f"{spell(low)} to {spell(high)}")
        return f"; it was built for {', or '.join(dict.fromkeys(ranges))}"


def _why(log: list[str]) -> str:
    return builder_message(log[-1]) if log else "the runtime does not say why"
