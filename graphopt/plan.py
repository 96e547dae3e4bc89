"""A build as it was asked for, and as it was resolved: what every step of it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphopt.data import Dataset
from graphopt.engine_options import build_options
from graphopt.engines import BuildOptions, Engine, ShapeRange
from graphopt.engines.target import Target
from graphopt.model import Model
from graphopt.optimize import Aids
from graphopt.profiles import DeviceProfile
from graphopt.profiles.device import Version
from graphopt.quantize_options import label
from graphopt.recipe import Recipe

CACHE_VERSION = (8, 5, 2)


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for.

    Attributes:
        model: path of the ONNX file.
        recipe: every option.
        out: folder for the results.
        force: an existing folder may be written into.
        build_engine: False stops at the optimized ONNX.
    """

    model: Path
    recipe: Recipe
    out: Path
    force: bool = False
    build_engine: bool = True


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """A request with every name resolved.

    Attributes:
        request: what was asked for.
        model: the model as given.
        engine: what builds; its dialect decides where Q/DQ goes.
        device: the target.
        calibration: samples to calibrate on, or None.
        evaluation: samples to measure fidelity on.
        align: pruned widths are a multiple of this.
        shapes: input name -> shapes, for every dynamic input.
        target: how the model is written for the device.
        more_shapes: further optimization profiles.
        unrunnable: why ONNX Runtime cannot run the model, so that nothing is verified or timed;
            empty where it can.
        original: what a model that was pruned elsewhere was before, or None.
    """

    request: Request
    model: Model
    engine: Engine
    device: DeviceProfile
    calibration: Dataset | None
    evaluation: Dataset
    align: int
    shapes: Mapping[str, ShapeRange]
    unrunnable: str = ""
    original: Model | None = None
    target: Target = field(default_factory=lambda: Target(DeviceProfile("host")))
    more_shapes: tuple[Mapping[str, ShapeRange], ...] = ()

    @property
    def implicit(self) -> bool:
        """Whether INT8 is told by ranges beside the graph, and not by Q/DQ in it."""
        return self.request.recipe.quantize.quantization == "implicit"

    @property
    def half(self) -> bool:
        """Whether FP16 is to be written into the graph; else it is the builder's to choose."""
        return self.request.recipe.quantize.fp16 and self.target.fp16_in_graph

    @property
    def cache_version(self) -> Version:
        """The TensorRT that a calibration cache is written for."""
        version = self.target.version or self.device.oldest_tensorrt or CACHE_VERSION
        # Of 8.5 alone there never was a patch 0; it stands for any.
        return CACHE_VERSION if version == (*CACHE_VERSION[:2], 0) else version

    @property
    def cache_is_sure(self) -> bool:
        """Whether no other TensorRT can be meant than the one a cache is written for."""
        device, version = self.device, self.target.version
        if version is None:
            only = device.oldest_tensorrt
            return only is not None and only == device.newest_tensorrt
        # Before 10 a version without its patch, like 8.5, names none that there is.
        return version[0] >= 10 or version[2] > 0

    @property
    def aids(self) -> Aids:
        """What pruning and recovery may use."""
        data = self.calibration
        return Aids(
            samples=None if data is None or data.synthetic or self.unrunnable else data,
            device=self.device,
            shapes={name: s.opt for name, s in self.shapes.items()},
            original=self.original,
        )

    @property
    def precision(self) -> str:
        """What the graph of the result carries."""
        quantize = self.request.recipe.quantize
        return label(quantize if self.half else quantize.model_copy(update={"fp16": False}))

    @property
    def options(self) -> BuildOptions:
        """What the engine needs to know."""
        recipe = self.request.recipe
        return replace(
            build_options(recipe, self.device),
            shapes=self.shapes,
            more_shapes=self.more_shapes,
            precision=self.precision,
            # Beside implicit INT8, what TensorRT leaves out of it is to be no slower than FP16.
            fp16=(recipe.quantize.fp16 or self.implicit) and not self.target.fp16_in_graph,
        )
