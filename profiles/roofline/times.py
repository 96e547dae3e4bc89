"""How long a model takes on a device: an estimate, kernel by kernel, from what the device can do.

Williams, Waterman and Patterson, *Roofline: an insightful visual performance model for multicore
architectures*, CACM 52(4), 2009: a kernel takes the longer of computing and of moving its tensors,
here after what any kernel takes. Channels are padded to the device's multiple first, as tensor
cores and their layouts have it, so that a width between two multiples saves nothing. The shares of
the peaks that are attained, and the time of a kernel with nothing to do, were fitted to MLPerf
results (:mod:`graphopt.profiles.roofline.anchors`); docs/estimate.md says what that is good for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from graphopt.cost import with_input_shapes
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.graph import Tensor, constant, static_shape
from graphopt.model import Model
from graphopt.profiles.device import DeviceProfile
from graphopt.profiles.roofline.anchors import Constants, fit
from graphopt.profiles.roofline.layers import BODIES, BYTES, Factors, Kernel, Work, kernels, work_of
from graphopt.wording import counted

Bound = Literal["compute", "memory", "floor"]
# Tensor cores do 16 times as much in INT8 as the other cores in fp32; where a profile has both
# peaks, those count.
_VECTOR_SHARE = 16
SCHEMA = 1
_KIND = "graphopt-estimate"
LABEL = "estimate, not measured"
MOSTLY = 0.8


def pad(size: int, multiple: int) -> int:
    """Return the channels that are computed and moved for ``size`` of them: the next multiple."""
    return -(-size // multiple) * multiple


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device attains; times in picoseconds, which add up to the same in any order.

    Attributes:
        macs: precision -> multiply-accumulates in a picosecond.
        vector: the same without tensor cores, for depthwise convolutions.
        bytes: moved in a picosecond.
        launch: what any kernel takes.
        multiples: precision -> channels are padded to a multiple of it.
    """

    macs: Mapping[str, float]
    vector: float
    bytes: float
    launch: int
    multiples: Mapping[str, int]

    @classmethod
    def of(cls, device: DeviceProfile, constants: Constants | None = None) -> Rates:
        """Return the rates of a device, for every precision it has a peak for.

        Args:
            device: with ``peaks`` and ``bandwidth_gbs``; its own ``efficiency``, ``depthwise`` and
                ``launch_us`` go before the constants.
            constants: those in use by default.

        Raises:
            UsageError: it lacks these figures.
        """
        check_figures(device, ())
        known = constants or fit().constants
        attained = device.efficiency or known.compute
        top = max(device.peaks.values()) / _VECTOR_SHARE
        return cls(
            {p: peak / 2 * attained for p, peak in device.peaks.items()},
            device.peaks.get("fp32", top) / 2 * (device.depthwise or attained),
            (device.bandwidth_gbs or 0.0) / 1e3 * known.bandwidth,
            round((device.launch_us or known.launch(device.sm)) * 1e6),
            {p: device.multiple(p) for p in BYTES},
        )

    def computing(self, precision: str, macs: int, *, depthwise: bool = False) -> float:
        """Return the picoseconds that so many multiply-accumulates take."""
        rate = self.macs[precision]
        return macs / (min(rate, self.vector) if depthwise else rate)

    def moving(self, size: int) -> float:
        """Return the picoseconds that moving so many bytes takes."""
        return size / self.bytes

    def kernel(self, computing: float, moving: float) -> int:
        """Return the picoseconds of a kernel."""
        return self.launch + round(max(computing, moving))


