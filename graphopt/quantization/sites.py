"""Where the channels of an activation may be rescaled without changing what the network computes.

A *site* is a tensor whose every channel is written by constants of its own (a convolution's output
channel, a LayerNormalization's gain) and read, through operators that commute with a positive
factor for each channel, by nothing but layers with constant weights. Dividing channel ``j`` by
``s_j`` where it is written and multiplying the weights that read it by ``s_j`` cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from graphopt.graph import Graph, Node, Tensor, constant, is_graph_output, is_op, rank, uses
from graphopt.model import Model
from graphopt.passes.base import Skip
from graphopt.statistics.layers import Layer, layer_of

# f(x s) = f(x) s for s > 0, channel by channel. Dropout is gone by now.
HOMOGENEOUS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu",
               "MaxPool", "Relu")  # fmt: skip
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer that reads the channels of a site.

    Attributes:
        layer: the layer.
        repeat: input features a channel has behind a Flatten; else 1.
    """

    layer: Layer
    repeat: int


@dataclass(frozen=True, slots=True)
class Writer:
    """Constants that a factor of each channel goes into.

    Attributes:
        node: name of the node.
        indices: inputs of the node that are vectors of channels; a layer's weight and bias go by
            ``layer``.
        layer: of the node, where it is one; else None.
    """

    node: str
    indices: tuple[int, ...]
    layer: Layer | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """A tensor whose channels may be rescaled.

    Attributes:
        tensor: its name.
        axis: of the channels: 1, or -1.
        channels: how many.
        writers: what writes it.
        readers: what reads it, at least one.
        inputs: names of the tensors that the readers read.
    """

    tensor: str
    axis: int
    channels: int
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    inputs: tuple[str, ...]


class _Refused(Exception):
    """Why a tensor is no site."""


def linear_sites(model: Model) -> tuple[list[Site], list[Skip]]:
    """Return the sites that layers write, in graph order, and the layers that write none."""
    search = _Search(model.graph)
    tensors = model.graph.tensors()
    sites, skipped = [], []
    for node in model.graph.nodes:
        layer = layer_of(model.graph, node) if is_op(node, *LAYERS) else None
        if layer is None:
            continue
        try:
            search.check_weight(node)
            if layer.output != node.outputs[0].name:
                search.check_seen(node.outputs[0])
            channels = layer.groups * layer.outputs
            writer = Writer(node.name, (), layer)
            sites.append(search.site(tensors[layer.output], layer.axis, channels, (writer,)))
        except _Refused as refused:
            skipped.append(Skip(node.name, str(refused)))
    return sites, skipped


def norm_sites(model: Model) -> tuple[list[Site], list[Skip]]:
    """Return the sites that a normalization's gain and bias write, in graph order.

    That is LayerNormalization over its last axis, or a Mul by a constant vector and the Add of one
    behind it, which is how it is written where it is no operator of its own.
    """
    search = _Search(model.graph)
    sites: list[Site] = []
    skipped: list[Skip] = []
    for node in model.graph.nodes:
        written = _normalized(model.graph, node)
        if written is None:
            continue
        end, channels, writers = written
        try:
            if end is not node.outputs[0]:
                search.check_seen(node.outputs[0])
            sites.append(search.site(end, -1, channels, writers))
        except _Refused as refused:
            skipped.append(Skip(node.name, str(refused)))
    return sites, skipped


def _normalized(graph: Graph, node: Node) -> tuple[Tensor, int, tuple[Writer, ...]] | None:
    out = node.outputs[0] if node.outputs else None
    if out is None:
        return None
    if is_op(node, "LayerNormalization") and len(node.inputs) > 1:
        dims = rank(node.inputs[0])
        axis = int(node.attrs.get("axis", -1))
        used = [t for t in node.outputs[1:] if t.name]
        if used or (axis != -1 and axis != (dims or 0) - 1):
            return None
        found = [i for i, t in enumerate(node.inputs[1:], 1) if t.name]
        size = _vectors(node, found)
        return None if size is None else (out, size, (Writer(node.name, tuple(found)),))
    if not is_op(node, "Mul") or len(node.inputs) != 2:
        return None
    index = next((i for i, t in enumerate(node.inputs) if constant(t) is not None), None)
    if index is None:
        return None
    size = _vectors(node, [index])
    if size is None or size < 2:
        return None
    writers = [Writer(node.name, (index,))]
    if uses(out) == 1 and not is_graph_output(graph, out) and is_op(out.outputs[0], "Add"):
        after = out.outputs[0]
        other = next((i for i, t in enumerate(after.inputs) if t is not out), None)
        if other is not None and _vectors(after, [other]) == size:
            writers.append(Writer(after.name, (other,)))
            out = after.outputs[0]
    return out, size, tuple(writers)


def _vectors(node: Node, indices: Sequence[int]) -> int | None:
    """Return the length of constants that run along the last axis alone, if all have the same."""
    sizes = set()
    for index in indices:
        value = constant(node.inputs[index])
        if value is None or not value.ndim or value.size != value.shape[-1]:
            return None
        if value.dtype.kind != "f":
            return None
        sizes.add(int(value.size))
    return sizes.pop() if len(sizes) == 1 else None


