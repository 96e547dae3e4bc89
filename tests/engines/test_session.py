"""The GPU session's logic, against stand-ins for TensorRT and CUDA that are strict about it.

What these cannot show: that the real TensorRT and CUDA behave like them.
"""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from engine_models import needs_rtx

from graphopt.engines import cuda as cuda_module
from graphopt.engines._session import EngineSession, collecting_logger
from graphopt.engines.cuda import CudaPython, PyCuda, missing_cuda, open_cuda
from graphopt.errors import EnvironmentProblem, UnsupportedModelError, UsageError

IN, OUT = "IN", "OUT"


class FakeCuda:
    """Memory of the host under made-up addresses; a queue that runs when waited for."""

    backend = "fake"

    def __init__(self, *, graphs: bool) -> None:
        self.graphs = graphs
        self.memory: dict[int, ctypes.Array] = {}
        self.queue: list = []
        self.clock = 0.0
        self.capturing = False
        self.launches = 0

    def allocate(self, size):
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address):
        assert not self.queue, "freed while work was queued"
        del self.memory[address]

    def to_device(self, address, array, stream):
        assert array.flags.c_contiguous
        assert array.nbytes <= len(self.memory[address])
        self.queue.append(lambda: ctypes.memmove(address, array.ctypes.data, array.nbytes))

    def to_host(self, array, address, stream):
        assert array.nbytes <= len(self.memory[address])
        self.queue.append(lambda: ctypes.memmove(array.ctypes.data, address, array.nbytes))

    def stream(self):
        return 7

    def synchronize(self, stream):
        assert stream == 7
        while self.queue:
            self.queue.pop(0)()

    def event(self):
        return SimpleNamespace(at=None)

    def record(self, event, stream):
        self.queue.append(lambda: setattr(event, "at", self.clock))

    def elapsed_ms(self, start, stop):
        self.synchronize(7)
        return stop.at - start.at

    def work(self, function):
        def done():
            function()
            self.clock += 2.5

        if not self.capturing:
            self.queue.append(done)
        return done

    def capture(self, stream, enqueue):
        if not self.graphs:
            return None
        assert not self.queue, "captured while work was queued"
        self.capturing = True
        enqueue()
        self.capturing = False

        def launch():
            self.launches += 1
            self.queue.append(lambda: setattr(self, "clock", self.clock + 1.5))

        return launch


class FakeEngine:
    """Computes y = 2x for float32 x of shape (1..4, 3), and adds the host tensor ``n``."""

    num_io_tensors = 3
    num_optimization_profiles = 1
    names = ("x", "n", "y")

    def __init__(self, gpu: FakeCuda, *, dynamic_output: bool = False, fails: bool = False) -> None:
        self.gpu, self.dynamic_output, self.fails = gpu, dynamic_output, fails

    def create_execution_context(self):
        return FakeContext(self)

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_mode(self, name):
        return OUT if name == "y" else IN

    def get_tensor_location(self, name):
        return "HOST" if name == "n" else "DEVICE"

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="INT64" if name == "n" else "FLOAT")

    def get_tensor_shape(self, name):
        return (1,) if name == "n" else (-1, 3)

    def get_tensor_profile_shape(self, name, profile):
        return (1, 3), (2, 3), (4, 3)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def get_tensor_shape(self, name):
        assert self.shape, "asked before the inputs' shapes were set"
        return (-1, 3) if self.engine.dynamic_output else self.shape

    def set_input_shape(self, name, shape):
        if name == "n":
            return True
        if not 1 <= shape[0] <= 4:
            return False
        self.shape = tuple(shape)
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert set(self.addresses) == set(self.engine.names)
        if self.engine.fails:
            return False
        count = self.shape[0] * 3
        where = dict(self.addresses)

        def compute():
            x = (ctypes.c_float * count).from_address(where["x"])
            y = (ctypes.c_float * count).from_address(where["y"])
            n = ctypes.c_int64.from_address(where["n"]).value
            for i in range(count):
                y[i] = 2 * x[i] + n

        self.engine.gpu.work(compute)
        return True


