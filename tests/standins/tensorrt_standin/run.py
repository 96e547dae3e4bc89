"""The runtime: an engine is its ONNX model, run by ONNX Runtime on the memory of a fake GPU."""

from __future__ import annotations

import ctypes
import json
from typing import Any

import numpy as np

from .build import logged, unpack
from .strict import Strict, stored


class Runtime(Strict):
    _home: dict[str, Any]

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    DLA_core = stored("DLA_core", -1)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        data = bytes(serialized_engine)
        if data[:4] != b"ftrt":
            logged(self._logger, "Serialization assertion magicTagRead == kMAGIC_TAG failed")
            return None
        if len(data) < 32 or int.from_bytes(data[16:24], "little") != len(data):
            logged(self._logger, "Serialization assertion stdArchiveReader failed: truncated")
            return None
        told, onnx = unpack(data)
        if told["version"] != self._home["version"]:
            logged(
                self._logger,
                f"The engine plan file is not compatible with this version of TensorRT, expecting "
                f"library version {self._home['version']} got {told['version']}",
            )
            return None
        if told["gpu"] != self._home["gpu"]:
            logged(self._logger, "The engine plan file is generated on an incompatible device")
            return None
        return self._home["trt"].ICudaEngine(told, onnx)


class IProfiler:
    """A subclass must call this very ``__init__``, or the real one crashes."""

    def __init__(self) -> None:
        self._made = True


SCRATCH = 3 << 20
"""Bytes that every engine says its kernels need."""


class EngineInspector(Strict):
    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:  # noqa: A002
        assert format.name == "JSON"
        network = self._engine._network
        detailed = self._engine._told["verbosity"] == "DETAILED"
        layers = [
            {"Name": layer.name, "LayerType": layer.type.name} if detailed else layer.name
            for layer in network
        ]
        ends = [t.name for t in (*network._inputs, *network._outputs)]
        return json.dumps({"Layers": layers, "Bindings": ends})


class ICudaEngine(Strict):
    _home: dict[str, Any]

    def __init__(self, told: dict[str, Any], data: bytes) -> None:
        import onnx

        trt = self._home["trt"]
        self._told, self._data = told, data
        flags = [f for f in trt.NetworkDefinitionCreationFlag if f.name == "EXPLICIT_BATCH"]
        self._network = trt.INetworkDefinition(sum(1 << int(flag) for flag in flags))
        self._network._fill(onnx.load_from_string(data))
        self._tensors = [*self._network._inputs, *self._network._outputs]

    num_io_tensors = property(lambda self: len(self._tensors))
    num_optimization_profiles = property(lambda self: len(self._told["profiles"]))
    device_memory_size = property(lambda self: SCRATCH)
    device_memory_size_v2 = property(lambda self: SCRATCH)

    def create_engine_inspector(self) -> Any:
        return self._home["trt"].EngineInspector(self)

    def create_execution_context(self) -> Any:
        return self._home["trt"].IExecutionContext(self)

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index].name)

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._home["trt"].TensorIOMode
        return modes.INPUT if self._find(name) in self._network._inputs else modes.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        return self._home["trt"].TensorLocation.DEVICE

    def get_tensor_dtype(self, name: str) -> Any:
        return self._find(name).dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._find(name).shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._told["profiles"][profile_index][name]]

    def _find(self, name: str) -> Any:
        return next(t for t in self._tensors if t.name == name)


class IExecutionContext(Strict):
    _home: dict[str, Any]

    def __init__(self, engine: Any) -> None:
        import onnxruntime

        self._engine = engine
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._session = onnxruntime.InferenceSession(
            engine._data, providers=["CPUExecutionProvider"]
        )

    active_optimization_profile = property(lambda self: self._profile)
    profiler = stored("profiler")

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return False
        self._profile = profile_index
        self._shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if not all(a <= d <= b for a, d, b in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        inputs = {t.name for t in self._engine._network._inputs}
        assert inputs == set(self._shapes), "asked before the inputs' shapes were set"
        if name in self._shapes:
            return self._shapes[name]
        # The tests' models have one dynamic dimension, the batch.
        batch = next(iter(self._shapes.values()))[0]
        return tuple(batch if d == -1 else d for d in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert isinstance(memory, int)
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self._engine
        assert set(self._addresses) == {t.name for t in engine._tensors}
        where, shapes = dict(self._addresses), dict(self._shapes)

        def compute() -> None:
            feeds = {n: _array(where[n], s, _dtype(engine, n)).copy() for n, s in shapes.items()}
            names = [t.name for t in engine._network._outputs]
            for name, value in zip(names, self._session.run(names, feeds), strict=True):
                _array(where[name], value.shape, value.dtype)[...] = value
            if self.profiler is not None:
                assert getattr(self.profiler, "_made", False), "IProfiler.__init__ was not called"
                for number, layer in enumerate(engine._network):
                    self.profiler.report_layer_time(layer.name, 0.5 * (number + 1))

        self._home["gpu_work"](compute)
        return True


def read(address: int, count: int) -> Any:
    """float32 values at an address."""
    return np.array((ctypes.c_float * count).from_address(address))


def work(function: Any) -> None:
    """Do some work of the GPU's; where there is a fake GPU, in its time."""
    try:
        from fake_gpu import GPU
    except ImportError:
        function()
    else:
        GPU.work(function)


def _dtype(engine: Any, name: str) -> Any:
    known = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT8": np.int8}
    return known[engine.get_tensor_dtype(name).name]


def _array(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(raw, dtype).reshape(shape)
