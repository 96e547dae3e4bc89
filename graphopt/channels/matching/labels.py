"""A number for every tensor of a graph that stands for how it is computed, widths left out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import onnx

from graphopt.channels.walk import in_order
from graphopt.graph import Graph, Node, Tensor, captured, constant, is_op, is_standard

# Pruning adds, changes and takes out selections; exporters write reshapes in several ways.
_SELECTIONS = (
    *("Dropout", "Expand", "Flatten", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze"),
    "Unsqueeze",
)
COMMUTATIVE = ("Add", "And", "Equal", "Max", "Mean", "Min", "Mul", "Or", "Sum", "Xor")
BIASED = ("Conv", "ConvTranspose", "Gemm")
# Inputs that are sizes or options, attributes in other opsets; the student keeps the original's.
_OPTIONS: dict[str, frozenset[int]] = {
    "Clip": frozenset({1, 2}),
    "ConstantOfShape": frozenset({0}),
    "Resize": frozenset({1, 2, 3}),
    "Tile": frozenset({1}),
    "TopK": frozenset({1}),
    "Upsample": frozenset({1}),
}
_ATTRIBUTES = frozenset(
    {
        *("alpha", "approximate", "auto_pad", "axis", "axes", "beta", "blocksize", "ceil_mode"),
        *("coordinate_transformation_mode", "count_include_pad", "cubic_coeff_a", "dilations"),
        *("direction", "equation", "exclusive", "gamma", "keepdims", "largest", "mode"),
        *("linear_before_reset", "nearest_mode", "output_padding", "pads", "perm", "reverse"),
        *("strides", "to", "transA", "transB"),
    }
)
# Of custom operators every attribute counts but these, which follow widths.
_WIDTHS = frozenset(
    {
        *("group", "groups", "hidden_size", "kv_num_heads", "num_groups", "num_heads"),
        *("q_num_heads", "qkv_hidden_sizes"),
    }
)
# Numbers that say how to compute, not what, and that pruning may have to correct.
NUMBERS = ("epsilon", "scale")
# What these lists say when they are not there.
_NEUTRAL = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}

Operand: TypeAlias = "tuple[Node, int, Tensor]"


def is_selection(node: Node) -> bool:
    """Whether the node only chooses, pads or reshapes what it reads first."""
    if is_op(node, "Gather"):
        return constant(node.inputs[1]) is not None
    return is_op(node, *_SELECTIONS)


def _scalar(node: Node) -> int | None:
    """Return the index of the one number by which a Mul scales a mean, or None.

    That is how a mean over channels stays a mean over those there were.
    """
    if not is_op(node, "Mul") or len(node.inputs) != 2:
        return None
    for index, tensor in enumerate(node.inputs):
        value = constant(tensor)
        writer = next(iter(node.inputs[1 - index].inputs), None)
        if value is not None and value.size == 1 and writer is not None:
            mean = is_op(writer, "ReduceMean") or _scalar(writer) is not None
            return index if mean else None
    return None


def strip(operand: Operand, scalars: list[tuple[Node, int]] | None = None) -> Operand:
    """Go back through selections; the result's node is the last one that reads the tensor.

    Args:
        operand: where to start.
        scalars: gets the reads of numbers that scale a mean on the way.
    """
    node, index, tensor = operand
    while tensor.inputs and constant(tensor) is None:
        writer = tensor.inputs[0]
        if is_selection(writer):
            through = 0
        elif (scalar := _scalar(writer)) is not None:
            through = 1 - scalar
            if scalars is not None:
                scalars.append((writer, scalar))
        else:
            break
        node, index, tensor = writer, through, writer.inputs[through]
    return node, index, tensor


def operands(node: Node) -> list[Operand]:
    """Return the inputs that carry data; a constant bias may be missing, so it is none of them."""
    skipped = _OPTIONS.get(node.op, frozenset()) if is_standard(node) else frozenset()
    if is_standard(node) and node.op.startswith("Reduce"):
        skipped = frozenset({1})
    bias = is_op(node, *BIASED)
    return [
        (node, i, t)
        for i, t in enumerate(node.inputs)
        if i not in skipped
        and not t.is_empty()
        and not (bias and i == 2 and constant(t) is not None)
    ]


class Labels:
    """The labels of one graph.

    Graphs that are to be compared share a table, so that equal labels are equal numbers.

    Attributes:
        order: the nodes, each after what it reads.
        nodes: id of a node -> its label; a selection has that of what it selects from.
        found: all labels of nodes.
    """

    def __init__(self, graph: Graph, table: dict[object, int], inputs: Mapping[int, int]) -> None:
        self.graph, self.table = graph, table
        self.order = in_order(graph)
        self.nodes: dict[int, int] = {}
        self.tensors = {t: self._number(("input", i)) for t, i in inputs.items()}
        for node in self.order:
            label = self._node(node)
            self.nodes[id(node)] = label
            for k, tensor in enumerate(node.outputs):
                self.tensors[id(tensor)] = self._number((label, k))
        self.found = set(self.nodes.values())

    def _number(self, key: object) -> int:
        return self.table.setdefault(key, len(self.table))

    def of(self, tensor: Tensor) -> int:
        """Return the label of a tensor, selections left out."""
        base = strip((None, 0, tensor))[2]
        if constant(base) is not None:
            return self._number("constant")
        return self.tensors.get(id(base), self._number("unknown"))

    def _node(self, node: Node) -> int:
        if is_selection(node) or _scalar(node) is not None:
            return self.of(node.outputs[0])
        inputs = operands(node)
        # The place of an input counts, but for operators whose inputs may be swapped.
        labels = [(i, self.of(t)) for _, i, t in inputs]
        if is_op(node, *COMMUTATIVE):
            labels = [(0, label) for label in sorted(label for _, label in labels)]
        inner = tuple(n.op for body in node.subgraphs(recursive=True) for n in body.nodes)
        outer = tuple(self.of(t) for t in self.captured(node))
        domain = "" if is_standard(node) else node.domain
        facts = _attributes(node, self.graph.opset)
        return self._number((domain, node.op, facts, tuple(labels), _kernel(node), inner, outer))

    def captured(self, node: Node) -> list[Tensor]:
        """Return the variables of the graph that the node's bodies read."""
        return [t for t in captured(node) if id(t) in self.tensors]


