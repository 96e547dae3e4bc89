"""The command line of one trtexec: a request becomes words that this very version takes.

Branches on the flags a trtexec lists, never on its version. A flag that only tunes and is missing
is left out and noted; one that decides what the engine computes is never dropped: the request is
refused in one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from graphopt.engines import ShapeRange
from graphopt.engines.trtexec.features import Features
from graphopt.engines.trtexec.spelled import feed_spec, path_word, shape_spec
from graphopt.errors import EnvironmentProblem, UnsupportedModelError, UsageError

Sparsity = Literal["disable", "enable", "force"]


@dataclass(frozen=True, slots=True)
class Timing:
    """How trtexec measures. The defaults take GPU compute time alone, repeatably.

    Attributes:
        warmup_ms: dropped at the start.
        duration_s: measure for at least this long …
        iterations: … and at least this many runs.
        average_runs: runs that one line of the log averages over; None for trtexec's own.
        percentiles: those its summary tells; the raw times come in the exported file.
        cuda_graph: launch through a CUDA graph.
        spin_wait: wait for the GPU busily.
        transfers: copy inputs and outputs in each run.
        streams: runs in flight at a time, each with a context of its own.
    """

    warmup_ms: int = 200
    duration_s: int = 3
    iterations: int = 10
    average_runs: int | None = None
    percentiles: tuple[float, ...] = (50, 90, 95, 99)
    cuda_graph: bool = True
    spin_wait: bool = True
    transfers: bool = False
    streams: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """What one run of trtexec shall do; paths are as the device sees them.

    Attributes:
        onnx: the model to build, or None.
        load: the engine to load instead, or None. Exactly one of the two is given.
        save: where the built engine goes.
        profiles: optimization profiles of the inputs with a dynamic dimension, and of those only:
            trtexec refuses shapes for a model that has none.
        int8: the graph holds Q/DQ.
        fp16: the graph holds fp16 tensors.
        calibration: a calibration cache, for implicit INT8 of a graph without Q/DQ.
        dla: the DLA core, or None for the GPU.
        gpu_fallback: with ``dla``: the GPU may run what the DLA cannot.
        sparsity: ``"enable"`` lets 2:4 kernels be chosen where the weights have the pattern.
        level: builder optimization level, 0 to 5; None for trtexec's own.
        workspace_bytes: scratch memory at most, rounded down to MiB; None for trtexec's own.
        timing_cache: file of kernel timings, read and updated.
        timing: how to measure; None to stop after the build.
        shapes: the shapes to measure with, of dynamic inputs; by default the first profile's opt.
        profile: the optimization profile to measure with.
        times: where the times of each run go.
        layer_times: where the time of each layer goes.
        layers: where the layers' description goes.
        feeds: input name -> file with its values, as the binding holds them; others are random.
        values: where the outputs' values of the last run go.
        gpu: the CUDA device; None for the first.
    """

    onnx: str | None = None
    load: str | None = None
    save: str | None = None
    profiles: tuple[Mapping[str, ShapeRange], ...] = ()
    int8: bool = False
    fp16: bool = False
    calibration: str | None = None
    dla: int | None = None
    gpu_fallback: bool = True
    sparsity: Sparsity = "disable"
    level: int | None = None
    workspace_bytes: int | None = None
    timing_cache: str | None = None
    timing: Timing | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    profile: int = 0
    times: str | None = None
    layer_times: str | None = None
    layers: str | None = None
    feeds: Mapping[str, str] = field(default_factory=dict)
    values: str | None = None
    gpu: int | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """The words after ``trtexec``, and what was left out, a line each."""

    words: tuple[str, ...]
    notes: tuple[str, ...] = ()


def command(request: Request, features: Features) -> Command:
    """Write the request for one trtexec.

    Raises:
        UsageError: the request contradicts itself, or a name or path cannot be said.
        UnsupportedModelError: this TensorRT has no such precision or device for the graph.
        EnvironmentProblem: this trtexec lacks a flag that cannot be done without.
    """
    _consistent(request)
    writer = _Writer(features)
    if request.onnx is not None:
        writer.needed("--onnx", path_word(request.onnx))
        if request.save is not None:
            writer.needed("--saveEngine", path_word(request.save))
        _shapes(request, features, writer)
        _precision(request, features, writer)
        _tuning(request, features, writer)
    else:
        writer.needed("--loadEngine", path_word(request.load or ""))
    _device(request, writer)
    _measuring(request, features, writer)
    return Command(tuple(writer.words), tuple(writer.notes))


def dynamic_only(
    ranges: Mapping[str, ShapeRange], declared: Mapping[str, Iterable[object] | None]
) -> dict[str, ShapeRange]:
    """Return the ranges of the inputs that have a free dimension: what trtexec may be told.

    Args:
        ranges: input name -> range, of every input.
        declared: input name -> its shape in the model; None where its rank is not known.
    """
    return {
        name: each
        for name, each in ranges.items()
        if (shape := declared[name]) is None or not all(isinstance(d, int) for d in shape)
    }


class _Writer:
    """Collects words, and takes only flags that this trtexec lists."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.words: list[str] = []
        self.notes: list[str] = []

    def has(self, flag: str) -> bool:
        return flag in self.features.flags

    def add(self, flag: str, value: object = None) -> None:
        self.words.append(flag if value is None else f"{flag}={value}")

    def needed(self, flag: str, value: object = None) -> None:
        if not self.has(flag):
            raise EnvironmentProblem(
                f"{self.features.name} takes no {flag}, which this cannot be done without"
            )
        self.add(flag, value)

    def wished(self, flag: str, value: object = None, *, without: str) -> None:
        """Add a flag that only tunes; where it is missing, note what happens without it."""
        if self.has(flag):
            self.add(flag, value)
        else:
            self.notes.append(f"{self.features.name} takes no {flag}: {without}")

    def switched(self, want: bool, on: str, off: str, *, without: str) -> None:
        """Bring a switch to ``want`` where its default differs between versions.

        A trtexec that lists the flag ``off`` has the switch on by default.
        """
        if self.has(off):
            if not want:
                self.add(off)
        elif want:
            self.wished(on, without=without)


