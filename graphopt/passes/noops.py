"""Nodes that hand on their first input: which they are, and how to take them out."""

# ruff: noqa: ARG001 - the rules share one signature
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from graphopt.graph import (
    Array,
    Graph,
    Node,
    Tensor,
    constant,
    dim,
    disconnect,
    is_constant,
    is_graph_input,
    is_graph_output,
    is_standard,
    producer,
    rank,
    replace_uses,
)

Rule: TypeAlias = "Callable[[Graph, Node], Tensor | None]"

# Slice: "to the end" is written as INT_MAX by exporters.
_END = 2**31 - 1
# The elements stay, in order; only the shape changes.
RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def source(graph: Graph, node: Node) -> Tensor | None:
    """Return the tensor that the node's output always equals, or None.

    The tensor has the same shape, dtype and elements; only signs of zero may differ (x + 0).
    """
    if not is_standard(node) or not node.inputs or node.inputs[0].is_empty():
        return None
    rule = _RULES.get(node.op)
    return None if rule is None else rule(graph, node)


def bypass(graph: Graph, node: Node, tensor: Tensor, bodies: Sequence[Graph]) -> bool:
    """Make all who read the node's first output read ``tensor``; leave the node unconnected.

    Where the output is a graph output, the node that writes ``tensor`` writes it instead, under
    the output's name. Returns False, with nothing done, where that cannot be: ``tensor`` is an
    input, an initializer or an output of the graph itself. ``bodies`` are those of the graph's If,
    Loop and Scan nodes.
    """
    out = node.outputs[0]
    if is_graph_output(graph, out):
        writer = producer(tensor)
        if (
            writer is None
            or is_constant(tensor)
            or is_graph_input(graph, tensor)
            or is_graph_output(graph, tensor)
        ):
            return False
        slot = next(i for i, t in enumerate(writer.outputs) if t is tensor)
        disconnect(node)
        replace_uses(graph, tensor, out, bodies)
        writer.outputs[slot] = out
    else:
        disconnect(node)
        replace_uses(graph, out, tensor, bodies)
    return True


def _same_but_one(a: Tensor, b: Tensor) -> bool:
    """Whether two shapes of as many elements are equal: at most one dimension is not known to be.

    That one must be unknown in both: a number is a promise that is not given up for a guess.
    """
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    unknown = 0
    for x, y in zip(a.shape, b.shape, strict=True):
        if isinstance(x, int) or isinstance(y, int):
            if x != y or x == 0:
                return False
        elif x is None or x != y:
            unknown += 1
    return unknown <= 1


def _value(node: Node, index: int) -> Array | None:
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return constant(node.inputs[index])


def _given(node: Node, index: int) -> bool:
    return index < len(node.inputs) and not node.inputs[index].is_empty()


def _always(graph: Graph, node: Node) -> Tensor | None:
    return node.inputs[0]


def _of_one(graph: Graph, node: Node) -> Tensor | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _dropout(graph: Graph, node: Node) -> Tensor | None:
    """Inference, its mask unread. From opset 12 on ``training_mode`` is an input."""
    if any(mask.outputs or is_graph_output(graph, mask) for mask in node.outputs[1:]):
        return None
    if graph.opset >= 12 and _given(node, 2):
        mode = _value(node, 2)
        return node.inputs[0] if mode is not None and not mode.any() else None
    return node.inputs[0]


def _cast(graph: Graph, node: Node) -> Tensor | None:
    data, out = node.inputs[0], node.outputs[0]
    return data if data.dtype is not None and data.dtype == out.dtype else None


def _reshape(graph: Graph, node: Node) -> Tensor | None:
    """The nearest tensor up a chain of reshapes with the shape of the output.

    Equal but for one dimension is equal: the number of elements is the same.
    """
    tensor = node.inputs[0]
    while True:
        if _same_but_one(tensor, node.outputs[0]):
            return tensor
        before = producer(tensor)
        if before is None or not is_standard(before) or before.op not in RESHAPES:
            return None
        tensor = before.inputs[0]