class _Search:
    """Follows tensors of one graph to the layers that read them."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._local = {id(node) for node in graph.nodes}
        self._returned = {id(t) for body in graph.subgraphs(recursive=True) for t in body.outputs}

    def site(self, tensor: Tensor, axis: int, channels: int, writers: tuple[Writer, ...]) -> Site:
        """Return the site at a tensor.

        Raises:
            _Refused: it is none.
        """
        found: list[tuple[Reader, str]] = []
        self._follow(tensor, axis, channels, 1, found)
        if not found:
            raise _Refused("no layer reads it")
        readers = tuple(reader for reader, _ in found)
        inputs = tuple(dict.fromkeys(name for _, name in found))
        return Site(tensor.name, axis, channels, writers, readers, inputs)

    def check_weight(self, node: Node) -> None:
        """Refuse a layer whose weight is not its own, or not float32."""
        weight = node.inputs[1]
        if uses(weight) != 1 or is_graph_output(self._graph, weight):
            raise _Refused(f"others share the weight of {node.op} '{node.name}'")
        if constant(weight).dtype != np.float32:  # type: ignore[union-attr]
            raise _Refused(f"the weight of {node.op} '{node.name}' is not float32")

    def check_seen(self, tensor: Tensor) -> None:
        """Refuse a tensor that someone else than nodes of this graph sees."""
        if is_graph_output(self._graph, tensor):
            raise _Refused("the graph returns it")
        if id(tensor) in self._returned or any(id(n) not in self._local for n in tensor.outputs):
            raise _Refused("the body of an If, Loop or Scan reads it")

    def _follow(
        self,
        tensor: Tensor,
        axis: int,
        channels: int,
        repeat: int,
        found: list[tuple[Reader, str]],
    ) -> None:
        self.check_seen(tensor)
        for node in {id(n): n for n in tensor.outputs}.values():
            if node.inputs[0] is not tensor or sum(t is tensor for t in node.inputs) != 1:
                raise _Refused(f"{node.op} '{node.name}' reads it")
            layer = layer_of(self._graph, node) if is_op(node, *LAYERS) else None
            if layer is not None:
                self.check_weight(node)
                found.append((_reader(node, layer, axis, channels, repeat), tensor.name))
            else:
                self._follow(node.outputs[0], *_through(node, axis, channels, repeat), found)


def _reader(node: Node, layer: Layer, axis: int, channels: int, repeat: int) -> Reader:
    dims = rank(node.inputs[0])
    last = axis == -1 or (dims is not None and axis == dims - 1)
    if (layer.axis == -1 and not last) or (layer.axis == 1 and axis != 1):
        raise _Refused(f"{node.op} '{node.name}' reads it along another axis")
    if layer.groups * layer.channels != channels * repeat:
        raise _Refused(f"{node.op} '{node.name}' reads other channels")
    return Reader(layer, repeat)


def _through(node: Node, axis: int, channels: int, repeat: int) -> tuple[int, int, int]:
    """Return axis, channels and repeat behind an operator that a factor goes through.

    Raises:
        _Refused: none does.
    """
    if any(t.name for t in node.outputs[1:]):
        raise _Refused(f"{node.op} '{node.name}' reads it")
    pooling = node.op not in ("Relu", "LeakyRelu", "Identity")
    if is_op(node, *HOMOGENEOUS) and not (pooling and axis != 1):
        return axis, channels, repeat
    if is_op(node, "Gather") and axis == -1:
        dims = rank(node.inputs[0])
        at = int(node.attrs.get("axis", 0))
        if dims is not None and (at + dims if at < 0 else at) < dims - 1:
            return axis, channels, repeat
    if is_op(node, "Clip"):
        bounds = [constant(t) if t.name else None for t in node.inputs[1:]]
        low = bounds[0] if bounds else None
        free = all(not t.name for t in node.inputs[2:])
        if free and low is not None and not np.any(low) and "max" not in node.attrs:
            return axis, channels, repeat
        raise _Refused(f"the bounds of Clip '{node.name}' hold for all channels alike")
    if is_op(node, "PRelu") and _slope_of_channels(node, axis, channels):
        return axis, channels, repeat
    if is_op(node, "Flatten", "Reshape", "Squeeze") and axis == 1:
        before, after = node.inputs[0].shape, node.outputs[0].shape
        known = before is not None and all(isinstance(d, int) for d in before[1:])
        if known and after is not None and len(after) == 2 and before[1] == channels:
            width = prod(before[1:])
            if after[1] == width and width % channels == 0:
                return -1, channels, repeat * (width // channels)
    raise _Refused(f"{node.op} '{node.name}' reads it")


def _slope_of_channels(node: Node, axis: int, channels: int) -> bool:
    slope, dims = constant(node.inputs[1]), rank(node.inputs[0])
    if slope is None or dims is None:
        return False
    if slope.size == 1:
        return True
    at = (axis if axis >= 0 else dims + axis) - (dims - slope.ndim)
    return slope.size == channels and 0 <= at < slope.ndim and slope.shape[at] == channels
