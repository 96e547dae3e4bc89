"""BatchNormalization that no Conv takes in: a depthwise 1 x 1 convolution of integers.

Behind a Concat (DenseNet) or before the activation (ResNet v2) it would be a float island in a
network of integers. Each channel has one weight, which an int8 scale of its own holds exactly.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.dialects.heads import Head, is_dynamic, label
from graphopt.graph import Graph, Node, constant, is_float, is_op, rank


def affine_heads(graph: Graph, exclude: frozenset[str]) -> list[Head]:
    """Return the BatchNormalizations of a graph as convolutions, those that could be one."""
    found = (
        _head(node)
        for node in graph.nodes
        if is_op(node, "BatchNormalization") and label(node) not in exclude
    )
    return [head for head in found if head is not None]


def _head(node: Node) -> Head | None:
    data = node.inputs[0]
    dims = rank(data)
    values = [constant(t) for t in node.inputs[1:5]]
    given = [v for v in values if v is not None and v.dtype == np.float32]
    if len(given) < 4 or len({v.shape for v in given}) > 1 or not is_dynamic(data):
        return None
    if dims is None or dims < 3 or not is_float(data) or node.attrs.get("training_mode", 0):
        return None
    if len([t for t in node.outputs if t.name]) != 1:
        return None
    scale, shift, mean, variance = (v.astype(np.float64) for v in given)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
        bias = (shift - mean * factor).astype(np.float32)
    weight = factor.astype(np.float32).reshape(-1, *[1] * (dims - 1))
    if not np.isfinite(weight).all() or not np.isfinite(bias).all():
        return None
    return Head(
        node,
        data,
        gs.Constant(f"{label(node)}_weight", weight),
        0,
        gs.Constant(f"{label(node)}_bias", bias),
    )


def as_convolution(head: Head) -> None:
    """Make the node the depthwise Conv that a head of :func:`affine_heads` stands for."""
    node, shape = head.node, head.values.shape
    assert head.bias is not None
    node.inputs.clear()
    node.inputs.extend([head.data, head.weight, head.bias])
    node.op = "Conv"
    node.attrs = {"group": shape[0], "kernel_shape": list(shape[2:])}
