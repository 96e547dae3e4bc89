"""Which nodes run as one kernel, and what it computes and moves."""

from __future__ import annotations

from math import prod

import pytest
from helpers import SHARED, needs_shared, parse

from graphopt.cost import cost, with_input_shapes
from graphopt.graph import static_shape
from graphopt.model import Model
from graphopt.passes.simplify import Simplify
from graphopt.profiles.roofline.layers import kernels, work_of

RESIDUAL = """g (float[1,8,8,8] x, float[8,8,3,3] w, float[8] s, float[8] b, float[8] m, float[8] v,
                 float[8,8,1,1] u) => (float[1,8,8,8] y) {
    a = Conv <pads=[1,1,1,1]> (x, w)
    n = BatchNormalization (a, s, b, m, v)
    r = Relu (n)
    c = Conv <pads=[1,1,1,1]> (r, w)
    d = Conv (x, u)
    e = Add (c, d)
    y = Relu (e) }"""
QDQ = """g (float[1,8,8,8] x, float[8,8,3,3] w) => (float[1,8,8,8] y)
    <float k = {0.1}, int8 z = {0}> {
    q = QuantizeLinear (x, k, z)  d = DequantizeLinear (q, k, z)
    wq = QuantizeLinear (w, k, z)  wd = DequantizeLinear (wq, k, z)
    a = Conv <pads=[1,1,1,1]> (d, wd)  r = Relu (a)
    rq = QuantizeLinear (r, k, z)  rd = DequantizeLinear (rq, k, z)
    p = MaxPool <kernel_shape=[1,1]> (rd)
    pq = QuantizeLinear (p, k, z)  pd = DequantizeLinear (pq, k, z)
    f = Sigmoid (pd)
    y = Conv <pads=[1,1,1,1]> (f, wd) }"""


def with_weights(text: str) -> Model:
    """Constants for the inputs but the first: their values do not matter here."""
    import numpy as np

    model = parse(text)
    graph = model.graph
    for tensor in graph.inputs[1:]:
        tensor.to_constant(np.ones(tensor.shape, np.float32))
    graph.inputs = graph.inputs[:1]
    return with_input_shapes(model, {})


def ops(text: str, precision: str | None = "int8") -> list[str]:
    return [kernel.op for kernel in kernels(with_weights(text), precision)]


def works(model: Model, precision: str | None = None):
    def sizes(tensor):
        return static_shape(tensor)

    found = []
    for kernel in kernels(model, precision):
        work = work_of(kernel, lambda _n, _i, t: sizes(t), sizes, precision)
        assert work is not None
        found.append((kernel, work))
    return found


def test_of_two_branches_the_later_takes_the_residual_in():
    assert ops(RESIDUAL) == ["Conv+BatchNormalization+Relu", "Conv", "Conv+Add+Relu"]
    (_, first), (_, second), (_, last) = works(with_weights(RESIDUAL), "int8")
    # x, the filters, what it writes, and four constants of BatchNorm.
    assert [prod(m.elements.extents) for m in first.moved] == [512, 576, 512, 8, 8, 8, 8]
    assert [prod(m.elements.extents) for m in second.moved] == [512, 576, 512]
    assert [prod(m.elements.extents) for m in last.moved] == [512, 64, 512, 512]  # and the residual
    assert {m.itemsize for m in last.moved} == {1}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # Two readers: what is between is written.
        ("a = Conv(x, w)  r = Relu(a)  y = Mul(r, a)", ["Conv", "Relu+Mul"]),
        ("a = Conv(x, w)  s = Sigmoid(a)  y = Mul(s, a)", ["Conv", "Sigmoid+Mul"]),
        # A product of two branches is no residual, a constant factor is a scale.
        ("a = Conv(x, w)  b = Conv(x, w)  y = Mul(a, b)", ["Conv", "Conv", "Mul"]),
        ("a = Conv(x, w)  b = Mul(a, k)  y = Relu(b)", ["Conv+Mul+Relu"]),
        # One residual a kernel.
        ("a = Conv(x, w)  b = Add(a, x)  y = Add(b, x)", ["Conv+Add", "Add"]),
        # Views and what is known when the engine is built cost nothing.
        ("a = Conv(x, w)  i = Identity(a)  y = Relu(i)", ["Conv+Relu"]),
        ("s = Shape(x)  a = Reshape(x, s)  y = Relu(a)", ["Relu"]),
        ("c = Exp(k)  d = Neg(c)  y = Add(x, d)", ["Add"]),
        ("y = Reshape(x, h)", []),
        # What is in between a view keeps its place.
        ("a = Conv(x, w)  b = Reshape(a, h)  y = Relu(b)", ["Conv", "Relu"]),
        ("a = MaxPool<kernel_shape=[1,1]>(x)  b = Relu(a)  y = Transpose(b)",
         ["MaxPool", "Relu", "Transpose"]),
        ("a = Softmax(x)  b = Exp(a)  c = Neg(b)  y = Sqrt(c)", ["Softmax", "Exp+Neg+Sqrt"]),
    ],
)  # fmt: skip
def test_what_runs_as_one(body, expected):
    text = f"""g (float[1,4,4,4] x, float[4,4,1,1] w, float[1] k) => (float[1,4,4,4] y)
        <int64[4] h = {{1, 4, 4, 4}}> {{ {body} }}"""
    assert ops(text) == expected
    nodes = [node for kernel in kernels(with_weights(text)) for node in kernel.nodes]
    assert len({node.name for node in nodes}) == len(nodes)


