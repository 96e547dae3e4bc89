"""Conv, ConvTranspose, Gemm and MatMul as what they have in common: ``y = x W + b``.

A *layer* is a node that multiplies an activation by a constant. Written as a batched matrix
problem, its weight has the shape ``(groups, features, outputs)``: one feature is one input channel
at one tap of the kernel, ``feature = channel * taps + tap``, both counted within a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    is_constant,
    is_graph_output,
    is_op,
    replace_input,
)
from graphopt.model import Model


@dataclass(frozen=True, slots=True)
class Layer:
    """One node with a constant weight.

    Attributes:
        node: its name.
        op: Conv, ConvTranspose, Gemm or MatMul.
        weight: name of the constant.
        input: name of the activation.
        output: name of the tensor that holds ``x W + b``; behind MatMul, that of the bias's Add.
        bias: (node, input index) of the constant that is added, where it is or where one can be
            put; None for a MatMul that nothing is added to.
        groups: of a grouped convolution; else 1.
        channels: input channels of one group.
        taps: elements of the kernel; 1 for Gemm and MatMul.
        outputs: output channels of one group.
        axis: of the channels in input and output: 1, or -1 for Gemm and MatMul.
    """

    node: str
    op: str
    weight: str
    input: str
    output: str
    bias: tuple[str, int] | None
    groups: int
    channels: int
    taps: int
    outputs: int
    axis: int

    @property
    def features(self) -> int:
        """Columns of one group's design matrix, without the bias."""
        return self.channels * self.taps

    def matrix(self, weight: Array, node: Node) -> Array:
        """Return the weight as ``(groups, features, outputs)``, float64."""
        w: Array = np.asarray(weight, dtype=np.float64)
        shape = (self.groups, self.features, self.outputs)
        if self.op == "Conv":
            w = w.reshape(self.groups, self.outputs, self.features).transpose(0, 2, 1)
        if self.op == "ConvTranspose":
            w = w.reshape(self.groups, self.channels, self.outputs, self.taps)
            w = w.transpose(0, 1, 3, 2)
        if self.op == "Gemm":
            w = (w.T if node.attrs.get("transB", 0) else w) * float(node.attrs.get("alpha", 1.0))
        return w.reshape(shape)

    def weight_of(self, matrix: Array, like: Array, node: Node) -> Array:
        """Return ``matrix`` in the form and the dtype of the weight ``like``."""
        scale = float(node.attrs.get("alpha", 1.0)) if self.op == "Gemm" else 1.0
        # In the small type first: large weights are copied twice below.
        m = (matrix if scale == 1 else matrix / scale).astype(like.dtype)
        if self.op == "Conv":
            w = m.transpose(0, 2, 1)
        elif self.op == "ConvTranspose":
            w = m.reshape(self.groups, self.channels, self.taps, self.outputs)
            w = w.transpose(0, 1, 3, 2)
        elif self.op == "Gemm":
            w = m[0].T if node.attrs.get("transB", 0) else m[0]
        else:
            w = m[0]
        return np.ascontiguousarray(w.reshape(like.shape))


def layers(model: Model) -> Iterator[Layer]:
    """Yield the layers of a model in graph order; nodes of sub-graphs are left out."""
    for node in model.graph.nodes:
        found = layer_of(model.graph, node)
        if found is not None:
            yield found