def _kernel(node: Node) -> tuple[int, ...]:
    if is_op(node, "Conv", "ConvTranspose") and len(node.inputs) > 1:
        weight = constant(node.inputs[1])
        return () if weight is None else weight.shape[2:]
    if not is_standard(node) or "Pool" in node.op:
        return tuple(int(k) for k in node.attrs.get("kernel_shape", ()))
    return ()


@lru_cache(maxsize=512)
def _defaults(op: str, opset: int) -> tuple[tuple[str, Any], ...]:
    """Return the default attributes of a standard operator."""
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return ()
    return tuple(
        (name, onnx.helper.get_attribute_value(a.default_value))
        for name, a in sorted(schema.attributes.items())
        if name in _ATTRIBUTES and a.default_value.name
    )


def _attributes(node: Node, opset: int) -> tuple[tuple[str, str], ...]:
    """Return the attributes that pruning leaves alone, as text, defaults filled in."""
    given = dict(node.attrs)
    if is_standard(node):
        given = {k: v for k, v in given.items() if k in _ATTRIBUTES}
        given = {**dict(_defaults(node.op, int(opset))), **given}
    else:
        given = {k: v for k, v in given.items() if k not in _WIDTHS and k not in NUMBERS}
    if is_standard(node) and node.op.startswith("Reduce") and len(node.inputs) > 1:
        axes = constant(node.inputs[1])
        given.update({} if axes is None else {"axes": axes.reshape(-1).tolist()})
    rank = next((len(t.shape) for t in node.inputs[:1] if t.shape is not None), None)
    facts = {name: _text(name, value, rank) for name, value in given.items()}
    return tuple(sorted((name, text) for name, text in facts.items() if text))


def _text(name: str, value: Any, rank: int | None) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if name in ("axis", "axes") and rank is not None:
        counted = [int(a) + rank if int(a) < 0 else int(a) for a in np.atleast_1d(value)]
        return str(sorted(counted))
    if isinstance(value, (list, tuple)):
        neutral = _NEUTRAL.get(name)
        same = neutral is not None and all(v == neutral for v in value)
        return "" if same else ",".join(_text("", v, None) for v in value)
    if isinstance(value, (bool, int, np.integer, float, np.floating)):
        return f"{float(value):.6g}"
    if isinstance(value, str):
        return "" if (name, value) == ("auto_pad", "NOTSET") else value
    return str(value) if name == "to" else ""
