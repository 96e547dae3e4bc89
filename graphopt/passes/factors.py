"""A layer as a product of two smaller ones: how, at which error, for how many operations.

Two forms, with the rank ``r`` between the factors:

* *outputs*: ``W = (W Q) Q'`` with ``Q`` the ``r`` main directions of the layer's outputs, so that a
  kernel is followed by a 1x1 convolution, and a matrix product by another. Among all products of
  rank ``r`` it is the one with the least error on the samples seen (Zhang et al., *Accelerating
  Very Deep Convolutional Networks*, TPAMI 2016, arXiv:1505.06798, section 3.1). That is the
  singular value decomposition of ``C^(1/2) W``, whose left factor needs no inverse.
* *separable*: a vertical kernel to ``r`` channels, then a horizontal one (Jaderberg et al.,
  arXiv:1405.3866): the singular value decomposition of ``S W`` with rows (input channel, row of
  the kernel) and columns (column of the kernel, output), where ``S`` is the symmetric root of what
  is known of the rows' inputs. Measured on the 3x3 layers of ResNet-20 at equal operations its
  squared error is 1.7 to 11 times less than that of *outputs*, which a 1x1 kernel leaves as the
  only form.

``C`` is the covariance of what the layer reads, damped; without samples it is the identity, and
the decomposition the plain one. Where the layer has a bias, the mean of the error goes into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphopt.errors import DataError, UnsupportedModelError
from graphopt.graph import Array
from graphopt.statistics.gram import Gram, Matrix
from graphopt.statistics.layers import Layer

DAMPING = 1e-4  # over the mean of the diagonal: directions never seen keep some weight
MOST_ROWS = 3072  # (input channel, row of the kernel): beyond it, *outputs* alone

OUTPUTS, SEPARABLE = "outputs", "separable"


@dataclass(frozen=True, slots=True)
class Factors:
    """A layer's weight as ``first[:, :r] @ second[:r]`` for any rank ``r``.

    Attributes:
        form: ``outputs`` or ``separable``.
        first: shape ``(rows, most)``; rows are features, or (input channel, kernel row).
        second: shape ``(most, columns)``; columns are outputs, or (kernel column, output).
        left: the share of the output's variance that is lost at rank ``r``, for ``r`` of 0 to
            ``most``; an estimate for *separable*.
        mean: of the features, shape ``(features,)``; zeros where it is not known.
    """

    form: str
    first: Matrix
    second: Matrix
    left: Matrix
    mean: Matrix

    def product(self, rank: int, layer: Layer, kernel: tuple[int, ...]) -> Matrix:
        """Return the weight that the factors of this rank stand for, ``(features, outputs)``."""
        found = self.first[:, :rank] @ self.second[:rank]
        if self.form == SEPARABLE:
            found = found.reshape(layer.channels, kernel[0], kernel[1], layer.outputs)
        return found.reshape(layer.features, layer.outputs)


def factors_of(
    layer: Layer, weight: Array, kernel: tuple[int, ...], gram: Gram | None = None
) -> Iterator[Factors]:
    """Yield the forms that a layer can take.

    Args:
        layer: of one group.
        weight: its matrix, shape ``(features, outputs)``.
        kernel: the sizes of its kernel; empty for a matrix product.
        gram: of what it reads, by feature or by channel (``Statistics.grams``).

    Raises:
        UnsupportedModelError: the weight is NaN or infinite somewhere.
        DataError: what the layer reads has no finite covariance.
    """
    w = np.asarray(weight, dtype=np.float64)
    if not np.isfinite(w).all():
        raise UnsupportedModelError(
            f"weight '{layer.weight}' of '{layer.node}' holds NaN or infinity: export it again"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        mean, covariance, taps = _moments(layer, gram)
    if not np.isfinite(covariance).all():
        raise DataError(
            f"what '{layer.node}' reads is NaN, or its squares are infinite, on some sample: "
            "look at the range of the data, and at its preprocessing"
        )
    yield _outputs(w, mean, covariance, taps)
    rows = layer.channels * kernel[0] if len(kernel) == 2 else 0
    if len(kernel) == 2 and min(kernel) > 1 and rows <= MOST_ROWS:
        yield _separable(layer, w, kernel, mean, covariance, taps)


def _moments(layer: Layer, gram: Gram | None) -> tuple[Matrix, Matrix, int]:
    """Return mean, covariance, and for how many taps the covariance stands, each by itself."""
    if gram is None:
        return np.zeros(layer.features), np.eye(layer.channels), layer.taps
    whole = gram.xx[0] / max(gram.rows, 1)
    size = len(whole) - 1
    taps = layer.features // size
    # Without a bias nobody makes up for a mean: it is part of what is to be kept.
    mean = whole[-1, :size] if layer.bias is not None else np.zeros(size)
    covariance = whole[:size, :size] - np.outer(mean, mean)
    added = DAMPING * np.trace(covariance) / size + 1e-12
    return np.repeat(mean, taps), covariance + added * np.eye(size), taps


def _outputs(w: Matrix, mean: Matrix, covariance: Matrix, taps: int) -> Factors:
    parts = w.reshape(-1, taps, w.shape[1])
    moved = np.einsum("cto,cd,dtp->op", parts, covariance, parts, optimize=True)
    values, vectors = np.linalg.eigh((moved + moved.T) / 2)
    values, vectors = np.maximum(values[::-1], 0), _signed(vectors[:, ::-1])
    return Factors(OUTPUTS, w @ vectors, vectors.T, _left(values), mean)


def _separable(
    layer: Layer, w: Matrix, kernel: tuple[int, ...], mean: Matrix, covariance: Matrix, taps: int
) -> Factors:
    high, wide = kernel
    rows = layer.channels * high
    if taps == 1:  # by feature: what a kernel's columns see, on average over them
        each = covariance.reshape(layer.channels, high, wide, layer.channels, high, wide)
        seen = np.einsum("ahwbiw->ahbi", each).reshape(rows, rows) / wide
    else:
        seen = np.kron(covariance, np.eye(high))
    values, vectors = np.linalg.eigh((seen + seen.T) / 2)
    values = np.sqrt(np.maximum(values, DAMPING * max(values.mean(), 1e-30)))
    root, inverse = (vectors * values) @ vectors.T, (vectors / values) @ vectors.T
    flat = w.reshape(rows, wide * layer.outputs)
    _, singular, right = np.linalg.svd(root @ flat, full_matrices=False)
    right = _signed(right.T).T
    first = inverse @ (root @ flat @ right.T)
    return Factors(SEPARABLE, first, right, _left(singular**2), mean)


def _signed(vectors: Matrix) -> Matrix:
    """Make the greatest element of each column positive: decompositions leave it open."""
    greatest = np.abs(vectors).argmax(axis=0)
    signs = np.sign(vectors[greatest, np.arange(vectors.shape[1])])
    out: Matrix = vectors * np.where(signs == 0, 1, signs)
    return out


def _left(energies: Matrix) -> Matrix:
    """Return the share of the energy behind each rank, from 0 to all."""
    behind = np.concatenate([np.cumsum(energies[::-1])[::-1], [0.0]])
    out: Matrix = behind / max(float(behind[0]), 1e-300)
    return out
