"""Q/DQ whose scales become fp16: what that does to them, and integers that make up for it."""

from __future__ import annotations

import numpy as np

from graphopt.graph import Array, Node, constant, is_op, producer

_TINY = np.float16(2.0**-24)  # the least fp16 number: TensorRT wants scales above zero
_CODES = {"int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255)}


def scale_problem(node: Node) -> str | None:
    """Return what fp16 does to the scale of an activation's Q/DQ node, or None.

    Weights are written in integers that fit the fp16 scale (:func:`weight_codes`).
    """
    values = constant(node.inputs[1])
    if values is None:
        return "its scale is no constant"
    if node.op == "DequantizeLinear" and (
        bias_values(node) is not None or weight_codes(node) is not None
    ):
        return None
    wide = np.asarray(values, dtype=np.float64).reshape(-1)
    off = np.abs(half_scale(wide).astype(np.float64) - wide) > wide * 2.0**-9
    return f"fp16 does not hold its scale {wide[off][0]:.3g}" if off.any() else None


def half_scale(scale: Array) -> Array:
    """Return the scales in fp16, never zero."""
    with np.errstate(over="ignore", under="ignore"):
        half = np.asarray(scale).astype(np.float16)
    return np.where((half == 0) & (scale != 0), _TINY, half)


def weight_codes(node: Node) -> Array | None:
    """Return the integers of a constant that DequantizeLinear reads, for its scale in fp16.

    They are those of the fp32 scale, except where fp16 fades out: a channel of weights near 1e-6.
    None where it reads no constant of 4 or 8 bits, nor a QuantizeLinear of one.
    """
    scale = constant(node.inputs[1])
    codes, source = constant(node.inputs[0]), producer(node.inputs[0])
    if codes is None and source is not None and is_op(source, "QuantizeLinear"):
        codes = _quantized(source)
    if codes is None or scale is None or codes.dtype.name not in _CODES:
        return None
    zero = _zero_point(node, codes)
    half = half_scale(scale).astype(np.float64)
    ratio = np.divide(scale, half, out=np.ones_like(half), where=np.isfinite(half) & (half != 0))
    steps = (codes.astype(np.float64) - zero) * spread(ratio, codes, node)
    return _clipped(np.rint(steps) + zero, codes.dtype)


def bias_values(node: Node) -> Array | None:
    """The fp16 values of a DequantizeLinear of constant int32, whose scale fp16 seldom holds."""
    codes, scale = constant(node.inputs[0]), constant(node.inputs[1])
    if codes is None or scale is None or codes.dtype != np.int32:
        return None
    wide = codes.astype(np.float64) - _zero_point(node, codes)
    values: Array = (wide * spread(scale, codes, node)).astype(np.float16)
    return values


def _quantized(node: Node) -> Array | None:
    """What a QuantizeLinear of a constant gives, or None where it is no plain one."""
    values, scale = constant(node.inputs[0]), constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if values is None or scale is None or zero is None or zero.dtype.name not in _CODES:
        return None
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        return None
    steps = np.rint(values / spread(scale, values, node).astype(values.dtype))
    return _clipped(steps + _zero_point(node, values), zero.dtype)


def _clipped(values: Array, dtype: np.dtype[np.generic]) -> Array:
    codes: Array = np.clip(values, *_CODES[dtype.name]).astype(dtype)
    return codes


def _zero_point(node: Node, values: Array) -> Array:
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return np.zeros(()) if zero is None else spread(zero, values, node).astype(np.float64)


def spread(parameter: Array, values: Array, node: Node) -> Array:
    """Shape a scale or zero-point so that it broadcasts over the values it belongs to."""
    if parameter.size == 1:
        return parameter.reshape(())
    axis = int(node.attrs.get("axis", 1)) % values.ndim
    block = int(node.attrs.get("block_size", 0))
    if block:
        whole: Array = np.repeat(parameter, block, axis=axis)
        return whole[tuple(slice(n) for n in values.shape)]
    return parameter.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
