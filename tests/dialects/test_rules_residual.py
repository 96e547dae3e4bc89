"""Rule 4, residual Adds: which input carries Q/DQ, in the forms that exporters write."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.dialects.partition import is_copy
from graphopt.model import Model

GOOD = 25.0
P = "pads=[1,1,1,1]"
W3, W1 = (32, 32, 3, 3), (32, 32, 1, 1)

CASES = {
    # The block of ResNet: the Conv joins the Add, what it is added to is quantized.
    "identity shortcut": (
        f"""
        s = Conv<{P}>(x, w0)
        r = Relu(s)
        a = Conv<{P}>(r, w1)
        b = Relu(a)
        c = Conv<{P}>(b, w2)
        d = Add(c, r)
        e = Relu(d)
        y = Conv(e, v0)
        """,
        {"s:0", "a:0", "c:0", "d:1", "y:0"},
    ),
    # ResNet-D: the pool of the shortcut runs in int8 too.
    "average pool and projection": (
        f"""
        s = Conv<{P}>(x, w0)
        r = Relu(s)
        v = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r)
        p = Conv(v, v0)
        a = Conv<{P}, strides=[2,2]>(r, w1)
        b = Relu(a)
        c = Conv<{P}>(b, w2)
        d = Add(p, c)
        y = Conv(d, v1)
        """,
        {"s:0", "v:0", "p:0", "a:0", "c:0", "d:0", "y:0"},
    ),
    # Only the Conv can join; the pool's output has the scale of its input.
    "max pool shortcut": (
        f"""
        s = Conv<{P}>(x, w0)
        r = Relu(s)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        c = Conv<{P}, strides=[2,2]>(r, w1)
        d = Add(c, m)
        y = Conv(d, v0)
        """,
        {"s:0", "c:0", "d:1", "y:0"},
    ),
    # What training left behind changes nothing.
    "identity and dropout": (
        f"""
        ratio = Constant<value_float=0.5>()
        s = Conv<{P}>(x, w0)
        r = Relu(s)
        c = Conv<{P}>(r, w1)
        i = Identity(c)
        o = Dropout(i, ratio)
        d = Add(o, r)
        y = Conv(d, v0)
        """,
        {"s:0", "c:0", "d:1", "y:0"},
    ),
    # MobileNetV2: no activation behind the projection.
    "inverted residual": (
        f"""
        zero = Constant<value_float=0.0>()
        six = Constant<value_float=6.0>()
        s = Conv<{P}>(x, w0)
        a = Conv(s, v0)
        b = Clip(a, zero, six)
        e = Conv<{P}, group=32>(b, g0)
        f = Clip(e, zero, six)
        c = Conv(f, v1)
        d = Add(s, c)
        y = Conv(d, v2)
        """,
        {"s:0", "a:0", "e:0", "c:0", "d:0", "y:0"},
    ),
    # EfficientNetV2, ConvNeXt with a Conv: a constant scale on the branch is inside.
    "layer scale": (
        f"""
        s = Conv<{P}>(x, w0)
        c = Conv<{P}>(s, w1)
        m = Mul(c, gamma)
        d = Add(s, m)
        y = Conv(d, v0)
        """,
        {"s:0", "c:0", "d:0", "y:0"},
    ),
    # RepVGG before it is folded: one Conv takes the second, the third takes both.
    "three branches": (
        f"""
        a = Conv<{P}>(x, w0)
        b = Conv(x, v0)
        c = Conv<{P}>(x, w1)
        d = Add(a, b)
        e = Add(d, c)
        y = Conv(e, v1)
        """,
        {"a:0", "b:0", "c:0", "d:0", "e:0", "y:0"},
    ),
    # Pre-activation: the Add is read by the next Add and by the next Relu.
    "pre-activation": (
        f"""
        s = Conv<{P}>(x, w0)
        r = Relu(s)
        c = Conv<{P}>(r, w1)
        d = Add(c, s)
        q = Relu(d)
        e = Conv<{P}>(q, w2)
        f = Add(e, d)
        y = Conv(f, v0)
        """,
        {"s:0", "c:0", "d:1", "e:0", "f:1", "y:0"},
    ),
    # SE-ResNet with a projection: the gated branch is no Conv, so the projection takes it.
    "gated branch and projection": (
        f"""
        c = Conv<{P}>(x, w0)
        g = GlobalAveragePool(c)
        h = Conv(g, v0)
        k = Sigmoid(h)
        m = Mul(c, k)
        p = Conv(x, v1)
        d = Add(m, p)
        y = Conv(d, v2)
        """,
        {"c:0", "h:0", "p:0", "d:0", "y:0"},
    ),
    # Residual stream of a transformer: a MatMul adds to it, and it stays as it is.
    "matrix product": (
        """
        f = Transpose<perm=[0,2,3,1]>(x)
        n = LayerNormalization(f, gain)
        a = MatMul(n, m0)
        b = Add(bias, a)
        d = Add(f, b)
        o = LayerNormalization(d, gain)
        y = MatMul(o, m1)
        """,
        {"a:0", "y:0"},
    ),
    # CoAtNet: a Conv joins whatever it is added to, a stream of MatMul too.
    "conv onto a stream": (
        f"""
        f = Transpose<perm=[0,2,3,1]>(x)
        a = MatMul(f, m0)
        t = Transpose<perm=[0,3,1,2]>(a)
        c = Conv<{P}>(t, w0)
        d = Add(t, c)
        y = Conv(d, v0)
        """,
        {"a:0", "c:0", "d:0", "y:0"},
    ),
}
WEIGHTS = (
    {f"w{i}": W3 for i in range(3)}
    | {f"v{i}": W1 for i in range(3)}
    | {f"m{i}": (32, 32) for i in range(2)}
    | {"g0": (32, 1, 3, 3), "gamma": (32, 1, 1), "gain": (32,), "bias": (32,)}
)


def edges(made) -> set[str]:
    return {f"{node}:{index}" for node, index in made.reads_int8()}


def draw(net, body, outputs="float[N,32,H,W] y"):
    used = {name: shape for name, shape in WEIGHTS.items() if f"{name}" in body}
    return net(f"net (float[N,32,8,8] x) => ({outputs}) {{ {body} }}", used)


@pytest.mark.parametrize("name", CASES)
def test_edges(net, tensorrt, rtx_build, name):
    body, expected = CASES[name]
    graph = draw(net, body, "float[A,B,C,D] y")
    made = tensorrt(graph)
    assert edges(made) == expected
    assert made.sqnr["y"] > GOOD
    rtx_build(made.model, graph.feeds(1)[0])


def test_the_shortcut_behind_a_pool_has_the_scale_before_it(net, tensorrt):
    made = tensorrt(draw(net, CASES["max pool shortcut"][0]))
    assert made.scale_of("m") == made.scale_of("r")


def test_a_value_read_inside_the_partition_keeps_the_kernel_from_taking_the_add(net, tensorrt):
    body = f"""
    s = Conv<{P}>(x, w0)
    a = Conv<{P}>(s, w1)
    b = Relu(a)
    d = Add(b, s)
    y = Conv(d, v0)
    """
    alone = tensorrt(draw(net, body))
    assert edges(alone) == {"s:0", "a:0", "d:1", "y:0"}
    for text, outputs in (
        (body, "float[N,32,8,8] y, float[N,32,8,8] a"),
        (body + "z = Softmax(a)", "float[N,32,8,8] y, float[N,32,8,8] z"),
    ):
        shared = tensorrt(draw(net, text, outputs))
        # Everyone reads the sum's inputs in int8 but for the Add itself: it runs in int8 alone.
        assert edges(shared) == {"s:0", "a:0", "d:0", "d:1", "y:0"}


def test_silu_reads_its_conv_twice_and_still_joins(net, tensorrt):
    made = tensorrt(
        draw(
            net,
            f"""
            s = Conv<{P}>(x, w0)
            a = Conv<{P}>(s, w1)
            k = Sigmoid(a)
            m = Mul(k, a)
            d = Add(s, m)
            y = Conv(d, v0)
            """,
        )
    )
    assert edges(made) == {"s:0", "a:0", "d:0", "y:0"}


def test_an_identity_shortcut_of_a_gated_branch_runs_in_int8_by_itself(net, tensorrt):
    """SE-ResNet: neither the gate's product nor the shortcut, read twice, can take the Add."""
    made = tensorrt(
        draw(
            net,
            f"""
            s = Conv<{P}>(x, w0)
            r = Relu(s)
            c = Conv<{P}>(r, w1)
            g = GlobalAveragePool(c)
            h = Conv(g, v0)
            k = Sigmoid(h)
            m = Mul(c, k)
            d = Add(m, r)
            y = Conv(d, v1)
            """,
        )
    )
    assert edges(made) == {"s:0", "c:0", "h:0", "d:0", "d:1", "y:0"}


@pytest.mark.parametrize(
    ("ratio", "training", "copy"),
    [("ratio", "", True), ("ratio", "no", True), ("ratio", "yes", False), ("", "flag", False)],
)
def test_a_dropout_that_trains_is_no_copy(ratio, training, copy):
    inputs = ["x", ratio, training] if training else ["x", ratio]
    node = onnx.helper.make_node("Dropout", inputs, ["y"])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "net",
        [info("x", 1, [4]), info("flag", onnx.TensorProto.BOOL, [])],
        [info("y", 1, [4])],
        [
            onnx.numpy_helper.from_array(np.float32(0.5), "ratio"),
            onnx.numpy_helper.from_array(np.bool_(False), "no"),
            onnx.numpy_helper.from_array(np.bool_(True), "yes"),
        ],
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = Model.from_onnx(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8))
    assert is_copy(model.graph.nodes[0]) == copy
