"""Least squares: the weights that give a layer's old output from what is left of its input.

Ridge regression toward the current weights ``W0``::

    W = W0 + (G + ridge D)^-1 (R - G W0),    D = mean of the diagonal of G

He et al., *Channel Pruning for Accelerating Very Deep Neural Networks*, ICCV 2017
(arXiv:1707.06168), equation 2 without its first step. The ridge is chosen by two-fold
cross-validation, so that few samples or dead features do no harm.

Where a Relu follows, the error that matters is that behind it: below zero every value is as good.
Zhang et al., *Accelerating Very Deep Convolutional Networks for Classification and Detection*,
TPAMI 2016 (arXiv:1505.06798), section 3.2; here by majorization: what is to be zero is asked to be
what it is, or zero, and the system is solved again.

Memory: two matrices ``G`` and what LAPACK copies of one, ``24 g (F + 1)^2`` bytes for ``g`` groups
of ``F`` features; where that would be above 510 MB (:func:`~graphopt.statistics.gram.fits`) the
layer is solved in the dual (:mod:`graphopt.recovery.dual`), whose memory does not grow with
``F^2``. Where ``R`` would be larger than ``G`` may be, outputs are solved by parts.
:func:`most_memory` is the whole bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from graphopt.recovery.dual import dual, most_rows
from graphopt.recovery.problem import Matrix, Problem, Rows, Solution, rectified
from graphopt.statistics.gram import MOST_FEATURES, Gram, fits, widest
from graphopt.statistics.unfold import HELD, PIECE

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
ROUNDS = 2  # of the rectified problem

__all__ = [
    "MOST_FEATURES",
    "RIDGES",
    "ROUNDS",
    "aim_again",
    "least_squares",
    "most_memory",
    "total",
    "two_folds",
]


def least_squares(problem: Problem) -> Solution | None:
    """Solve one layer; None where the old weights do as well on unseen rows."""
    groups, size, _ = problem.weights.shape
    if not fits(groups, size - 1):
        return dual(problem)
    found: Matrix | None = None
    before = after = energy = 0.0
    ridges = []
    for part, columns in _parts(problem, widest(groups, size - 1)):
        solved = _primal(part)
        before, after, energy = before + solved[1], after + solved[2], energy + solved[3]
        if solved[0] is not None:
            found = problem.weights.copy() if found is None else found
            found[..., columns] = solved[0]
            ridges.append(solved[4])
    if found is None:
        return None
    energy = max(energy, 1e-30)
    return Solution(found, before / energy, after / energy, f"ridge {np.median(ridges):g}")


def most_memory(groups: int, features: int, outputs: int) -> int:
    """Return how many bytes solving a layer takes at most, beyond its weights and activations.

    The new weights in double precision, the matrices, and the rows looked at at once with what is
    made of them. A test and the benchmark hold it against the memory that is really taken.
    """
    size = features + 1
    held = 8 * groups * size * outputs + 6 * PIECE + HELD
    if not fits(groups, features):
        rows = most_rows(groups, features, outputs)
        return held + 4 * groups * rows * (features + 3 * outputs) + 24 * rows * rows
    part = min(outputs, widest(groups, features))
    return held + 24 * groups * size * size + 48 * groups * size * part


def _parts(problem: Problem, most: int) -> Iterator[tuple[Problem, slice]]:
    """Yield the problem, or those of some of its outputs each, so that ``R`` is not too wide."""
    outputs = problem.weights.shape[-1]
    if outputs <= most:
        yield problem, slice(None)
        return

    for start in range(0, outputs, most):
        columns = slice(start, min(start + most, outputs))
        yield _part(problem, columns), columns


def _part(problem: Problem, columns: slice) -> Problem:
    def rows() -> Iterator[Rows]:
        for r in problem.rows():
            beside = r.beside[..., columns] if isinstance(r.beside, np.ndarray) else r.beside
            yield Rows(r.x, r.wanted[..., columns], beside)

    weights = np.ascontiguousarray(problem.weights[..., columns])
    layer = replace(problem.layer, outputs=weights.shape[-1])
    return replace(problem, layer=layer, weights=weights, rows=rows, few=None)


def _primal(problem: Problem) -> tuple[Matrix | None, float, float, float, float]:
    """Return weights (None: the old ones), error before and after, energy, and the ridge."""
    whole, other = two_folds(problem)
    old = problem.weights
    ridge = _ridge((whole, other), problem)
    whole.merge(other)
    del other  # one matrix less while solving
    energy, before = float(whole.yy.sum()), float(whole.error(old).sum())
    if ridge is None:
        return None, before, before, energy, 0.0
    found = _solve(whole, old, ridge, bias=problem.bias)
    if problem.rectified:
        sums = whole.xy
        for _ in range(ROUNDS):
            aim_again(whole, problem, found)
            found = _solve(whole, old, ridge, bias=problem.bias)
        whole.xy = sums
    return found, before, float(whole.error(found).sum()), energy, ridge


def two_folds(problem: Problem) -> tuple[Gram, Gram]:
    """Sum the rows; batches take turns between two folds, a single one goes half to each."""
    groups, size, outputs = problem.weights.shape
    folds = (Gram(groups, size - 1, outputs), Gram(groups, size - 1, outputs))
    for turn, rows in enumerate(problem.rows()):
        folds[turn % 2].add(rows.x, rows.target)
    if folds[0].rows < 2 or folds[1].rows:
        return folds
    del folds
    folds = (Gram(groups, size - 1, outputs), Gram(groups, size - 1, outputs))
    for rows in problem.rows():
        half = rows.x.shape[1] // 2
        folds[0].add(rows.x[:, :half], rows.target[:, :half])
        folds[1].add(rows.x[:, half:], rows.target[:, half:])
    return folds


def total(folds: tuple[Gram, Gram]) -> Gram:
    """Return the sum of the folds, which stay as they are."""
    groups, size, outputs = folds[0].xy.shape
    whole = Gram(groups, size - 1, outputs)
    for part in folds:
        whole.merge(part)
    return whole


def _ridge(folds: tuple[Gram, Gram], problem: Problem) -> float | None:
    """Return the ridge that does best on the fold it was not fitted to, if one helps at all."""
    a, b = folds
    if not b.rows:
        return None  # a single row: nothing to judge by
    old = problem.weights
    errors = [
        float(b.error(_solve(a, old, ridge, bias=problem.bias)).sum())
        + float(a.error(_solve(b, old, ridge, bias=problem.bias)).sum())
        for ridge in RIDGES
    ]
    best = int(np.argmin(errors))
    helps = errors[best] < float((a.error(old) + b.error(old)).sum())
    return RIDGES[best] if helps else None


def _solve(gram: Gram, old: Matrix, ridge: float, *, bias: bool) -> Matrix:
    keep = slice(None) if bias else slice(None, -1)
    damped = gram.xx[:, keep, keep]
    diagonal = np.einsum("gii->gi", damped)
    before = diagonal.copy()
    rest = damped @ old[:, keep]
    np.subtract(gram.xy[:, keep], rest, out=rest)
    if not bias:
        rest -= gram.xx[:, keep, -1:] @ old[:, -1:]
    scale = before[:, : old.shape[1] - 1].mean(axis=1)
    found: Matrix = old.copy()
    diagonal += (ridge * scale + 1e-12)[:, None]  # in place: a copy would be as large again
    found[:, keep] += np.linalg.solve(damped, rest)
    diagonal[:] = before
    return found


def aim_again(gram: Gram, problem: Problem, weights: Matrix) -> None:
    """Sum ``R`` anew: where the original was cut off at zero, anything below zero will do."""
    single = weights.astype(np.float32)
    gram.xy = np.zeros_like(gram.xy)
    for rows in problem.rows():
        now = rows.x @ single[:, :-1] + single[:, -1:]
        target = rectified(rows.wanted, rows.beside, now).astype(np.float32)
        gram.xy[:, :-1] += rows.x.transpose(0, 2, 1) @ target
        gram.xy[:, -1] += target.sum(axis=1, dtype=np.float64)
