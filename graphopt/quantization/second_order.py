"""Integer codes for a weight that cause little error in what the layer gives, on plain matrices.

Rounding ``W`` to ``Q = codes * steps`` costs, on inputs with the Gram matrix ``H = X'X``,

    trace (W - Q)' H (W - Q)

so that the error of one weight can be taken back by those whose inputs go along with it. Each
column is a closest-vector problem. Two steps, for all columns together:

* one sweep over the features in which each is rounded to what best makes up for those already
  rounded: GPTQ (Frantar et al., arXiv:2210.17323), features of much energy first. It is written
  as Babai's nearest plane on the Cholesky factor of ``H``, which gives the same codes without
  the inverse of ``H``;
* coordinate descent: each code in turn is set to its best value given the others, until none moves
  or the sweeps are used up. No sweep makes it worse.

A column in which rounding to nearest does better keeps that. ``H`` is damped by a part of its mean
diagonal, so that features that were never seen, or only together, are left where they are.

Matrices may have leading axes: the groups of a convolution, the channels of a depthwise one.

Cost, for ``F`` features and ``O`` outputs: ``F^3 / 3`` for the factor and ``F^2 O`` for each sweep.
Memory: three more matrices of the size of ``H``, a few of the size of ``W``, in float64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphopt.graph import Array

Matrix = npt.NDArray[np.float64]

DAMPING = 0.01  # of the mean diagonal of the Gram matrix, as in GPTQ
SWEEPS = 2  # of coordinate descent, at most
_BLOCK = 64  # features between two updates of all others


def round_second_order(
    weight: Matrix,
    gram: Matrix,
    steps: Array,
    low: Array | int = -127,
    high: Array | int = 127,
    *,
    damping: float = DAMPING,
    sweeps: int = SWEEPS,
) -> npt.NDArray[np.int64]:
    """Return integer codes of the least error found, shape ``(..., features, outputs)``.

    Args:
        weight: ``(..., features, outputs)``.
        gram: ``X'X`` of the layer's inputs, ``(..., features, features)``; its scale is of no
            matter.
        steps: the scale of each weight, > 0; broadcasts to ``weight``: ``(outputs,)`` or, for
            blocks of features, :func:`by_block`.
        low: the least code; may be an array that broadcasts, for zero-points
            (code - zero-point is what is returned).
        high: the greatest code, likewise.
        damping: what is added to the diagonal of the Gram matrix, over its mean.
        sweeps: of coordinate descent; 0 for the nearest plane alone.

    Never worse than rounding to nearest, column by column, by the damped Gram matrix. A Gram matrix
    that is not finite, or zero, gives rounding to nearest.
    """
    w = np.asarray(weight, dtype=np.float64)
    s, lows, highs = (np.broadcast_to(a, w.shape) for a in (steps, low, high))
    plain: Matrix = np.clip(np.rint(w / s), lows, highs)
    hessian = _damped(np.asarray(gram, dtype=np.float64), damping)
    if hessian is None or not w.size:
        return np.asarray(plain, dtype=np.int64)
    found = _nearest_plane(w, hessian, s, lows, highs)
    for start in (found, plain):
        _descend(start, w, hessian, s, lows, highs, sweeps)
    best = np.where(
        (cost(w - found * s, hessian) <= cost(w - plain * s, hessian))[..., None, :], found, plain
    )
    return np.asarray(best, dtype=np.int64)


def cost(error: Matrix, gram: Matrix) -> Matrix:
    """Return ``error' gram error`` of each column, shape ``(..., outputs)``."""
    found: Matrix = np.maximum(np.einsum("...fo,...fo->...o", error, gram @ error), 0.0)
    return found


def by_block(scales: Array, features: int, block: int) -> Array:
    """Spread scales of blocks of features, ``(..., blocks, outputs)``, to all the features."""
    return np.repeat(scales, block, axis=-2)[..., :features, :]


