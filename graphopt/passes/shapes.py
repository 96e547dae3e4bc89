"""Arithmetic on shapes: what a chain of Shape, Gather, Concat … works out, as far as is known.

A *shape value* is the content of an integer tensor of one axis or none, each element a number, the
name of a dimension (the batch), or unknown. Chains of exporters that compute a Reshape's target
from its input's shape become one constant, with 0 (copy) or -1 (the rest) for the batch.
"""

# ruff: noqa: ARG001 - the rules share one signature
from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.graph import (
    Graph,
    Names,
    Node,
    Tensor,
    constant,
    disconnect,
    is_constant,
    is_graph_output,
    is_op,
    is_standard,
)
from graphopt.passes.base import Change
from graphopt.passes.local_shapes import LocalShapes

_LONGEST = 64
_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


@dataclass(frozen=True, slots=True)
class Dim:
    """A dimension that is no number: its name, or the tensor and axis it was read from."""

    name: str


Element: TypeAlias = "int | Dim | None"


@dataclass(frozen=True, slots=True)
class ShapeValue:
    """What is known of an integer tensor.

    Attributes:
        elements: a number, a dimension or None for unknown.
        scalar: whether the tensor has no axes (and one element).
    """

    elements: tuple[Element, ...]
    scalar: bool = False

    def numbers(self) -> list[int] | None:
        """Return the elements if every one is a number, else None."""
        numbers = [e for e in self.elements if isinstance(e, int)]
        return numbers if len(numbers) == len(self.elements) else None


Inputs: TypeAlias = "Sequence[ShapeValue | None]"
Rule: TypeAlias = "Callable[[Graph, Node, Inputs], ShapeValue | None]"


class _Values:
    """The shape values met so far, by ``id`` of the tensor."""

    def __init__(self) -> None:
        self._known: dict[int, ShapeValue] = {}

    def of(self, tensor: Tensor) -> ShapeValue | None:
        """Return the shape value of a tensor, if it has one."""
        if id(tensor) not in self._known:
            array = None if tensor.is_empty() else constant(tensor)
            if array is None or array.dtype.kind != "i" or array.ndim > 1 or array.size > _LONGEST:
                return None
            value = ShapeValue(tuple(array.reshape(-1).tolist()), array.ndim == 0)
            self._known[id(tensor)] = value
        return self._known[id(tensor)]

    def work_out(self, graph: Graph, node: Node) -> ShapeValue | None:
        """Return what is known of the node's one output."""
        rule = _RULES.get(node.op) if is_standard(node) else None
        if rule is None or len(node.outputs) != 1:
            return None
        found = rule(graph, node, [self.of(t) for t in node.inputs])
        if found is not None:
            self._known[id(node.outputs[0])] = found
        return found


def fold_shapes(graph: Graph) -> Iterator[Change]:
    """Replace shape arithmetic with its result wherever that is, or comes down to, a constant.

    One walk in topological order: a shape that follows from a fold is known to the nodes after.
    """
    values, shapes = _Values(), LocalShapes(graph)
    folded: set[int] = set()
    names = Names(graph)
    for node in graph.nodes:
        shapes.follow(node)
        value = values.work_out(graph, node)
        numbers = value.numbers() if value is not None else None
        if value is not None and numbers is not None:
            out = node.outputs[0]
            if is_graph_output(graph, out):
                continue
            dtype = out.dtype if out.dtype is not None else np.dtype(np.int64)
            array = np.array(numbers, dtype=dtype)
            disconnect(node)
            out.to_constant(array[0] if value.scalar else array)
            folded.add(id(node))
            shapes.learnt(out)
            yield Change("folded", node.name, f"{node.op} of static dimensions")
        elif is_op(node, "Reshape", "Expand") and not is_constant(node.inputs[1]):
            target = values.of(node.inputs[1])
            rewrite = _reshape_target if node.op == "Reshape" else _expand_target
            fixed = rewrite(node, target) if target is not None else None
            if fixed is not None:
                name = names.fresh(f"{node.name}_shape")
                node.inputs[1] = gs.Constant(name, np.array(fixed, dtype=np.int64))
                shapes.infer(node)
                yield Change("folded-shape", node.name, f"{node.op} to {fixed}")
            elif target is not None and node.op == "Reshape":
                known = [e if isinstance(e, int) and e > 0 else None for e in target.elements]
                shapes.say(node.outputs[0], [*known])
    graph.nodes = [node for node in graph.nodes if id(node) not in folded]


def _reshape_target(node: Node, target: ShapeValue) -> list[int] | None:
    """The target with 0 where a dimension is copied from its place, and -1 for one that is not."""
    dims = _dims(node.inputs[0]) or ()
    copies = not node.attrs.get("allowzero", 0)
    fixed: list[int] = []
    for axis, element in enumerate(target.elements):
        if isinstance(element, int):
            fixed.append(element)
        elif copies and element is not None and axis < len(dims) and dims[axis] == element:
            fixed.append(0)
        else:
            fixed.append(-1)
    numbers = [e for e in target.elements if isinstance(e, int)]
    # Two -1 say too little; so does one, where a dimension may be empty.
    empty = 0 in dims or (0 in numbers and not copies)
    return None if fixed.count(-1) > 1 or (empty and -1 in fixed) else fixed


