"""Affine match: each output channel gets back its old mean and standard deviation.

What recalibrating BatchNorm does, on weights it has been folded into: one factor and one bias a
channel, from first and second moments alone.
"""

from __future__ import annotations

import numpy as np

from graphopt.recovery.problem import Problem, Solution, without_shortcuts

LEAST, MOST = 0.1, 10.0  # a channel that all but died is not blown up without limit


@without_shortcuts
def affine(problem: Problem) -> Solution | None:
    """Rescale one layer; without a bias, only where it can be given one."""
    if not problem.bias:
        return None
    single = problem.weights.astype(np.float32)
    groups, _, outputs = single.shape
    count = 0
    now, then = np.zeros((2, groups, outputs)), np.zeros((2, groups, outputs))
    cross = np.zeros((groups, outputs))
    for rows in problem.rows():
        target = np.asarray(rows.target, dtype=np.float64)
        given = (rows.x @ single[:, :-1] + single[:, -1:]).astype(np.float64)
        count += given.shape[1]
        for sums, values in ((now, given), (then, target)):
            sums[0] += values.sum(axis=1)
            sums[1] += (values * values).sum(axis=1)
        cross += (given * target).sum(axis=1)
    mean_now, mean_then = now[0] / count, then[0] / count
    std_now = np.sqrt(np.maximum(now[1] / count - mean_now**2, 0))
    std_then = np.sqrt(np.maximum(then[1] / count - mean_then**2, 0))
    alive = std_now > 1e-6 * std_then.max(initial=1e-30)
    factor = np.where(alive, std_then / np.where(alive, std_now, 1), 1.0)
    factor = np.clip(factor, LEAST, MOST)
    shift = mean_then - factor * mean_now
    found = problem.weights * factor[:, None]
    found[:, -1] += shift
    energy = max(float(then[1].sum()), 1e-30)
    before = float((now[1] - 2 * cross + then[1]).sum()) / energy
    squared = (factor**2 * now[1] + 2 * factor * shift * now[0] + count * shift**2).sum()
    mixed = (factor * cross + shift * then[0]).sum()
    after = (float(squared - 2 * mixed) + float(then[1].sum())) / energy
    return Solution(found, max(before, 0.0), max(after, 0.0))
