"""The rules, one node at a time: what a channel touches has the channel's atoms.

The node is run alone, on the values it gets in its model. The slice of one input that holds one
channel is changed; then whatever changes in the outputs must be at positions that carry that
channel, unless the node sums over it. Nothing is pruned here and nothing masked.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from nets import Family, built, prepared
from onnx import helper, numpy_helper
from op_cases import CASES, model_of
from op_cases_modern import MODERN
from test_families_attention import FAMILIES as ATTENTION
from test_families_conv import FAMILIES as CONV
from test_families_tasks import FAMILIES as TASKS

from graphopt.channels import analyze
from graphopt.channels.rules_einsum import einsum_labels
from graphopt.graph import constant
from graphopt.runtime import open_session

# Here a channel reaches others of its own dimension, which is why it is masked in front of them.
MIX = {"Attention", "GRU", "LRN", "LSTM", "LpNormalization", "RMSNormalization", "RNN"}
REDUCE = {f"Reduce{kind}" for kind in ("L1", "L2", "Max", "Mean", "Sum", "SumSquare")}
GRAPHS = {**CASES, **MODERN}
NETS: dict[str, Family] = {**ATTENTION, **CONV, **TASKS}


def alone(node, opset: int, values: dict[str, np.ndarray]):
    """A session of one node: its float inputs can be given, all others are initializers."""
    proto = onnx.NodeProto()
    proto.CopyFrom(node)
    given = [n for n in dict.fromkeys(node.input) if n and values[n].dtype == np.float32]
    fixed = [n for n in dict.fromkeys(node.input) if n and n not in given]
    info = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, values[n].shape) for n in given
    ]
    outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    weights = [numpy_helper.from_array(values[n], n) for n in fixed]
    graph = helper.make_graph([proto], "one", info, outputs, weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        onnx.shape_inference.infer_shapes(model).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    return session, given


def summed(node, index: int, rank: int) -> set[int]:
    """Return the axes of an input that the node sums over, by the definition of the operator."""
    if node.op in ("Conv", "ConvTranspose", "DeformConv"):
        weight = node.inputs[1].shape
        depthwise = weight[node.op != "ConvTranspose"] == 1 and node.attrs.get("group", 1) > 1
        of_weight = 0 if node.op == "ConvTranspose" else 1
        return set() if depthwise else {0: {1}, 1: {of_weight}}.get(index, set())
    if node.op == "MatMul":
        return {rank - 1} if index == 0 else {max(rank - 2, 0)}
    if node.op == "Gemm":
        swapped = node.attrs.get(("transA", "transB")[index % 2], 0)
        return {1 - swapped if index == 0 else swapped} if index < 2 else set()
    if node.op == "Einsum":
        operands, output = einsum_labels(node)
        return {axis for axis, letter in enumerate(operands[index]) if letter not in output}
    return set(range(rank)) if node.op in REDUCE else set()


def carriers(analysis, dims, shape: tuple[int, ...], root: int, but: set[int]) -> np.ndarray:
    """Return where a tensor carries the channel: along any of its axes, but for some."""
    found = np.zeros(shape, dtype=bool)
    for axis, dim in enumerate(dims or ()):
        if not dim.slots or dim.size is None or axis in but:
            continue
        mask = analysis.trace.space.kept(dim, frozenset({root}))
        if mask is not None:
            along = [1] * len(shape)
            along[axis] = len(mask)
            found |= ~mask.reshape(along)
    return found


def channels(analysis, dims) -> list[int]:
    """Return a few channels of a tensor that may be removed: two of each group."""
    of_group = {root: g.name for g in analysis.groups for root in g.atoms}
    space = analysis.trace.space
    roots = {r for d in dims or () if d.slots for p in space.positions(d) for r in p}
    found: dict[str, list[int]] = {}
    for root in sorted(roots & of_group.keys()):
        found.setdefault(of_group[root], []).append(root)
    return [root for group in found.values() for root in (group[0], group[-1])]


def examine(tools, model) -> int:
    """Change channels at every node; return how many were changed and followed."""
    analysis = analyze(model)
    tensors = model.graph.tensors()
    names = [n for n, t in tensors.items() if constant(t) is None and t.inputs]
    given = tools.feeds(model)
    with open_session(model, threads=1, optimize=False, extra_outputs=names) as session:
        outputs = [o.name for o in session.get_outputs()]
        values = dict(zip(outputs, session.run(None, given), strict=True))
    values |= given
    values |= {n: constant(t) for n, t in tensors.items() if constant(t) is not None}
    reads = {(id(u.node), u.index): list(u.dims) for u in analysis.trace.uses}
    followed = 0
    for node, proto in zip(model.graph.nodes, model.to_onnx().graph.node, strict=True):
        assert list(proto.output) == [t.name for t in node.outputs]
        known = [
            reads.get((id(node), k), analysis.trace.dims.get(t.name))
            for k, t in enumerate(node.inputs)
        ]
        if node.op in MIX or not any(d.slots for dims in known for d in dims or ()):
            continue
        one, free = alone(proto, model.graph.opset, values)
        before = one.run(None, {n: values[n] for n in free})
        for k, (dims, tensor) in enumerate(zip(known, node.inputs, strict=True)):
            if tensor.name not in free or [t.name for t in node.inputs].count(tensor.name) > 1:
                continue
            for root in channels(analysis, dims):
                value = values[tensor.name]
                where = carriers(analysis, dims, value.shape, root, summed(node, k, value.ndim))
                after = one.run(
                    None,
                    {**{n: values[n] for n in free}, tensor.name: value + np.float32(3) * where},
                )
                _check(analysis, node, root, before, after)
                followed += bool(where.any())
    return followed


def _check(analysis, node, root: int, before, after) -> None:
    written = [t.name for t in node.outputs if t.name]
    for name, old, new in zip(written, before, after, strict=True):
        where = carriers(analysis, analysis.trace.dims.get(name), old.shape, root, set())
        assert not ((old != new) & ~where).any(), (node.op, name, root)


@pytest.mark.parametrize("name", GRAPHS)
def test_operators(tools, name):
    case = GRAPHS[name]
    assert examine(tools, model_of(tools, case)) or not case.widths


@pytest.mark.parametrize("name", NETS)
def test_networks(tools, name):
    family = NETS[name]
    found = examine(tools, prepared(built(family, family.styles[0])))
    assert found >= 2 * len(family.widths)