def _expand_target(node: Node, target: ShapeValue) -> list[int] | None:
    """The target with 1, which leaves a dimension as it is, where it names that dimension."""
    dims = _dims(node.inputs[0])
    if dims is None:
        return None
    offset = len(dims) - len(target.elements)
    fixed: list[int] = []
    for axis, element in enumerate(target.elements, offset):
        if isinstance(element, int):
            fixed.append(element)
        elif element is not None and axis >= 0 and dims[axis] == element:
            fixed.append(1)
        else:
            return None
    return fixed


def _dims(tensor: Tensor) -> tuple[Element, ...] | None:
    if tensor.shape is None:
        return None
    return tuple(
        d if isinstance(d, int) else Dim(d or f"{tensor.name}[{axis}]")
        for axis, d in enumerate(tensor.shape)
    )


# --- rules: what each operator makes of shape values -----------------------------------------


def _shape(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
    dims = _dims(node.inputs[0])
    if dims is None:
        return None
    return ShapeValue(dims[slice(node.attrs.get("start", 0), node.attrs.get("end"))])


def _size(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
    dims = _dims(node.inputs[0])
    numbers = ShapeValue(dims).numbers() if dims is not None else None
    return None if numbers is None else ShapeValue((int(np.prod(numbers)),), scalar=True)


def _same(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
    return inputs[0]


def _cast(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
    return inputs[0] if node.attrs.get("to") in _INTEGERS else None


def _gather(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
    data, where = inputs
    at = where.numbers() if where is not None else None
    if data is None or data.scalar or where is None or at is None or node.attrs.get("axis", 0):
        return None
    if any(not -len(data.elements) <= i < len(data.elements) for i in at):
        return None
    return ShapeValue(tuple(data.elements[i] for i in at), where.scalar)


def _slice(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
    data = inputs[0]
    if data is None or data.scalar:
        return None
    bounds: list[int] = []
    for i, name in ((1, "starts"), (2, "ends"), (4, "steps")):
        if graph.opset < 10:
            given = node.attrs.get(name, [1])
        elif i < len(node.inputs) and not node.inputs[i].is_empty():
            value = inputs[i]
            given = value.numbers() if value is not None else None
        else:
            given = [1]
        if given is None or len(given) != 1:
            return None
        bounds.append(int(given[0]))
    start, end, step = bounds
    if step < 1:
        return None
    return ShapeValue(data.elements[start:end:step])


def _concat(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
    if not any(value is not None for value in inputs):
        return None
    elements: tuple[Element, ...] = ()
    for tensor, value in zip(node.inputs, inputs, strict=True):
        if value is not None and not value.scalar:
            elements += value.elements
        elif tensor.shape is not None and len(tensor.shape) == 1 and tensor.shape[0] == 1:
            elements += (None,)
        else:
            return None
    return ShapeValue(elements) if len(elements) <= _LONGEST else None


def _to_vector(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
    value = inputs[0]
    return ShapeValue(value.elements) if value is not None and value.scalar else None


def _to_scalar(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
    value = inputs[0]
    if value is None or value.scalar or len(value.elements) != 1:
        return None
    return ShapeValue(value.elements, scalar=True)


def _reshape(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
    value, target = inputs
    if value is None or target is None or target.scalar or len(target.elements) > 1:
        return None
    return ShapeValue(value.elements, scalar=not target.elements)


def _arithmetic(apply: Callable[[int, int], int], neutral: int, commutes: bool) -> Rule:
    def element(a: Element, b: Element) -> Element:
        if isinstance(a, int) and isinstance(b, int):
            return apply(a, b)
        if b == neutral:
            return a
        return b if commutes and a == neutral else None

    def rule(graph: Graph, node: Node, inputs: Inputs) -> ShapeValue | None:
        a, b = inputs
        if a is None or b is None:
            return None
        count = max(len(a.elements), len(b.elements))
        if any(len(v.elements) not in (1, count) for v in (a, b)):
            return None
        wide = [v.elements * count if len(v.elements) == 1 else v.elements for v in (a, b)]
        if wide[0] and apply is _divide and 0 in wide[1]:
            return None
        elements = tuple(element(x, y) for x, y in zip(*wide, strict=True))
        return ShapeValue(elements, a.scalar and b.scalar)

    return rule


def _divide(a: int, b: int) -> int:
    """Integer division towards zero, as ONNX has it."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_RULES: Mapping[str, Rule] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _to_vector,
    "Squeeze": _to_scalar,
    "Reshape": _reshape,
    "Add": _arithmetic(operator.add, 0, commutes=True),
    "Sub": _arithmetic(operator.sub, 0, commutes=False),
    "Mul": _arithmetic(operator.mul, 1, commutes=True),
    "Div": _arithmetic(_divide, 1, commutes=False),
}
