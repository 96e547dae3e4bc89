"""How large tensors get, from a calibration table and from what operators are bound by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.calibrators.table import CalibrationTable
from graphopt.graph import (
    Array,
    Graph,
    Node,
    Tensor,
    captured,
    constant,
    is_constant,
    is_float,
    is_op,
    is_standard,
)
from graphopt.passes.fp16_ops import NEUTRAL, VIEWS, is_dequantize

LARGEST = 65504.0
SMALLEST = 2.0**-14  # the least normal number; below, precision fades out down to 2**-24
LOST = 1e-5  # of a constant's energy: rounding normal numbers to fp16 costs 1e-7 of it

# Their output lies within the range of the input they pass on.
PASS = VIEWS | {"AveragePool", "DepthToSpace", "Dropout", "Expand", "Gather", "GatherElements",
                 "GatherND", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax",
                 "ReduceMean", "ReduceMin", "Relu", "Slice", "SpaceToDepth", "Split", "Tile",
                 "TopK", "Transpose", "Trilu", "Abs", "Neg", "HardSwish"}  # fmt: skip
# … of all their inputs of that type.
JOIN = frozenset({"Concat", "Max", "Min", "Where", "Mean", "Clip", "Pad"})
_UNIT = frozenset({"Sigmoid", "Tanh", "Softmax", "HardSigmoid", "Erf", "Sign", "Softsign"})


@dataclass(frozen=True, slots=True)
class Range:
    """The values of a tensor lie in ``low .. high``."""

    low: float
    high: float

    @property
    def largest(self) -> float:
        """The greatest magnitude."""
        return max(abs(self.low), abs(self.high))

    def joined(self, other: Range) -> Range:
        """Return the range around both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


class Ranges:
    """The range of every tensor of a graph that is known.

    Args:
        graph: any graph, Q/DQ included.
        table: what was measured; None where nothing was.
    """

    def __init__(self, graph: Graph, table: CalibrationTable | None) -> None:
        measured: Mapping[str, object] = {} if table is None else table.ranges
        self._known: dict[int, Range] = {}
        self.missing: list[str] = []
        for tensor in activations(graph):
            found = None if table is None else table.ranges.get(tensor.name)
            if found is not None:
                self._known[id(tensor)] = Range(found.low, found.high)
                continue
            bound = self._inherited(tensor)
            if bound is not None:
                self._known[id(tensor)] = bound
            elif measured and is_float(tensor):
                self.missing.append(tensor.name)

    def of(self, tensor: Tensor) -> Range | None:
        """Return the range of a tensor, or None where nothing is known of it."""
        if id(tensor) not in self._known:
            values = constant(tensor)
            if values is None or values.dtype.kind not in "fiub" or not values.size:
                return None
            finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
            self._known[id(tensor)] = (
                Range(float(finite.min()), float(finite.max())) if finite.size else Range(0.0, 0.0)
            )
        return self._known[id(tensor)]

    def _inherited(self, tensor: Tensor) -> Range | None:
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or not is_standard(node):
            return None
        if is_dequantize(node):
            return _dequantized(node)
        if node.op in _UNIT:
            return Range(-1.0, 1.0) if node.op not in ("Sigmoid", "Softmax") else Range(0.0, 1.0)
        first = node.inputs[0] if node.inputs else None
        if node.op in PASS or (node.op == "Resize" and node.attrs.get("mode") != "cubic"):
            return self._passed(node, first)
        if node.op in JOIN:
            return self._joined(node)
        if node.op == "Cast" and first is not None and first.dtype == np.bool_:
            return Range(0.0, 1.0)
        return None

    def _passed(self, node: Node, tensor: Tensor) -> Range | None:
        known = self.of(tensor)
        if known is None:
            return None
        if node.op in ("Relu", "Abs"):
            return Range(0.0, known.largest if node.op == "Abs" else max(known.high, 0.0))
        if node.op == "Neg":
            return Range(-known.high, -known.low)
        if node.op in ("HardSwish", "Trilu", "Dropout", "AveragePool"):
            return known.joined(Range(0.0, 0.0))
        return known

    def _joined(self, node: Node) -> Range | None:
        tensors = [t for t in node.inputs if is_float(t)]
        if node.op == "Clip":
            return self._clipped(node)
        found = [self.of(t) for t in tensors]
        if not found or any(r is None for r in found):
            return None
        total = found[0]
        for other in found[1:]:
            assert total is not None and other is not None
            total = total.joined(other)
        return total.joined(Range(0.0, 0.0)) if node.op == "Pad" and total else total

    def _clipped(self, node: Node) -> Range | None:
        """Clip bounds its input from the sides it has a limit on."""
        known = self.of(node.inputs[0])
        low, high = (-np.inf, np.inf) if known is None else (known.low, known.high)
        limits = [node.attrs.get("min"), node.attrs.get("max")]
        for i in (1, 2):
            if len(node.inputs) > i and not node.inputs[i].is_empty():
                value = constant(node.inputs[i])
                limits[i - 1] = None if value is None else float(value)
        low = low if limits[0] is None else max(low, float(limits[0]))
        high = high if limits[1] is None else min(high, float(limits[1]))
        if not (np.isfinite(low) and np.isfinite(high)):
            return None
        return Range(min(low, high), max(low, high))


