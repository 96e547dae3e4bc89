"""Channels that no layer reads: they meet other activations, not a constant weight.

Queries and keys of attention are summed over in ``q k'``: what head dimension ``d`` adds to the
scores goes with ``std(q_d) * std(k_d)``, the product over the layers that make the channel. Where
that cannot be known either (recurrent layers), or without samples, the norms of
:mod:`graphopt.channels.importance.l2` decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.channels.groups import Group
from graphopt.channels.importance.makers import makers
from graphopt.channels.importance.norms import group_scores
from graphopt.model import Model
from graphopt.statistics.collect import Statistics
from graphopt.statistics.gram import Matrix


def unread_shares(
    model: Model, groups: Sequence[Group], statistics: Statistics | None = None
) -> dict[str, Matrix]:
    """Return group name -> shares that add up to one, shape ``(width,)``.

    Args:
        model: the model.
        groups: what no layer reads.
        statistics: with samples, or None for norms alone.
    """
    if not groups:
        return {}
    out = {name: _share(norms) for name, norms in group_scores(model, groups, order=2).items()}
    if statistics is None:
        return out
    found = {name: made for name, made in makers(model, groups).items() if made}
    wanted = {maker.layer.output: maker.layer.axis for made in found.values() for maker in made}
    moments = statistics.moments(wanted) if wanted else {}
    for name, made in found.items():
        product = np.ones(len(out[name]))
        for maker in made:
            variance = np.square(moments[maker.layer.output].std)
            product *= _share(np.sqrt(variance[maker.places].sum(axis=1))) * len(product)
        out[name] = _share(np.sqrt(product))
    return out


def _share(values: Matrix) -> Matrix:
    """Return the squares over their sum; equal shares where all are zero or one is not finite."""
    top = float(values.max(initial=0.0))
    if not np.isfinite(values).all() or top <= 0:
        return np.full(len(values), 1 / max(len(values), 1))
    squares = np.square(values / top)
    return np.asarray(squares / squares.sum())
