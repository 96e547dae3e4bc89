"""Where channels are summed over: the layers that read a group, as matrix problems.

Removing a channel costs what the layers that read it lose. Each such layer is ``y = x W + b``
(:mod:`graphopt.statistics.layers`); a channel is a few rows of ``W``: the taps of its kernels, and
more where Flatten or a gated unit gives a channel several places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.channels.groups import Group
from graphopt.graph import Node, constant
from graphopt.model import Model
from graphopt.statistics.collect import Statistics
from graphopt.statistics.gram import Gram, Matrix, fits
from graphopt.statistics.layers import Layer, layers

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer that sums over the channels of a group.

    Attributes:
        layer: the layer.
        parts: for each group of the convolution that reads them (one, if it is not grouped): its
            number, and for each channel its places among the input channels of that group, shape
            ``(width, places)``.
    """

    layer: Layer
    parts: tuple[tuple[int, Indices], ...]


def readers(model: Model, groups: Iterable[Group]) -> dict[str, tuple[Reader, ...]]:
    """Return group name -> the layers that read it; none where nothing with a constant weight does.

    A weight that several nodes share is as many readers. Left out are constants on the left of a
    product, products of two activations, and recurrent layers.
    """
    at = {node.name: node for node in model.graph.nodes}
    behind: dict[str, list[Layer]] = {}
    for layer in layers(model):
        behind.setdefault(layer.weight, []).append(layer)
    found: dict[str, tuple[Reader, ...]] = {}
    for group in groups:
        mine: list[Reader] = []
        for member in group.members:
            if member.role != "consumer":
                continue
            for layer in behind.get(member.tensor, ()):
                if _input_axis(layer, at[layer.node]) == member.axis:
                    parts = _parts(layer, member.positions)
                    mine += [Reader(layer, parts)] if parts else []
        found[group.name] = tuple(mine)
    return found


def _input_axis(layer: Layer, node: Node) -> int:
    """Return the axis of the weight that is summed over."""
    if layer.op == "Conv":
        return 1
    return int(layer.op == "Gemm" and bool(node.attrs.get("transB", 0)))


def _parts(
    layer: Layer, positions: Sequence[Sequence[int]]
) -> tuple[tuple[int, Indices], ...] | None:
    """Return the parts of a reader, or None where channels differ in their number of places."""
    if len({len(places) for places in positions}) != 1:
        return None
    table = np.array(positions, dtype=np.int64)
    if layer.op == "Conv":  # The weight has the columns of one group, and they go in all.
        return tuple((number, table) for number in range(layer.groups))
    parts = []
    for number in range(layer.groups):
        inside = table // layer.channels == number
        counts = inside.sum(axis=1)
        if counts.min() != counts.max():
            return None
        # Where a channel is all that one group reads, that group's outputs go with it: no error.
        if counts[0] and (layer.groups == 1 or counts[0] < layer.channels):
            parts.append((number, (table[inside] % layer.channels).reshape(len(table), -1)))
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Design:
    """One layer's weights, and how its inputs vary together.

    The mean is taken out: whatever is removed, a new bias makes up for the mean.

    Attributes:
        layer: the layer.
        covariance: of the features, shape ``(groups, features, features)``.
        weights: shape ``(groups, features, outputs)``. Where the layer has too many features, they
            are its channels, and the taps are beside the outputs: ``(groups, channels,
            taps * outputs)``.
        taps: features of one channel.
        energy: variance of the layer's output, summed over outputs.
    """

    layer: Layer
    covariance: Matrix
    weights: Matrix
    taps: int
    energy: float

    @property
    def usable(self) -> bool:
        """Whether the layer tells channels apart: finite, and not constant on the samples."""
        return bool(np.isfinite(self.energy) and self.energy > 0)

    def features(self, places: Indices) -> Indices:
        """Return the features of each channel, shape ``(width, places * taps)``."""
        first = places[:, :, None] * self.taps + np.arange(self.taps)
        return first.reshape(len(places), -1)


def by_node(found: Mapping[str, Sequence[Reader]]) -> dict[str, list[tuple[str, Reader]]]:
    """Return node name -> (group, reader) of all groups that the node reads."""
    out: dict[str, list[tuple[str, Reader]]] = {}
    for name, mine in found.items():
        for reader in mine:
            out.setdefault(reader.layer.node, []).append((name, reader))
    return out


def too_wide(layer: Layer) -> bool:
    """Whether not even the channels of a layer fit in a Gram matrix."""
    return not fits(layer.groups, layer.channels)


def designs(
    model: Model, statistics: Statistics, wanted: Mapping[str, Sequence[Reader]]
) -> Iterator[Design]:
    """Yield each layer that reads a group, once, in graph order; not those :func:`too_wide`."""
    at = {node.name: node for node in model.graph.nodes}
    nodes = {r.layer.node for found in wanted.values() for r in found if not too_wide(r.layer)}
    if nodes:
        for layer, gram in statistics.grams(sorted(nodes)):
            weight = constant(at[layer.node].inputs[1])
            assert weight is not None
            yield design(layer, gram, layer.matrix(weight, at[layer.node]))


def design(layer: Layer, gram: Gram, weights: Matrix) -> Design:
    """Return a layer's design from its Gram matrix and its weights as a matrix."""
    rows = max(gram.rows, 1)
    covariance = gram.xx[:, :-1, :-1] / rows
    mean = gram.xx[:, -1, :-1] / rows
    covariance -= mean[:, :, None] * mean[:, None, :]
    by_channel = covariance.shape[-1] != layer.features
    if by_channel:
        weights = weights.reshape(layer.groups, covariance.shape[-1], -1)
    with np.errstate(invalid="ignore", over="ignore"):
        energy = float(np.einsum("gfo,gfo->", weights, covariance @ weights))
        level = float(np.square(mean[:, None, :] @ weights).sum())
    # Products are single precision: beside a large mean, less than this is rounding.
    energy = energy if energy > 1e-7 * level else 0.0
    return Design(layer, covariance, weights, 1 if by_channel else layer.taps, energy)
