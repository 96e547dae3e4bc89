"""The little of CUDA that running and timing an engine takes, over PyCUDA or cuda-python.

Addresses and stream handles are plain integers, as TensorRT wants them. PyCUDA is tried first;
CUDA graphs need cuda-python, because PyCUDA cannot capture a stream: where both are installed
PyCUDA does all else, in the primary context that the two share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from graphopt.errors import EnvironmentProblem
from graphopt.machine import installed
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.graph import Array

INSTALL = (
    'pip install "graphopt[cuda]" (PyCUDA, needs the CUDA headers), or pip install cuda-python'
)


class Cuda(Protocol):
    """One GPU. Copies and launches are queued on a stream; nothing waits but where it says so."""

    backend: str

    def allocate(self, size: int, /) -> int:
        """Return the address of ``size`` bytes on the GPU."""

    def free(self, address: int, /) -> None:
        """Give memory back."""

    def to_device(self, address: int, array: Array, stream: int, /) -> None:
        """Queue a copy of a contiguous array to the GPU."""

    def to_host(self, array: Array, address: int, stream: int, /) -> None:
        """Queue a copy from the GPU into a contiguous array."""

    def stream(self) -> int:
        """Return the handle of a new stream."""

    def synchronize(self, stream: int, /) -> None:
        """Wait until everything queued is done."""

    def event(self) -> Any:
        """Return a new event that keeps time."""

    def record(self, event: Any, stream: int, /) -> None:
        """Queue the event."""

    def elapsed_ms(self, start: Any, stop: Any, /) -> float:
        """Wait for ``stop``; return the milliseconds between the two, by the GPU's clock."""

    def capture(self, stream: int, enqueue: Callable[[], None], /) -> Callable[[], None] | None:
        """Return a launcher of the CUDA graph of what ``enqueue`` queues, or None if it cannot."""


def missing_cuda() -> str | None:
    """Return what to install to run engines from Python, or None. Nothing is imported."""
    if installed("pycuda") or cuda_python() is not None:
        return None
    return f"no CUDA package for Python is installed: {INSTALL}"


def cuda_python() -> str | None:
    """Return the module of cuda-python's runtime API: it moved in version 12.6."""
    for module in ("cuda.bindings.runtime", "cuda.cudart"):
        if installed(module):
            return module
    return None


@contextmanager
def open_cuda() -> Iterator[Cuda]:
    """Open the first GPU.

    Raises:
        EnvironmentProblem: no package is installed, or none of them reaches a GPU.
    """
    reason = missing_cuda()
    if reason:
        raise EnvironmentProblem(reason)
    problems: list[str] = []
    for backend in (PyCuda, CudaPython):
        try:
            cuda = backend()
        except Exception as problem:  # noqa: BLE001 - each package has errors of its own
            problems.append(f"{backend.backend}: {one_line(problem, 150)}")
            continue
        try:
            yield cuda
        finally:
            cuda.close()
        return
    raise EnvironmentProblem(f"CUDA cannot be used: {'; '.join(problems)}")


class PyCuda:
    """Over PyCUDA, in the context that TensorRT uses too (the primary one)."""

    backend = "pycuda"

    def __init__(self) -> None:
        from pycuda import driver

        driver.init()
        self._driver = driver
        self._context = driver.Device(0).retain_primary_context()
        self._context.push()
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._graphs: list[Captured] = []

    def close(self) -> None:
        """Free everything and leave the context."""
        for graph in self._graphs:
            graph.close()
        self._graphs.clear()
        self._memory.clear()
        self._streams.clear()
        self._context.pop()

    def allocate(self, size: int, /) -> int:
        """See :class:`Cuda`."""
        memory = self._driver.mem_alloc(size)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int, /) -> None:
        """See :class:`Cuda`."""
        self._memory.pop(address).free()

    def to_device(self, address: int, array: Array, stream: int, /) -> None:
        """See :class:`Cuda`."""
        self._driver.memcpy_htod_async(address, array, self._streams[stream])

    def to_host(self, array: Array, address: int, stream: int, /) -> None:
        """See :class:`Cuda`."""
        self._driver.memcpy_dtoh_async(array, address, self._streams[stream])

    def stream(self) -> int:
        """See :class:`Cuda`."""
        stream = self._driver.Stream()
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def synchronize(self, stream: int, /) -> None:
        """See :class:`Cuda`."""
        self._streams[stream].synchronize()

    def event(self) -> Any:
        """See :class:`Cuda`."""
        return self._driver.Event()

    def record(self, event: Any, stream: int, /) -> None:
        """See :class:`Cuda`."""
        event.record(self._streams[stream])

    def elapsed_ms(self, start: Any, stop: Any, /) -> float:
        """See :class:`Cuda`."""
        stop.synchronize()
        return float(start.time_till(stop))

    def capture(self, stream: int, enqueue: Callable[[], None], /) -> Callable[[], None] | None:
        """See :class:`Cuda`; by cuda-python, None where that is not installed."""
        module = cuda_python()
        if module is None:
            return None
        graph = capture(import_module(module), stream, enqueue)
        if graph is not None:
            self._graphs.append(graph)
        return graph


