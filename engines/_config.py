"""The builder's configuration for a job, through Polygraphy; runs in the child process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.engines._features import Features, Typing
from graphopt.engines._int8 import Calibration
from graphopt.engines._timing import TimingCache, default_cache

if TYPE_CHECKING:
    from graphopt.engines._worker import Job

_NEWER = "8.6 and newer have it"


class Unable(Exception):
    """This TensorRT or machine has not what the job asks for; the message is one line."""


def cannot(job: Job, trt: Any, known: Features) -> str | None:
    """Return why this TensorRT has not what the job asks for, in one line, or None."""
    title = f"TensorRT {trt.__version__}"
    if job["int8"] is not None and not known.calibrators:
        return (
            f"{title} has no implicit INT8, calibrators went with version 11: write Q/DQ into the "
            "graph (--quantization explicit), or build with TensorRT 8 or 10"
        )
    if job["fp16"] and not known.fp16_flag:
        return f"{title} takes precision from the graph alone: convert the model to FP16 itself"
    if job["level"] is not None and not known.level:
        return f"{title} has no builder optimization level ({_NEWER}): leave --builder-level out"
    return None


def cannot_use(job: Job, builder: Any) -> str | None:
    """Return what this machine lacks that the job asks for, or None."""
    core = job["dla"]
    if core is None:
        return None
    cores = int(builder.num_DLA_cores)
    if core < cores:
        return None
    has = "no DLA" if not cores else f"{cores} DLA core{'s' * (cores > 1)}, counted from 0"
    return f"there is no DLA core {core} on this machine, which has {has}: leave --dla out"


class Configuration:
    """Makes the configuration of a build, and keeps what comes of it.

    Attributes:
        notes: what was not as asked, a line each.
    """

    def __init__(self, job: Job, trt: Any, typing: Typing) -> None:
        self._job, self._trt, self._typing = job, trt, typing
        self._calibration: Calibration | None = None
        self._config: Any = None
        self._cache = _timing_cache(job, str(trt.__version__))
        self._facts: dict[str, Any] = {}
        self.notes: list[str] = []

    def __call__(self, builder: Any, network: Any) -> Any:
        """Return the ``IBuilderConfig``; what Polygraphy's own loaders are."""
        trt, job = self._trt, self._job
        if job["int8"] is not None:
            names = [network.get_input(i).name for i in range(network.num_inputs)]
            if job["int8"]["cache"] is not None:
                self._facts["ranges"] = _known_ranges(job["int8"]["cache"], network)
            self._calibration = Calibration(trt, job["int8"], names)
        calibrator = None if self._calibration is None else self._calibration.calibrator
        config = standard(job, trt, self._typing, calibrator)(builder, network)
        if job["dla"] is not None:
            # Polygraphy always takes core 0.
            config.DLA_core = job["dla"]
            if config.DLA_core != job["dla"]:
                raise Unable(f"TensorRT {trt.__version__} does not take DLA core {job['dla']}")
        shapes = job["calibration_shapes"]
        if self._calibration is not None and shapes is not None:
            profile = builder.create_optimization_profile()
            for name, shape in shapes.items():
                profile.set_shape(name, shape, shape, shape)
            config.set_calibration_profile(profile)
        if self._cache is not None:
            self._cache.load(config)
        self._config = config
        return config

    def finish(self) -> dict[str, Any]:
        """Keep the timing cache and the calibration; return facts."""
        facts = self._facts
        if self._cache is not None and self._config is not None:
            if self._cache.save(self._config):
                facts["timing_cache"] = self._cache.path.name
            self.notes += self._cache.notes
        made = self._calibration
        if made is not None and made.written is not None and self._job["int8"] is not None:
            Path(self._job["int8"]["save"]).write_bytes(made.written)
            facts["calibration_cache"] = Path(self._job["int8"]["save"]).name
        return facts

    def close(self) -> Exception | None:
        """Give the GPU's memory back; return what went wrong in the calibrator, or None."""
        if self._calibration is None:
            return None
        with suppress(Exception):
            self._calibration.close()
        return self._calibration.problem


def standard(job: Job, trt: Any, typing: Typing, calibrator: Any = None) -> Any:
    """Return Polygraphy's loader of the configuration, for the job's runtime."""
    from polygraphy.backend.trt import Profile

    from graphopt.engines._worker import RTX

    common: dict[str, Any] = {"profiles": [], "sparse_weights": job["sparse"]}
    for shapes in job["profiles"]:
        profile = Profile()
        for name, three in shapes.items():
            profile.add(name, min=three["min"], opt=three["opt"], max=three["max"])
        common["profiles"].append(profile)
    if job["workspace_bytes"] is not None:
        common["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: job["workspace_bytes"]}
    if job["level"] is not None:
        common["builder_optimization_level"] = job["level"]
    if job["runtime"] == RTX:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        targets = [tuple(t) for t in job["targets"]] if job["targets"] else None
        return CreateConfigRTX(compute_capabilities=targets, **common)
    from polygraphy.backend.trt import CreateConfig

    # TF32 is TensorRT's own default; Polygraphy's is to clear it.
    return CreateConfig(
        tf32=True,
        int8=typing.int8,
        fp16=typing.fp16,
        calibrator=calibrator,
        use_dla=job["dla"] is not None,
        allow_gpu_fallback=job["gpu_fallback"],
        **common,
    )


def _known_ranges(cache: str, network: Any) -> dict[str, int]:
    """Return how many tensors of the network there are, and how many have a range.

    Raises:
        Unable: none has one: the table is of another model.
    """
    from graphopt.calibrators.cache import read_cache

    _, scales = read_cache(cache)
    names = {network.get_input(i).name for i in range(network.num_inputs)}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        names |= {layer.get_output(i).name for i in range(layer.num_outputs)}
    known = len(names & set(scales))
    if not known:
        raise Unable("the calibration table names no tensor of this model: calibrate this model")
    return {"tensors": len(names), "with_range": known}


def _timing_cache(job: Job, version: str) -> TimingCache | None:
    from graphopt.engines._worker import RTX

    # TensorRT-RTX times nothing: it compiles on the GPU that runs.
    if job["runtime"] == RTX or job["engine"] is None:
        return None
    if job["timing_cache"] is not None:
        return TimingCache(Path(job["timing_cache"]), own=False)
    path = default_cache(job["runtime"], version, job["gpu"])
    return None if path is None else TimingCache(path, own=True)