@dataclass(frozen=True, slots=True)
class LayerTime:
    """The estimate for one kernel.

    Attributes:
        name: of its main node.
        op: what was fused in it: ``Conv+Add+Relu``.
        precision: ``int8``, ``fp16`` or ``fp32``.
        macs: multiply-accumulates, as the graph has them.
        padded: the same, channels padded.
        bytes: read and written, channels padded.
        compute_ms: what computing takes.
        memory_ms: what moving takes.
        ms: what it takes in all.
        bound: what that is: ``floor`` where a kernel with nothing to do takes longer than either.
        nodes: that run in it.
    """

    name: str
    op: str
    precision: str
    macs: int
    padded: int
    bytes: int
    compute_ms: float
    memory_ms: float
    ms: float
    bound: Bound
    nodes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in type(self).__slots__}
        return {**plain, "nodes": list(self.nodes)}


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a model is thought to take; nothing of it was measured.

    Attributes:
        device: a profile's name, with its power mode: ``jetson-agx-xavier:30W``.
        precision: what was asked for; None: as the graph says.
        batch: items in one run.
        layers: in graph order.
        ms: of one run: their sum.
        low_ms: lower end of the error band.
        high_ms: upper end.
        unknown: nodes of unknown shapes, which count as nothing.
        notes: what a reader must know.
    """

    device: str
    precision: str | None
    batch: int
    layers: tuple[LayerTime, ...]
    ms: float
    low_ms: float
    high_ms: float
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def throughput(self) -> float:
        """Items in a second, one run after the other; inf where nothing is left to run."""
        return self.batch / self.ms * 1e3 if self.ms else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return plain values, labelled."""
        known = fit()
        return {
            "schema": SCHEMA,
            "kind": _KIND,
            "label": LABEL,
            "device": self.device,
            "precision": self.precision or "as the graph says",
            "batch": self.batch,
            "ms": self.ms,
            "low_ms": self.low_ms,
            "high_ms": self.high_ms,
            "throughput": self.throughput if math.isfinite(self.throughput) else None,
            "layers": [layer.to_json() for layer in self.layers],
            "unknown": list(self.unknown),
            "notes": list(self.notes),
            "fitted": {
                "date": known.date,
                "errors": dict(sorted(known.errors.items())),
                "left_out": dict(sorted(known.left_out.items())),
            },
        }


def estimate(
    model: Model,
    device: DeviceProfile,
    *,
    precision: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    constants: Constants | None = None,
) -> Estimate:
    """Estimate how long one run takes.

    Args:
        model: any; what TensorRT would do to it before it chooses kernels is best done first
            (:class:`graphopt.passes.simplify.Simplify`).
        device: with ``peaks`` and ``bandwidth_gbs``.
        precision: of all layers, ``int8`` of all that can; by default as the graph says.
        shapes: input name -> shape, for inputs with open dimensions; one that is still open
            counts as 1.
        constants: those in use by default.

    Raises:
        UsageError: the device lacks these figures, or the peak for a precision.
        UnsupportedModelError: no shape of the model is known.
    """
    fixed = with_input_shapes(model, shapes or {})
    rates = Rates.of(device, constants)
    found = kernels(fixed, precision, rest_of(device))
    used = {precision, *(k.precision for k in found if k.contracts)} - {None}
    check_figures(device, [p for p in BYTES if p in used])
    layers: list[LayerTime] = []
    unknown: list[str] = []
    for kernel in found:
        work = work_of(kernel, lambda _node, _index, tensor: _sizes(tensor), _sizes, precision)
        if work is None:
            unknown.append(kernel.name)
        else:
            layers.append(layer_time(kernel, work, rates))
    if unknown and not layers:
        raise UnsupportedModelError(
            "nothing can be estimated: no shape of the model is known; simplify it first "
            "(graphopt optimize), or give --opt-shapes"
        )
    ms = sum(round(layer.ms * 1e9) for layer in layers) / 1e9
    low, high = fit().band(device.spelled)
    first = next((s for t in fixed.graph.inputs if (s := static_shape(t))), None)
    return Estimate(
        device.spelled,
        precision,
        first[0] if first else 1,
        tuple(layers),
        ms,
        ms * low,
        ms * high,
        tuple(unknown),
        tuple(_notes(device, layers, found, used, unknown)),
    )


def layer_time(kernel: Kernel, work: Work, rates: Rates) -> LayerTime:
    """Return the time of a kernel whose sizes are numbers."""
    multiple = rates.multiples[work.precision]
    macs = 0 if work.macs is None else prod(work.macs.extents)
    padded = 0 if work.macs is None else padded_product(work.macs, multiple)
    size = sum(padded_product(m.elements, multiple) * m.itemsize for m in work.moved)
    computing = 0.0
    if padded:
        computing = rates.computing(work.precision, padded, depthwise=work.depthwise)
    moving = rates.moving(size)
    bound: Bound = "compute" if computing > moving else "memory"
    if max(computing, moving) < rates.launch:
        bound = "floor"
    return LayerTime(
        kernel.name,
        kernel.op,
        work.precision,
        macs,
        padded,
        size,
        computing / 1e9,
        moving / 1e9,
        rates.kernel(computing, moving) / 1e9,
        bound,
        tuple(str(node.name) for node in kernel.nodes),
    )


