"""What the processor of this machine attains, measured: peaks, bandwidth, what a kernel costs.

The models are ones that ONNX Runtime computes well: chains of equal convolutions, in fp32, and in
INT8 as graphopt writes it (Q/DQ). The best rate of any is the peak; what the others attain of it is
the efficiency; what a node with nothing to do adds is the time of a launch. All of it takes a few
seconds and changes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphopt.machine import cpu_count
from graphopt.profiles.device import DeviceProfile
from graphopt.profiles.host import cpu, host
from graphopt.wording import counted

# Channels, height and width, kernel: of the residual networks of CIFAR-10 and of ImageNet.
SHAPES = (
    (16, 32, 3),
    (32, 16, 3),
    (64, 8, 3),
    (64, 56, 3),
    (128, 28, 3),
    (256, 14, 3),
    (64, 56, 1),
)
DEPTHWISE = ((32, 60, 3), (64, 60, 3), (128, 28, 3))
"""Of MobileNets and detectors."""
LENGTH = 4
"""Convolutions in a chain, so that what happens at its ends hardly counts."""
_NODES = 2, 130
_CELL_S = 0.06
_BANDWIDTH_S = 0.4
_CACHES = "/sys/devices/system/cpu/cpu0/cache"
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 256 << 20
PRECISIONS = ("int8", "fp32")


@dataclass(frozen=True, slots=True)
class HostPeaks:
    """What was measured with a number of threads.

    Attributes:
        threads: of ONNX Runtime.
        peaks: precision -> TOPS or TFLOPS, the best rate of any model here.
        attained: precision -> the geometric mean, over all models, of the share of the peak.
        depthwise: the share of the fp32 peak that depthwise convolutions attain.
        bandwidth_gbs: GB/s of a copy that no cache holds, read and written bytes together.
        launch_us: microseconds that a node with nothing to do takes.
    """

    threads: int
    peaks: dict[str, float]
    attained: dict[str, float]
    depthwise: float
    bandwidth_gbs: float
    launch_us: float

    @property
    def efficiency(self) -> float:
        """The geometric mean of ``attained``."""
        return _mean(list(self.attained.values()))


def measure_host(threads: int | None = None) -> HostPeaks:
    """Measure this processor; 2 to 3 seconds.

    Args:
        threads: of ONNX Runtime; by default as many as cores may be used.
    """
    count = threads or cpu_count()
    peaks, attained = {}, {}
    for precision in PRECISIONS:
        best, usual = _rates(SHAPES, count, int8=precision == "int8")
        peaks[precision] = max(best)
        attained[precision] = min(_mean([rate / max(best) for rate in usual]), 1.0)
    _, apart = _rates(DEPTHWISE, count, depthwise=True)
    few, many = (median(_times(_idle(n), count)) for n in _NODES)
    launch = max(many - few, 0.0) / (_NODES[1] - _NODES[0]) * 1e6
    return HostPeaks(
        count,
        peaks,
        attained,
        min(_mean(apart) / peaks["fp32"], 1.0),
        _bandwidth(count),
        # A clock may tick too seldom to tell, and zero would be refused in a file.
        max(launch, 0.01),
    )


def _rates(
    shapes: Sequence[tuple[int, int, int]], threads: int, **kind: bool
) -> tuple[list[float], list[float]]:
    """Return the best and the usual rate of each shape, in 10^12 operations a second."""
    best, usual = [], []
    for channels, size, kernel in shapes:
        times = _times(convolutions(channels, size, kernel, **kind), threads)
        inner = 1 if kind.get("depthwise") else channels
        operations = 2 * LENGTH * channels * inner * kernel**2 * size**2
        best.append(operations / min(times) / 1e12)
        usual.append(operations / median(times) / 1e12)
    return best, usual


def host_profile(found: HostPeaks, name: str, *, beside: HostPeaks | None = None) -> DeviceProfile:
    """Return the processor as a device, with the figures that were measured.

    Args:
        found: these figures.
        name: of the device.
        beside: those with another number of threads, told in a note.
    """
    of = f"measured on {cpu().model} by graphopt devices --measure, {_threads(found.threads)}"
    notes = [f"The processor alone, {_threads(found.threads)} of {cpu_count()}."]
    if beside is not None:
        notes.append(f"With {_threads(beside.threads)}: {spelled(beside)}.")
    figures = [f"peaks.{p}" for p in found.peaks]
    figures += ["bandwidth_gbs", "efficiency", "depthwise", "launch_us"]
    known = host()
    return replace(
        known,
        name=name,
        title=cpu().model,
        sm=None,
        memory_gb=None if known.sm else known.memory_gb,
        precisions=PRECISIONS,
        channel_multiple={"int8": 8, "fp32": 8},
        peaks={p: float(f"{peak:.3g}") for p, peak in found.peaks.items()},
        bandwidth_gbs=float(f"{found.bandwidth_gbs:.3g}"),
        efficiency=float(f"{found.efficiency:.3g}"),
        depthwise=float(f"{found.depthwise:.3g}"),
        launch_us=float(f"{found.launch_us:.3g}"),
        notes=tuple(notes),
        sources=dict.fromkeys(figures, of),
    )


def spelled(found: HostPeaks) -> str:
    """Return the figures as a line."""
    int8, fp32 = (1e3 * found.peaks[p] for p in PRECISIONS)
    return (
        f"int8 {int8:.0f} GOP/s, fp32 {fp32:.0f} GFLOP/s, {found.bandwidth_gbs:.1f} GB/s, "
        f"{100 * found.efficiency:.0f} % of the peaks attained, {100 * found.depthwise:.0f} % by "
        f"depthwise convolutions, {found.launch_us:.2f} us a node"
    )


def convolutions(
    channels: int, size: int, kernel: int, *, int8: bool = False, depthwise: bool = False
) -> ModelProto:
    """Return a chain of equal convolutions, (1, channels, size, size) in and out.

    Args:
        channels: in and out of each.
        size: height and width.
        kernel: of each, padded so that the size stays.
        int8: with Q/DQ around each.
        depthwise: each channel by itself.
    """
    rng = np.random.default_rng(0)
    group = channels if depthwise else 1
    shape = (channels, channels // group, kernel, kernel)
    nodes, weights = [], []
    if int8:
        weights += [_constant("s", np.float32(0.02)), _constant("z", np.int8(0))]
        weights += [_constant("ws", np.full(channels, 0.01, np.float32))]
        weights += [_constant("wz", np.zeros(channels, np.int8))]
        nodes.append(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"]))
    for i in range(LENGTH):
        before, after = ("x" if i == 0 else f"t{i}"), ("y" if i == LENGTH - 1 else f"t{i + 1}")
        values = rng.integers(-100, 100, shape)
        if not int8:
            weights.append(_constant(f"w{i}", (values / 1e4).astype(np.float32)))
            nodes.append(_conv(before, f"w{i}", after, kernel, group))
            continue
        weights.append(_constant(f"w{i}", values.astype(np.int8)))
        quantized = [f"q{i}", "s", "z"]
        nodes += [
            helper.make_node("DequantizeLinear", quantized, [f"d{i}"]),
            helper.make_node("DequantizeLinear", [f"w{i}", "ws", "wz"], [f"v{i}"], axis=0),
            _conv(f"d{i}", f"v{i}", f"c{i}", kernel, group),
            helper.make_node("QuantizeLinear", [f"c{i}", "s", "z"], [f"q{i + 1}"]),
        ]
    if int8:
        nodes.append(helper.make_node("DequantizeLinear", [f"q{LENGTH}", "s", "z"], ["y"]))
    return _model(nodes, weights, (1, channels, size, size))


def _idle(count: int) -> ModelProto:
    """Return a chain of nodes that have nothing to do, and that nothing fuses."""
    names = ["x", *(f"t{i}" for i in range(1, count)), "y"]
    kinds = ("Sigmoid", "Softplus")
    nodes = [
        helper.make_node(kinds[i % 2], [before], [after])
        for i, (before, after) in enumerate(pairwise(names))
    ]
    return _model(nodes, [], (1, 8))


def _conv(data: str, weight: str, output: str, kernel: int, group: int) -> Any:
    pads = [kernel // 2] * 4
    return helper.make_node("Conv", [data, weight], [output], pads=pads, group=group)


def _constant(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _model(
    nodes: Sequence[Any], weights: Sequence[TensorProto], shape: Sequence[int]
) -> ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "measured", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 17)]
    made: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return made


def _times(model: ModelProto, threads: int) -> list[float]:
    """Return the seconds of each run, after one to warm up."""
    from graphopt.model import Model
    from graphopt.runtime import open_session, timing_options

    (declared,) = model.graph.input
    shape = [d.dim_value for d in declared.type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(1).standard_normal(shape, np.float32)}
    with open_session(Model.from_onnx(model), options=timing_options(threads)) as session:
        return repeated(lambda: session.run(None, feeds), _CELL_S)


def repeated(call: Callable[[], object], seconds: float) -> list[float]:
    """Return the seconds of each call, at least three, for about so long, after one unmeasured."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def _bandwidth(threads: int) -> float:
    """Return GB/s of a copy that is larger than the last cache, bytes in and out."""
    size = min(max(4 * last_cache(), _LEAST_BYTES), _MOST_BYTES) // 8 // threads
    pairs = [(np.ones(size), np.zeros(size)) for _ in range(threads)]

    def copy(pair: tuple[Any, Any]) -> None:
        np.copyto(pair[1], pair[0])  # without the lock of the interpreter

    with ThreadPoolExecutor(threads) as pool:
        times = repeated(lambda: list(pool.map(copy, pairs)), _BANDWIDTH_S)
    return float(2 * 8 * size * threads / min(times) / 1e9)


def last_cache(folder: str | os.PathLike[str] = _CACHES) -> int:
    """Return the bytes of the largest cache, 0 where the system does not tell."""
    found = [0]
    for path in sorted(Path(folder).glob("index*/size")):
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        number, unit = text[:-1], {"K": 1 << 10, "M": 1 << 20}.get(text[-1:])
        if unit and number.isdigit() and len(number) < 8:
            found.append(int(number) * unit)
    return max(found)


def _mean(values: Sequence[float]) -> float:
    return exp(sum(log(value) for value in values) / len(values))


def _threads(count: int) -> str:
    return counted(count, "thread")
