"""A strict stand-in for PyCUDA's driver module and cuda-python's runtime: one GPU in host memory.

:func:`install` makes them importable, in the worker process too. Only what PyCUDA's and
cuda-python's documentation has is there; both see the same memory, streams and clock. Work that is
not captured is done at once, and moves the clock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Less than anything takes on the processor: GPU time is part of the time that passes.
RUN_MS, GRAPH_MS = 2**-9, 2**-10


class FakeGpu:
    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.clock = 0.0
        self.recording: list[Callable[[], None]] | None = None
        self.launches = 0
        self.contexts = 0

    def allocate(self, size: int) -> int:
        assert self.contexts, "no context is current"
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        del self.memory[address]

    def copy(self, to: int, source: int, size: int) -> None:
        held = self.memory.get(to) or self.memory.get(source)
        assert held is not None, "neither end of the copy is on the GPU"
        assert size <= len(held)
        assert self.recording is None, "a copy was queued while a graph was captured"
        ctypes.memmove(to, source, size)

    def work(self, function: Callable[[], None]) -> None:
        if self.recording is not None:
            self.recording.append(function)
            return
        function()
        self.clock += RUN_MS


GPU = FakeGpu()


def pycuda_driver() -> dict[str, Any]:
    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            self._address = GPU.allocate(size)

        def __int__(self) -> int:
            return self._address

        def free(self) -> None:
            GPU.free(self._address)
            self._address = 0

        def __del__(self) -> None:
            if self._address:
                GPU.free(self._address)

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            self.handle = 7

        def synchronize(self) -> None:
            pass

    class Event:
        def __init__(self, flags: int = 0) -> None:
            self._at: float | None = None

        def record(self, stream: Stream | None = None) -> Event:
            self._at = GPU.clock
            return self

        def synchronize(self) -> Event:
            return self

        def time_till(self, event: Event) -> float:
            assert self._at is not None
            assert event._at is not None
            return event._at - self._at

    class Context:
        def push(self) -> None:
            GPU.contexts += 1

        @staticmethod
        def pop() -> None:
            GPU.contexts -= 1

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        def retain_primary_context(self) -> Context:
            return Context()

    def memcpy_htod_async(dest: int, src: Any, stream: Stream | None = None) -> None:
        GPU.copy(int(dest), src.ctypes.data, src.nbytes)

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream | None = None) -> None:
        GPU.copy(dest.ctypes.data, int(src), dest.nbytes)

    return {
        "init": lambda flags=0: None,
        "Device": Device,
        "Context": Context,
        "Stream": Stream,
        "Event": Event,
        "DeviceAllocation": DeviceAllocation,
        "mem_alloc": DeviceAllocation,
        "memcpy_htod_async": memcpy_htod_async,
        "memcpy_dtoh_async": memcpy_dtoh_async,
    }


def cuda_runtime() -> dict[str, Any]:
    def begin(stream: int, mode: Any) -> tuple[int]:
        assert stream == 7
        GPU.recording = []
        return (0,)

    def end(stream: int) -> tuple[int, Any]:
        done, GPU.recording = GPU.recording, None
        return 0, done

    def launch(graph: Any, stream: int) -> tuple[int]:
        GPU.launches += 1
        for function in graph:
            function()
        GPU.clock += GRAPH_MS
        return (0,)

    return {
        "cudaStreamCaptureMode": SimpleNamespace(cudaStreamCaptureModeThreadLocal=1),
        "cudaStreamBeginCapture": begin,
        "cudaStreamEndCapture": end,
        "cudaGraphInstantiateWithFlags": lambda graph, flags: (0, graph),
        "cudaGraphDestroy": lambda graph: (0,),
        "cudaGraphExecDestroy": lambda graph: (0,),
        "cudaGraphLaunch": launch,
        "cudaGetErrorString": lambda error: (0, b"an error"),
        "cudaGetLastError": lambda: (0,),
    }


def install(folder: Path, *, graphs: bool = True) -> Path:
    """Put a ``pycuda`` and, with ``graphs``, cuda-python into ``folder``; return the folder."""
    (folder / "fake_gpu.py").write_bytes(Path(__file__).read_bytes())
    modules = {"pycuda/__init__.py": "", "pycuda/driver.py": "pycuda_driver"}
    if graphs:
        modules |= {"cuda/__init__.py": "", "cuda/bindings/__init__.py": ""}
        modules |= {"cuda/bindings/runtime.py": "cuda_runtime"}
    for name, made in modules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        line = f"import fake_gpu\nglobals().update(fake_gpu.{made}())\n" if made else ""
        path.write_text(line)
    return folder
