"""A neutral view of a network: what the linter reasons about, whoever read it.

Two readers make it: :mod:`graphopt.lint.from_onnx` from a file's graph, without TensorRT, and
:mod:`graphopt.lint.from_parsed` from the network that TensorRT's own parser made of it. The same
accounting runs over both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from graphopt.graph import Array

QUANTIZE = "quantize"
DEQUANTIZE = "dequantize"
CONV = "conv"
DECONV = "deconv"
MATMUL = "matmul"
ADD = "add"
"""A sum of two tensors: what a convolution takes in as the other end of a shortcut."""
POINTWISE = "pointwise"
"""Elementwise, whatever it computes."""
POOL = "pool"
"""An average over a window or over everything: runs in INT8 only between a DQ and a Q."""
RESIZE = "resize"
CONCAT = "concat"
COPY = "copy"
"""Moves values without changing them, so that Q and DQ commute with it: max pools too."""
CONSTANT = "constant"
SHAPE = "shape"
"""Reads the shape of a tensor, not its values."""
OTHER = "other"
"""Computes in float: Softmax, normalization, and whatever is not known."""

WEIGHTED = frozenset({CONV, DECONV, MATMUL})
ELEMENTWISE = frozenset({ADD, POINTWISE})


@dataclass(frozen=True, slots=True, eq=False)
class Quant:
    """How a Q or DQ maps values.

    Attributes:
        scales: float32, flat; None where they are no constant.
        asymmetric: some zero-point is known not to be zero.
        dtype: the integer type: ``"int8"``, ``"uint8"``, ``"int32"``, ``"int4"`` …
        axis: which axis has a scale for each index; None for one scale.
        blocked: the scales are of blocks along the axis.
        has_zero_point: the third input is given.
    """

    scales: Array | None
    asymmetric: bool
    dtype: str
    axis: int | None = None
    blocked: bool = False
    has_zero_point: bool = True

    @property
    def key(self) -> bytes | None:
        """What two Q/DQ have in common if one undoes the other; None where it cannot be known."""
        if self.scales is None:
            return None
        scales = np.ascontiguousarray(self.scales, np.float32)
        return f"{self.dtype} {self.asymmetric} {self.axis} ".encode() + scales.tobytes()

    @property
    def per_tensor(self) -> bool:
        """Whether there is one scale for everything."""
        return self.axis is None and not self.blocked


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One operation.

    Attributes:
        kind: one of the kinds above.
        op: what its reader calls it: ``"Conv"``, ``"CONVOLUTION"``.
        name: of the ONNX node it is, or was made from.
        inputs: the tensors whose *values* it computes with, in order: no shapes, no indices.
        outputs: the tensors it writes.
        quant: of a Q or DQ.
    """

    kind: str
    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    quant: Quant | None = None

    @property
    def title(self) -> str:
        """What it is called in messages: ``Conv '/conv1/Conv'``."""
        return f"{self.op} '{self.name}'"


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Layers, producers before those that read them.

    Attributes:
        source: who read it, for people: ``"the ONNX file"``, ``"tensorrt-rtx 1.7.1"``.
        layers: in order.
        inputs: names of the tensors fed.
        outputs: names of the tensors handed out.
        constants: names of tensors that do not depend on the inputs.
        shapes: name -> shape where the rank is known; None for a dimension that is not.
        unread: what the reader could not see, a line each.
    """

    source: str
    layers: tuple[Layer, ...]
    inputs: frozenset[str]
    outputs: frozenset[str]
    constants: frozenset[str]
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def quantizers(self) -> list[Layer]:
        """Return every Q and DQ, in order."""
        return [layer for layer in self.layers if layer.quant is not None]


def constant_tensors(layers: list[Layer], known: set[str]) -> frozenset[str]:
    """Return ``known`` and everything computed from it alone.

    Args:
        layers: producers first, with their *value* inputs.
        known: tensors known to be constant.
    """
    found = set(known)
    for layer in layers:
        if layer.kind == CONSTANT or (
            layer.inputs and layer.kind != SHAPE and all(t in found for t in layer.inputs)
        ):
            found.update(layer.outputs)
    return frozenset(found)