def _transpose(graph: Graph, node: Node) -> Tensor | None:
    perm = node.attrs.get("perm")
    if perm is None:
        dims = rank(node.inputs[0])
        return node.inputs[0] if dims is not None and dims <= 1 else None
    return node.inputs[0] if list(perm) == sorted(perm) else None


def _pad(graph: Graph, node: Node) -> Tensor | None:
    pads = node.attrs.get("pads") if graph.opset < 11 else _value(node, 1)
    return node.inputs[0] if pads is not None and not np.any(pads) else None


def _slice(graph: Graph, node: Node) -> Tensor | None:
    data = node.inputs[0]
    if graph.opset < 10:
        starts, ends = node.attrs.get("starts"), node.attrs.get("ends")
        axes, steps = node.attrs.get("axes"), None
    else:
        starts, ends, axes, steps = (_value(node, i) for i in range(1, 5))
        if (axes is None and _given(node, 3)) or (steps is None and _given(node, 4)):
            return None
    if starts is None or ends is None:
        return None
    if np.any(np.asarray(starts)) or (steps is not None and not np.all(np.asarray(steps) == 1)):
        return None
    for i, end in enumerate(np.asarray(ends).tolist()):
        axis = int(axes[i]) if axes is not None else i
        size = dim(data, axis)
        if end < (_END if size is None else size):
            return None
    return data


def _neutral(value: float, *, commutes: bool) -> Rule:
    """The rule of an operator for which ``value`` is neutral (on the right, or on both sides)."""

    def rule(graph: Graph, node: Node) -> Tensor | None:
        for i in (1, 0) if commutes else (1,):
            other, operand = node.inputs[1 - i], constant(node.inputs[i])
            if operand is None or operand.dtype.kind not in "fiu" or not np.all(operand == value):
                continue
            if not is_constant(other) and _keeps_shape(operand.shape, other):
                return other
        return None

    return rule


def _keeps_shape(operand: tuple[int, ...], data: Tensor) -> bool:
    """Whether broadcasting ``data`` against this shape leaves its shape as it was."""
    if not operand:
        return True
    if data.shape is None or len(operand) > len(data.shape):
        return False
    dims = data.shape[len(data.shape) - len(operand) :]
    return all(d in (1, size) for d, size in zip(operand, dims, strict=True))


def _expand(graph: Graph, node: Node) -> Tensor | None:
    target = _value(node, 1)
    if target is None:
        return None
    return node.inputs[0] if _keeps_shape(tuple(target.tolist()), node.inputs[0]) else None


def _tile(graph: Graph, node: Node) -> Tensor | None:
    repeats = _value(node, 1)
    return node.inputs[0] if repeats is not None and np.all(repeats == 1) else None


def _split(graph: Graph, node: Node) -> Tensor | None:
    return node.inputs[0] if len(node.outputs) == 1 else None


def _resize(graph: Graph, node: Node) -> Tensor | None:
    """By one, along every axis, and by nothing but scales."""
    at = 1 if graph.opset < 11 else 2
    scales = node.attrs.get("scales") if graph.opset < 9 else _value(node, at)
    given = scales is not None and np.size(scales) and np.all(np.asarray(scales) == 1)
    crop = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    return node.inputs[0] if given and not crop and not _given(node, 3) else None


_RULES: Mapping[str, Rule] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _of_one,
    "Sum": _of_one,
    "Max": _of_one,
    "Min": _of_one,
    "Mean": _of_one,
    "Split": _split,
    "Add": _neutral(0, commutes=True),
    "Sub": _neutral(0, commutes=False),
    "Mul": _neutral(1, commutes=True),
    "Div": _neutral(1, commutes=False),
    "Pow": _neutral(1, commutes=False),
    "Expand": _expand,
    "Tile": _tile,
    "Resize": _resize,
    "Upsample": _resize,
}
