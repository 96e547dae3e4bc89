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
_BLOCK = 1 << 20


def index_powers(values: Array, axis: int, order: int) -> Scores:
    """Return the sum of ``|w| ** order`` at each index along an axis of a weight."""
    rows = np.moveaxis(values, axis, 0)
    sums = np.zeros(len(rows))
    step = max(1, _BLOCK * len(rows) // max(values.size, 1))
    for start in range(0, len(rows), step):  # In float64 a whole weight may not fit.
        part = np.asarray(rows[start : start + step], dtype=np.float64)
        sums[start : start + step] = (np.abs(part) ** order).reshape(len(part), -1).sum(axis=1)
    return sums


def slice_norms(powers: Scores, member: Member, order: int) -> Scores:
    """Return, per channel, the norm of its slices of one weight, shape ``(width,)``.

    Args:
        powers: of the weight along the member's axis (:func:`index_powers`).
        member: which of its indices belong to each channel.
        order: 1 for the sum of absolute values, 2 for the root of the sum of squares.
    """
    return np.array([powers[list(p)].sum() for p in member.positions]) ** (1.0 / order)


def group_scores(model: Model, groups: Sequence[Group], order: int) -> dict[str, Scores]:
    """Return the importance of every channel of every group, finite and in the order of channels.

    Args:
        model: the model the groups are of.
        groups: what to score.
        order: of the norm, 1 or 2.
    """
    tensors = model.graph.tensors()
    # The weight behind a Concat has the channels of many groups, and is read once.
    powers: dict[tuple[str, int], Scores] = {}
    scores: dict[str, Scores] = {}
    for group in groups:
        norms: dict[str, list[Scores]] = {"producer": [], "consumer": []}
        for member in group.members:
            values = constant(tensors[member.tensor])
            if member.role != "parameter" and values is not None:
                key = (member.tensor, member.axis)
                if key not in powers:
                    powers[key] = index_powers(values, member.axis, order)
                norms[member.role].append(slice_norms(powers[key], member, order))
        made, read = _average(norms["producer"], group), _average(norms["consumer"], group)
        scores[group.name] = np.nan_to_num(made * read, nan=0.0)
    return scores


def _average(norms: Iterable[Scores], group: Group) -> Scores:
    """Return the mean over layers of each layer's norms over their mean; ones without layers."""
    parts = [norm / mean for norm in norms if (mean := norm.mean()) > 0]
    return np.mean(parts, axis=0) if parts else np.ones(group.width)
