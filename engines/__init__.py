"""Engines: what turns an optimized ONNX model into something that runs, and times it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from graphopt.registry import Registry

if TYPE_CHECKING:
    from graphopt.calibrators import CalibrationTable
    from graphopt.graph import Array
    from graphopt.model import Feeds, Inputs, Model
    from graphopt.profiles import DeviceProfile, LatencyProfile

__all__ = [
    "AUTO_ORDER",
    "ENGINES",
    "Artifact",
    "BuildOptions",
    "Engine",
    "GpuCalibration",
    "Remote",
    "Session",
    "ShapeRange",
]


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The shapes one dynamic input may take: an optimization profile."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GpuCalibration:
    """Batches that TensorRT's own calibrator is to see on the GPU, for implicit INT8.

    Attributes:
        batches: feeds of one shape, the one that is calibrated at; read once, in order.
        method: TensorRT's rule: ``"entropy"`` (IInt8EntropyCalibrator2, the only one of a DLA) or
            ``"minmax"`` (IInt8MinMaxCalibrator).
    """

    batches: Iterable[Feeds]
    method: str = "entropy"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What an engine needs to know besides the model.

    What is None or empty is left to the engine. An engine takes the fields its ``takes`` names, and
    a request that sets another is refused before it is asked.

    Attributes:
        shapes: by input name; every input with a dynamic dimension must be there.
        more_shapes: further optimization profiles, each like ``shapes``.
        device: the target.
        precision: ``"fp32"`` or ``"int8"``: what the graph carries (precision lives in the graph).
        implicit: the ranges for implicit INT8, of a graph without Q/DQ: TensorRT decides by itself
            which layers run in INT8. Only TensorRT 8 to 10, and the only INT8 of Xavier's DLA.
        calibration: instead of ``implicit``: let TensorRT choose the ranges, on the GPU.
        fp16: layers of a float32 graph may run in FP16 as TensorRT sees fit, beside implicit INT8
            or alone; only TensorRT 8 to 10. A graph that holds fp16 tensors needs no such word.
        dla: the deep-learning accelerator to build for, counted from 0.
        gpu_fallback: with ``dla``: what it cannot run may run on the GPU.
        sparse: the weights are 2:4 sparse, and kernels that use it may be chosen.
        level: TensorRT's builder optimization level, 0 to 5 (from 8.6 on).
        threads: CPU threads for building or running; None for all.
        workspace_bytes: scratch memory TensorRT may use at most; None for its own limit.
        timing_cache: a file in which TensorRT keeps the kernel timings it measured, read and
            updated: rebuilds then choose the same kernels. Engines that time nothing ignore it.
        time_limit_s: stop a build that takes longer, in seconds; None for no limit.
        say: told what goes on, a line at a time.
    """

    device: DeviceProfile
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    more_shapes: tuple[Mapping[str, ShapeRange], ...] = ()
    precision: str = "fp32"
    implicit: CalibrationTable | None = None
    calibration: GpuCalibration | None = None
    fp16: bool = False
    dla: int | None = None
    gpu_fallback: bool = True
    sparse: bool = False
    level: int | None = None
    threads: int | None = None
    workspace_bytes: int | None = None
    timing_cache: Path | None = None
    time_limit_s: float | None = None
    say: Callable[[str], None] | None = None

    @property
    def profiles(self) -> tuple[Mapping[str, ShapeRange], ...]:
        """Every optimization profile, the first one first."""
        return (self.shapes, *self.more_shapes)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a build produced.

    Attributes:
        path: the engine.
        facts: for its sidecar; JSON values only.
        files: what was written beside it: kind -> file (``"layers"``: what the engine's inspector
            tells; ``"layer-times"``; ``"engine-log"``).
        latency: measured where it was built, by what built it.
    """

    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    latency: LatencyProfile | None = None


class Session(Protocol):
    """An opened artifact."""

    def inputs(self) -> Inputs:
        """Return what it takes, as ``Model.inputs()`` does: what data is opened and checked for."""

    def run(self, feeds: Feeds, /) -> dict[str, Array]:
        """Run one batch; return output name -> array."""

    def time(
        self, feeds: Feeds, /, *, warmup_s: float = 0.2, min_s: float = 1.0, min_runs: int = 30
    ) -> LatencyProfile:
        """Time runs of one batch; warm-up runs are dropped, raw samples kept."""


class Engine(Protocol):
    """A runtime that builds, opens and times artifacts."""

    name: ClassVar[str]
    dialect: ClassVar[str]
    """The Q/DQ dialect it fuses best: a name in ``graphopt.dialects.DIALECTS``."""
    suffix: ClassVar[str]
    """What its artifact's file name ends with: ``".engine"``, ``".ort.onnx"``."""
    takes: ClassVar[frozenset[str]]
    """The fields of :class:`BuildOptions` it heeds, of those that some engines do not."""

    def missing(self) -> str | None:
        """Return what must be installed to *build*, with the command, or None."""

    def cannot_build(self, device: DeviceProfile, precision: str, /) -> str | None:
        """Return why it cannot build here for that device, with the way out, or None.

        Takes for granted that nothing is :meth:`missing`.
        """

    def cannot_run(self) -> str | None:
        """Return why an artifact cannot be run or timed on this machine, or None."""

    def version(self) -> str | None:
        """Return the version of the runtime, or None where it is not installed."""

    def refuses(self, model: Model, options: BuildOptions, /) -> list[str]:
        """Return what this runtime's parser says against the model; empty if it takes it."""

    def build(self, model: Model, out: Path, options: BuildOptions, /) -> Artifact:
        """Build into the file ``out`` (atomically)."""

    def open(self, path: Path, /) -> AbstractContextManager[Session]:
        """Open an artifact for running."""


@runtime_checkable
class Remote(Protocol):
    """What an engine can also do that builds on another machine: one that takes ``host``."""

    def device(self) -> DeviceProfile:
        """Return the profile of the machine, which is asked."""


ENGINES = Registry(
    kind="engine",
    table={
        "tensorrt": "graphopt.engines.tensorrt:TensorRT",
        "trtexec": "graphopt.engines.trtexec.engine:Trtexec",
        "tensorrt-rtx": "graphopt.engines.tensorrt_rtx:TensorRTRTX",
        "onnxruntime": "graphopt.engines.onnxruntime:OnnxRuntime",
    },
    aliases={"trt": "tensorrt", "rtx": "tensorrt-rtx", "ort": "onnxruntime"},
)

AUTO_ORDER: Sequence[str] = ("tensorrt", "trtexec", "tensorrt-rtx", "onnxruntime")
"""``--engine auto`` takes the first of these that is installed and can build here."""
