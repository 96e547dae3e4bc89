"""What the rules that lower an operator share: constants, new nodes, types at an opset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.graph import Array, Graph, Names, Node, Tensor, constant

Plan: TypeAlias = "Callable[[], str]"
"""Does the rewrite, returns what it did; nothing changes before it is called."""
Rule: TypeAlias = "Callable[[Node, Site], Plan | str | None]"
"""Returns how to lower a node, why it cannot be, or None where nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a node stands.

    Attributes:
        part: the graph, or the body of an If, Loop or Scan, that the node is in.
        names: free names of the whole model.
        ceiling: the opset to reach.
    """

    part: Graph
    names: Names
    ceiling: int

    def constant(self, base: str, values: Array) -> Tensor:
        """Return a new initializer."""
        return gs.Constant(self.names.fresh(base), values)

    def variable(self, like: Tensor, base: str, dtype: Any = None) -> Tensor:
        """Return a new tensor of another's shape, and of its type unless told otherwise."""
        kind = like.dtype if dtype is None else np.dtype(dtype)
        return gs.Variable(self.names.fresh(base), kind, like.shape)

    def node(self, op: str, base: str, inputs: list[Tensor], output: Tensor, **attrs: Any) -> Node:
        """Return a new node; it stands nowhere yet."""
        return gs.Node(op, self.names.fresh(f"{base}_{op}"), attrs, inputs, [output])

    def insert(self, node: Node, before: Sequence[Node] = (), after: Sequence[Node] = ()) -> None:
        """Put nodes around another."""
        at = next(i for i, other in enumerate(self.part.nodes) if other is node)
        self.part.nodes[at + 1 : at + 1] = list(after)
        self.part.nodes[at:at] = list(before)

    def cast_input(self, node: Node, index: int, dtype: Any) -> None:
        """Make a node read one of its inputs in another type."""
        tensor = node.inputs[index]
        values = constant(tensor)
        if values is not None:
            node.inputs[index] = self.constant(tensor.name, values.astype(dtype))
            return
        cast = self.variable(tensor, f"{tensor.name}_cast", dtype)
        node.inputs[index] = cast
        self.insert(node, [self.node("Cast", cast.name, [tensor], cast, to=_number(dtype))])

    def cast_output(self, node: Node, dtype: Any, made: Any) -> None:
        """Make a node that writes ``made`` go on through a Cast; its output keeps its name."""
        output = node.outputs[0]
        raw = self.variable(output, f"{output.name}_raw", made)
        node.outputs[0] = raw
        output.dtype = np.dtype(dtype)
        after = self.node("Cast", output.name, [raw], output, to=_number(dtype))
        self.insert(node, after=[after])


def input_at(node: Node, index: int) -> Tensor | None:
    """Return an input, or None where it is left out."""
    if index >= len(node.inputs) or not node.inputs[index].name:
        return None
    return node.inputs[index]


def drop_inputs(node: Node, count: int) -> None:
    """Keep the first ``count`` inputs, without empty ones at the end."""
    while len(node.inputs) > count or (node.inputs and not node.inputs[-1].name):
        del node.inputs[-1]


def drop(node: Node, *attributes: str) -> None:
    """Leave out attributes."""
    for name in attributes:
        node.attrs.pop(name, None)


def text(value: Any, default: str) -> str:
    """Return an attribute of text, which may come as bytes."""
    if value is None:
        return default
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(dtype: Any) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def type_number(tensor: Tensor) -> int | None:
    """Return the type of a tensor as ONNX counts them, or None where it is not known."""
    values = constant(tensor)
    dtype = tensor.dtype if values is None else values.dtype
    if dtype is None:
        return None
    if isinstance(dtype, int):
        return int(dtype) or None
    try:
        return _number(dtype)
    except (KeyError, TypeError, ValueError):
        return None


def spell_type(number: int) -> str:
    """Return ``float16`` for 10."""
    return str(onnx.TensorProto.DataType.Name(number)).lower()


def schema_at(op: str, opset: int) -> onnx.defs.OpSchema | None:
    """Return what an operator is at an opset, or None where there is none of the name."""
    try:
        return onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None


def misfit(node: Node, schema: onnx.defs.OpSchema) -> str | None:
    """Return what of a node an older schema does not have, or None."""
    for name in node.attrs:
        if name not in schema.attributes:
            return f"attribute '{name}'"
    used = max((i + 1 for i, t in enumerate(node.inputs) if t.name), default=0)
    if used > schema.max_input:
        return f"input {schema.max_input}"
    if len(node.outputs) > schema.max_output:
        return f"output {schema.max_output}"
    for tensors, formal in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for i, tensor in enumerate(tensors):
            number = type_number(tensor) if tensor.name else None
            # The last formal one may be variadic.
            allowed = formal[min(i, len(formal) - 1)].types if formal else set()
            if number is not None and f"tensor({spell_type(number)})" not in allowed:
                return f"{spell_type(number)} ('{tensor.name}')"
    return None