def activations(graph: Graph) -> Iterator[Tensor]:
    """Yield inputs, then what nodes write, in order."""
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.outputs


def _dequantized(node: Node) -> Range:
    """(code - zero-point) * scale, for any code."""
    scales = np.abs(np.asarray(constant(node.inputs[1]), dtype=np.float64))
    codes = constant(node.inputs[0])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    reach = 255.0
    if codes is not None:
        reach = float(np.abs(codes.astype(np.float64)).max(initial=0.0))
    elif node.inputs[0].dtype == np.int8:
        reach = 128.0
    if zero is not None:
        reach += float(np.abs(zero.astype(np.float64)).max(initial=0.0))
    most = reach * float(scales.max(initial=0.0))
    return Range(-most, most)


def depends_on_data(graph: Graph) -> set[int]:
    """Return the ``id()`` of the tensors that are data: not worked out from shapes alone.

    That is what the values of inputs reach, and copies of constants: a class token, expanded.
    """
    reached = {id(t) for t in graph.inputs}
    for node in graph.nodes:
        sources = [*node.inputs, *captured(node)]
        random = is_standard(node) and node.op.startswith(("Random", "Multinomial", "Bernoulli"))
        copied = is_op(node, "Expand", "Tile") and holds_constant(node.inputs[0])
        if (
            random
            or copied
            or (not is_op(node, *NEUTRAL) and any(id(t) in reached for t in sources))
        ):
            reached.update(id(t) for t in node.outputs)
    return reached


def constant_problem(values: Array) -> str | None:
    """Return what fp16 does to a constant that it should not, or None."""
    over, gone, lost = rounding_loss(values)
    if over:
        return f"{over:,} of {values.size:,} values are beyond fp16's 65,504"
    if lost > LOST:
        gone_text = f" ({gone:,} of {values.size:,} become 0)" if gone else ""
        return f"fp16 loses {lost:.2g} of its energy{gone_text}"
    return None


def rounding_loss(values: Array) -> tuple[int, int, float]:
    """Return how many finite values become infinite, how many become 0, and the share of energy."""
    wide = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        half = np.asarray(values).astype(np.float16).astype(np.float64)
    finite = np.isfinite(wide)
    over = int(np.count_nonzero(finite & ~np.isfinite(half)))
    gone = int(np.count_nonzero((half == 0) & (wide != 0)))
    if over:
        return over, gone, 1.0
    # Relative to the greatest value, so that squares of tiny ones do not vanish.
    top = float(np.abs(wide[finite]).max(initial=0.0))
    if top == 0:
        return 0, 0, 0.0
    error = np.square((wide[finite] - half[finite]) / top).sum()
    return over, gone, float(error / np.square(wide[finite] / top).sum())


def holds_constant(tensor: Tensor) -> bool:
    """Whether the tensor is an initializer or what a Constant node writes."""
    if is_constant(tensor):
        return True
    return len(tensor.inputs) == 1 and is_op(tensor.inputs[0], "Constant")
