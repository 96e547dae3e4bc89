"""Channels of a site rescaled, and the ranges that say by how much."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.graph import (
    Array,
    Names,
    Node,
    constant,
    is_constant,
    is_graph_output,
    replace_input,
    uses,
)
from graphopt.model import Model
from graphopt.quantization.second_order import Matrix
from graphopt.quantization.sites import Site
from graphopt.statistics.layers import Layer


def weight_ranges(site: Site, nodes: Mapping[str, Node]) -> Matrix:
    """Return the greatest weight that reads each channel of a site, ``(channels,)``."""
    found = np.zeros(site.channels)
    for reader in site.readers:
        node = nodes[reader.layer.node]
        weight = constant(node.inputs[1])
        assert weight is not None
        wide = np.abs(reader.layer.matrix(weight, node))
        layer = reader.layer
        wide = wide.reshape(layer.groups * layer.channels, -1).max(axis=1)
        found = np.maximum(found, wide.reshape(site.channels, reader.repeat).max(axis=1))
    return found


def written_ranges(site: Site, nodes: Mapping[str, Node]) -> Matrix:
    """Return the greatest constant that writes each channel of a site, ``(channels,)``."""
    writer = site.writers[0]
    node = nodes[writer.node]
    if writer.layer is None:
        value = constant(node.inputs[writer.indices[0]])
        assert value is not None
        return np.abs(np.asarray(value, dtype=np.float64).reshape(-1))
    weight = constant(node.inputs[1])
    assert weight is not None
    return np.asarray(np.abs(writer.layer.matrix(weight, node)).max(axis=1).reshape(-1))


def rescale(
    model: Model, site: Site, factors: Matrix, nodes: Mapping[str, Node], names: Names
) -> None:
    """Divide the channels of a site by ``factors``, ``(channels,)``, > 0; in place.

    Constants are replaced, not written into. Powers of two change no value of the network.
    """
    for writer in site.writers:
        node = nodes[writer.node]
        if writer.layer is None:
            for index in writer.indices:
                value = constant(node.inputs[index])
                assert value is not None
                _assign(model, node, index, value / factors.reshape(_like(value)), names)
        else:
            _rescale_layer(model, writer.layer, node, nodes, factors, names)
    for reader in site.readers:
        node, layer = nodes[reader.layer.node], reader.layer
        weight = constant(node.inputs[1])
        assert weight is not None
        spread = np.repeat(factors, reader.repeat).reshape(layer.groups, layer.channels)
        rows = np.repeat(spread, layer.taps, axis=1)[..., None]
        matrix = layer.matrix(weight, node) * rows
        _assign(model, node, 1, layer.weight_of(matrix, weight, node), names)


def _rescale_layer(
    model: Model,
    layer: Layer,
    node: Node,
    nodes: Mapping[str, Node],
    factors: Matrix,
    names: Names,
) -> None:
    own = factors.reshape(layer.groups, layer.outputs)
    weight = constant(node.inputs[1])
    assert weight is not None
    matrix = layer.matrix(weight, node) / own[:, None]
    _assign(model, node, 1, layer.weight_of(matrix, weight, node), names)
    if layer.bias is None:
        return
    place, index = nodes[layer.bias[0]], layer.bias[1]
    if index < len(place.inputs) and place.inputs[index].name:
        bias = constant(place.inputs[index])
        assert bias is not None
        _assign(model, place, index, bias / factors.reshape(_like(bias)), names)


def _like(value: Array) -> tuple[int, ...]:
    return (1,) * (value.ndim - 1) + (-1,)


def _assign(model: Model, node: Node, index: int, values: Array, names: Names) -> None:
    """Give a node a constant of its own; other readers of the old one keep that."""
    tensor = node.inputs[index]
    old = constant(tensor)
    assert old is not None
    new = np.ascontiguousarray(values.astype(old.dtype))
    if is_constant(tensor) and uses(tensor) == 1 and not is_graph_output(model.graph, tensor):
        tensor.values = new
    else:
        replace_input(node, index, gs.Constant(names.fresh(f"{tensor.name}_scaled"), new))