TRT = SimpleNamespace(
    __name__="tensorrt",
    __version__="10.0.1",
    TensorIOMode=SimpleNamespace(INPUT=IN),
    TensorLocation=SimpleNamespace(HOST="HOST"),
)


def session(gpu, log=None, **options):
    return EngineSession(TRT, FakeEngine(gpu, **options), gpu, [] if log is None else log)


def feeds(batch, n=1):
    x = np.arange(batch * 3, dtype=np.float32).reshape(batch, 3)
    return {"x": x, "n": np.array([n], np.int64)}


def test_run_copies_in_computes_and_copies_out():
    gpu = FakeCuda(graphs=False)
    opened = session(gpu)
    for batch in (1, 4, 2):
        given = feeds(batch, n=batch)
        np.testing.assert_array_equal(opened.run(given)["y"], 2 * given["x"] + batch)
    assert len(gpu.memory) == 2  # x and y, grown once: n stays on the host.
    opened.close()
    assert gpu.memory == {}


def test_inputs_are_told_with_their_free_dimensions():
    inputs = session(FakeCuda(graphs=False)).inputs()
    assert inputs == {"x": (np.float32, (None, 3)), "n": (np.int64, (1,))}


def test_an_array_with_gaps_is_made_whole_first():
    gpu = FakeCuda(graphs=False)
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)
    got = session(gpu).run({"x": wide[:, ::2], "n": np.array([0], np.int64)})
    np.testing.assert_array_equal(got["y"], 2 * wide[:, ::2])


@pytest.mark.parametrize(("graphs", "ms"), [(True, 1.5), (False, 2.5)])
def test_latency_is_the_gpus_own_time_without_copies(graphs, ms):
    gpu = FakeCuda(graphs=graphs)
    profile = session(gpu).time(feeds(4), warmup_s=0, min_s=0, min_runs=5)
    assert profile.samples_ms == (ms,) * 5
    assert (profile.batch, gpu.launches > 0) == (4, graphs)
    assert profile.environment["cuda_graph"] == ("yes" if graphs else "no")
    assert profile.environment["engine"] == "tensorrt"


def test_what_cannot_be_run_is_told():
    gpu = FakeCuda(graphs=False)
    with pytest.raises(UsageError, match=r"not built for the shape 5x3; .*1x3 to 4x3"):
        session(gpu).run(feeds(5))
    with pytest.raises(UsageError, match="input 'n' is not given"):
        session(gpu).run({"x": feeds(1)["x"]})
    with pytest.raises(UsageError, match="must be float32"):
        session(gpu).run({**feeds(1), "x": np.zeros((1, 3))})
    with pytest.raises(UnsupportedModelError, match="depends on the data"):
        session(gpu, dynamic_output=True).run(feeds(1))
    with pytest.raises(EnvironmentProblem, match="failed while it ran: what it said"):
        session(gpu, fails=True, log=["what it said"]).run(feeds(1))


@needs_rtx
def test_the_calls_exist_in_the_real_module():
    import tensorrt_rtx as trt

    for owner, names in {
        trt.Runtime: ["deserialize_cuda_engine"],
        trt.ICudaEngine: [
            "create_execution_context",
            "num_io_tensors",
            "get_tensor_name",
            "get_tensor_mode",
            "get_tensor_location",
            "get_tensor_dtype",
            "get_tensor_shape",
            "get_tensor_profile_shape",
            "num_optimization_profiles",
        ],
        trt.IExecutionContext: [
            "set_input_shape",
            "get_tensor_shape",
            "set_tensor_address",
            "execute_async_v3",
            "set_optimization_profile_async",
        ],
        trt: ["init_libnvinfer_plugins", "TensorIOMode", "TensorLocation"],
    }.items():
        for name in names:
            assert hasattr(owner, name), name
    log: list[str] = []
    logger = collecting_logger(trt, log)
    logger.log(trt.ILogger.Severity.WARNING, "dropped")
    logger.log(trt.ILogger.Severity.ERROR, "kept")
    assert log == ["kept"]
    assert [trt.DataType.FLOAT.name, trt.float16.name, trt.int64.name] == ["FLOAT", "HALF", "INT64"]