def test_a_graph_output_in_between_is_written():
    text = """g (float[1,4,4,4] x, float[4,4,1,1] w) => (float[1,4,4,4] a, float[1,4,4,4] y)
        { a = Conv(x, w)  y = Relu(a) }"""
    assert ops(text) == ["Conv", "Relu"]


def test_precision_as_the_graph_says():
    found = works(with_weights(QDQ))
    assert [(k.op, k.precision) for k, _ in found] == [
        ("Conv+Relu", "int8"),
        ("MaxPool", "int8"),
        ("Sigmoid", "fp32"),
        ("Conv", "fp32"),
    ]
    # Quantized where it is read and written as such; the last reads quantized weights alone.
    assert [[m.itemsize for m in w.moved] for _, w in found] == [
        [1, 1, 1],
        [1, 1],
        [4, 1],
        [4, 1, 4],
    ]
    asked = works(with_weights(QDQ), "int8")
    assert [(k.op, k.precision) for k, _ in asked] == [
        ("Conv+Relu", "int8"),
        ("MaxPool", "int8"),
        ("Sigmoid", "fp16"),
        ("Conv", "int8"),
    ]
    assert {k.precision for k, _ in works(with_weights(QDQ), "fp16")} == {"fp16"}


def test_half_precision_is_seen():
    text = """g (float16[1,4,4,4] x) => (float16[1,4,4,4] y) { y = Relu(x) }"""
    ((kernel, work),) = works(with_input_shapes(parse(text), {}))
    assert kernel.precision == "fp16"
    assert [m.itemsize for m in work.moved] == [2, 2]


def test_a_slice_reads_no_more_than_it_writes():
    text = """g (float[1,64,8,8] x) => (float[1,2,8,8] y)
        <int64[1] a = {0}, int64[1] b = {2}, int64[1] c = {1}> { y = Slice(x, a, b, c) }"""
    ((_, work),) = works(with_input_shapes(parse(text), {}))
    assert [prod(m.elements.extents) for m in work.moved][:2] == [128, 128]


def test_the_first_layer_is_not_padded():
    text = """g (float[1,3,8,8] x, float[8,3,3,3] w, float[3,8,1,1] u, float[8,3,1,1] v)
        => (float[1,8,8,8] y) { a = Conv <pads=[1,1,1,1]>(x, w) b = Conv(a, u) y = Conv(b, v) }"""
    (_, first), (_, _), (_, last) = works(with_weights(text), "int8")
    assert first.macs.channels == (1,)
    assert last.macs.channels == (1, 4)  # as few channels, and not the first


def test_depthwise_is_told_from_grouped():
    text = """g (float[1,8,8,8] x, float[8,1,3,3] w, float[8,4,1,1] u) => (float[1,8,6,6] y)
        { a = Conv<group=8>(x, w)  y = Conv<group=2>(a, u) }"""
    assert [w.depthwise for _, w in works(with_weights(text))] == [True, False]


def test_bodies_and_strangers_are_kernels():
    text = """<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        g (float[1,4,4,4] x, bool c) => (float[1,4,4,4] y) {
        a = my.Thing (x)
        b = If (c) <then_branch = t () => (float[1,4,4,4] o) { o = Neg (a) },
                    else_branch = e () => (float[1,4,4,4] o) { o = Abs (a) }>
        y = Relu (b) }"""
    assert [k.op for k in kernels(with_input_shapes(parse(text), {}))] == ["Thing", "If", "Relu"]


@needs_shared
@pytest.mark.parametrize(
    ("name", "count"), [("resnet20_cifar10", 28), ("face_rfb320", 80), ("face_yunet_n", 100)]
)
def test_real_models_lose_no_work(name, count):
    """Every node of a real model is in one kernel at most, and all its MACs are there."""
    model = Simplify()(Model.load(SHARED / "models" / f"{name}.onnx")).model
    shapes = {"input": (1, 3, 320, 320)} if name == "face_yunet_n" else {}
    fixed = with_input_shapes(model, shapes)
    found = works(fixed, "int8")
    assert len(found) <= count
    assert sum(prod(w.macs.extents) for _, w in found if w.macs) == cost(model, shapes).macs
    inside = [id(node) for kernel, _ in found for node in kernel.nodes]
    assert len(set(inside)) == len(inside)
    convs = [k for k, _ in found if k.contracts]
    assert len(convs) == sum(n.op in ("Conv", "Gemm", "MatMul") for n in model.graph.nodes)
