"""Least squares on a support: weights that are zero stay zero, the others make up for them.

Each output column ``w`` with the support ``s`` has its own system::

    (G + ridge D)_ss w_s = (R + ridge D W0)_s

solved exactly where that is cheap, and else by conjugate gradients on all columns at once, which
start at the current weights and stop early. The ridge is chosen as in
:mod:`~graphopt.recovery.least_squares`, to which layers without zeros are left.

Memory, for ``g`` groups of ``F`` features: ``8 (3 g + 3) (F + 1)^2`` bytes while weights are
chosen, ``8 (3 g + 1) (F + 1)^2`` while they are solved for, at most 1.1 GB, beside what
:func:`~graphopt.recovery.least_squares.most_memory` says of the rest. Layers too wide for ``G``
are cut by magnitude.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.passes.sparsity import Sparsity, least_masked
from graphopt.recovery.least_squares import (
    RIDGES,
    ROUNDS,
    aim_again,
    least_squares,
    total,
    two_folds,
)
from graphopt.recovery.problem import Matrix, Problem, Solution
from graphopt.recovery.surgeon import least_costly
from graphopt.statistics.gram import Gram, fits

Support = npt.NDArray[np.bool_]
DAMPING = 1e-3  # of the Hessian that chooses, over its mean diagonal
DAMPING_OF_MANY = 1e-2  # where trying several would take long
MOST_DIRECT = 5e9  # multiply-accumulates of one exact solution
ITERATIONS = 20


def on_support(problem: Problem) -> Solution | None:
    """Solve one layer, its zeros kept; None where the old weights do as well on unseen rows."""
    support = problem.weights != 0
    support[:, -1] = True
    if support.all():
        return least_squares(problem)
    if not fits(problem.layer.groups, problem.layer.features):
        return None
    return _fitted(problem, two_folds(problem), problem.weights, support)


@dataclass(frozen=True, slots=True)
class Sparsifier:
    """A solver that sets weights of some layers to zero by second order, and solves all.

    Attributes:
        sparsity: the pattern.
        nodes: names of the layers that get zeros.
        update: whether the weights that stay are solved for; else they stay as they are.
    """

    sparsity: Sparsity
    nodes: Collection[str]
    update: bool = True

    def __call__(self, problem: Problem) -> Solution | None:
        """Choose on the rows as they are now, so that what came before is made up for."""
        if problem.layer.node not in self.nodes:
            return least_squares(problem) if self.update else None
        if not fits(problem.layer.groups, problem.layer.features):
            why = f"{problem.layer.features:,} features are too many for second order"
            return _by_magnitude(problem, self.sparsity, why)
        folds = two_folds(problem)
        if not all(np.isfinite(part).all() for fold in folds for part in (fold.xx, fold.xy)):
            return _by_magnitude(problem, self.sparsity, "its activations are not all finite")
        support = self._support(problem, folds)
        masked = np.where(support, problem.weights, 0)
        note = "second order"
        if self.update:
            found = _fitted(problem, folds, masked, support)
            if found is not None:
                return found
            note = "second order; the other weights as they were, which does best on unseen rows"
        whole = total(folds)
        energy = float(max(whole.yy.sum(), 1e-30))
        errors = [float(whole.error(w).sum()) / energy for w in (problem.weights, masked)]
        return Solution(masked, errors[0], errors[1], note)

    def _support(self, problem: Problem, folds: tuple[Gram, Gram]) -> Support:
        whole = total(folds)
        keep = slice(None) if problem.bias else slice(None, -1)
        right = _damp(whole, problem, DAMPING)
        support = np.ones(problem.weights.shape, dtype=bool)
        for g in range(len(support)):
            hessian = whole.xx[g, keep, keep]
            best = np.asarray(np.linalg.solve(hessian, right[g, keep]), dtype=np.float64)
            support[g, :-1] = least_costly(best, hessian, problem.layer, self.sparsity)
        return support


def _by_magnitude(problem: Problem, sparsity: Sparsity, why: str) -> Solution:
    """Choose without a matrix of the features."""
    weights = problem.weights.copy()
    mask = least_masked(np.abs(weights[:, :-1]), problem.layer, sparsity)
    weights[:, :-1] = np.where(mask, weights[:, :-1], 0)
    sums = np.zeros(3)
    for rows in problem.rows():
        target = np.asarray(rows.target, dtype=np.float64)
        for i, w in enumerate((problem.weights, weights)):
            single = w.astype(np.float32)
            given = rows.x @ single[:, :-1] + single[:, -1:]
            sums[i] += float(((given - target) ** 2).sum())
        sums[2] += float((target**2).sum())
    energy = max(sums[2], 1e-30)
    return Solution(weights, sums[0] / energy, sums[1] / energy, f"by magnitude: {why}")


def _damp(gram: Gram, problem: Problem, ridge: float) -> Matrix:
    """Turn ``G`` into ``G + ridge D``, in place; return ``R + ridge D W0``."""
    diagonal = np.einsum("gii->gi", gram.xx)
    added = ridge * diagonal[:, :-1].mean(axis=1) + 1e-12
    right = gram.xy + added[:, None, None] * problem.weights
    if not problem.bias:  # what it gives is no part of what is solved for
        right -= gram.xx[:, :, -1:] * problem.weights[:, -1:]
    diagonal += added[:, None]
    out: Matrix = right
    return out


def _fitted(
    problem: Problem, folds: tuple[Gram, Gram], masked: Matrix, support: Support
) -> Solution | None:
    """Solve on the support; None where that does no better than ``masked`` on unseen rows."""
    ridge = _ridge(problem, folds, masked, support)
    if ridge is None:
        return None
    whole = total(folds)
    energy = float(max(whole.yy.sum(), 1e-30))
    before = float(whole.error(problem.weights).sum()) / energy
    found = _solve(whole, problem, masked, support, ridge)
    if problem.rectified:
        sums = whole.xy
        for _ in range(ROUNDS):
            aim_again(whole, problem, found)
            found = _solve(whole, problem, found, support, ridge)
        whole.xy = sums
    after = float(whole.error(found).sum()) / energy
    return Solution(found, before, after, f"on the support, ridge {ridge:g}")


def _ridge(
    problem: Problem, folds: tuple[Gram, Gram], masked: Matrix, support: Support
) -> float | None:
    """Return the ridge that does best on the fold it was not fitted to, if one helps at all."""
    a, b = folds
    if not b.rows:
        return None  # a single row: nothing to judge by
    ridges = RIDGES if _is_cheap(support) else (DAMPING_OF_MANY,)
    errors = [
        float(b.error(_solve(a, problem, masked, support, ridge)).sum())
        + float(a.error(_solve(b, problem, masked, support, ridge)).sum())
        for ridge in ridges
    ]
    best = int(np.argmin(errors))
    helps = errors[best] < float((a.error(masked) + b.error(masked)).sum())
    return ridges[best] if helps else None


def _solve(gram: Gram, problem: Problem, start: Matrix, support: Support, ridge: float) -> Matrix:
    diagonal = np.einsum("gii->gi", gram.xx)
    before = diagonal.copy()
    right = _damp(gram, problem, ridge)
    keep = slice(None) if problem.bias else slice(None, -1)
    solve = _columns if _is_cheap(support) else _descended
    found: Matrix = start.copy()
    for g in range(len(found)):
        found[g, keep] = solve(
            gram.xx[g, keep, keep], right[g, keep], support[g, keep], start[g, keep]
        )
    diagonal[:] = before
    return found


def _is_cheap(support: Support) -> bool:
    work = (support.sum(axis=1, dtype=np.float64) ** 3).sum(axis=1) / 3
    return bool((work <= MOST_DIRECT).all())


def _columns(hessian: Matrix, right: Matrix, support: Support, start: Matrix) -> Matrix:
    """Solve column by column, exactly; ``start`` is not needed."""
    del start
    found: Matrix = np.zeros_like(right)
    for j in range(right.shape[1]):
        s = np.flatnonzero(support[:, j])
        found[s, j] = np.linalg.solve(hessian[np.ix_(s, s)], right[s, j])
    return found


def _descended(hessian: Matrix, right: Matrix, support: Support, start: Matrix) -> Matrix:
    """Conjugate gradients on every column, within its support, scaled by the diagonal."""
    scale = 1 / np.diag(hessian)[:, None]
    found: Matrix = np.where(support, start, 0)
    rest = np.where(support, right - hessian @ found, 0)
    step = scale * rest
    size = (rest * step).sum(axis=0)
    first = np.maximum(size, 1e-300)
    for _ in range(ITERATIONS):
        turned = np.where(support, hessian @ step, 0)
        length = size / np.maximum((step * turned).sum(axis=0), 1e-300)
        found += length * step
        rest -= length * turned
        better = scale * rest
        new = (rest * better).sum(axis=0)
        if (new <= 1e-14 * first).all():
            break
        step = better + new / np.maximum(size, 1e-300) * step
        size = new
    return found