def test_without_a_package_or_a_gpu_cuda_says_so(monkeypatch):
    monkeypatch.setattr(cuda_module, "installed", lambda name: False)
    assert "pip install" in str(missing_cuda())
    with pytest.raises(EnvironmentProblem, match="pip install"), open_cuda():
        pass
    monkeypatch.setattr(cuda_module, "installed", lambda name: name == "pycuda")
    monkeypatch.setitem(sys.modules, "pycuda", None)  # On a machine that has it, too.
    assert missing_cuda() is None
    said = r"CUDA cannot be used: pycuda: .*; cuda-python: "
    with pytest.raises(EnvironmentProblem, match=said), open_cuda():
        pass


class FakeRuntime:
    """The runtime API of cuda-python: every call returns (error, *values)."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken: set[str] = set()

    def __getattr__(self, name):
        values = {"cudaMalloc": (4096,), "cudaStreamCreate": (11,), "cudaEventCreate": ("event",)}
        values |= {"cudaEventElapsedTime": (0.25,), "cudaStreamEndCapture": ("graph",)}
        values |= {"cudaGraphInstantiateWithFlags": ("runnable",)}

        def call(*arguments):
            self.calls.append(name)
            if name == "cudaGetErrorString":
                return (0, b"it is broken")
            if name in self.broken:
                return (1, None)
            return (0, *values.get(name, ()))

        return call


@pytest.fixture
def runtime(monkeypatch):
    fake = FakeRuntime()
    monkeypatch.setattr(cuda_module, "cuda_python", lambda: "cuda.bindings.runtime")
    monkeypatch.setattr(cuda_module, "import_module", lambda name: fake)
    return fake


def test_cuda_python_answers_and_errors(runtime):
    gpu = CudaPython()
    stream, address = gpu.stream(), gpu.allocate(8)
    gpu.to_device(address, np.zeros(2, np.float32), stream)
    gpu.to_host(np.zeros(2, np.float32), address, stream)
    start, stop = gpu.event(), gpu.event()
    gpu.record(start, stream)
    assert gpu.elapsed_ms(start, stop) == 0.25
    runtime.broken = {"cudaMalloc"}
    with pytest.raises(EnvironmentProblem, match="CUDA: it is broken"):
        gpu.allocate(8)
    gpu.free(address)
    gpu.close()
    assert runtime.calls.count("cudaFree") == 2  # Once to make the context.
    assert runtime.calls.count("cudaEventDestroy") == 2
    assert runtime.calls[-1] == "cudaStreamDestroy"


def test_cuda_python_captures_a_graph_or_says_it_cannot(runtime):
    gpu = CudaPython()
    stream = gpu.stream()
    launch = gpu.capture(stream, lambda: None)
    assert launch is not None
    launch()
    assert runtime.calls[-1] == "cudaGraphLaunch"

    def fails():
        raise EnvironmentProblem("no")

    assert gpu.capture(stream, fails) is None
    # The capture is ended all the same, its error taken away, and what was captured freed.
    ended = runtime.calls.index("cudaStreamEndCapture", runtime.calls.index("cudaGraphLaunch"))
    assert runtime.calls[ended:] == ["cudaStreamEndCapture", "cudaGetLastError", "cudaGraphDestroy"]
    for broken in ("cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"):
        runtime.broken = {broken}
        assert gpu.capture(stream, lambda: None) is None


def test_no_gpu_is_told_when_the_context_is_made(runtime):
    runtime.broken = {"cudaFree"}
    with pytest.raises(EnvironmentProblem, match="it is broken"):
        CudaPython()


def test_pycuda_alone_cannot_capture(monkeypatch):
    monkeypatch.setattr(cuda_module, "cuda_python", lambda: None)
    assert PyCuda.capture(object(), 0, lambda: None) is None  # type: ignore[arg-type]


def test_a_type_that_numpy_has_not_is_told():
    gpu = FakeCuda(graphs=False)
    opened = session(gpu)
    opened._engine.get_tensor_dtype = lambda name: SimpleNamespace(name="BF16")
    with pytest.raises(UnsupportedModelError, match="which NumPy has not"):
        opened.inputs()
