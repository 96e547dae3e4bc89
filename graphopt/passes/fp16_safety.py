"""Why a node must stay in fp32: what it reads, what it writes, and what it adds up on the way."""

from __future__ import annotations

from math import prod

import numpy as np

from graphopt.graph import Graph, Node, Tensor, constant, consumers, is_float, is_op, producer
from graphopt.passes.fp16_masks import floored
from graphopt.passes.fp16_ops import Ports, is_dequantize
from graphopt.passes.fp16_ranges import (
    LARGEST,
    SMALLEST,
    Ranges,
    constant_problem,
    holds_constant,
)
from graphopt.passes.fp16_scales import scale_problem

# Their sums may be larger than their output; how many bits they are kept in is the runtime's own
# affair, so fp16 is taken for granted.
_SUMS = frozenset({"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare",
                   "GlobalAveragePool"})  # fmt: skip
_MEANS = frozenset({"ReduceMean", "GlobalAveragePool"})
_SQUARES = frozenset({"ReduceL2", "ReduceSumSquare"})
# Without a range these are not trusted.
_STEEP = frozenset({"Exp", "Pow", "Reciprocal", "Div"}) | _SUMS
_EXACT = 2048  # fp16 holds whole numbers up to here


class Safety:
    """Judges nodes one by one.

    Args:
        graph: whose nodes they are.
        ranges: what is known of its tensors.
        share: the part of fp16's range that a tensor may use.
        masks: what :func:`graphopt.passes.fp16_masks.mask_tensors` found.
    """

    def __init__(self, graph: Graph, ranges: Ranges, share: float, masks: frozenset[int]) -> None:
        self._ranges = ranges
        self._limit = share * LARGEST
        self._share = share
        self._masks = masks
        self._variance = _variance_nodes(graph)

    def problem(self, node: Node, ports: Ports) -> str | None:
        """Return why the node is not safe in fp16, or None."""
        if id(node) in self._variance:
            return "a variance is worked out here, which fp16 loses where it is small"
        tensors = [node.inputs[i] for i in ports.reads] + [node.outputs[i] for i in ports.writes]
        for tensor in tensors:
            found = self._tensor_problem(tensor)
            if found is not None:
                return found
        if node.op == "Cast" and np.dtype(node.inputs[0].dtype).kind in "iu":
            return self._whole_numbers(node)
        if node.op in _SUMS:
            return self._sum_problem(node)
        if node.op in _STEEP and self._ranges.of(node.outputs[0]) is None:
            return None if _is_tame(node) else f"how large the output of {node.op} gets is unknown"
        return None

    def _tensor_problem(self, tensor: Tensor) -> str | None:
        if holds_constant(tensor):
            values = constant(tensor)
            if values is not None and id(tensor) in self._masks:
                values = floored(values)
            found = None if values is None else constant_problem(values)
            return None if found is None else f"constant '{tensor.name}': {found}"
        node = producer(tensor)
        if node is not None and is_dequantize(node):
            return scale_problem(node)
        known = self._ranges.of(tensor)
        if known is None:
            return None
        if id(tensor) in self._masks and known.low < -LARGEST and known.high <= self._limit:
            return None
        if known.largest > self._limit:
            return (
                f"'{tensor.name}' reaches {known.largest:.4g}, over {self._share:.0%} of fp16's "
                f"{LARGEST:,.0f}"
            )
        if 0 < known.largest < SMALLEST:
            return f"all of '{tensor.name}' is below fp16's least normal number (6.1e-05)"
        return None

    def _whole_numbers(self, node: Node) -> str | None:
        """Integers become floats: indices and counts must stay exact."""
        known = self._ranges.of(node.outputs[0])
        if known is not None and known.largest <= _EXACT:
            return None
        return f"its whole numbers may pass {_EXACT:,}, up to which fp16 is exact"

    def _sum_problem(self, node: Node) -> str | None:
        count = _added_up(node)
        before, after = self._ranges.of(node.inputs[0]), self._ranges.of(node.outputs[0])
        if count == 1:
            return None
        square = node.op in _SQUARES
        if count is not None and before is not None:
            # Every addend as large as the largest: no order of adding passes this.
            most = count * (before.largest**2 if square else before.largest)
            if most <= LARGEST:
                return None
        positive = square or node.op == "ReduceL1" or (before is not None and before.low >= 0)
        if positive and after is not None and (node.op not in _MEANS or count is not None):
            total = after.largest**2 if node.op == "ReduceL2" else after.largest
            total *= (count or 1) if node.op in _MEANS else 1
            if total <= self._limit:
                return None
        many = "values" if count is None else f"{count:,} values"
        return f"sums of {many} may pass fp16's {LARGEST:,.0f}"


def _added_up(node: Node) -> int | None:
    """How many elements one output of a reduction is made of, or None where that is not known."""
    shape = node.inputs[0].shape
    if shape is None:
        return None
    axes = list(range(2, len(shape)))
    if node.op != "GlobalAveragePool":
        given = node.attrs.get("axes")
        if len(node.inputs) > 1 and not node.inputs[1].is_empty():
            given = constant(node.inputs[1])
            if given is None:
                return None
        axes = list(range(len(shape)))
        if given is not None and len(given):
            axes = [int(a) % len(shape) for a in given]
        elif node.attrs.get("noop_with_empty_axes", 0):
            return 1
    dims = [shape[a] for a in axes]
    return prod(dims) if all(isinstance(d, int) for d in dims) else None


def _is_tame(node: Node) -> bool:
    """Whether a steep operator is held by a constant: a division by one, a root, a square root."""
    if node.op == "Div":
        return holds_constant(node.inputs[1])
    if node.op == "Pow":
        power = constant(node.inputs[1])
        return power is not None and bool(np.all(np.abs(power) <= 1))
    return False


def _variance_nodes(graph: Graph) -> set[int]:
    """The squares, their mean, eps and root of a LayerNormalization written out.

    Deviations that are small give squares that fp16 rounds to nothing, and an eps of 1e-12 is 0.
    """
    found: set[int] = set()
    for node in graph.nodes:
        if not is_op(node, "Pow", "Mul") or len(node.inputs) != 2 or not _squares(node):
            continue
        path = [node]
        for ops in (("ReduceMean",), ("Add",), ("Sqrt", "Pow")):
            after = [n for n in consumers(path[-1].outputs[0]) if is_op(n, *ops)]
            if not after:
                break
            path.append(after[0])
        if len(path) == 4:
            found.update(id(n) for n in path)
    return found


def _squares(node: Node) -> bool:
    if node.op == "Mul":
        return node.inputs[0] is node.inputs[1] and is_float(node.inputs[0])
    power = constant(node.inputs[1])
    return power is not None and power.size == 1 and float(power.reshape(-1)[0]) == 2.0
