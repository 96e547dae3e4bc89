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
    """Return the ``id()`` of tensors that infinite constants reach: no range can be measured."""
    reached: set[int] = set()
    for node in graph.nodes:
        if not is_op(node, "Add", "Where", "Mul", "Concat", "Sub", *_MOVES):
            continue
        for tensor in node.inputs:
            values = constant(tensor) if is_float(tensor) else None
            if id(tensor) in reached or (values is not None and not np.isfinite(values).all()):
                reached.update(id(t) for t in node.outputs)
    return reached