def _consistent(request: Request) -> None:
    if (request.onnx is None) == (request.load is None):
        raise UsageError("trtexec either builds an ONNX model or loads an engine: give one of them")
    if request.timing is None and request.onnx is None:
        raise UsageError("an engine is loaded only to measure it: say how (timing)")
    if request.timing is None and (request.times or request.layer_times or request.values):
        raise UsageError("there are no times without measuring: say how (timing)")
    if request.calibration is not None and request.int8:
        raise UsageError(
            "the graph has Q/DQ and a calibration cache is given: TensorRT would ignore the cache"
        )
    if request.dla is not None and request.dla < 0:
        raise UsageError(f"there is no DLA core {request.dla}: they are counted from 0")
    if request.level is not None and not 0 <= request.level <= 5:
        raise UsageError(f"a builder optimization level is 0 to 5, not {request.level}")
    if request.workspace_bytes is not None and request.workspace_bytes < 1 << 20:
        raise UsageError(
            f"a workspace is at least 1 MiB for trtexec, not {request.workspace_bytes} bytes"
        )
    if request.profile < 0 or 0 < len(request.profiles) <= request.profile:
        raise UsageError(f"there is no optimization profile {request.profile}")


def _shapes(request: Request, features: Features, writer: _Writer) -> None:
    profiles = [profile for profile in request.profiles if profile]
    if len(profiles) > 1 and not features.several_profiles:
        raise EnvironmentProblem(
            f"{features.name} builds for one optimization profile, and {len(profiles)} are asked "
            "for: give one that covers them, or build with TensorRT 10 or newer"
        )
    for number, profile in enumerate(profiles):
        if len(profiles) > 1:
            writer.add("--profile", number)
        for flag, which in (("--minShapes", "min"), ("--optShapes", "opt"), ("--maxShapes", "max")):
            shapes = {name: getattr(each, which) for name, each in profile.items()}
            writer.needed(flag, shape_spec(shapes))


def _precision(request: Request, features: Features, writer: _Writer) -> None:
    if request.calibration is not None:
        _implicit(request, features, writer)
    elif not features.weak_typing:
        return
    elif request.dla is not None:
        _explicit_dla(request, features, writer)
    elif features.strong_typing:
        writer.add("--stronglyTyped")
    else:
        if request.int8:
            writer.needed("--int8")
        if request.fp16:
            writer.needed("--fp16")


def _implicit(request: Request, features: Features, writer: _Writer) -> None:
    if not features.implicit:
        raise UnsupportedModelError(
            f"{features.name} has no implicit INT8: it reads no calibration cache; write the "
            "quantization into the graph (--quantization explicit)"
        )
    # Layers without a range, or slower in INT8, fall back to fp16 and not to fp32.
    writer.needed("--int8")
    writer.needed("--fp16")
    writer.needed("--calib", path_word(request.calibration or ""))