class CudaPython:
    """Over NVIDIA's cuda-python: every call returns ``(error, *values)``."""

    backend = "cuda-python"

    def __init__(self) -> None:
        module = cuda_python()
        if module is None:
            raise EnvironmentProblem("not installed")
        self._rt = import_module(module)
        self._memory: set[int] = set()
        self._streams: dict[int, Any] = {}
        self._events: list[Any] = []
        self._graphs: list[Captured] = []
        self._call(self._rt.cudaFree(0))  # Makes the context: tells here that there is no GPU.

    def close(self) -> None:
        """Free everything."""
        for graph in self._graphs:
            graph.close()
        for event in self._events:
            self._rt.cudaEventDestroy(event)
        for address in self._memory:
            self._rt.cudaFree(address)
        for stream in self._streams.values():
            self._rt.cudaStreamDestroy(stream)

    def allocate(self, size: int, /) -> int:
        """See :class:`Cuda`."""
        address = int(self._call(self._rt.cudaMalloc(size)))
        self._memory.add(address)
        return address

    def free(self, address: int, /) -> None:
        """See :class:`Cuda`."""
        self._memory.remove(address)
        self._call(self._rt.cudaFree(address))

    def to_device(self, address: int, array: Array, stream: int, /) -> None:
        """See :class:`Cuda`."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        source = array.ctypes.data
        handle = self._streams[stream]
        self._call(self._rt.cudaMemcpyAsync(address, source, array.nbytes, kind, handle))

    def to_host(self, array: Array, address: int, stream: int, /) -> None:
        """See :class:`Cuda`."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        target = array.ctypes.data
        handle = self._streams[stream]
        self._call(self._rt.cudaMemcpyAsync(target, address, array.nbytes, kind, handle))

    def stream(self) -> int:
        """See :class:`Cuda`."""
        stream = self._call(self._rt.cudaStreamCreate())
        self._streams[int(stream)] = stream
        return int(stream)

    def synchronize(self, stream: int, /) -> None:
        """See :class:`Cuda`."""
        self._call(self._rt.cudaStreamSynchronize(self._streams[stream]))

    def event(self) -> Any:
        """See :class:`Cuda`."""
        event = self._call(self._rt.cudaEventCreate())
        self._events.append(event)
        return event

    def record(self, event: Any, stream: int, /) -> None:
        """See :class:`Cuda`."""
        self._call(self._rt.cudaEventRecord(event, self._streams[stream]))

    def elapsed_ms(self, start: Any, stop: Any, /) -> float:
        """See :class:`Cuda`."""
        self._call(self._rt.cudaEventSynchronize(stop))
        return float(self._call(self._rt.cudaEventElapsedTime(start, stop)))

    def capture(self, stream: int, enqueue: Callable[[], None], /) -> Callable[[], None] | None:
        """See :class:`Cuda`; None where something in the engine cannot be captured."""
        graph = capture(self._rt, self._streams[stream], enqueue)
        if graph is not None:
            self._graphs.append(graph)
        return graph

    def _call(self, answer: tuple[Any, ...]) -> Any:
        return checked(self._rt, answer)


class Captured:
    """A CUDA graph that can be launched; calling it queues it on the stream it came from."""

    def __init__(self, runtime: Any, graph: Any, stream: Any) -> None:
        self._rt, self._graph, self._stream = runtime, graph, stream

    def __call__(self) -> None:
        """Queue one launch."""
        checked(self._rt, self._rt.cudaGraphLaunch(self._graph, self._stream))

    def close(self) -> None:
        """Free it; once is enough."""
        if self._graph is not None:
            self._rt.cudaGraphExecDestroy(self._graph)
            self._graph = None


def capture(runtime: Any, stream: Any, enqueue: Callable[[], None]) -> Captured | None:
    """Return the CUDA graph of what ``enqueue`` queues on a stream, None where it cannot be.

    Args:
        runtime: cuda-python's runtime module.
        stream: its stream, or the handle of one as a number; not the default stream.
        enqueue: queues work on that stream alone.
    """
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    checked(runtime, runtime.cudaStreamBeginCapture(stream, mode))
    try:
        enqueue()
        failed = False
    except EnvironmentProblem:
        failed = True
    # The capture must be ended whatever happened, or the stream stays unusable.
    error, graph = runtime.cudaStreamEndCapture(stream)
    if failed or int(error):
        # A capture that was broken leaves its error behind for the next call that asks.
        runtime.cudaGetLastError()
        if not int(error):
            runtime.cudaGraphDestroy(graph)
        return None
    error, runnable = runtime.cudaGraphInstantiateWithFlags(graph, 0)
    runtime.cudaGraphDestroy(graph)
    return None if int(error) else Captured(runtime, runnable, stream)


def checked(runtime: Any, answer: tuple[Any, ...]) -> Any:
    """Return the value in an answer of cuda-python's, ``(error, *values)``.

    Raises:
        EnvironmentProblem: it is an error.
    """
    error, *values = answer
    if int(error):
        _, name = runtime.cudaGetErrorString(error)
        text = name.decode() if isinstance(name, bytes) else str(name)
        raise EnvironmentProblem(f"CUDA: {text}")
    return values[0] if values else None
