"""Scales and zero-points, and which tensors share one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from graphopt.calibrators.table import TensorRange
from graphopt.errors import UsageError
from graphopt.graph import Array

# The product of two scales (an int32 bias's) must still be a normal float32.
MIN_SCALE = 2.0**-60
MAX_SCALE = 2.0**60
_UINT8_MAX = 255
_INT32_LIMIT = 2.0**30


class Groups:
    """A union-find over tensor names: the members of a group share one scale."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        """Return the representative of a name's group."""
        root = name
        while (parent := self._parent.get(root, root)) != root:
            root = parent
        while (parent := self._parent.get(name, name)) != root:
            self._parent[name] = root
            name = parent
        return root

    def union(self, a: str, b: str) -> None:
        """Merge two groups; the representative of ``a`` stays."""
        a, b = self.find(a), self.find(b)
        if a != b:
            self._parent[b] = a

    def members(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return representative -> those of ``names`` in its group, in the order given."""
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(self.find(name), []).append(name)
        return found


def require_ranges(ranges: Mapping[str, TensorRange], names: Iterable[str]) -> None:
    """Refuse a table that lacks a tensor.

    Raises:
        UsageError: it does; names the first one.
    """
    missing = [name for name in names if name not in ranges]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(
            f"the calibration table has no range for tensor '{missing[0]}'{more}: it belongs to "
            "another model, or to this one before a pass changed it; calibrate this model"
        )


def symmetric_scale(amax: float, levels: int = 127) -> np.float32:
    """Return the scale of int8 values -levels..levels, > 0 and finite in float32.

    A tensor that was always zero (``amax`` 0) gets the scale of ±1.

    Raises:
        ValueError: ``amax`` is NaN, infinite or negative.
    """
    if not 0 <= amax < np.inf:
        raise ValueError(f"no scale can be made of a range of ±{amax}")
    return _bounded((amax or 1.0) / levels)


def _bounded(scale: float) -> np.float32:
    clipped: np.float32 = np.float32(min(max(scale, MIN_SCALE), MAX_SCALE))
    return clipped


def affine(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Return scale and zero-point of uint8 for [low, high], stretched to hold 0.

    Zero is represented exactly, as zero padding and Relu need. ``scale * (255 - zero_point)``
    never exceeds ``high`` where ``low`` is 0: ONNX Runtime drops a Clip only then.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return symmetric_scale(0.0, _UINT8_MAX), np.uint8(0)
    scale = _bounded((high - low) / _UINT8_MAX)
    if low == 0.0 and scale > MIN_SCALE:
        while scale * np.float32(_UINT8_MAX) > np.float32(high):
            scale = np.float32(np.nextafter(scale, np.float32(0.0)))
    zero_point = np.clip(np.rint(-low / float(scale)), 0, _UINT8_MAX)
    return scale, np.uint8(zero_point)


def channel_scales(weight: Array, axis: int, levels: int = 127) -> Array:
    """Return one symmetric scale for each output channel, float32 ``[channels]``.

    A channel whose weights are all zero gets the scale of ±1: its values are zero under any.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    amax = np.abs(weight.astype(np.float64)).max(axis=others)
    amax[amax == 0.0] = 1.0
    scales: Array = np.clip(amax / levels, MIN_SCALE, MAX_SCALE).astype(np.float32)
    return scales


def quantize_weight(weight: Array, scales: Array, axis: int, levels: int = 127) -> Array:
    """Round a weight to int8 in -levels..levels, ties to even as QuantizeLinear does."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps: Array = np.rint(weight / scales.reshape(shape))
    return np.clip(steps, -levels, levels).astype(np.int8)


def dequantize_weight(codes: Array, scales: Array, axis: int) -> Array:
    """Return ``codes * scales`` in float32, as DequantizeLinear computes it."""
    shape = [1] * codes.ndim
    shape[axis] = -1
    values: Array = codes.astype(np.float32) * scales.reshape(shape)
    return values


def scales_for_bias(scales: Array, bias: Array, data_scale: np.float32) -> Array:
    """Raise weight scales where ``bias / (data_scale * scale)`` would overflow int32.

    Such a channel's weights are negligible beside its bias: at 2^30 bias steps, coarser weights
    change the output by less than the bias's own rounding in float32.
    """
    least = np.abs(bias.astype(np.float64)) / (float(data_scale) * _INT32_LIMIT)
    return np.maximum(scales, least).astype(np.float32)
