"""Activation: how much of what the next layers sum up comes from a channel.

``std(x_c) * norm(W_c)``, with ``W_c`` the slice of the next layer's weights that reads the channel:
the root of the energy that the channel alone adds to that layer's output, taken as unrelated to
the others. The diagonal of second-order pruning (Optimal Brain Damage: LeCun, Denker & Solla, NIPS
1989) for a layer's squared error, and the structured, mean-free form of Wanda's ``|W| * norm(x)``
(Sun et al., *A Simple and Effective Pruning Approach for Large Language Models*, ICLR 2024,
arXiv:2306.11695).

Of several layers that read the channels, the shares of energy are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphopt.channels.groups import Group
from graphopt.channels.importance.protocol import DATA, criterion, with_samples
from graphopt.channels.importance.readers import Reader, readers
from graphopt.channels.importance.unread import unread_shares
from graphopt.graph import constant
from graphopt.model import Model
from graphopt.statistics.collect import Moments, Statistics
from graphopt.statistics.gram import Matrix


@criterion(DATA)
def activation(
    model: Model, groups: Sequence[Group], /, *, statistics: Statistics | None = None
) -> dict[str, Matrix]:
    """Return group name -> root of the shares of energy, shape ``(width,)``.

    A group that no layer reads: :mod:`graphopt.channels.importance.unread`.

    Raises:
        DataError: there are no samples.
    """
    statistics = with_samples(statistics, "activation")
    shares = diagonal_shares(model, statistics, readers(model, groups))
    missing = [group for group in groups if group.name not in shares]
    shares.update(unread_shares(model, missing, statistics))
    return {group.name: np.sqrt(shares[group.name]) for group in groups}


def diagonal_shares(
    model: Model, statistics: Statistics, wanted: Mapping[str, Sequence[Reader]]
) -> dict[str, Matrix]:
    """Return group name -> share of the readers' energy per channel, added over the readers.

    A reader shares out what all of its input channels bring, other groups' included. Groups
    without a reader, or whose readers see nothing that varies, are left out.
    """
    moments = input_moments(statistics, [r for found in wanted.values() for r in found])
    at = {node.name: node for node in model.graph.nodes}
    energies: dict[str, Matrix] = {}
    out: dict[str, Matrix] = {}
    for name, found in wanted.items():
        for reader in found:
            layer = reader.layer
            if layer.node not in energies:
                weight = constant(at[layer.node].inputs[1])
                assert weight is not None
                matrix = layer.matrix(weight, at[layer.node])
                matrix = matrix.reshape(layer.groups, layer.channels, -1)
                std = moments[layer.input, layer.axis].std.reshape(layer.groups, layer.channels)
                with np.errstate(invalid="ignore", over="ignore"):
                    energies[layer.node] = np.square(std) * np.square(matrix).sum(axis=-1)
            energy = energies[layer.node]
            total = float(energy.sum())
            if np.isfinite(total) and total > 0:
                mine = sum(energy[number][places].sum(axis=1) for number, places in reader.parts)
                out[name] = out.get(name, 0.0) + np.asarray(mine) / total
    return out


def input_moments(
    statistics: Statistics, found: Sequence[Reader]
) -> dict[tuple[str, int], Moments]:
    """Return (tensor, axis) -> moments of the inputs of these readers; one pass as a rule."""
    wanted = {(reader.layer.input, reader.layer.axis): None for reader in found}
    out: dict[tuple[str, int], Moments] = {}
    while wanted:
        turn = dict(
            list(wanted)
        )  # One axis a tensor; one that is read along two takes a second pass.
        given = statistics.moments(turn)
        for tensor, axis in turn.items():
            out[tensor, axis] = given[tensor]
            del wanted[tensor, axis]
    return out
