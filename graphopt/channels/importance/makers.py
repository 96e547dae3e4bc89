"""Where channels are made: the layers that write a group, and at which of their outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from graphopt.channels.groups import Group
from graphopt.channels.importance.readers import Indices
from graphopt.graph import Node
from graphopt.model import Model
from graphopt.statistics.layers import Layer, layers


@dataclass(frozen=True, slots=True)
class Maker:
    """A layer that makes the channels of a group.

    Attributes:
        layer: the layer.
        places: for each channel, its indices along the channels of the layer's output, shape
            ``(width, places)``.
    """

    layer: Layer
    places: Indices


def makers(model: Model, groups: Iterable[Group]) -> dict[str, tuple[Maker, ...]]:
    """Return group name -> the layers that make it, in graph order."""
    at = {node.name: node for node in model.graph.nodes}
    behind: dict[str, list[Layer]] = {}
    for layer in layers(model):
        behind.setdefault(layer.weight, []).append(layer)
    found: dict[str, tuple[Maker, ...]] = {}
    for group in groups:
        mine: list[Maker] = []
        for member in group.members:
            if member.role != "producer" or len({len(p) for p in member.positions}) != 1:
                continue
            table = np.array(member.positions, dtype=np.int64)
            mine += [
                Maker(layer, _places(layer, table))
                for layer in behind.get(member.tensor, ())
                if _output_axis(layer, at[layer.node]) == member.axis
            ]
        found[group.name] = tuple(mine)
    return found


def _output_axis(layer: Layer, node: Node) -> int:
    """Return the axis of the weight that the outputs lie along."""
    if layer.op == "Conv":
        return 0
    return 0 if layer.op == "Gemm" and node.attrs.get("transB", 0) else 1


def _places(layer: Layer, table: Indices) -> Indices:
    if layer.op != "ConvTranspose" or layer.groups == 1:
        return table
    # The weight has the outputs of one group of the convolution, and they go in all.
    shifts = np.arange(layer.groups) * layer.outputs
    return (table[:, None, :] + shifts[:, None]).reshape(len(table), -1)