def _damped(gram: Matrix, damping: float) -> Matrix | None:
    """Return a copy with a greater diagonal, scaled to a mean of 1; None where it says nothing."""
    mean = np.einsum("...ff->...f", gram).mean(axis=-1)
    if not np.isfinite(gram).all() or not (mean > 0).any():
        return None
    # A group whose inputs were all zero: nothing is known, each weight counts alike.
    mean = np.where(mean > 0, mean, 1.0)
    hessian = gram / mean[..., None, None]
    diagonal = np.einsum("...ff->...f", hessian)
    diagonal += max(damping, 1e-9)
    return np.asarray(hessian)


def _nearest_plane(w: Matrix, hessian: Matrix, s: Array, lows: Array, highs: Array) -> Matrix:
    """Round feature after feature, those of the most energy first.

    With ``H = L L'`` the error is ``|L' e|^2``, and row ``i`` of ``L' e`` holds ``e_i`` and what
    comes behind it: from the last row on, each ``e_i`` is chosen to cancel what is there already.
    """
    diagonal = np.einsum("...ff->...f", hessian)
    order = np.argsort(diagonal, axis=-1, kind="stable")
    lower = _factor(_sorted(_sorted(hessian, order, -1), order, -2))
    w, s, lows, highs = (_sorted(a, order, -2) for a in (w, s, lows, highs))
    codes, error = np.zeros_like(w), np.zeros_like(w)
    pull = lower
    pull /= np.einsum("...ff->...f", lower).copy()[..., None, :]  # in place: it may be large
    features = w.shape[-2]
    for end in range(features, 0, -_BLOCK):
        start = max(end - _BLOCK, 0)
        aim = w[..., start:end, :].copy()
        if end < features:
            aim += np.swapaxes(pull[..., end:, start:end], -1, -2) @ error[..., end:, :]
        for i in range(end - 1, start - 1, -1):
            at = aim[..., i - start, :]
            if i + 1 < end:
                at = at + np.einsum(
                    "...k,...ko->...o", pull[..., i + 1 : end, i], error[..., i + 1 : end, :]
                )
            step = s[..., i, :]
            code = np.clip(np.rint(at / step), lows[..., i, :], highs[..., i, :])
            codes[..., i, :] = code
            error[..., i, :] = w[..., i, :] - code * step
    back = np.argsort(order, axis=-1, kind="stable")
    return _sorted(codes, back, -2)


def _factor(hessian: Matrix) -> Matrix:
    """Return the lower Cholesky factor; rounding may take more damping than was asked for."""
    size = hessian.shape[-1]
    for more in (0.0, 1e-6, 1e-4, 1e-2):
        try:
            found = np.linalg.cholesky(hessian + more * np.eye(size) if more else hessian)
        except np.linalg.LinAlgError:
            continue
        return np.asarray(found, dtype=np.float64)
    return np.array(np.broadcast_to(np.eye(size), hessian.shape))  # each feature by itself


def _descend(
    codes: Matrix, w: Matrix, hessian: Matrix, s: Array, lows: Array, highs: Array, sweeps: int
) -> None:
    """Set each code to its best given the others, in place."""
    features = w.shape[-2]
    slope = hessian @ (w - codes * s)
    curve = np.einsum("...ff->...f", hessian)
    for _ in range(sweeps):
        moved = False
        for start in range(0, features, _BLOCK):
            end = min(start + _BLOCK, features)
            own = hessian[..., start:end, start:end]
            near = slope[..., start:end, :].copy()
            shift = np.zeros_like(near)
            for i in range(start, end):
                step, now = s[..., i, :], codes[..., i, :]
                best = np.rint(now + near[..., i - start, :] / (curve[..., i, None] * step))
                best = np.clip(best, lows[..., i, :], highs[..., i, :])
                move = (best - now) * step
                if not move.any():
                    continue
                codes[..., i, :] = best
                shift[..., i - start, :] = move
                near -= own[..., :, i - start, None] * move[..., None, :]
            if shift.any():
                moved = True
                slope -= hessian[..., :, start:end] @ shift
        if not moved:
            return


def _sorted(array: Array, order: npt.NDArray[np.int64], axis: int) -> Array:
    shape = [*order.shape, 1] if axis == -2 else [*order.shape[:-1], 1, order.shape[-1]]
    return np.take_along_axis(array, order.reshape(shape), axis=axis)
