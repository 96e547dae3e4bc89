"""The builder: refuses what the real one refuses, writes an engine that tells what it was asked."""

from __future__ import annotations

import json
import math
from typing import Any

from .strict import Strict, stored

# What runs on a DLA, of the operators of the tests; the real list is longer.
DLA_OPS = {
    "Conv",
    "Relu",
    "Add",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "BatchNormalization",
}
_HEAD = 32


class _Severity:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = _Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        object.__setattr__(self, "_made", True)

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


def logger_init(self: Any, min_severity: int = 2) -> None:
    ILogger.__init__(self)


def logged(logger: Any, message: str) -> None:
    assert getattr(logger, "_made", False), "ILogger.__init__ was not called: the real one crashes"
    logger.log(ILogger.ERROR, message)


class Calibrator:
    _algorithm = ""

    def __init__(self) -> None:
        object.__setattr__(self, "_made", True)

    def _method(self, name: str) -> Any:
        # pybind11 looks for an override; get_batch and its like have no default.
        return getattr(self, name)


class IOptimizationProfile(Strict):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Any, Any, Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._shapes)

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        three = tuple(tuple(int(d) for d in shape) for shape in (min, opt, max))
        if not all(a <= b <= c for a, b, c in zip(*three, strict=True)):
            raise ValueError("shapes do not grow")
        self._shapes[input] = three  # type: ignore[assignment]

    def get_shape(self, input: str) -> list[Any]:  # noqa: A002
        return list(self._shapes[input])


class ITimingCache(Strict):
    def __init__(self, version: str, gpu: str, times: dict[str, int]) -> None:
        self._of, self._times = (version, gpu), times

    def serialize(self) -> HostMemory:
        text = json.dumps({"of": self._of, "times": self._times}, sort_keys=True)
        return HostMemory(b"TIMINGS" + text.encode())

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if input_cache._of != self._of and not ignore_mismatch:
            return False
        self._times.update(input_cache._times)
        return True


class HostMemory(bytearray):
    """IHostMemory: a buffer that is also a context manager."""

    def __enter__(self) -> HostMemory:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class IBuilderConfig(Strict):
    _home: dict[str, Any]

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._flags: set[str] = {"TF32"}
        self._profiles: list[IOptimizationProfile] = []
        self._pools: dict[str, int] = {}
        self._dla_core = -1
        self._calibration_profile: Any = None
        self._cache: ITimingCache | None = None

    int8_calibrator = stored("int8_calibrator")
    builder_optimization_level = stored("builder_optimization_level", 3)
    profiling_verbosity = stored("profiling_verbosity")
    engine_capability = stored("engine_capability", "STANDARD")

    @property
    def default_device_type(self) -> Any:
        return getattr(self, "_device", self._home["trt"].DeviceType.GPU)

    @default_device_type.setter
    def default_device_type(self, value: Any) -> None:
        object.__setattr__(self, "_device", value)

    @property
    def DLA_core(self) -> int:
        return self._dla_core

    @DLA_core.setter
    def DLA_core(self, core: int) -> None:
        # "Must be between 0 and N-1": with another it stays as it is.
        if core < self._home["dla_cores"]:
            object.__setattr__(self, "_dla_core", core)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._flag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._flag(flag))

    def get_flag(self, flag: Any) -> bool:
        return self._flag(flag) in self._flags

    def _flag(self, flag: Any) -> str:
        assert isinstance(flag, self._home["trt"].BuilderFlag), flag
        return str(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert isinstance(pool, self._home["trt"].MemoryPoolType), pool
        self._pools[pool.name] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool.name, 0)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        return True

    def get_tactic_sources(self) -> int:
        return 0

    def get_preview_feature(self, feature: Any) -> bool:
        return False

    def get_quantization_flag(self, flag: Any) -> bool:
        return False

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_calibration_profile(self, profile: IOptimizationProfile) -> bool:
        self._calibration_profile = profile
        return True

    def get_calibration_profile(self) -> Any:
        return self._calibration_profile

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        data = bytes(serialized_timing_cache)
        if not data:
            return self._kind(self._home["version"], self._home["gpu"], {})
        try:
            if not data.startswith(b"TIMINGS"):
                raise ValueError
            told = json.loads(data[7:])
            return self._kind(*told["of"], told["times"])
        except ValueError:
            logged(self._logger, "The timing cache cannot be read")
            return None

    def _kind(self, *values: Any) -> ITimingCache:
        made: ITimingCache = self._home["trt"].ITimingCache(*values)
        return made

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not ignore_mismatch and cache._of != (self._home["version"], self._home["gpu"]):
            logged(self._logger, "The timing cache is of another version or device")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder(Strict):
    _home: dict[str, Any]

    def __init__(self, logger: Any) -> None:
        assert getattr(logger, "_made", False), "ILogger.__init__ was not called"
        self._logger = logger

    @property
    def num_DLA_cores(self) -> int:
        return int(self._home["dla_cores"])

    def create_network(self, flags: int = 0) -> Any:
        return self._home["trt"].INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._home["trt"].IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> Any:
        return self._home["trt"].IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> HostMemory | None:
        try:
            return self._build(network, config)
        except Refused as problem:
            logged(
                self._logger,
                f"4: [network.cpp::validate::2871] Error Code 4: Internal Error ({problem})",
            )
            return None

    def _build(self, network: Any, config: Any) -> HostMemory:
        flags, ops = config._flags, network._ops()
        strong = network._strong
        quantized = bool(ops & {"QuantizeLinear", "DequantizeLinear"})
        _check_types(network, flags, strong, quantized)
        _check_profiles(network, config)
        dla = config.default_device_type.name == "DLA"
        if dla:
            _check_dla(flags, ops, strong)
        scales: dict[str, str] = {}
        if "INT8" in flags and not quantized:
            scales = self._calibrate(network, config)
        times = {f"{op} {sorted(flags)}": len(op) for op in ops}
        cached = 0
        if config._cache is not None:
            cached = len(set(times) & set(config._cache._times))
            config._cache._times.update(times)
        told = {
            "version": self._home["version"],
            "gpu": self._home["gpu"],
            "flags": sorted(flags),
            "strong": strong,
            "profiles": [p._shapes for p in config._profiles],
            "pools": config._pools,
            "level": getattr(config, "_builder_optimization_level", None),
            "dla": config.DLA_core if dla else None,
            "verbosity": getattr(config._profiling_verbosity, "name", None),
            "timings_found": cached,
            "scales": scales,
        }
        return pack(told, network._onnx)

    def _calibrate(self, network: Any, config: Any) -> dict[str, str]:
        calibrator = config.int8_calibrator
        if calibrator is None:
            raise Refused("Calibration failure: no scaling factors, no dynamic ranges")
        assert calibrator._made, "the calibrator's base was not initialized: the real one crashes"
        header = f"TRT-{number(self._home['version'])}-{calibrator._algorithm}"
        cache = calibrator._method("read_calibration_cache")()
        if cache is not None:
            first, _, rest = bytes(cache).decode().partition("\n")
            if first == header:
                return dict(line.rsplit(": ", 1) for line in rest.splitlines())
        names = [network.get_input(i).name for i in range(network.num_inputs)]
        shapes = (config._calibration_profile or config._profiles[0])._shapes
        greatest: dict[str, float] = dict.fromkeys(names, 0.0)
        batches = 0
        while found := _batch(calibrator, names):
            batches += 1
            for name, address in zip(names, found, strict=True):
                values = self._home["read_gpu"](address, math.prod(shapes[name][1]))
                greatest[name] = max(greatest[name], float(abs(values).max()))
        if not batches:
            raise Refused("Calibration failure occurred with no scaling factors detected")
        import struct

        scales = {n: struct.pack(">f", v / 127).hex() for n, v in greatest.items()}
        lines = [header, *(f"{n}: {s}" for n, s in scales.items())]
        calibrator._method("write_calibration_cache")(memoryview("\n".join(lines).encode() + b"\n"))
        return scales


