"""Norms of weight slices, combined over the layers of a group.

A channel that several layers make or read has a norm in each of them. Layers differ in scale, so
each layer's norms are divided by their mean over the group; what makes the channel (filters) and
what reads it (the next layers' input slices) are averaged apart and multiplied::

    score(c) = mean over producers(norm_c / mean norm) * mean over consumers(norm_c / mean norm)

Why the product: a ReLU network computes the same when a filter is scaled by a > 0 and the slices
that read it by 1 / a. The filter's norm alone, as in the paper, changes with a; the product does
not. Why the mean: a residual stream has a dozen producers, and none of them should decide alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from graphopt.channels.groups import Group, Member
from graphopt.graph import Array, constant
from graphopt.model import Model

Scores = npt.NDArray[np.float64]


def slice_norms(values: Array, member: Member, order: int) -> Scores:
    """Return, per channel, the norm of its slices of one weight, shape ``(width,)``.

    Args:
        values: the weight.
        member: which axis, and which of its indices belong to each channel.
        order: 1 for the sum of absolute values, 2 for the root of the sum of squares.
    """
    others = tuple(axis for axis in range(values.ndim) if axis != member.axis)
    powers = np.abs(np.asarray(values, dtype=np.float64)) ** order
    per_index = powers.sum(axis=others)
    return np.array([per_index[list(p)].sum() for p in member.positions]) ** (1.0 / order)


def group_scores(model: Model, groups: Sequence[Group], order: int) -> dict[str, Scores]:
    """Return the importance of every channel of every group, finite and in the order of channels.

    Args:
        model: the model the groups are of.
        groups: what to score.
        order: of the norm, 1 or 2.
    """
    tensors = model.graph.tensors()
    scores: dict[str, Scores] = {}
    for group in groups:
        norms: dict[str, list[Scores]] = {"producer": [], "consumer": []}
        for member in group.members:
            values = constant(tensors[member.tensor])
            if member.role != "parameter" and values is not None:
                norms[member.role].append(slice_norms(values, member, order))
        made, read = _average(norms["producer"], group), _average(norms["consumer"], group)
        scores[group.name] = np.nan_to_num(made * read, nan=0.0)
    return scores


def _average(norms: Iterable[Scores], group: Group) -> Scores:
    """Return the mean over layers of each layer's norms over their mean; ones without layers."""
    parts = [norm / mean for norm in norms if (mean := norm.mean()) > 0]
    return np.mean(parts, axis=0) if parts else np.ones(group.width)
