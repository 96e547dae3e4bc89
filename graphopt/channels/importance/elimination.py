"""Backward elimination: which channels go first, when all that remains makes up for each.

For one reader ``y = x W`` with the inverse ``H = (covariance + damping)^-1``, taking out the rows
``b`` of a channel and solving the rest again raises the squared error by::

    e_b = tr(W_b' H_bb^-1 W_b)

after which ``W -= H_:b H_bb^-1 W_b`` and ``H -= H_:b H_bb^-1 H_b:``. This is the Optimal Brain
Surgeon (Hassibi & Stork, NIPS 1992) for blocks of weights and a layer's own squared error, as in
Frantar & Alistarh, *Optimal Brain Compression*, NeurIPS 2022 (arXiv:2208.11580).
Rows of other channels that stay need no update: the sub-block of ``H`` is enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from graphopt.statistics.gram import Matrix

Order = npt.NDArray[np.int64]

CANDIDATES = 4  # times as many as are taken out at a time are looked at one by one
STEPS = 64  # full updates of a wide group


class Reading:
    """What one reader makes of the channels that are left.

    Args:
        inverse: ``H``, shape ``(width * rows, width * rows)``, the rows of a channel together.
        weights: ``W``, shape ``(width * rows, outputs)``.
        width: how many channels.
        most: what no channel can cost more than: the energy of all that is read. Rounding may
            claim more once channels that never vary are among those left.
    """

    def __init__(self, inverse: Matrix, weights: Matrix, width: int, most: float = np.inf) -> None:
        self.inverse, self.weights, self.width, self.most = inverse, weights, width, most
        self.rows = len(inverse) // width if width else 0

    @classmethod
    def of(cls, inverse: Matrix, weights: Matrix, features: Order, most: float = np.inf) -> Reading:
        """Return the reading of the channels with these features, shape ``(width, rows)``.

        Only ``W W'`` counts, so that more outputs than rows are replaced by as many as rows.
        """
        flat = features.reshape(-1)
        block = np.ascontiguousarray(weights[flat])
        if block.shape[1] > len(flat):
            block = np.ascontiguousarray(np.asarray(np.linalg.qr(block.T, mode="r")).T)
        return cls(inverse[np.ix_(flat, flat)], block, len(features), most)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.inverse.nbytes + self.weights.nbytes

    def costs(self) -> Matrix:
        """Return the error that taking out each channel makes, shape ``(width,)``."""
        rows = self.rows
        if rows == 1:
            return np.asarray(np.square(self.weights).sum(axis=1) / np.diag(self.inverse))
        index = np.arange(self.width)
        blocks = self.inverse.reshape(self.width, rows, self.width, rows)[index, :, index, :]
        weights = self.weights.reshape(self.width, rows, -1)
        return np.asarray(np.einsum("cto,cto->c", weights, _inverses(blocks) @ weights))

    def part(self, channels: Order) -> Reading:
        """Return the reading of some channels, the others kept."""
        rows = self._rows(channels)
        block = self.inverse[np.ix_(rows, rows)]
        return Reading(block, self.weights[rows], len(channels), self.most)

    def drop(self, channels: Order) -> None:
        """Take channels out: those behind them move up."""
        gone = self._rows(channels)
        left = np.ones(len(self.inverse), dtype=bool)
        left[gone] = False
        stay = np.flatnonzero(left)
        beside = self.inverse[np.ix_(gone, stay)]
        solved = (_inverses(self.inverse[np.ix_(gone, gone)]) @ beside).T
        self.weights = self.weights[stay] - solved @ self.weights[gone]
        inverse = self.inverse[np.ix_(stay, stay)]
        inverse -= solved @ beside
        self.inverse = inverse
        self.width -= len(channels)

    def _rows(self, channels: Order) -> Order:
        found: Order = (channels[:, None] * self.rows + np.arange(self.rows)).reshape(-1)
        return found


def _inverses(blocks: Matrix) -> Matrix:
    """Return the inverses of positive matrices; where rounding has left none, pseudo-inverses."""
    try:
        return np.asarray(np.linalg.inv(blocks))
    except np.linalg.LinAlgError:
        sane = np.nan_to_num(blocks, nan=0.0, posinf=0.0, neginf=0.0)
        return np.asarray(np.linalg.pinv(sane, hermitian=True))


def eliminate(readings: Sequence[Reading], fixed: Matrix) -> tuple[Order, Matrix]:
    """Take out one channel after another, always the one that costs least.

    Wide groups are updated ``STEPS`` times: each time the cheapest few channels are eliminated one
    by one among themselves, exactly, until one of the others may be cheaper, and then together in
    the whole. That finds the same order wherever taking one channel out makes no other cheaper.

    Args:
        readings: of each reader, their errors to be added; used up.
        fixed: what taking out each channel costs beside, whatever else goes, shape ``(width,)``.

    Returns:
        The channels in the order they go, and what each cost when it went.
    """
    width = len(fixed)
    step = max(width // STEPS, 1)
    alive = np.arange(width)
    order: list[int] = []
    costs: list[float] = []
    while len(alive):
        now = _total(readings, fixed[alive])
        if step == 1 or len(alive) == 1:
            gone, paid = np.array([int(np.argmin(now))]), [float(now.min())]
        else:
            gone, paid = _several(readings, fixed[alive], now, min(step, len(alive)))
        order += [int(c) for c in alive[gone]]
        costs += paid
        alive = np.delete(alive, gone)
        if len(alive):
            for reading in readings:
                reading.drop(gone)
    return np.array(order, dtype=np.int64), np.array(costs)


def _several(
    readings: Sequence[Reading], fixed: Matrix, now: Matrix, count: int
) -> tuple[Order, list[float]]:
    """Choose the next few channels among the cheapest; return them and what each costs in turn."""
    ranked = np.argsort(now, kind="stable")
    chosen = np.sort(ranked[: CANDIDATES * count])
    rest = ranked[CANDIDATES * count :]
    limit = now[rest[0]] if len(rest) else np.inf
    parts = [reading.part(chosen) for reading in readings]
    gone: list[int] = []
    paid: list[float] = []
    while len(gone) < count:
        costs = _total(parts, fixed[chosen])
        best = int(np.argmin(costs))
        if gone and costs[best] > limit:
            break
        gone.append(int(chosen[best]))
        paid.append(float(costs[best]))
        chosen = np.delete(chosen, best)
        if not len(chosen):
            break
        for part in parts:
            part.drop(np.array([best]))
    return np.array(gone), paid


def _total(readings: Sequence[Reading], fixed: Matrix) -> Matrix:
    total = fixed.copy()
    for reading in readings:
        costs = np.nan_to_num(reading.costs(), nan=np.inf, posinf=np.inf)
        total += np.clip(costs, 0, reading.most)
    return np.asarray(np.minimum(total, np.finfo(np.float64).max / 2))


def scores_of(order: Order, costs: Matrix) -> Matrix:
    """Return scores that sort into the order, and whose running sum is that of the costs.

    A channel may cost less than the one that went before. Runs that do are given their mean (the
    pools of adjacent violators of isotonic regression): the running sum is kept where runs end.
    Ties are parted by a hair, so that sorting gives the order back.
    """
    means: list[float] = []
    counts: list[int] = []
    for cost in costs:
        mean, count = float(cost), 1
        while means and means[-1] >= mean:
            before, many = means.pop(), counts.pop()
            mean = mean * (count / (count + many)) + before * (many / (count + many))
            count += many
        means.append(mean)
        counts.append(count)
    level = np.repeat(means, counts)
    hair = max(float(level[-1]) * 1e-12, 1e-150)
    # Each is a hair above the one before at least, and no further above its mean than that makes.
    level = np.maximum.accumulate(level - hair * np.arange(len(level))) + hair * np.arange(
        len(level)
    )
    scores = np.empty(len(level))
    scores[order] = level
    return scores
