"""Heads: the Conv, ConvTranspose, Gemm and MatMul nodes that run in int8, and why others do not.

Everything is decided from weights and static shapes, never from a calibration batch: the same
model gives the same placement whatever it was calibrated on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.errors import UnsupportedModelError
from graphopt.graph import (
    QUANTIZE_OPS,
    Array,
    Graph,
    Node,
    Tensor,
    constant,
    dim,
    is_constant,
    is_float,
    is_op,
    producer,
    rank,
    walk,
)
from graphopt.model import Model
from graphopt.passes.base import Skip

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTIZED = QUANTIZE_OPS | {
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
}


def label(node: Node) -> str:
    """Return what a node is called in recipes and reports: its name, else its first output's."""
    return str(node.name or (node.outputs[0].name if node.outputs else node.op))


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A node that multiplies an activation by a constant weight.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul.
        data: the activation.
        weight: the weight, float32.
        axis: the weight's axis of output channels; one scale for each.
        bias: the bias, or None.
    """

    node: Node
    data: Tensor
    weight: Tensor
    axis: int
    bias: Tensor | None

    @property
    def values(self) -> Array:
        """The weight's values; never to be written into."""
        values = constant(self.weight)
        assert values is not None
        return values


@dataclass(frozen=True, slots=True)
class HeadRules:
    """Where int8 can win on one engine.

    Attributes:
        ops: the operators it runs in int8.
        thin: a Conv with fewer channels than this both in and out stays float, unless it is
            depthwise with channels a multiple of 8; 0 for no such rule.
        narrow: a Gemm or MatMul with fewer rows or columns of weight stays float; 0 for no rule.
        gemv: whether a product with a single row of data is quantized.
    """

    ops: frozenset[str] = frozenset(WEIGHTED)
    thin: int = 0
    narrow: int = 0
    gemv: bool = True


def require_unquantized(model: Model) -> None:
    """Refuse a model that carries quantization already.

    Raises:
        UnsupportedModelError: it does, in the graph or in a sub-graph.
    """
    found = [node for node in walk(model.graph) if node.op in _QUANTIZED]
    if found:
        raise UnsupportedModelError(
            f"the model is quantized already: {len(found)} such nodes, the first is {found[0].op} "
            f"'{label(found[0])}'; quantize the float model it was made from, or leave --int8 out"
        )


def require_per_channel(model: Model) -> None:
    """Refuse an opset without per-channel QuantizeLinear.

    Raises:
        UnsupportedModelError: the opset is older than 13.
    """
    if model.opset < 13:
        raise UnsupportedModelError(
            f"the model is of opset {model.opset}; scales per channel need 13: raise it first"
        )


def find_heads(
    graph: Graph, exclude: frozenset[str], rules: HeadRules
) -> tuple[list[Head], list[Skip]]:
    """Return the heads of the graph in its order, and the nodes that could be none, with reasons.

    Nodes of other domains and nodes inside sub-graphs are not considered.

    Raises:
        UnsupportedModelError: a weight holds NaN or infinity.
    """
    heads: list[Head] = []
    skipped: list[Skip] = []
    for node in graph.nodes:
        if not is_op(node, *WEIGHTED):
            continue
        head = _head(node, exclude, rules)
        if isinstance(head, str):
            skipped.append(Skip(label(node), f"{node.op}: {head}"))
        else:
            heads.append(head)
    return heads, skipped


def _head(node: Node, exclude: frozenset[str], rules: HeadRules) -> Head | str:
    if label(node) in exclude:
        return "left in float as asked"
    if node.op not in rules.ops:
        return "this engine has no integer kernel for it"
    data, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    values = constant(weight)
    if values is None:
        return _without_weight(node)
    if constant(data) is not None:
        return "its data is a constant"
    if values.dtype != np.float32 or (data.dtype is not None and not is_float(data)):
        return f"it computes in {values.dtype}, and only float32 is quantized"
    if bias is not None and constant(bias) is None:
        return "its bias is not a constant"
    if values.size == 0:
        return "its weight is empty"
    reason = _conv(node, values, rules) if "Conv" in node.op else _matmul(node, values, rules)
    if reason:
        return reason
    if not np.isfinite(values).all():
        raise UnsupportedModelError(
            f"weight '{weight.name}' of '{label(node)}' holds NaN or infinity: export it again"
        )
    return Head(node, data, weight, _output_axis(node), bias)


def _without_weight(node: Node) -> str:
    if node.op != "MatMul":
        return "its weight is not a constant"
    if constant(node.inputs[0]) is not None:
        return "its weight is the first factor, and integer kernels take scales of the second"
    return "both factors are activations: there is no weight to quantize"


def _conv(node: Node, weight: Array, rules: HeadRules) -> str | None:
    if weight.ndim < 3:
        return f"its weight has rank {weight.ndim}"
    return thin_conv(node, weight, rules.thin)


def thin_conv(node: Node, weight: Array, least: int) -> str | None:
    """Return why a Conv or ConvTranspose is too thin for int8, or None.

    It has fewer than ``least`` channels both in and out, and is not depthwise with channels a
    multiple of 8.
    """
    group = int(node.attrs.get("group", 1))
    first, second = weight.shape[0], weight.shape[1] * group
    cin, cout = (second, first) if node.op == "Conv" else (first, second)
    depthwise = group > 1 and group == cin
    if max(cin, cout) >= least or (depthwise and cin % 8 == 0 and cout % 8 == 0):
        return None
    return (
        f"{cin} channels in and {cout} out are too few for an int8 kernel to win "
        f"(fewer than {least})"
    )


def _matmul(node: Node, weight: Array, rules: HeadRules) -> str | None:
    if weight.ndim != 2:
        return (
            f"its weight has rank {weight.ndim}: scales for each column are written for one "
            "matrix, not for a stack"
        )
    if min(weight.shape) < rules.narrow:
        return (
            f"a {weight.shape[0]} x {weight.shape[1]} weight is too narrow for an int8 kernel "
            f"to win (fewer than {rules.narrow})"
        )
    if not rules.gemv and _rows(node) == 1:
        return "matrix times vector (batch 1): bound by memory, int8 does not win"
    return None


def _rows(node: Node) -> int | None:
    """Return the rows of data that meet the weight, if they are known from static shapes."""
    data = node.inputs[0]
    if node.op == "Gemm":
        return dim(data, 1 if node.attrs.get("transA", 0) else 0)
    dims = rank(data)
    if dims is None:
        return None
    rows = 1
    for axis in range(dims - 1):
        size = dim(data, axis)
        if size is None:
            return None
        rows *= size
    return rows


def _output_axis(node: Node) -> int:
    if node.op == "Conv":
        return 0
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return 1


def describe(head: Head) -> str:
    """Return one line about a quantized head, for reports."""
    shape = " x ".join(str(d) for d in head.values.shape)
    return f"{head.node.op}: weight {shape}, {head.values.shape[head.axis]} channel scales"


def topological(graph: Graph) -> dict[int, int]:
    """Return ``id(node)`` -> position in the graph's (topological) order."""
    return {id(node): i for i, node in enumerate(graph.nodes)}


def is_dynamic(tensor: Tensor) -> bool:
    """Whether the tensor exists and is computed from the input."""
    if not tensor.name or is_constant(tensor):
        return False
    source = producer(tensor)
    return source is None or not is_op(source, "Constant")
