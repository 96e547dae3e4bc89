"""Gram matrices: all that least squares needs of a layer's samples, whatever their number.

For rows ``x`` (features) and ``y`` (what the layer should give), with a column of ones for the
bias::

    G = sum [x 1]' [x 1]      R = sum [x 1]' y      E = sum y^2

Products of a block of rows are single precision, as the network is; sums of blocks are double.

Memory: ``8 groups (features + 1) (features + 1 + outputs)`` bytes for the sums, plus half of that
and ``BLOCK_BYTES`` while rows are added, whatever their number. Who makes a Gram asks :func:`fits`
first, so that the sums stay below ``16 MOST_ENTRIES`` bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphopt.graph import Array

Matrix = npt.NDArray[np.float64]
BLOCK = 4096  # rows multiplied at once: single precision adds up no more of them
BLOCK_BYTES = 32 << 20  # of the rows multiplied at once
MOST_FEATURES = 4608  # 512 channels of a 3x3 kernel: a Gram matrix of 170 MB
MOST_ENTRIES = (MOST_FEATURES + 1) ** 2  # of G over all groups, and of R


def fits(groups: int, features: int) -> bool:
    """Whether the matrix ``G`` of a layer may be formed."""
    return features <= MOST_FEATURES and groups * (features + 1) ** 2 <= MOST_ENTRIES


def widest(groups: int, features: int) -> int:
    """Return for how many outputs of each group at a time ``R`` may be formed; at least one."""
    return max(MOST_ENTRIES // (groups * (features + 1)), 1)


class Gram:
    """Sums over the rows of one layer.

    Args:
        groups: of the layer.
        features: of one group, without the bias.
        outputs: of one group; 0 if only ``G`` is wanted.

    Attributes:
        xx: ``G``, shape ``(groups, features + 1, features + 1)``.
        xy: ``R``, shape ``(groups, features + 1, outputs)``.
        yy: ``E``, shape ``(groups, outputs)``.
        rows: how many rows were added.
    """

    def __init__(self, groups: int, features: int, outputs: int = 0) -> None:
        size = features + 1
        self.xx: Matrix = np.zeros((groups, size, size))
        self.xy: Matrix = np.zeros((groups, size, outputs))
        self.yy: Matrix = np.zeros((groups, outputs))
        self.rows = 0

    def add(self, x: Array, y: Array | None = None) -> None:
        """Add rows: ``x`` is ``(groups, rows, features)``, ``y`` ``(groups, rows, outputs)``."""
        groups, rows, features = x.shape
        width = 4 * groups * (features + 1 + (0 if y is None else y.shape[-1]))
        step = min(BLOCK, max(BLOCK_BYTES // width, 1))
        for start in range(0, rows, step):
            part = np.empty((groups, min(step, rows - start), features + 1), dtype=np.float32)
            part[..., :features] = x[:, start : start + step]
            part[..., features] = 1
            # Group by group: a stack of products with one's own transpose is 50 times slower.
            for group, own in enumerate(part):
                self.xx[group] += own.T @ own
            if y is not None:
                wanted = np.ascontiguousarray(y[:, start : start + step], dtype=np.float32)
                self.xy += part.transpose(0, 2, 1) @ wanted
                self.yy += np.einsum("gro,gro->go", wanted, wanted, dtype=np.float64)
        self.rows += rows

    def merge(self, other: Gram) -> None:
        """Add the sums of another Gram of the same layer."""
        self.xx += other.xx
        self.xy += other.xy
        self.yy += other.yy
        self.rows += other.rows

    def error(self, weights: Matrix) -> Matrix:
        """Return the sum of squared errors of ``[x 1] W``, shape ``(groups, outputs)``.

        Args:
            weights: ``(groups, features + 1, outputs)``, the bias in the last row.
        """
        fit = np.einsum("gfo,gfo->go", weights, self.xx @ weights)
        cross = np.einsum("gfo,gfo->go", weights, self.xy)
        error: Matrix = np.maximum(self.yy - 2 * cross + fit, 0)
        return error
