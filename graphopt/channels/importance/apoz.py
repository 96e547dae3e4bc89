"""APoZ: the average percentage of zeros of a channel; what is mostly zero goes first.

Hu et al., *Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
Architectures*, 2016 (arXiv:1607.03250). Zeros are counted where the next layers read
the channel, averaged over its places and over those layers. It takes a network that has zeros: with
Relu, that is. Among channels that are never zero the norms of
:mod:`graphopt.channels.importance.l2` decide; they come after all that ever are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.channels.groups import Group
from graphopt.channels.importance.activation import input_moments
from graphopt.channels.importance.norms import group_scores
from graphopt.channels.importance.protocol import DATA, criterion, with_samples
from graphopt.channels.importance.readers import Reader, readers
from graphopt.errors import UsageError
from graphopt.model import Model
from graphopt.statistics.collect import Moments, Statistics
from graphopt.statistics.gram import Matrix

HAIR = 1e-9  # of the share of zeros: less than one activation of a billion


@criterion(DATA)
def apoz(
    model: Model, groups: Sequence[Group], /, *, statistics: Statistics | None = None
) -> dict[str, Matrix]:
    """Return group name -> share of activations that are not zero, shape ``(width,)``.

    Raises:
        DataError: there are no samples.
        UsageError: no channel is ever zero.
    """
    statistics = with_samples(statistics, "apoz")
    found = readers(model, groups)
    moments = input_moments(statistics, [r for mine in found.values() for r in mine])
    zeros = {
        group.name: np.mean([_zeros(r, moments) for r in found[group.name]], axis=0)
        if found[group.name]
        else np.zeros(group.width)
        for group in groups
    }
    if groups and not any(share.any() for share in zeros.values()):
        raise UsageError(
            "importance 'apoz' counts zeros, and no channel is ever zero on the samples (a network "
            "without Relu?): choose obs or activation"
        )
    out: dict[str, Matrix] = {}
    for name, norms in group_scores(model, groups, order=2).items():
        share = zeros[name]
        ties = norms / max(float(norms.max()), 1e-300)
        out[name] = 1 - share + np.where(share > 0, 0.0, HAIR * ties)
    return out


def _zeros(reader: Reader, moments: dict[tuple[str, int], Moments]) -> Matrix:
    layer = reader.layer
    share = moments[layer.input, layer.axis].zeros.reshape(layer.groups, layer.channels)
    found = [share[number][places].mean(axis=1) for number, places in reader.parts]
    return np.asarray(np.mean(found, axis=0))