def _explicit_dla(request: Request, features: Features, writer: _Writer) -> None:
    """A DLA without a calibration cache: fp16, by a flag, since it has no fp32."""
    if request.int8:
        if not features.strong_typing:
            raise UnsupportedModelError(
                f"the DLA of TensorRT {features.release.name} takes no Q/DQ: build from the plain "
                "model with a calibration cache (--quantization implicit)"
            )
        writer.needed("--int8")
        writer.notes.append(
            "few DLA cores take Q/DQ: what this one refuses runs on the GPU"
            if request.gpu_fallback
            else "few DLA cores take Q/DQ: the build fails where this one does not"
        )
    writer.needed("--fp16")
    if not request.fp16:
        writer.notes.append("a DLA has no fp32: its layers run in fp16")


def _tuning(request: Request, features: Features, writer: _Writer) -> None:
    if request.sparsity != "disable":
        writer.needed("--sparsity", request.sparsity)
    if request.level is not None:
        writer.wished(
            "--builderOptimizationLevel", request.level, without="it builds at its own level"
        )
    if request.workspace_bytes is not None:
        mib = request.workspace_bytes >> 20
        if writer.has("--memPoolSize"):
            writer.add("--memPoolSize", f"workspace:{mib}")
        else:
            writer.needed("--workspace", mib)
    if request.timing_cache is not None:
        writer.wished(
            "--timingCacheFile",
            path_word(request.timing_cache),
            without="rebuilds may choose other kernels",
        )
    writer.wished(
        "--profilingVerbosity", "detailed", without="the layers are told by their names only"
    )
    if request.timing is None:
        stop = features.build_only
        if stop is None:
            raise EnvironmentProblem(f"{features.name} cannot build without measuring")
        writer.add(stop)


def _device(request: Request, writer: _Writer) -> None:
    if request.gpu is not None:
        writer.needed("--device", request.gpu)
    if request.dla is not None:
        writer.needed("--useDLACore", request.dla)
        if request.gpu_fallback:
            writer.needed("--allowGPUFallback")


def _measuring(request: Request, features: Features, writer: _Writer) -> None:
    timing = request.timing
    if request.layers is not None:
        writer.needed("--exportLayerInfo", path_word(request.layers))
    if timing is None:
        return
    if request.shapes:
        writer.needed("--shapes", shape_spec(request.shapes))
    if request.profile:
        if not features.several_profiles:
            raise EnvironmentProblem(
                f"{features.name} measures the first optimization profile only"
            )
        writer.add("--useProfile", request.profile)
    writer.needed("--warmUp", timing.warmup_ms)
    writer.needed("--duration", timing.duration_s)
    writer.needed("--iterations", timing.iterations)
    if timing.average_runs is not None:
        writer.needed("--avgRuns", timing.average_runs)
    if timing.streams > 1:
        # --streams until 8.5, --infStreams from 8.6 on.
        writer.needed("--infStreams" if writer.has("--infStreams") else "--streams", timing.streams)
    writer.needed("--percentile", ",".join(f"{p:g}" for p in timing.percentiles))
    writer.switched(
        timing.cuda_graph,
        "--useCudaGraph",
        "--noCudaGraph",
        without="each kernel is launched by itself, and small models look slower",
    )
    writer.switched(
        timing.spin_wait, "--useSpinWait", "--noSpinWait", without="the times scatter more"
    )
    # Transfers are the other way about: the newer trtexec leaves them out by default.
    if timing.transfers:
        if writer.has("--includeDataTransfers"):
            writer.add("--includeDataTransfers")
    elif not writer.has("--includeDataTransfers"):
        writer.needed("--noDataTransfers")
    if request.feeds:
        writer.needed("--loadInputs", feed_spec(request.feeds))
    if request.values is not None:
        writer.needed("--exportOutput", path_word(request.values))
    if request.times is not None:
        writer.needed("--exportTimes", path_word(request.times))
    if request.layer_times is not None:
        # 11 always measures the layers in a run of their own, and lists no way to switch that.
        if not writer.has("--noCudaGraph"):
            writer.needed("--separateProfileRun")
        writer.needed("--exportProfile", path_word(request.layer_times))
