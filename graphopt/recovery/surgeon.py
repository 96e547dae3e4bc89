"""Optimal Brain Surgeon on single weights: which go, judged by what the others can make up for.

Around the best weights ``W`` of a quadratic error with Hessian ``H``, setting weight ``i`` of a
column to zero and moving the others to suit costs ``w_i^2 / (H^-1)_ii`` (Hassibi & Stork, *Second
Order Derivatives for Network Pruning: Optimal Brain Surgeon*, NIPS 1992). Two ways to go through
all weights of a layer:

* one column after another with its own inverse, a few weights at a time, and the cheapest weights
  of all columns in the end (Frantar & Alistarh, *Optimal Brain Compression*, NeurIPS 2022,
  arXiv:2208.11580), for ``outputs * features^3`` operations;
* where that is too many, all columns together in one order of features (Frantar & Alistarh,
  *SparseGPT*, ICML 2023, arXiv:2301.00774), for ``features^3 + outputs * features^2``. Of four
  weights the cheapest pair goes; features of much energy come first, so that those of little make
  up for them. Without pattern it is the other way round, and how many go in each block of features
  is what the cost of each weight alone says (SparseGPT: as many in each).

Measured on the layers of ResNet-20, relative squared error of the output with the other weights
refitted, geometric means: 2:4: magnitude 0.0110, first 0.0089, second 0.0087. 70 %: 0.0204, 0.0122,
0.0152 (0.0220 with SparseGPT's blocks). In fours the second can be worse than magnitude where
inputs depend on each other strongly, which the first never was; so the second is compared with
each weight's own energy.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from graphopt.passes.sparsity import Mask, Sparsity, fours, least_masked
from graphopt.recovery.problem import Matrix
from graphopt.statistics.layers import Layer

MOST_EXACT = 1e11  # outputs * features^3 of one group: some ten seconds of one core
STEPS = 16  # of weights removed together, in one column
SPARE = 1.4  # the column that costs least may lose this much more than the share
BLOCK = 128  # features between two updates of all those behind
CHOSEN = 32  # features whose weights are chosen together

Order = npt.NDArray[np.int64]


def least_costly(weights: Matrix, hessian: Matrix, layer: Layer, sparsity: Sparsity) -> Mask:
    """Return which weights of one group stay, shape ``(features, outputs)``.

    Args:
        weights: the best dense ones, shape ``(features, outputs)`` or, with a bias that stays in
            the last row, ``(features + 1, outputs)``.
        hessian: of the error, damped: positive definite, of as many rows.
        layer: whose weights they are.
        sparsity: the pattern. The number of zeros is exact.
    """
    features, outputs = layer.features, weights.shape[1]
    places = fours(layer) if sparsity.structured else None
    if outputs * float(features) ** 3 > MOST_EXACT:
        return _swept(weights, hessian, layer, sparsity)
    inverse = np.asarray(np.linalg.inv(hessian), dtype=np.float64)
    if places is not None:
        total = features // 2
    else:
        total = min(features, int(np.ceil(SPARE * sparsity.share * features)))
    costs = np.stack(
        [_costs(weights[:, j], inverse, features, total, places) for j in range(outputs)], axis=1
    )
    if places is not None:
        return np.isinf(costs)
    count = round(sparsity.share * costs.size)
    return _without_least(costs, count)


def _costs(
    column: Matrix, inverse: Matrix, features: int, total: int, places: Order | None
) -> Matrix:
    """Remove ``total`` weights of one column; return what each cost, inf where it stayed.

    The cheapest go first; of each four in ``places``, one at a time and no more than two.
    """
    w, inverse = column.copy(), inverse.copy()
    costs = np.full(features, np.inf)
    step = -(-total // STEPS)
    done = 0
    while done < total:
        own = np.maximum(np.diag(inverse)[:features], 1e-300)
        rate = np.where(np.isinf(costs), w[:features] ** 2 / own, np.inf)
        among = np.arange(features)
        if places is not None:
            open_ = places[np.isinf(costs[places]).sum(axis=1) > 2]
            among = open_[np.arange(len(open_)), rate[open_].argmin(axis=1)]
        gone = among[np.argsort(rate[among], kind="stable")[: min(step, total - done)]]
        costs[gone] = rate[gone]
        across = inverse[:, gone]
        solved = np.linalg.solve(across[gone], np.column_stack([across.T, w[gone]]))
        w -= across @ solved[:, -1]
        inverse -= across @ solved[:, :-1]
        done += len(gone)
    return costs


def _swept(weights: Matrix, hessian: Matrix, layer: Layer, sparsity: Sparsity) -> Mask:
    """Choose in one sweep, or by each weight's own energy where that leaves less error."""
    features = layer.features
    energy = weights[:features] ** 2 * np.diag(hessian)[:features, None]
    if sparsity.structured:
        places = fours(layer)
        order = places[np.argsort(-energy[places].sum(axis=(1, 2)), kind="stable")].reshape(-1)
    else:
        order = np.argsort(energy.sum(axis=1), kind="stable")
    order = np.concatenate([order, np.arange(features, len(weights))])  # the bias is behind all
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    costs = weights[order[:features]] ** 2 / np.diag(inverse)[:features, None]
    quotas = ~_without_least(costs, round(sparsity.share * costs.size))
    factor = np.linalg.cholesky(inverse).T
    del inverse
    # Wanda (Sun et al., arXiv:2306.11695): what a weight gives by itself.
    alone = least_masked(energy[None], layer, sparsity)[0][order[:features]]
    best, cost = _sweep(weights[order], factor, sparsity, quotas)
    other, more = _sweep(weights[order], factor, None, alone)
    mask = np.empty_like(best)
    mask[order[:features]] = best if cost <= more else other
    return mask


