"""Attention masks: "minus infinity" written as -3.4e38, which fp16 does not hold and need not.

What is added to scores, or put in their place, so that Softmax gives zero may as well be -8192,
where scores are far smaller: exp(-8192 + 4096) is zero in either type. Rows that are masked
altogether stay finite that way, which a true infinity does not.
"""

from __future__ import annotations

import numpy as np

from graphopt.graph import (
    Array,
    Graph,
    Node,
    Tensor,
    captured,
    constant,
    is_float,
    is_graph_output,
    is_op,
    is_standard,
)
from graphopt.passes.fp16_ops import VIEWS
from graphopt.passes.fp16_ranges import LARGEST, Ranges

FLOOR = -8192.0
_SCORES = 2048.0  # scores beyond are no match for the floor
_MOVES = VIEWS | {"Expand", "Slice", "Tile", "Transpose"}
_CARRIES = _MOVES | {"Add", "Cast", "Concat", "Mul", "Neg", "Pad", "Sub", "Trilu", "Where"}


def mask_tensors(graph: Graph, ranges: Ranges) -> frozenset[int]:
    """Return the ``id()`` of tensors whose values below fp16's range may become :data:`FLOOR`.

    They go through additions, Where and moves to Softmax and nowhere else; constants among them.
    """
    inner = {id(t) for node in graph.nodes for t in captured(node)}
    good: set[int] = set()
    for node in reversed(graph.nodes):
        for tensor in [*node.outputs, *node.inputs]:
            if not is_float(tensor) or is_graph_output(graph, tensor) or id(tensor) in inner:
                continue
            if tensor.outputs and all(_leads_on(n, tensor, good, ranges) for n in tensor.outputs):
                good.add(id(tensor))
    return frozenset(good & _reached_by_constants(graph, good))


def _reached_by_constants(graph: Graph, good: set[int]) -> set[int]:
    """Masks are made of constants: scores that are as low by themselves are no masks."""
    reached: set[int] = set()
    for node in graph.nodes:
        for tensor in node.inputs:
            if id(tensor) not in good:
                continue
            values = constant(tensor)
            if values is not None and (values < -LARGEST).any():
                reached.add(id(tensor))
            if id(tensor) in reached:
                reached.update(id(t) for t in node.outputs)
    return reached


def _leads_on(node: Node, tensor: Tensor, good: set[int], ranges: Ranges) -> bool:
    """Whether a reader of the tensor is Softmax, or on the way to it."""
    if not is_standard(node):
        return False
    if node.op == "Softmax":
        return True
    if not node.outputs or id(node.outputs[0]) not in good:
        return False
    if node.op in _MOVES or (node.op == "Cast" and is_float(node.outputs[0])):
        return node.inputs[0] is tensor
    others = [t for t in node.inputs if t is not tensor and is_float(t)]
    if node.op in ("Add", "Where"):
        return all(is_small(t, ranges) or _is_mask(t, ranges) for t in others)
    if node.op == "Mul" and len(others) == 1:
        known = ranges.of(others[0])
        return known is not None and known.low >= 0 and known.high <= 1
    return False


def is_small(tensor: Tensor, ranges: Ranges) -> bool:
    """Whether the tensor is known to hold what scores may be."""
    known = ranges.of(tensor)
    return known is not None and known.largest <= _SCORES


def _is_mask(tensor: Tensor, ranges: Ranges) -> bool:
    known = ranges.of(tensor)
    return known is not None and known.low < -LARGEST and known.high <= _SCORES


def floored(values: Array) -> Array:
    """Return the values with those below fp16's range, infinite ones too, at :data:`FLOOR`."""
    low = np.asarray(FLOOR, dtype=values.dtype)
    return np.where(values < -LARGEST, low, values)


def endless(graph: Graph) -> set[int]:
    """Return the ``id()`` of tensors that infinite constants reach: no range can be measured.

    Masks of a dynamic length are made as the model runs, of one infinite number.
    """
    reached: set[int] = set()
    for node in graph.nodes:
        if is_op(node, "ConstantOfShape") and "value" in node.attrs:
            found = _is_endless(constant(node.attrs["value"]))
        elif is_op(node, *_CARRIES):
            found = any(id(t) in reached or _is_endless(constant(t)) for t in node.inputs)
        else:
            continue
        if found:
            reached.update(id(t) for t in node.outputs)
    return reached


def _is_endless(values: Array | None) -> bool:
    return values is not None and values.dtype.kind == "f" and not bool(np.isfinite(values).all())