class Refused(Exception):
    """What the builder says of a network that it cannot build."""


def number(version: str) -> int:
    """The version in a calibration cache's header."""
    major, minor, patch, *_ = (int(part) for part in version.split("."))
    return major * (10000 if major >= 10 else 1000) + minor * 100 + patch


def pack(told: dict[str, Any], onnx: bytes) -> HostMemory:
    """An engine: the header that graphopt reads, what was asked, the model."""
    text = json.dumps(told).encode()
    size = _HEAD + len(text) + len(onnx)
    version = bytes(int(part) for part in told["version"].split("."))[:4]
    head = b"ftrt" + bytes(12) + size.to_bytes(8, "little") + version
    return HostMemory(head + len(text).to_bytes(4, "little") + text + onnx)


def unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[28:32], "little")
    return json.loads(data[_HEAD : _HEAD + size]), data[_HEAD + size :]


def _batch(calibrator: Any, names: list[str]) -> Any:
    try:
        return calibrator._method("get_batch")(names)
    except Exception:  # noqa: BLE001 - the real one prints it, and takes it for the end
        return None


def _check_types(network: Any, flags: set[str], strong: bool, quantized: bool) -> None:
    if strong and flags & {"INT8", "FP16", "BF16", "FP8"}:
        raise Refused("precision flags must not be set for a strongly typed network")
    if strong:
        return
    if quantized and "INT8" not in flags:
        raise Refused(
            "Int8 precision has been set for a layer or layer output, but int8 is not configured "
            "in the builder"
        )
    if network._half and "FP16" not in flags:
        raise Refused(
            "fp16 precision has been set for a layer or layer output, but fp16 is not configured "
            "in the builder"
        )


def _check_profiles(network: Any, config: Any) -> None:
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 in tensor.shape and not config._profiles:
            raise Refused("Network has dynamic or shape inputs, but no optimization profile")
        for profile in config._profiles:
            for shape in profile._shapes[tensor.name]:
                pairs = zip(tensor.shape, shape, strict=True)
                if not all(d in (-1, s) for d, s in pairs):
                    raise Refused(f"{tensor.name}: the profile does not fit the network")


def _check_dla(flags: set[str], ops: set[str], strong: bool) -> None:
    if not strong and not flags & {"INT8", "FP16"}:
        raise Refused("DLA supports only FP16 and INT8 precision")
    foreign = sorted(ops - DLA_OPS)
    if foreign and "GPU_FALLBACK" not in flags:
        raise Refused(f"Operation {foreign[0]} is not supported on DLA, and GPU fallback is off")
