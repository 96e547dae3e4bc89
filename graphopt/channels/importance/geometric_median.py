"""Geometric median: a filter is worth as much as it differs from the others.

He et al., *Filter Pruning via Geometric Median for Deep Neural Networks Acceleration*, CVPR 2019
(arXiv:1811.00250): filters nearest to the geometric median of their layer are replaced
most easily by the rest, and the sum of a filter's distances to all others says which those are.
Of several layers that make the channels, each layer's sums are divided by their mean and averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.channels.groups import Group, Member
from graphopt.channels.importance.protocol import criterion
from graphopt.graph import Array, constant
from graphopt.model import Model
from graphopt.statistics.collect import Statistics
from graphopt.statistics.gram import Matrix


@criterion()
def geometric_median(
    model: Model,
    groups: Sequence[Group],
    /,
    *,
    statistics: Statistics | None = None,  # noqa: ARG001  (weights alone)
) -> dict[str, Matrix]:
    """Return group name -> mean distance to the other filters, shape ``(width,)``."""
    tensors = model.graph.tensors()
    out: dict[str, Matrix] = {}
    for group in groups:
        parts: list[Matrix] = []
        for member in group.members:
            values = constant(tensors[member.tensor])
            if member.role == "producer" and values is not None:
                sums = _distances(_filters(values, member))
                mean = float(sums.mean())
                if np.isfinite(mean) and mean > 0:
                    parts.append(sums / mean)
        out[group.name] = np.mean(parts, axis=0) if parts else np.ones(group.width)
    return out


def _filters(values: Array, member: Member) -> list[Matrix]:
    """Return each channel's slices of a weight, as one vector each."""
    rows = np.moveaxis(np.asarray(values, dtype=np.float64), member.axis, 0)
    return [rows[list(places)].reshape(-1) for places in member.positions]


def _distances(filters: list[Matrix]) -> Matrix:
    """Return the sum of Euclidean distances of each filter to all of them."""
    if len({len(f) for f in filters}) != 1:
        return np.zeros(len(filters))
    flat = np.stack(filters)
    flat = flat - flat.mean(axis=0)  # Distances stay, and less of them is lost to rounding.
    products = flat @ flat.T
    norms = np.diag(products)
    squares = norms[:, None] + norms[None, :] - 2 * products
    np.fill_diagonal(squares, 0)
    # What rounding leaves of the distance of two equal filters is none.
    squares[squares < 1e-13 * (norms[:, None] + norms[None, :])] = 0
    return np.asarray(np.sqrt(squares).sum(axis=1))
