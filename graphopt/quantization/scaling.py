"""Where the channels of an activation may be rescaled without changing what the network computes.

A *site* is a tensor whose every channel is written by constants of its own (a convolution's output
channel, a LayerNormalization's gain) and read, through operators that commute with a positive
factor for each channel, by nothing but layers with constant weights. Dividing channel ``j`` by
``s_j`` where it is written and multiplying the weights that read it by ``s_j`` cancels out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.graph import (
    Array,
    Graph,
    Names,
    Node,
    Tensor,
    constant,
    feeds_subgraph,
    is_constant,
    is_graph_output,
    is_op,
    rank,
    replace_input,
    uses,
)
from graphopt.model import Model
from graphopt.passes.base import Skip
from graphopt.quantization.second_order import Matrix
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
        indices: inputs of the node that are multiplied; a layer's weight and bias go by ``layer``.
        layer: of the node, where it is one; else None.
        axis: of the channels in those inputs, from the end; -1 for vectors.
    """

    node: str
    indices: tuple[int, ...]
    layer: Layer | None = None
    axis: int = -1


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
    sites, skipped = [], []
    for node in model.graph.nodes:
        layer = layer_of(model.graph, node) if is_op(node, *LAYERS) else None
        if layer is None:
            continue
        try:
            if uses(node.inputs[1]) != 1:
                raise _Refused("others share its weight")
            end = model.graph.tensors()[layer.output]
            channels = layer.groups * layer.outputs
            writer = Writer(node.name, (), layer, layer.axis)
            sites.append(_site(model.graph, end, layer.axis, channels, (writer,)))
        except _Refused as refused:
            skipped.append(Skip(node.name, str(refused)))
    return sites, skipped


def norm_sites(model: Model) -> tuple[list[Site], list[Skip]]:
    """Return the sites that a normalization's gain and bias write, in graph order.

    That is LayerNormalization over its last axis, or a Mul by a constant vector and the Add of one
    behind it, which is how it is written where it is no operator of its own.
    """
    sites: list[Site] = []
    skipped: list[Skip] = []
    for node in model.graph.nodes:
        written = _normalized(model.graph, node)
        if written is None:
            continue
        end, channels, writers = written
        try:
            sites.append(_site(model.graph, end, -1, channels, writers))
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


def _site(
    graph: Graph, tensor: Tensor, axis: int, channels: int, writers: tuple[Writer, ...]
) -> Site:
    readers: list[Reader] = []
    inputs: list[str] = []
    _follow(graph, tensor, axis, channels, 1, readers, inputs)
    if not readers:
        raise _Refused("no layer reads it")
    own = [r.layer.node for r in readers]
    if len(own) != len(set(own)):
        raise _Refused("a layer reads it twice")
    if any(r.layer.weight == w.layer.weight for r in readers for w in writers if w.layer):
        raise _Refused("the layer reads what it writes with the same weight")
    return Site(tensor.name, axis, channels, writers, tuple(readers), tuple(dict.fromkeys(inputs)))


def _follow(
    graph: Graph,
    tensor: Tensor,
    axis: int,
    channels: int,
    repeat: int,
    readers: list[Reader],
    inputs: list[str],
) -> None:
    """Go from a tensor to the layers that read it; refuse where anything else does."""
    if is_graph_output(graph, tensor):
        raise _Refused("the graph returns it")
    if feeds_subgraph(graph, tensor) or _returned_by_body(graph, tensor):
        raise _Refused("the body of an If, Loop or Scan reads it")
    for node in {id(n): n for n in tensor.outputs}.values():
        if node.inputs[0] is not tensor or sum(t is tensor for t in node.inputs) != 1:
            raise _Refused(f"{node.op} '{node.name}' reads it")
        layer = layer_of(graph, node) if is_op(node, *LAYERS) else None
        if layer is not None:
            readers.append(_reader(node, layer, axis, channels, repeat, rank(tensor)))
            inputs.append(tensor.name)
            continue
        then = _through(node, axis, channels, repeat)
        _follow(graph, node.outputs[0], *then, readers=readers, inputs=inputs)


def _reader(
    node: Node, layer: Layer, axis: int, channels: int, repeat: int, dims: int | None
) -> Reader:
    if uses(node.inputs[1]) != 1:
        raise _Refused(f"{node.op} '{node.name}' reads it, which shares its weight")
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


def _returned_by_body(graph: Graph, tensor: Tensor) -> bool:
    return any(t is tensor for body in graph.subgraphs(recursive=True) for t in body.outputs)


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


def rescale(model: Model, site: Site, factors: Matrix, nodes: Mapping[str, Node]) -> None:
    """Divide the channels of a site by ``factors``, ``(channels,)``, > 0; in place.

    Constants are replaced, not written into. Powers of two change no value of the network.
    """
    names = Names(model.graph)
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