def padded_product(factors: Factors, multiple: int) -> int:
    """Return the product of sizes, those of channels padded."""
    value = 1
    for place, size in enumerate(factors.extents):
        value *= pad(size, multiple) if place in factors.channels else size
    return value


def rest_of(device: DeviceProfile) -> str:
    """Return the precision of what cannot run in INT8."""
    return "fp16" if "fp16" in device.precisions else "fp32"


def check_figures(device: DeviceProfile, precisions: Sequence[str]) -> None:
    """Refuse a device of which too little is known.

    Raises:
        UsageError: its profile lacks ``bandwidth_gbs``, ``peaks``, or that of a precision.
    """
    lacks = [] if device.bandwidth_gbs else ["bandwidth_gbs"]
    lacks += [] if device.peaks else ["peaks"]
    lacks += [f"peaks.{p}" for p in precisions if device.peaks and p not in device.peaks]
    if not lacks:
        return
    told = " and ".join(f"'{key}'" for key in lacks)
    if device.name == "host":
        raise UsageError(
            f"nothing can be estimated for this machine: {told} not known; graphopt profile "
            "measures here; graphopt devices host --measure finds them, or name a --device"
        )
    raise UsageError(f"nothing can be estimated on '{device.name}': its profile lacks {told}")


def with_accelerators(device: DeviceProfile, tops: float) -> DeviceProfile:
    """Return a device whose INT8 peak includes that of accelerators that run beside its GPU."""
    return replace(device, peaks={**device.peaks, "int8": device.peaks["int8"] + tops})


def _sizes(tensor: Tensor) -> Sequence[int] | None:
    shape = static_shape(tensor)
    if shape is None and (value := constant(tensor)) is not None:
        return tuple(value.shape)
    return shape


def _notes(
    device: DeviceProfile,
    layers: Sequence[LayerTime],
    found: Sequence[Kernel],
    used: set[str | None],
    unknown: Sequence[str],
) -> list[str]:
    notes = []
    if not layers:
        notes.append(
            "no kernel is left to run: views, and what follows from constants, cost nothing"
        )
    total = sum(layer.ms for layer in layers)
    floor = sum(layer.ms for layer in layers if layer.bound == "floor")
    if floor > MOSTLY * total:
        notes.append(
            f"{100 * floor / total:.0f} % of the time is in kernels that have too little to do: "
            "fewer layers or a larger batch help, narrower layers hardly do"
        )
    if not fit().knows(device.spelled):
        notes.append(
            f"'{device.spelled}' is none of the devices this was fitted to: the band is that of "
            "devices left out of the fit"
        )
    if device.sm is None:
        own = [
            k for k in ("efficiency", "depthwise", "launch_us") if getattr(device, k) is not None
        ]
        notes.append(
            f"'{device.name}' is no NVIDIA GPU, and nothing else was fitted to"
            + (f": {', '.join(own)} are its own, all else is as for GPUs" if own else "")
        )
        if "int8" in used:
            notes.append(
                "int8: ONNX Runtime takes INT8 kernels only where what a layer makes is quantized "
                "too; with Q/DQ placed for TensorRT most layers run in fp32, far slower than this"
            )
    others = sorted(p for p in used if p is not None and p != "int8")
    if others:
        notes.append(f"{' and '.join(others)}: every reference point is INT8, none checks these")
    if unknown:
        notes.append(f"{counted(len(unknown), 'kernel')} of unknown shape: counted as nothing")
    bodies = sum(node.op in BODIES for kernel in found for node in kernel.nodes)
    if bodies:
        notes.append(f"{counted(bodies, 'sub-graph')} (If, Loop, Scan): not looked into")
    return notes
