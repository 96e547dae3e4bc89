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
    """

    strong_typing: bool
    int8_flag: bool
    fp16_flag: bool


def features(trt: Any) -> Features:
    """Ask a ``tensorrt`` or ``tensorrt_rtx`` module."""
    return Features(
        strong_typing=hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
        int8_flag=hasattr(trt.BuilderFlag, "INT8"),
        fp16_flag=hasattr(trt.BuilderFlag, "FP16"),
    )


@dataclass(frozen=True, slots=True)
class Typing:
    """How to have a graph's own precision built."""

    strong: bool
    int8: bool
    fp16: bool


def typing_for(known: Features, *, quantized: bool, half: bool) -> Typing:
    """Choose strong typing where it exists, else the flags that allow what the graph holds.

    Args:
        known: what this TensorRT can do.
        quantized: the graph has Q/DQ nodes.
        half: the graph holds fp16 tensors.

    Raises:
        ValueError: this TensorRT can build the graph in neither way.
    """
    if known.strong_typing:
        return Typing(strong=True, int8=False, fp16=False)
    if (quantized and not known.int8_flag) or (half and not known.fp16_flag):
        raise ValueError("this TensorRT has neither strong typing nor the precision flags")
    return Typing(strong=False, int8=quantized, fp16=half)
