"""Models made slower in earnest: more channels in layers that are there, the same function.

A convolution gets further output channels with random weights, and the convolution that reads them
as many further input channels, with weights of zero. No runtime drops them: that the products are
zero it learns by computing them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx_graphsurgeon import Constant, Node

from graphopt.graph import constant, consumers, is_constant, is_graph_output, is_op
from graphopt.model import Model

# Between the two, what treats each channel by itself.
_BETWEEN = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSwish")


@dataclass(frozen=True, slots=True)
class Spot:
    """Where channels can be added.

    Attributes:
        writer: the node that computes the channels.
        depthwise: nodes between, that filter each channel by itself.
        reader: the node that reads them, and nothing else does.
        channels: how many there are.
    """

    writer: str
    depthwise: tuple[str, ...]
    reader: str
    channels: int


def spots(model: Model) -> list[Spot]:
    """Return where channels can be added, in graph order; nodes must have names."""
    found = []
    for node in model.graph.nodes:
        if not _is_plain(node):
            continue
        path, tensor = [], node.outputs[0]
        while True:
            readers = consumers(tensor)
            if len(readers) != 1 or is_graph_output(model.graph, tensor):
                break
            (reader,) = readers
            if not reader.inputs or reader.inputs[0] is not tensor:
                break
            if _is_plain(reader):
                width = constant(node.inputs[1]).shape[0]
                found.append(Spot(node.name, tuple(path), reader.name, width))
                break
            if _is_depthwise(reader):
                path.append(reader.name)
            elif not is_op(reader, *_BETWEEN):
                break
            tensor = reader.outputs[0]
    return found


def widen(model: Model, extra: Mapping[str, int], *, seed: int = 0) -> Model:
    """Return the model with more channels and the same outputs, to the last few bits.

    Args:
        model: one whose nodes have names.
        extra: writer of a spot -> channels to add.
        seed: of the weights.

    Raises:
        KeyError: there is no such spot.
    """
    wider = model.clone()
    nodes = {node.name: node for node in wider.graph.nodes}
    known = {spot.writer: spot for spot in spots(wider)}
    rng = np.random.default_rng(seed)
    for writer, more in extra.items():
        spot = known[writer]
        for name in (spot.writer, *spot.depthwise):
            _grow(nodes[name], 1, more, rng, axis=0)
            if len(nodes[name].inputs) > 2 and is_constant(nodes[name].inputs[2]):
                _grow(nodes[name], 2, more, rng, axis=0)
        for name in spot.depthwise:
            nodes[name].attrs = {**nodes[name].attrs, "group": spot.channels + more}
        _grow(nodes[spot.reader], 1, more, None, axis=1)
    for tensor in wider.graph.tensors().values():
        if not is_constant(tensor) and not any(
            tensor is t for t in (*wider.graph.inputs, *wider.graph.outputs)
        ):
            tensor.shape = None
    wider.infer_shapes()
    return wider


def _is_plain(node: Node) -> bool:
    """Whether it is a convolution over all channels whose weights are known."""
    return (
        is_op(node, "Conv")
        and node.attrs.get("group", 1) == 1
        and all(is_constant(t) for t in node.inputs[1:])
    )


def _is_depthwise(node: Node) -> bool:
    if not is_op(node, "Conv") or not all(is_constant(t) for t in node.inputs[1:]):
        return False
    shape = constant(node.inputs[1]).shape
    return bool(node.attrs.get("group", 1) == shape[0] and shape[1] == 1)


def _grow(node: Node, index: int, more: int, rng: np.random.Generator | None, *, axis: int) -> None:
    """Give the node a constant of its own, longer along ``axis``: random, or zero without rng."""
    old = constant(node.inputs[index])
    shape = [*old.shape]
    shape[axis] = more
    if rng is None:
        new = np.zeros(shape, old.dtype)
    else:
        new = (rng.standard_normal(shape) * (float(old.std()) + 1e-3)).astype(old.dtype)
    name = f"{node.name}/wider/{index}/{axis}"
    node.inputs[index] = Constant(name, np.concatenate([old, new], axis=axis))
