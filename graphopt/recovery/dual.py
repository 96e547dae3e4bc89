"""Least squares for layers of many features: solved in the dual, on sampled rows.

The matrix ``G`` of a layer of 2,048 channels and a 3x3 kernel has 340 million entries. The same
ridge regression toward the current weights ``W0`` needs no more than a matrix of the rows::

    W = W0 + X' (X X' + ridge s)^-1 (Y - X W0),    s = mean of the diagonal of X' X

(push-through identity; Saunders, Gammerman, Vovk, *Ridge Regression Learning Algorithm in Dual
Variables*, ICML 1998). A bias is one more column of ones in ``X``.

A quarter of the rows is held out: it chooses the ridge, and says whether the old weights are best
left. Predictions on held-out rows need ``X X'`` only, never the weights.

Memory, whatever the number of rows there are: of ``n`` sampled rows, with ``F`` features and ``O``
outputs in ``g`` groups,

    n <= min(DUAL_ROWS, DUAL_BYTES / (4 g (F + 3 O)))

``DUAL_BYTES`` for the rows, ``24 n^2`` bytes for matrices of rows, and the new weights in double
precision, ``8 g (F + 1) O``. None of it grows with ``F^2``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.graph import Array
from graphopt.recovery.problem import Matrix, Problem, Solution, rectified

DUAL_ROWS = 4096
DUAL_BYTES = 512 << 20
LEAST_ROWS = 8  # of which two are held out
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # fewer rows than features: more than in the primal
ROUNDS = 3  # of the rectified problem
GAIN = 0.01  # of the error on held-out rows; less may be chance
_FEATURES, _OUTPUTS = 1024, 256  # of one block
_STRIPS = 16  # neighbouring rows are alike: they are held out, or not, together


@dataclass(slots=True)
class Sample:
    """Rows of one layer, single precision, ``(groups, rows, …)`` each."""

    x: Array
    wanted: Array
    beside: Array | None


def dual(problem: Problem) -> Solution | None:
    """Solve one layer on at most ``DUAL_ROWS`` rows; None where that helps no unseen row."""
    groups, size, outputs = problem.weights.shape
    sample = gather(problem, most_rows(groups, size - 1, outputs))
    if sample.x.shape[1] < LEAST_ROWS:
        return None
    found = problem.weights.copy()
    ridges = []
    before = after = energy = 0.0
    for group in range(len(found)):
        one = _Group(problem, sample, group)
        energy += one.energy
        before += one.error
        ridge = one.best_ridge()
        after += one.error if ridge is None else one.solve(ridge, found[group])
        ridges += [] if ridge is None else [ridge]
    if not ridges:
        return None
    energy = max(energy, 1e-30)
    rows = sample.x.shape[1]
    note = f"ridge {np.median(ridges):g}, in the dual on {rows:,} rows"
    return Solution(found, before / energy, after / energy, note)


def most_rows(groups: int, features: int, outputs: int) -> int:
    """Return how many rows of a layer are looked at, at most."""
    return min(DUAL_ROWS, DUAL_BYTES // (4 * groups * (features + 3 * outputs)))


def gather(problem: Problem, most: int) -> Sample:
    """Return at most ``most`` of a problem's rows, the same each time.

    Each row has a random number. Whenever there is no room, the bar that these have to pass is
    raised so that half of them fall: what is kept is an even sample of what was seen.
    """
    groups, size, outputs = problem.weights.shape
    x = np.empty((groups, most, size - 1), dtype=np.float32)
    wanted = np.empty((groups, most, outputs), dtype=np.float32)
    beside: Array | None = None
    keys = np.empty(most, dtype=np.uint64)
    bar, held, seen = np.uint64(0), 0, 0
    for rows in problem.rows() if problem.few is None else problem.few(most):
        count = rows.x.shape[1]
        if beside is None and isinstance(rows.beside, np.ndarray):
            beside = np.zeros_like(wanted)
        arrays = [(x, rows.x), (wanted, rows.wanted)]
        if beside is not None:
            arrays.append((beside, np.broadcast_to(rows.beside, rows.wanted.shape)))
        numbers = _random(seen, count)
        seen += count
        start = 0
        while start < count:
            passed = start + np.flatnonzero((numbers[start:] & bar) == 0)
            chosen = passed[: most - held]
            for into, source in arrays:
                into[:, held : held + len(chosen)] = source[:, chosen]
            keys[held : held + len(chosen)] = numbers[chosen]
            held += len(chosen)
            if len(chosen) == len(passed):
                break
            start = int(passed[len(chosen)])
            bar = (bar << np.uint64(1)) | np.uint64(1)
            stay = np.flatnonzero((keys[:held] & bar) == 0)
            for into, _ in arrays:
                for to, place in enumerate(stay):  # in place: a copy would be as large again
                    into[:, to] = into[:, place]
            keys[: len(stay)] = keys[stay]
            held = len(stay)
    return Sample(x[:, :held], wanted[:, :held], None if beside is None else beside[:, :held])


def _random(first: int, count: int) -> npt.NDArray[np.uint64]:
    """Return a number for each row, by its place (splitmix64)."""
    z = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return found


class _Group:
    """One group of a layer: its rows, and what the old weights leave of them."""

    def __init__(self, problem: Problem, sample: Sample, group: int) -> None:
        self.problem = problem
        self.x = sample.x[group]
        self.wanted = sample.wanted[group]
        self.beside = None if sample.beside is None else sample.beside[group]
        self.old = problem.weights[group]
        self.given = np.empty_like(self.wanted)
        self.error = self.energy = 0.0
        for block in _blocks(self.wanted.shape[1], _OUTPUTS):
            single = self.old[:, block].astype(np.float32)
            self.given[:, block] = self.x @ single[:-1] + single[-1]
            target = self.target(block)
            self.energy += _squares(target)
            self.error += _squares(target - self.given[:, block])
        self.kernel = _kernel(self.x, bias=problem.bias)
        own = np.einsum("rf,rf->r", self.x, self.x, dtype=np.float64)
        self.powers = own / self.x.shape[1]  # of each row, over the features

    def target(self, block: slice) -> Array:
        """Return what ``x W + b`` should be."""
        wanted: Array = self.wanted[:, block]
        return wanted if self.beside is None else wanted - self.beside[:, block]

    def left(self, block: slice) -> Matrix:
        """Return ``Y - X W0``."""
        found: Matrix = (self.target(block) - self.given[:, block]).astype(np.float64)
        return found

    def best_ridge(self) -> float | None:
        """Return the ridge that leaves least of the held-out rows, if any leaves clearly less."""
        rows = len(self.x)
        strip = np.arange(rows) * min(_STRIPS, rows) // rows
        held, fit = np.flatnonzero(strip % 4 == 3), np.flatnonzero(strip % 4 != 3)
        blocks = _blocks(self.wanted.shape[1], _OUTPUTS)
        best = None
        least = (1 - GAIN) * sum(_squares(self.left(block)[held]) for block in blocks)
        across = self.kernel[np.ix_(held, fit)]
        for ridge in RIDGES:
            inner = _inverse(self.kernel[np.ix_(fit, fit)], ridge * self.powers[fit].sum())
            if inner is None:
                continue
            inner = across @ inner
            error = 0.0
            for block in blocks:
                left = self.left(block)
                error += _squares(left[held] - inner @ left[fit])
            if error < least:
                least, best = error, ridge
        return best

    def solve(self, ridge: float, weights: Matrix) -> float:
        """Write new weights, ``(features + 1, outputs)``, and return the error they leave."""
        damping = ridge * float(self.powers.sum())
        inner = _inverse(self.kernel, damping)
        if inner is None:
            return self.error
        self.kernel = np.empty((0, 0))
        error = 0.0
        for block in _blocks(self.wanted.shape[1], _OUTPUTS):
            left = self.left(block)
            rest: Matrix = left
            found = inner @ rest
            for _ in range(ROUNDS if self.problem.rectified else 0):
                # X X' times what was found is the rest without what the ridge held back.
                now = self.given[:, block] + rest - damping * found
                beside = 0.0 if self.beside is None else self.beside[:, block]
                aim = rectified(self.wanted[:, block], beside, now)
                rest = (aim - self.given[:, block]).astype(np.float64)
                found = inner @ rest
            error += _squares(left - rest + damping * found)
            if self.problem.bias:
                weights[-1, block] += found.sum(axis=0)
            weights[:-1, block] += self.x.T @ found.astype(np.float32)
        return error


def _kernel(x: Array, *, bias: bool) -> Matrix:
    """Return ``X X'``: blocks of features in single precision, their sum in double."""
    found: Matrix = np.full((len(x), len(x)), float(bias))
    for block in _blocks(x.shape[1], _FEATURES):
        part = np.ascontiguousarray(x[:, block])
        found += part @ part.T
    return found


def _inverse(matrix: Matrix, damping: float) -> Matrix | None:
    """Return the inverse of ``matrix + damping``; the matrix is as it was afterwards."""
    diagonal = np.einsum("ii->i", matrix)
    before = diagonal.copy()
    diagonal += damping + 1e-12
    try:
        found: Matrix = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    except np.linalg.LinAlgError:
        return None
    finally:
        diagonal[:] = before
    return found


def _squares(values: Array) -> float:
    return float(np.einsum("ro,ro->", values, values, dtype=np.float64))


def _blocks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
