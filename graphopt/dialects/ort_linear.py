"""MatMul and the bias behind it: the Gemm that ONNX Runtime has an integer kernel for.

ONNX Runtime makes one Gemm of MatMul and Add by itself, but only where every dimension is known,
and before it looks for integer kernels: with a float bias that Gemm then computes in float and
dequantizes its weight in every run (0.7 times the speed of fp32 on ViT-Tiny). So the Gemm is
written here, over data reshaped to two dimensions, with an integer bias.
"""

from __future__ import annotations

import numpy as np

from graphopt.dialects.heads import Head, label
from graphopt.dialects.ort_convs import Form
from graphopt.dialects.ort_moves import Move
from graphopt.graph import Array, Graph, Node, Tensor, constant, disconnect, is_op


def find_bias(head: Head, exclude: frozenset[str]) -> Node | None:
    """Return the Add that reads a MatMul's output and adds one constant to each column.

    None where there is no such Add, or where a Reshape could not bring the shape back.
    """
    if head.node.op != "MatMul" or leading(head.data) is None:
        return None
    output = head.node.outputs[0]
    add = output.outputs[0]
    if not is_op(add, "Add") or label(add) in exclude:
        return None
    values = added(add, output)
    if values is None or values.dtype != np.float32 or not values.ndim or values.ndim > _rank(head):
        return None
    columns = head.values.shape[1]
    return add if values.size == columns == values.shape[-1] else None


def _rank(head: Head) -> int:
    return len(head.data.shape or ())


def added(add: Node, output: Tensor) -> Array | None:
    """Return what an Add adds to ``output``, if it is a constant."""
    return constant(add.inputs[1] if add.inputs[0] is output else add.inputs[0])


def leading(data: Tensor) -> list[int] | None:
    """Return all but the last dimension as a Reshape takes them, at most one of them unknown."""
    if data.shape is None or len(data.shape) < 2:
        return None
    sizes = [size if isinstance(size, int) else -1 for size in data.shape[:-1]]
    return None if sizes.count(-1) > 1 or 0 in sizes else sizes


def linear_form(head: Head) -> Form:
    """Return how a MatMul with a bias is written: a Gemm between two Reshapes."""
    rows, columns = head.values.shape
    sizes = leading(head.data)
    assert sizes is not None
    flat = len(sizes) == 1
    return Form(
        lambda codes: codes,
        op="Gemm",
        axis=head.axis,
        before=() if flat else (_reshape(-1, rows),),
        after=() if flat else (_reshape(*sizes, columns),),
    )


def _reshape(*sizes: int) -> Move:
    return Move("Reshape", {}, (np.array(sizes, np.int64),))


def as_gemm(graph: Graph, head: Head, add: Node) -> None:
    """Make one Gemm of a MatMul and its Add; the weight and the bias are still to be written."""
    node, written, bias = head.node, add.outputs[0], add.inputs[0]
    if bias is node.outputs[0]:
        bias = add.inputs[1]
    disconnect(add)
    graph.nodes = [other for other in graph.nodes if other is not add]
    node.op, node.attrs = "Gemm", {}
    node.outputs.clear()
    node.outputs.append(written)
    node.inputs.append(bias)
