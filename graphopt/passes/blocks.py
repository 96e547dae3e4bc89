"""Weights as integers with a scale for each block of rows: rounded to nearest, scales searched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.graph import Array

BLOCK = 128
# Of the scale that holds the greatest weight; 7/8 lets the greatest be -8 where it is negative.
RATIOS = (1.0, 0.97, 0.94, 0.91, 0.875, 0.84, 0.8, 0.76, 0.72, 0.68)
_TINY = 2.0**-14  # the least normal fp16 number
_PIECE = 1 << 22  # elements looked at together


@dataclass(frozen=True, slots=True, eq=False)
class BlockCodes:
    """A weight ``(features, outputs)`` as ``codes * scales``.

    Attributes:
        codes: int8, ``(features, outputs)``; for 4 bits in -8..7.
        scales: float32 ``(blocks, outputs)``, > 0; each is for ``features / blocks`` rows.
    """

    codes: Array
    scales: Array

    def values(self) -> Array:
        """Return the weight that is stood for, float32 ``(features, outputs)``."""
        whole = np.repeat(self.scales, len(self.codes) // len(self.scales), axis=0)
        values: Array = self.codes.astype(np.float32) * whole
        return values


def limits(bits: int) -> tuple[int, int]:
    """Return the least and the greatest code: -8..7, and -127..127 as TensorRT's kernels take."""
    return (-8, 7) if bits == 4 else (-127, 127)


def fitting_block(rows: int, block: int, least: int) -> int | None:
    """Return the largest of ``block``, its half, … that divides the rows; None below ``least``."""
    while block >= least:
        if rows % block == 0:
            return block
        block //= 2
    return None


def block_scales(
    matrix: Array, bits: int, block: int | None, weights: Array | None = None
) -> Array:
    """Return the scales ``(blocks, outputs)`` of least squared error when rounded to nearest.

    Each is one of :data:`RATIOS` of the one that holds the block's greatest weight, as a number
    that fp16 holds. A block of zeros gets the scale of ±1.

    Args:
        matrix: ``(features, outputs)``.
        bits: 4 or 8.
        block: rows to a scale, a divisor of the features; None for all.
        weights: what an error in each feature counts, ``(features,)``: the mean square of what it
            is multiplied by. All alike by default.
    """
    rows, columns = matrix.shape
    size = rows if block is None else block
    scales = np.empty((rows // size, columns), dtype=np.float32)
    step = max(_PIECE // max(rows, 1), 1)
    for start in range(0, columns, step):
        part = np.asarray(matrix[:, start : start + step], dtype=np.float32)
        folded = part.reshape(rows // size, size, -1)
        counts = None if weights is None else weights.reshape(rows // size, size, 1)
        scales[:, start : start + step] = _searched(folded, bits, counts)
    return scales


def _searched(blocks: Array, bits: int, counts: Array | None) -> Array:
    low, high = limits(bits)
    amax = np.abs(blocks).max(axis=1)
    amax = np.where(amax > 0, amax, np.float32(1.0))
    best = np.full(amax.shape, np.inf)
    chosen = np.empty(amax.shape, dtype=np.float32)
    for ratio in RATIOS:
        scale = fp16_scale(amax * np.float32(ratio / high))
        steps = scale[:, None, :]
        error = np.clip(np.rint(blocks / steps), low, high) * steps - blocks
        np.square(error, out=error)
        found = (error if counts is None else error * counts).sum(axis=1, dtype=np.float64)
        better = found < best
        best = np.where(better, found, best)
        chosen = np.where(better, scale, chosen)
    return chosen


def fp16_scale(scale: Array) -> Array:
    """Round scales to numbers that fp16 holds with full precision, float32; tiny ones stay."""
    wide = np.asarray(scale, dtype=np.float32)
    with np.errstate(over="ignore", under="ignore"):
        half = wide.astype(np.float16).astype(np.float32)
    kept = (wide >= _TINY) & np.isfinite(half)
    smallest = np.float32(np.finfo(np.float32).tiny)
    return np.where(kept, half, np.maximum(wide, smallest)).astype(np.float32)


def round_blocks(
    matrix: Array, bits: int, block: int | None, weights: Array | None = None
) -> BlockCodes:
    """Round a weight to nearest.

    Args:
        matrix: ``(features, outputs)``, finite.
        bits: 4 or 8.
        block: rows to a scale, a divisor of the features; None for all.
        weights: as for :func:`block_scales`.
    """
    scales = block_scales(matrix, bits, block, weights)
    low, high = limits(bits)
    whole = np.repeat(scales, len(matrix) // len(scales), axis=0)
    codes = np.clip(np.rint(np.asarray(matrix, dtype=np.float32) / whole), low, high)
    return BlockCodes(codes.astype(np.int8), scales)