def layer_of(graph: Graph, node: Node) -> Layer | None:
    """Return the node as a layer, or None if it is not one that this package handles."""
    if not is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.inputs) < 2:
        return None
    x, w = node.inputs[0], constant(node.inputs[1])
    if w is None or w.dtype.kind != "f" or constant(x) is not None or not w.size:
        return None
    if node.op in ("Conv", "ConvTranspose"):
        groups = int(node.attrs.get("group", 1))
        first, second, taps = w.shape[0], w.shape[1], prod(w.shape[2:])
        if first % groups or w.ndim < 3:
            return None
        if len(node.inputs) > 2 and node.inputs[2].name and constant(node.inputs[2]) is None:
            return None
        channels, outputs = (second, first // groups) if node.op == "Conv" else (
            first // groups, second)  # fmt: skip
        return _layer(
            node, node.outputs[0].name, (node.name, 2), groups, channels, taps, outputs, 1
        )
    if w.ndim != 2:
        return None
    if node.op == "Gemm":
        if node.attrs.get("transA", 0) or float(node.attrs.get("alpha", 1.0)) == 0:
            return None
        rows, columns = w.shape[::-1] if node.attrs.get("transB", 0) else w.shape
        if float(node.attrs.get("beta", 1.0)) != 1 or not _per_column(node, columns):
            return None
        return _layer(node, node.outputs[0].name, (node.name, 2), 1, rows, 1, columns, -1)
    rows, columns = w.shape
    output, bias = _added(graph, node, columns)
    return _layer(node, output, bias, 1, rows, 1, columns, -1)


def _layer(
    node: Node,
    output: str,
    bias: tuple[str, int] | None,
    groups: int,
    channels: int,
    taps: int,
    outputs: int,
    axis: int,
) -> Layer:
    x, w = node.inputs[0].name, node.inputs[1].name
    return Layer(node.name, node.op, w, x, output, bias, groups, channels, taps, outputs, axis)


def _per_column(node: Node, columns: int) -> bool:
    """Whether a Gemm has no C, or one with a value for each column."""
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return True
    value = constant(node.inputs[2])
    return value is not None and value.size == columns == value.shape[-1]


def _added(graph: Graph, node: Node, columns: int) -> tuple[str, tuple[str, int] | None]:
    """Return where ``x W + b`` ends and the bias lies, for a MatMul."""
    out = node.outputs[0]
    if len(out.outputs) == 1 and not is_graph_output(graph, out):
        after = out.outputs[0]
        if is_op(after, "Add") and len(after.inputs) == 2:
            index = 1 if after.inputs[0] is out else 0
            value = constant(after.inputs[index])
            if value is not None and value.ndim and value.size == columns == value.shape[-1]:
                return after.outputs[0].name, (after.name, index)
    return out.name, None


def sole_reader(graph: Graph, tensor: Tensor) -> Node | None:
    """Return the node that reads a tensor where nothing else does, and it is no output."""
    if len(tensor.outputs) != 1 or is_graph_output(graph, tensor):
        return None
    return tensor.outputs[0]


def shortcut_of(graph: Graph, output: Tensor) -> tuple[Node, Tensor] | None:
    """Return the Add that a layer's output goes into, and what else it adds: an activation.

    None where something else reads the output, or ranks differ.
    """
    node = sole_reader(graph, output)
    if node is None or not is_op(node, "Add"):
        return None
    other = node.inputs[1] if node.inputs[0] is output else node.inputs[0]
    if constant(other) is not None or other is output or None in (other.shape, output.shape):
        return None
    return (node, other) if len(other.shape) == len(output.shape) else None


def bias_of(layer: Layer, nodes: Mapping[str, Node]) -> Array:
    """Return the bias as ``(groups, outputs)``, float64; zeros where there is none."""
    shape = (layer.groups, layer.outputs)
    if layer.bias is None:
        return np.zeros(shape)
    node, index = nodes[layer.bias[0]], layer.bias[1]
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return np.zeros(shape)
    value = constant(node.inputs[index])
    assert value is not None
    return np.asarray(value, dtype=np.float64).reshape(shape)


def set_weights(
    model: Model,
    layer: Layer,
    matrix: Array,
    bias: Array | None,
    nodes: Mapping[str, Node],
    names: Names,
) -> None:
    """Give one node new weights, in place; other readers of the old constants keep those.

    Args:
        model: edited in place; constants are replaced, not written into.
        layer: of this model.
        matrix: ``(groups, features, outputs)``.
        bias: ``(groups, outputs)``, or None to leave it.
        nodes: node name -> node of the graph.
        names: gives out names that are free in the graph.
    """
    node = nodes[layer.node]
    old = constant(node.inputs[1])
    assert old is not None
    _assign(model, node, 1, layer.weight_of(matrix, old, node), names)
    if bias is None or layer.bias is None:
        return
    node, index = nodes[layer.bias[0]], layer.bias[1]
    flat = bias.reshape(-1).astype(old.dtype)
    if index < len(node.inputs) and not node.inputs[index].is_empty():
        value = constant(node.inputs[index])
        assert value is not None
        _assign(model, node, index, flat.reshape(value.shape).astype(value.dtype), names)
        return
    while len(node.inputs) <= index:
        node.inputs.append(gs.Variable.empty())
    replace_input(node, index, gs.Constant(names.fresh(f"{node.name}_bias"), flat))


def _assign(model: Model, node: Node, index: int, values: Array, names: Names) -> None:
    tensor = node.inputs[index]
    alone = is_constant(tensor) and len(tensor.outputs) == 1
    if alone and not is_graph_output(model.graph, tensor):
        tensor.values = values
        return
    replace_input(node, index, gs.Constant(names.fresh(f"{tensor.name}_own"), values))