def _sweep(
    weights: Matrix, factor: Matrix, sparsity: Sparsity | None, which: Mask
) -> tuple[Mask, float]:
    """Go through the features; those behind make up for what is removed.

    Args:
        weights: in the order of the sweep; those behind ``which`` are never removed.
        factor: upper Cholesky factor of the inverse Hessian in that order.
        sparsity: the pattern; None where ``which`` says what stays.
        which: with a pattern, how many go in a block of features is how many are set in it.

    Returns:
        Which stay, shape ``(features, outputs)``, and the error that was added up.
    """
    w, cost = weights.copy(), 0.0
    pivots = np.diag(factor)
    mask = which.copy()
    for start in range(0, len(which), BLOCK):
        end = min(start + BLOCK, len(which))
        left = np.zeros((end - start, w.shape[1]))
        for i in range(start, end):
            if sparsity is not None and sparsity.structured and i % 4 == 0:
                mask[i : i + 4] = _cheapest_pairs(w[i : i + 4], factor[i : i + 4, i : i + 4])
            elif sparsity is not None and not sparsity.structured and i % CHOSEN == 0:
                here = slice(i, min(i + CHOSEN, end))
                rate = (w[here] / pivots[here, None]) ** 2
                mask[here] = _without_least(rate, int(which[here].sum()))
            error = np.where(mask[i], 0, w[i]) / pivots[i]
            cost += float(error @ error)
            w[i:end] -= np.outer(factor[i, i:end], error)
            left[i - start] = error
        w[end:] -= factor[start:end, end:].T @ left
    return mask, cost


def _without_least(rate: Matrix, count: int) -> Mask:
    """Return which entries stay if so many of the least go; ties go in order."""
    mask = np.ones(rate.size, dtype=bool)
    mask[np.argsort(rate.reshape(-1), kind="stable")[:count]] = False
    return mask.reshape(rate.shape)


def _cheapest_pairs(weights: Matrix, factor: Matrix) -> Mask:
    """Return which of four weights of each column stay, shape ``(4, columns)``."""
    inverse = factor.T @ factor
    pairs = [list(pair) for pair in combinations(range(4), 2)]
    costs = [
        (weights[p] * np.linalg.solve(inverse[np.ix_(p, p)], weights[p])).sum(axis=0) for p in pairs
    ]
    mask = np.ones(weights.shape, dtype=bool)
    gone = np.array(pairs)[np.argmin(costs, axis=0)]
    np.put_along_axis(mask, gone.T, values=False, axis=0)
    return mask
