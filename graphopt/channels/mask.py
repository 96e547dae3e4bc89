"""The proof: the original graph with the dead channels masked where channels are summed over.

Pruning is right when the pruned graph computes what this one does. It shares the analysis with
``apply_plan`` but none of its hands: no constant is sliced and nothing is rewritten; a Where node
zeroes the dead channels in front of every operator that sums over them. A rule that tracks
channels wrongly slices one channel upstream and masks another downstream, and the two differ.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphopt.channels.apply import dead_roots
from graphopt.channels.groups import analyze
from graphopt.channels.plan import PrunePlan
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.rules_einsum import einsum_labels
from graphopt.graph import Names, Node, constant, is_op, sort
from graphopt.model import Model

_RECURRENT = ("GRU", "LSTM", "RNN")
_SUMS = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "ReduceSumSquare")
_RMS = ("RMSNormalization", "SimplifiedLayerNormalization")


def masked(model: Model, plan: PrunePlan) -> Model:
    """Return the unpruned model with the channels of ``plan`` masked; its weights are as they were.

    Raises:
        UsageError: the plan was made for another model.
    """
    out = model.clone()
    analysis = analyze(out)
    trace = analysis.trace
    names = Names(out.graph)
    to = Rewriter(out.graph, trace.space, dead_roots(analysis, plan), names)
    for node in list(out.graph.nodes):
        known = [trace.dims.get(tensor.name) for tensor in node.inputs]
        for index, axis in _summed_axes(node):
            dims = known[index]
            if dims is not None and (mask := to.mask(dims[axis])) is not None:
                _insert(to, node, index, len(dims), axis % len(dims), mask)
    sort(out.graph)
    return out


def _summed_axes(node: Node) -> Iterator[tuple[int, int]]:
    """Yield (input, axis) of what the node sums over."""
    if is_op(node, "Conv", "ConvTranspose", "DeformConv", "LRN"):
        yield 0, 1
    elif is_op(node, "Gemm"):
        yield 0, 0 if node.attrs.get("transA", 0) else 1
    elif is_op(node, "MatMul"):
        yield 0, -1
    elif is_op(node, *_RECURRENT):
        yield 0, 2
        yield 2, 2
    elif is_op(node, "Attention"):
        yield 0, -1
        if "q_num_heads" not in node.attrs:
            yield 0, 1
    elif is_op(node, "LpNormalization"):
        yield 0, int(node.attrs.get("axis", -1))
    elif is_op(node, *_RMS):
        axis = int(node.attrs.get("axis", -1))
        end = 0 if axis < 0 else len(node.inputs[0].shape or ())
        yield from ((0, i) for i in range(axis, end))
    elif is_op(node, "Einsum"):
        operands, output = einsum_labels(node) or ([], "")
        summed = sorted({label for labels in operands for label in labels} - set(output))
        for label in summed:
            index = next(i for i, labels in enumerate(operands) if label in labels)
            yield index, operands[index].index(label)
    elif is_op(node, *_SUMS):
        axes = node.attrs.get("axes")
        if axes is None and len(node.inputs) > 1 and not node.inputs[1].is_empty():
            value = constant(node.inputs[1])
            axes = None if value is None else value.reshape(-1).tolist()
        if not axes and not node.attrs.get("noop_with_empty_axes", 0):
            axes = range(len(node.inputs[0].shape or ()))
        yield from ((0, int(axis)) for axis in axes or ())


def _insert(
    to: Rewriter, node: Node, index: int, rank: int, axis: int, mask: npt.NDArray[np.bool_]
) -> None:
    source = node.inputs[index]
    shape = [1] * rank
    shape[axis] = len(mask)
    dtype = np.float32 if source.dtype is None else source.dtype
    base = f"{source.name}_mask"
    keep = gs.Constant(to.names.fresh(base), mask.reshape(shape))
    result = gs.Variable(to.names.fresh(f"{source.name}_masked"), dtype=source.dtype)
    if int(to.graph.opset) >= 9:
        zero = gs.Constant(to.names.fresh(f"{base}_zero"), np.zeros([1] * rank, dtype=dtype))
        op, inputs = "Where", [keep, source, zero]
    else:
        factor = gs.Constant(to.names.fresh(base), mask.reshape(shape).astype(dtype))
        op, inputs = "Mul", [source, factor]
    new = gs.Node(op, to.names.fresh(f"{base}_{op.lower()}"), inputs=inputs, outputs=[result])
    place = next(i for i, other in enumerate(to.graph.nodes) if other is node)
    to.graph.nodes.insert(place, new)
    node.inputs[index] = result
