"""LASSO: gates on the channels, closed one after another as the price of an open one rises.

He, Zhang & Sun, *Channel Pruning for Accelerating Very Deep Neural Networks*, ICCV 2017
(arXiv:1707.06168), section 3.1, the first of its two steps. With ``Z_c`` what channel ``c`` adds to
the output of the layer that reads it, and gates ``beta``::

    minimize  1/2 |sum_c (1 - beta_c) Z_c|^2 + price * sum_c |beta_c|

for rising prices; a channel's score is the price at which its gate closes for good. Only
``Q_cd = <Z_c, Z_d> = tr(W_c' G_cd W_d)`` is needed, from the layer's Gram matrix, so samples are
read once. The mean of ``Z`` is taken out, for a bias makes up for it.

Unlike the paper, ``W_c`` is not scaled to unit norm: gates then price a channel alike however a
factor is split between its filter and the layer that reads it. Of several layers that read the
channels the ``Q``, each over the variance of its layer's output, are added: one gate for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from graphopt.channels.groups import Group
from graphopt.channels.importance.activation import diagonal_shares
from graphopt.channels.importance.protocol import DATA, criterion, with_samples
from graphopt.channels.importance.readers import (
    Design,
    Indices,
    by_node,
    designs,
    readers,
    too_wide,
)
from graphopt.channels.importance.unread import unread_shares
from graphopt.model import Model
from graphopt.statistics.collect import Statistics
from graphopt.statistics.gram import Matrix

Mask = npt.NDArray[np.bool_]

PRICES = 64  # from the highest anyone pays, in equal ratios
LOWEST = 1e-4  # of the highest
SWEEPS = 200  # of the coordinates, at most, for each price
TOLERANCE = 1e-5  # of a gate
ROUNDING = 1e-6  # of the mean energy of a channel: eigenvalues as far below zero are left as zero


@criterion(DATA)
def lasso(
    model: Model, groups: Sequence[Group], /, *, statistics: Statistics | None = None
) -> dict[str, Matrix]:
    """Return group name -> the price at which each gate closes, shape ``(width,)``.

    Layers with more channels than a Gram matrix is made of count by their diagonal; groups that
    no layer reads: :mod:`graphopt.channels.importance.unread`.

    Raises:
        DataError: there are no samples.
    """
    statistics = with_samples(statistics, "lasso")
    found = readers(model, groups)
    wide = {name: [r for r in mine if too_wide(r.layer)] for name, mine in found.items()}
    totals: dict[str, Matrix] = {
        name: np.diag(shares) for name, shares in diagonal_shares(model, statistics, wide).items()
    }
    at = by_node(found)
    for design in designs(model, statistics, found):
        if not design.usable:
            continue
        products = _products(design)
        for name, reader in at[design.layer.node]:
            for number, places in reader.parts:
                part = _gated(products[number], design.features(places)) / design.energy
                totals[name] = totals[name] + part if name in totals else part
    out = {name: closing_prices(total) for name, total in totals.items()}
    out.update(unread_shares(model, [g for g in groups if g.name not in out], statistics))
    return {group.name: out[group.name] for group in groups}


def _products(design: Design) -> list[Matrix]:
    """Return, per group of the convolution, ``covariance * (W W')``, elementwise."""
    return [
        covariance * (weights @ weights.T)
        for covariance, weights in zip(design.covariance, design.weights, strict=True)
    ]


def _gated(products: Matrix, features: Indices) -> Matrix:
    """Return ``Q``, shape ``(width, width)``: the sums over the features of each two channels."""
    width, rows = features.shape
    flat = features.reshape(-1)
    block = products[np.ix_(flat, flat)].reshape(width, rows, width, rows)
    return np.asarray(block.sum(axis=(1, 3)))


def closing_prices(gram: Matrix) -> Matrix:
    """Return the price at which each gate closes, shape ``(width,)``.

    Coordinate descent with warm starts along falling prices (Friedman et al., *Regularization
    Paths for Generalized Linear Models*, 2010): the price looked for is the highest at which the
    gate is open. Gates that open between the same two prices are told apart by how much of the
    output's energy they let through there.

    Args:
        gram: ``Q``, shape ``(width, width)``, positive semidefinite but for rounding.
    """
    width = len(gram)
    if not gram.any():
        return np.zeros(width)
    gram = _semidefinite(gram)
    wanted = gram.sum(axis=1)  # All gates open is what is aimed at.
    diagonal = np.diag(gram).copy()
    top = float(np.abs(wanted).max(initial=0.0))
    prices = np.zeros(width)
    if not top > 0:
        return prices
    alive = diagonal > 1e-12 * float(diagonal.max())
    gates = np.zeros(width)
    residual = wanted.copy()  # wanted - gram @ gates
    ratio = LOWEST ** (1 / PRICES)
    for step in range(1, PRICES + 1):
        price = top * ratio**step
        _descend(gram, diagonal, gates, residual, price, alive)
        opened = (gates != 0) & (prices == 0)
        if opened.any():
            through = np.square(gates) * diagonal
            share = through / (through[opened].max() * (1 + 1e-9))
            # Between this price and the one before.
            prices[opened] = price * ratio ** (-share[opened])
    never = prices == 0
    if never.any():
        share = diagonal / max(float(diagonal[never].max()), 1e-300)
        prices[never] = 0.5 * top * LOWEST * share[never]
    return prices


def _semidefinite(gram: Matrix) -> Matrix:
    """Return the nearest positive semidefinite matrix where rounding made another.

    Samples that are all alike leave nothing but rounding, and on that the descent has no end.
    """
    slack = ROUNDING * float(np.trace(gram)) / max(len(gram), 1)
    try:
        np.linalg.cholesky(gram + slack * np.eye(len(gram)))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh((gram + gram.T) / 2)
        return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)
    return gram


def _descend(
    gram: Matrix, diagonal: Matrix, gates: Matrix, residual: Matrix, price: float, alive: Mask
) -> None:
    """Minimize at one price, in place: sweeps over open gates, then a look at the closed ones."""
    for _ in range(SWEEPS):
        pull = np.abs(residual + diagonal * gates)
        active = np.flatnonzero(alive & ((gates != 0) | (pull > price)))
        largest = _sweep(gram, diagonal, gates, residual, price, active)
        for _ in range(SWEEPS):
            if largest <= TOLERANCE:
                break
            active = active[gates[active] != 0]
            largest = _sweep(gram, diagonal, gates, residual, price, active)
        closed = alive & (gates == 0) & (np.abs(residual) > price * (1 + 1e-6))
        if not closed.any():
            return


def _sweep(
    gram: Matrix, diagonal: Matrix, gates: Matrix, residual: Matrix, price: float, active: Indices
) -> float:
    largest = 0.0
    for c in active:
        before = gates[c]
        pull = residual[c] + diagonal[c] * before
        after = np.sign(pull) * max(abs(pull) - price, 0.0) / diagonal[c]
        if after != before:
            residual -= gram[c] * (after - before)
            gates[c] = after
            largest = max(largest, abs(after - before))
    return float(largest)
