"""Nodes that move uint8 values as they are, in the forms that ONNX Runtime runs fast.

They stand between a QuantizeLinear and a DequantizeLinear, on uint8 itself, and read and write
``[N, C, H, W]``. Inside they work on ``[N, H, W, C]``: that is the layout of ONNX Runtime's
integer kernels, so the Transpose at either end meets one of those that it puts around a
QLinearConv, and both vanish.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np

from graphopt.graph import Array, Node, Tensor, constant, dim, rank


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """One node.

    Attributes:
        op: a standard operator that has a uint8 kernel.
        attrs: its attributes.
        constants: what it reads after the data. A Pad reads the zero-point after these.
        copies: how many times it reads the data itself (Concat).
    """

    op: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[Array, ...] = ()
    copies: int = 1

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from other moves."""
        constants = tuple(values.tobytes() for values in self.constants)
        return self.op, repr(sorted(self.attrs.items())), constants, self.copies


_TO_NHWC = Move("Transpose", {"perm": [0, 2, 3, 1]})
_TO_NCHW = Move("Transpose", {"perm": [0, 3, 1, 2]})


def _reshape(*shape: int) -> Move:
    return Move("Reshape", {}, (np.array(shape, np.int64),))


def pad_channels(rank: int, more: int) -> Move:
    """Append channels that hold zero."""
    pads = np.zeros(2 * rank, np.int64)
    pads[rank + 1] = more
    return Move("Pad", {}, (pads,))


def first_channels(count: int) -> Move:
    """Keep the first channels only."""
    limits = (np.array([v], np.int64) for v in (0, count, 1))
    return Move("Slice", {}, tuple(limits))


def repeat_pixels(size: tuple[int, int], channels: int, times: tuple[int, int]) -> tuple[Move, ...]:
    """Write each pixel ``times`` over, as a nearest Resize by whole numbers does.

    Twice as many bytes copied row by row take a tenth of the time of ONNX Runtime's uint8 Resize,
    which computes an index for each.

    Args:
        size: height and width before.
        channels: C.
        times: factors of height and width.
    """
    (height, width), (down, across) = size, times
    return (
        _TO_NHWC,
        _reshape(0, height * width, channels),
        Move("Concat", {"axis": 2}, copies=across),
        _reshape(0, height, width * across * channels),
        Move("Concat", {"axis": 2}, copies=down),
        _reshape(0, height * down, width * across, channels),
        _TO_NCHW,
    )


def depth_to_space(
    size: tuple[int, int], channels: int, block: tuple[int, int]
) -> tuple[Move, ...]:
    """Spread channels ``(row, column, c)`` over blocks of pixels: DepthToSpace, mode DCR.

    Args:
        size: height and width before.
        channels: C after.
        block: height and width of a block.
    """
    (height, width), (rows, columns) = size, block
    return (
        _TO_NHWC,
        _reshape(0, height, width, rows, columns * channels),
        Move("Transpose", {"perm": [0, 1, 3, 2, 4]}),
        _reshape(0, height * rows, width * columns, channels),
        _TO_NCHW,
    )


def plain_moves(node: Node) -> tuple[Move, ...] | None:
    """Return the faster form of a node that only moves values; None where it has none.

    One is known for a Pad with zeros, and, where all of C, H and W are known, for Resize (nearest,
    by whole numbers) of ``[N, C, H, W]`` and DepthToSpace of mode DCR.
    """
    if node.op == "Pad":
        return _zero_pad(node)
    size = _image(node.inputs[0])
    if size is None:
        return None
    channels, height, width = size
    if node.op == "DepthToSpace" and node.attrs.get("mode", "DCR") == "DCR":
        block = int(node.attrs["blocksize"])
        return depth_to_space((height, width), channels // block**2, (block, block))
    if node.op == "Resize" and (times := _factors(node)) is not None:
        return repeat_pixels((height, width), channels, times)
    return None


def _zero_pad(node: Node) -> tuple[Move, ...] | None:
    values = [constant(t) if t.name else None for t in node.inputs[1:3]]
    given = len(node.inputs) > 2 and bool(node.inputs[2].name)
    plain = node.attrs.get("mode", "constant") == "constant" and len(node.inputs) < 4
    if not plain or not values or values[0] is None or (given and values[1] is None):
        return None
    if (values[0] < 0).any() or (given and values[1] is not None and values[1].any()):
        return None
    return (Move("Pad", {}, (values[0],)),)


def _image(tensor: Tensor) -> tuple[int, int, int] | None:
    """Return C, H, W of a tensor of rank 4, where they are known and not zero."""
    channels, height, width = (dim(tensor, axis) for axis in (1, 2, 3))
    if rank(tensor) != 4 or not channels or not height or not width:
        return None
    return channels, height, width


def _factors(node: Node) -> tuple[int, int] | None:
    """Return how often a nearest Resize repeats rows and columns, if that is all it does."""
    attrs = node.attrs
    known = {"mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a"}
    if set(attrs) - known - {"exclude_outside", "extrapolation_value"}:
        return None  # axes, antialias, keep_aspect_ratio_policy
    if attrs.get("mode", "nearest") != "nearest":
        return None
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if after is None or len(after) != 4 or not _keeps_batch(node):
        return None
    times = []
    for axis in (2, 3):
        if not isinstance(after[axis], int) or after[axis] % before[axis]:
            return None
        factor = after[axis] // before[axis]
        if not _repeats(factor, before[axis], attrs) or not _is_scale(node, axis, factor):
            return None
        times.append(factor)
    return times[0], times[1]


def _keeps_batch(node: Node) -> bool:
    return _is_scale(node, 0, 1) and _is_scale(node, 1, 1)


def _is_scale(node: Node, axis: int, factor: int) -> bool:
    """Whether a Resize was told this very factor, by scales or by sizes."""
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else None
    if scales is not None and scales.size == 4:
        return bool(scales.reshape(-1)[axis] == factor)
    sizes = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3].name else None
    shape = node.inputs[0].shape
    if sizes is None or sizes.size != 4 or not isinstance(shape[axis], int):
        return False
    return bool(sizes[axis] == shape[axis] * factor)


_ROUND = {
    "round_prefer_floor": lambda x: ceil(x - Fraction(1, 2)),
    "round_prefer_ceil": lambda x: floor(x + Fraction(1, 2)),
    "floor": floor,
    "ceil": ceil,
}


def _repeats(factor: int, length: int, attrs: Mapping[str, Any]) -> bool:
    """Whether output ``i`` is input ``i // factor`` by the rule of Resize (ONNX, opset 13)."""
    if factor == 1:
        return True
    rule = attrs.get("coordinate_transformation_mode", "half_pixel")
    rounded = _ROUND.get(attrs.get("nearest_mode", "round_prefer_floor"))
    half = {"asymmetric": Fraction(0), "half_pixel": Fraction(1, 2)}
    if rule == "pytorch_half_pixel" and factor * length > 1:
        rule = "half_pixel"
    if rule not in half or rounded is None:
        return False
    offset = half[rule]
    # What holds for the first three pixels holds for all: the rule is periodic but at the edges.
    return all(
        min(max(rounded((i + offset) / factor - offset), 0), length - 1) == i // factor
        for i in [*range(min(3, length) * factor), *range((length - 1) * factor, length * factor)]
    )


def is_static_image(tensor: Tensor) -> bool:
    """Whether a tensor has rank 4 and its last three dimensions are known."""
    return _image(tensor) is not None
