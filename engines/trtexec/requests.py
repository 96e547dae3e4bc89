"""What a build asks of trtexec: one run that builds, one that times what was built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphopt.engines import BuildOptions
from graphopt.engines.trtexec.command import Request, Timing, dynamic_only


@dataclass(frozen=True, slots=True)
class Files:
    """Where the files of a build lie, as the device sees them: by default all in one folder."""

    onnx: str = "model.onnx"
    engine: str = "model.engine"
    cache: str = "calibration.cache"
    timing_cache: str = "timing.cache"
    times: str = "times.json"
    layer_times: str = "layer-times.json"
    layers: str = "layers.json"


FILES = Files()


def requests(
    options: BuildOptions,
    declared: Mapping[str, Iterable[object] | None],
    *,
    int8: bool,
    fp16: bool,
    files: Files = FILES,
    timing: Timing | None = None,
) -> tuple[Request, Request]:
    """Return what builds a model, and what times the engine at the first profile's opt shapes.

    Args:
        options: of the build.
        declared: input name -> its shape in the model; None where its rank is not known.
        int8: the graph holds Q/DQ.
        fp16: it holds fp16 tensors.
        files: where they lie.
        timing: how to measure.
    """
    profiles = tuple(dynamic_only(profile, declared) for profile in options.profiles)
    build = Request(
        onnx=files.onnx,
        save=files.engine,
        profiles=tuple(profile for profile in profiles if profile),
        int8=int8,
        fp16=fp16 or options.fp16,
        calibration=None if options.implicit is None else files.cache,
        dla=options.dla,
        gpu_fallback=options.gpu_fallback,
        sparsity="enable" if options.sparse else "disable",
        level=options.level,
        workspace_bytes=options.workspace_bytes,
        timing_cache=files.timing_cache,
        layers=files.layers,
    )
    measure = Request(
        load=files.engine,
        dla=options.dla,
        gpu_fallback=options.gpu_fallback,
        timing=timing or Timing(),
        shapes={name: each.opt for name, each in profiles[0].items()},
        times=files.times,
        layer_times=files.layer_times,
    )
    return build, measure
