"""Fold BatchNormalization, and scales and shifts by constants, into the linear operator before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphopt.graph import (
    Array,
    Graph,
    Names,
    Node,
    Tensor,
    constant,
    consumers,
    disconnect,
    is_constant,
    is_graph_output,
    is_op,
    is_standard,
    producer,
    rank,
    uses,
)
from graphopt.model import Model, is_floating
from graphopt.passes.base import Change, Pass, Skip

# Operators whose inputs 1 and 2 are a factor and a term of each channel of the output.
LINEAR_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
_SCALINGS = ("Mul", "Div", "Add", "Sub")


@dataclass(frozen=True, slots=True)
class Affine:
    """``y = x * scale + shift``, one pair for each channel or one for all; float64."""

    scale: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]

    def equals(self, other: Affine) -> bool:
        """Whether both are the same map, to the last bit."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.shift, other.shift)


# A linear operator, and the map of its result that goes into its weights.
Pair: TypeAlias = "tuple[Node, Node]"


class Refusal(Exception):
    """Why a node is not folded."""


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold affine maps of the channels into the weights before them.

    With ``s = gamma / sqrt(var + epsilon)`` and ``t = beta - mean * s`` (Ioffe & Szegedy, 2015)::

        BatchNorm(x * W + b) = x * (W s) + (b s + t)

    along the output channels of Conv and ConvTranspose (grouped too), and the output features of
    Gemm and of a MatMul of two axes (which becomes a Gemm, for its bias). Mul, Div, Add and Sub by
    a constant that broadcasts over everything but channels are such maps as well, and fold into a
    BatchNormalization that has to stay, too. Products are taken in float64 and stored in the type
    of the weights.

    Weights that several nodes share (a detector's head over all levels, a siamese network) are
    folded where each of those nodes is followed by the same map.

    Refused, with a reason: weights that others read otherwise, results that others read or that
    the graph returns, training mode, parameters that are no constants, values that are not finite.
    """

    name: ClassVar[str] = "fold-batchnorm"

    def edit(self, model: Model) -> Iterator[Change | Skip]:
        """Fold from the inputs on, so that chains (Conv, Mul, Add) collapse in one pass."""
        graph, names = model.graph, Names(model.graph)
        gone: set[int] = set()
        shared: set[int] = set()
        # Tensors that a body of If, Loop or Scan returns as they are.
        handed_on = {id(t) for body in graph.subgraphs(recursive=True) for t in body.outputs}
        for node in graph.nodes:
            if id(node) in gone or not is_op(node, "BatchNormalization", *_SCALINGS):
                continue
            try:
                folded = _fold(graph, node, names, handed_on, shared)
            except Refusal as refusal:
                yield Skip(node.name, str(refusal))
                continue
            for linear, scaling in folded:
                gone.add(id(scaling))
                detail = f"{scaling.op} into {linear.op} '{linear.name}'"
                yield Change("folded", scaling.name, detail)
        graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def _fold(
    graph: Graph, node: Node, names: Names, handed_on: set[int], shared: set[int]
) -> list[Pair]:
    """Fold one node, and its like after every other node of the same weights.

    Args:
        graph: the graph.
        node: what to fold.
        names: for the biases.
        handed_on: tensors that a body of If, Loop or Scan returns as they are, by ``id``.
        shared: weights whose readers are known not to be followed by the same map, by ``id``; a
            network unrolled in time has thousands of readers, and they are compared once.

    Returns:
        What each was folded into, with it; empty where there is nothing to fold.

    Raises:
        Refusal: it could be folded but for this.
    """
    batchnorm = node.op == "BatchNormalization"
    data = _data(node)
    linear = producer(data) if data is not None else None
    if data is None or linear is None or not is_op(linear, *LINEAR_OPS):
        if not batchnorm:
            return []
        raise Refusal(f"it follows {linear.op if linear else 'a graph input'}, not a convolution")
    if _trains(linear):
        if not batchnorm:
            return []
        raise Refusal(f"it follows {linear.op} '{linear.name}' in training mode")
    axis, dims = _channel_axis(linear)
    channels = _channels(linear)
    if axis is None or dims is None or channels is None:
        if not batchnorm:
            return []
        raise Refusal(f"the weights of {linear.op} '{linear.name}' are no initializer")
    if batchnorm and axis != 1:
        raise Refusal(f"the channels of {linear.op} '{linear.name}' are not along axis 1")
    affine = _affine(node, data, axis, dims, channels)
    if affine is None or not is_floating(linear.inputs[1].dtype):
        return []
    if linear.op == "MatMul" and dims != 2 and np.any(affine.shift):
        return []  # It has no bias to take the shift: an Add stays an Add.
    weight = linear.inputs[1]
    pairs = [(linear, node)]
    if id(weight) not in shared:
        pairs += _twins(graph, linear, node, affine)
        if uses(weight) != len(pairs):
            shared.add(id(weight))
    _refuse_shared(graph, pairs, handed_on)
    _apply([one for one, _ in pairs], affine, channels, names)
    for one, scaling in pairs:
        out = scaling.outputs[0]
        disconnect(scaling)
        one.outputs = [out]
    return pairs


def _twins(graph: Graph, linear: Node, node: Node, affine: Affine) -> list[Pair]:
    """The other nodes of the weights of ``linear``, each with the map of ``node`` after it.

    One that has another map, or none, is left out: the weights then have a reader too many.
    """
    readers = [n for n in consumers(linear.inputs[1]) if n is not linear]
    local = {id(n) for n in graph.nodes} if readers else set()
    found: list[Pair] = []
    for twin in readers:
        after = consumers(twin.outputs[0])
        alike = id(twin) in local and _alike(twin, linear) and len(after) == 1
        if alike and is_op(after[0], node.op) and _data(after[0]) is twin.outputs[0]:
            axis, dims = _channel_axis(twin)
            channels = _channels(twin)
            if axis is None or dims is None or channels is None:
                continue
            if (axis, dims) == _channel_axis(linear):
                other = _affine(after[0], twin.outputs[0], axis, dims, channels)
                if other is not None and other.equals(affine):
                    found.append((twin, after[0]))
    return found


def _alike(a: Node, b: Node) -> bool:
    """Whether two nodes of the same weights differ in nothing but their data."""
    if a.op != b.op or not is_standard(a) or a.attrs != b.attrs or a.inputs[1] is not b.inputs[1]:
        return False
    one, two = _bias_of(a), _bias_of(b)
    if one is None or two is None or one is two:
        return one is two
    x, y = constant(one), constant(two)
    return x is not None and y is not None and np.array_equal(x, y)


def _bias_of(linear: Node) -> Tensor | None:
    bias = linear.inputs[2] if len(linear.inputs) > 2 else None
    return None if bias is None or bias.is_empty() else bias


def _data(node: Node) -> Tensor | None:
    """The input that is not constant; None where none or both are."""
    if node.op == "BatchNormalization":
        return node.inputs[0]
    varying = [tensor for tensor in node.inputs if constant(tensor) is None]
    return varying[0] if len(varying) == 1 else None


def _refuse_shared(graph: Graph, pairs: list[Pair], handed_on: set[int]) -> None:
    for linear, _ in pairs:
        data = linear.outputs[0]
        if is_graph_output(graph, data):
            raise Refusal(f"'{data.name}', which it reads, is an output of the graph")
        if uses(data) != 1 or id(data) in handed_on:
            raise Refusal(f"others read '{data.name}' too")
        bias = _bias_of(linear)
        if bias is not None and constant(bias) is None:
            raise Refusal(f"the bias of {linear.op} '{linear.name}' is not constant")
    weight = pairs[0][0].inputs[1]
    if uses(weight) != len(pairs) or is_graph_output(graph, weight) or id(weight) in handed_on:
        raise Refusal(f"the weights '{weight.name}' are shared")


# --- the affine map --------------------------------------------------------------------------


def _trains(node: Node) -> bool:
    """Whether it is a BatchNormalization that updates statistics (before opset 14: 5 outputs)."""
    return is_op(node, "BatchNormalization") and bool(
        node.attrs.get("training_mode", 0) or any(t.name for t in node.outputs[1:])
    )


def _affine(node: Node, data: Tensor, axis: int, dims: int, channels: int) -> Affine | None:
    if node.op == "BatchNormalization":
        return _batchnorm(node, channels)
    return _scaling(node, data, axis, dims, channels)


def _batchnorm(node: Node, channels: int) -> Affine:
    if _trains(node):
        raise Refusal("it is in training mode")
    if not node.attrs.get("spatial", 1):
        raise Refusal("it normalizes each position by itself (spatial=0)")
    parameters = [constant(tensor) for tensor in node.inputs[1:5]]
    if any(p is None for p in parameters):
        raise Refusal("its parameters are not constants")
    gamma, beta, mean, var = (np.asarray(p, dtype=np.float64) for p in parameters)
    if not gamma.shape == beta.shape == mean.shape == var.shape == (channels,):
        raise Refusal(f"its parameters are not of {channels} channels each")
    variance = var + float(np.float32(node.attrs.get("epsilon", 1e-5)))
    if not np.all(variance > 0):
        raise Refusal("a variance plus epsilon is not above zero")
    scale = gamma / np.sqrt(variance)
    return Affine(scale, beta - mean * scale)


def _scaling(node: Node, data: Tensor, axis: int, dims: int, channels: int) -> Affine | None:
    """The map of Mul, Div, Add or Sub by a constant, or None if it is not one of channels."""
    left = node.inputs[0] is data
    operand = constant(node.inputs[1 if left else 0])
    value = None if operand is None else _per_channel(operand, axis, dims, channels)
    if value is None:
        return None
    one, zero = np.ones_like(value), np.zeros_like(value)
    if node.op == "Add":
        return Affine(one, value)
    if node.op == "Sub":
        return Affine(one, -value) if left else Affine(-one, value)
    if node.op == "Mul":
        return Affine(value, zero)
    if not left:
        return None
    if not np.all(value):
        raise Refusal("it divides by zero")
    return Affine(1 / value, zero)


def _per_channel(operand: Array, axis: int, dims: int, channels: int) -> Array | None:
    """Flatten a constant that varies along channels alone; None for any other."""
    if operand.ndim > dims or not is_floating(operand.dtype):
        return None
    shape = (1,) * (dims - operand.ndim) + operand.shape
    if any(size != 1 for i, size in enumerate(shape) if i != axis):
        return None
    if shape[axis] not in (1, channels):
        return None
    return operand.astype(np.float64).reshape(-1)


# --- the linear operator ---------------------------------------------------------------------


def _channel_axis(linear: Node) -> tuple[int | None, int | None]:
    """The axis of the output that channels lie along, and how many axes the output has."""
    weight = constant(linear.inputs[1])
    if weight is None:
        return None, None
    if linear.op in ("Conv", "ConvTranspose"):
        return 1, weight.ndim
    if linear.op == "BatchNormalization":
        return 1, rank(linear.outputs[0])
    dims = 2 if linear.op == "Gemm" else rank(linear.outputs[0])
    if dims is None or dims < 2 or weight.ndim != 2:
        return None, None
    return dims - 1, dims


def _channels(linear: Node) -> int | None:
    weight = constant(linear.inputs[1])
    if weight is None or not is_constant(linear.inputs[1]):
        return None
    if linear.op in ("Conv", "BatchNormalization"):
        return int(weight.shape[0])
    if linear.op == "ConvTranspose":
        return int(weight.shape[1]) * int(linear.attrs.get("group", 1))
    return int(weight.shape[0 if linear.attrs.get("transB", 0) else 1])


def _apply(nodes: list[Node], affine: Affine, channels: int, names: Names) -> None:
    """Put the map into the weights, which all of the nodes share, and into one bias for them."""
    linear = nodes[0]
    weight = linear.inputs[1]
    old = np.asarray(constant(weight))
    scale = np.broadcast_to(affine.scale, channels)
    wide = old.astype(np.float64)
    if linear.op == "Conv":
        new = wide * scale.reshape(-1, *[1] * (old.ndim - 1))
    elif linear.op == "ConvTranspose":
        group = int(linear.attrs.get("group", 1))
        grouped = wide.reshape(group, old.shape[0] // group, *old.shape[1:])
        new = grouped * scale.reshape(group, 1, -1, *[1] * (old.ndim - 2))
    else:
        new = wide * (scale[:, None] if linear.attrs.get("transB", 0) else scale)
    new = _stored(new.reshape(old.shape), old.dtype)
    if linear.op == "MatMul" and not np.any(affine.shift):
        weight.values = new
        return
    bias = _stored(_bias(linear, channels) * scale + affine.shift, old.dtype)
    weight.values = new
    term = gs.Constant(names.fresh(f"{linear.name}_bias"), bias)
    for node in nodes:
        if node.op == "MatMul":
            node.op = "Gemm"
        node.attrs.pop("beta", None)
        node.inputs = [*node.inputs[:2], term, *node.inputs[3:]]


def _bias(linear: Node, channels: int) -> npt.NDArray[np.float64]:
    """What the operator adds, along the last axis: zeros where it has no bias."""
    given = constant(linear.inputs[2]) if len(linear.inputs) > 2 else None
    if given is None:
        return np.zeros(channels)
    value = given.astype(np.float64)
    if linear.op == "Gemm":
        value = value * float(linear.attrs.get("beta", 1.0))
        if value.ndim == 2 and value.shape[0] != 1 and value.shape[1] != channels:
            raise Refusal(f"the bias of Gemm '{linear.name}' varies along the batch")
        if value.ndim == 2 and value.shape[0] == 1:
            value = value[0]
    return value


def _stored(values: npt.NDArray[np.float64], dtype: np.dtype[np.generic]) -> Array:
    with np.errstate(over="ignore"):
        stored: Array = values.astype(dtype)
    if not np.all(np.isfinite(stored)):
        raise Refusal("the folded weights are not finite")
    return stored
