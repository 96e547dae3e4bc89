"""What one version of TensorRT can do, asked of the module and never of its version string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Features:
    """The differences between TensorRT 8.5 to 11 and TensorRT-RTX that matter to a build.

    Attributes:
        strong_typing: networks can be strongly typed: precision is what the graph says.
        int8_flag: ``BuilderFlag.INT8`` exists; weak typing needs it even with Q/DQ.
        fp16_flag: ``BuilderFlag.FP16`` exists.
        calibrators: INT8 calibrators exist: implicit quantization.
        level: there is a builder optimization level (from 8.6 on).
        inspector: engines can be asked for their layers.
    """

    strong_typing: bool
    int8_flag: bool
    fp16_flag: bool
    calibrators: bool = False
    level: bool = False
    inspector: bool = False


def features(trt: Any) -> Features:
    """Ask a ``tensorrt`` or ``tensorrt_rtx`` module."""
    return Features(
        strong_typing=hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
        int8_flag=hasattr(trt.BuilderFlag, "INT8"),
        fp16_flag=hasattr(trt.BuilderFlag, "FP16"),
        calibrators=hasattr(trt, "IInt8EntropyCalibrator2")
        and hasattr(trt.IBuilderConfig, "int8_calibrator"),
        level=hasattr(trt.IBuilderConfig, "builder_optimization_level"),
        inspector=hasattr(trt.ICudaEngine, "create_engine_inspector"),
    )


@dataclass(frozen=True, slots=True)
class Typing:
    """How to have a graph's own precision built."""

    strong: bool
    int8: bool
    fp16: bool


def typing_for(
    known: Features, *, quantized: bool, half: bool, weak: bool = False, implicit: bool = False
) -> Typing:
    """Choose strong typing where it exists, else the flags that allow what the graph holds.

    Args:
        known: what this TensorRT can do.
        quantized: the graph has Q/DQ nodes.
        half: the graph holds fp16 tensors, or layers may run in FP16.
        weak: weak typing is asked for where there is a choice: implicit INT8, FP16 as TensorRT
            sees fit, a DLA.
        implicit: INT8 is to come from ranges.

    Raises:
        ValueError: this TensorRT can build the graph in neither way.
    """
    int8 = quantized or implicit
    flags = (known.int8_flag or not int8) and (known.fp16_flag or not half)
    if known.strong_typing and not (weak and flags):
        return Typing(strong=True, int8=False, fp16=False)
    if not flags:
        raise ValueError("this TensorRT has neither strong typing nor the precision flags")
    return Typing(strong=False, int8=int8, fp16=half)
