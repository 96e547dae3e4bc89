"""Rules 1 and 5 to 8: what int8 flows through, what shares a scale, what stays in float."""

from __future__ import annotations

import pytest

GOOD = 25.0
P = "pads=[1,1,1,1]"
POOL = "kernel_shape=[5,5], pads=[2,2,2,2]"
CONSTANTS = """
halves = Constant<value_ints=[16,16]>()
zero = Constant<value_ints=[0]>()
mid = Constant<value_ints=[16]>()
end = Constant<value_ints=[32]>()
one = Constant<value_ints=[1]>()
twice = Constant<value_floats=[1.0,1.0,2.0,2.0]>()
"""

CASES = {
    # Rule 5.
    "SiLU, HardSwish and Mish are inside": (
        f"""
        a = Conv<{P}>(x, w0)
        as = Sigmoid(a)
        am = Mul(a, as)
        b = Conv<{P}>(am, w1)
        bs = HardSigmoid(b)
        bm = Mul(bs, b)
        c = Conv<{P}>(bm, w2)
        cs = Softplus(c)
        ct = Tanh(cs)
        cm = Mul(c, ct)
        d = Conv(cm, v0)
        e = HardSwish(d)
        y = Conv(e, v1)
        """,
        {"a:0", "b:0", "c:0", "d:0", "y:0"},
    ),
    "squeeze and excite stays float, as its map does": (
        f"""
        a = Conv<{P}>(x, w0)
        r = HardSwish(a)
        g = GlobalAveragePool(r)
        c = Conv(g, n0)
        d = Relu(c)
        e = Conv(d, n1)
        s = HardSigmoid(e)
        m = Mul(r, s)
        y = Conv(m, v1)
        """,
        {"a:0", "c:0", "e:0", "y:0"},
    ),
    # Rule 6: MaxPool before Q, not behind it.
    "max pool before the quantizer": (
        f"""
        a = Conv<{P}>(x, w0)
        r = Relu(a)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        y = Conv(m, v0)
        """,
        {"a:0", "y:0"},
    ),
    "pixel shuffle": (
        f"""
        a = Conv<{P}>(x, w0)
        u = DepthToSpace<blocksize=2, mode="CRD">(a)
        y = Conv<{P}>(u, u0)
        """,
        {"a:0", "y:0"},
    ),
    "channel shuffle": (
        f"""
        to = Constant<value_ints=[0,2,16,8,8]>()
        back = Constant<value_ints=[0,32,8,8]>()
        a = Conv<{P}, group=2>(x, s0)
        r = Reshape(a, to)
        t = Transpose<perm=[0,2,1,3,4]>(r)
        u = Reshape(t, back)
        y = Conv<{P}, group=2>(u, s0)
        """,
        {"a:0", "y:0"},
    ),
    "slices of channels": (
        f"""
        a = Conv<{P}>(x, w0)
        l = Slice(a, zero, mid, one)
        h = Slice(a, mid, end, one)
        b = Conv<{P}>(l, h0)
        c = Conv<{P}>(h, h0)
        d = Concat<axis=1>(c, b)
        y = Conv(d, v0)
        """,
        {"a:0", "b:0", "c:0", "y:0"},
    ),
    "pool, flatten, classifier": (
        f"""
        a = Conv<{P}>(x, w0)
        g = GlobalAveragePool(a)
        f = Flatten(g)
        y = Gemm<transB=1>(f, m0, bias)
        """,
        {"a:0", "g:0", "y:0"},
    ),
    "the mean of torch is no pool and stays float": (
        f"""
        a = Conv<{P}>(x, w0)
        f = ReduceMean<axes=[2,3], keepdims=0>(a)
        y = Gemm(f, m0, bias)
        """,
        {"a:0", "y:0"},
    ),
    # Rule 7, in the shapes of real networks.
    "DenseNet": (
        f"""
        a = Conv<{P}>(x, w0)
        b = Relu(a)
        c = Conv<{P}>(b, w1)
        d = Concat<axis=1>(a, c)
        e = Relu(d)
        y = Conv(e, d0)
        """,
        {"a:0", "c:0", "y:0"},
    ),
    "Inception": (
        f"""
        s = Conv<{P}>(x, w0)
        r = Relu(s)
        a = Conv(r, v0)
        b = Conv<{P}>(r, w1)
        m = AveragePool<kernel_shape=[3,3], {P}>(r)
        c = Conv(m, v1)
        d = Concat<axis=1>(a, b, c)
        e = Relu(d)
        y = Conv(e, t0)
        """,
        {"s:0", "a:0", "b:0", "m:0", "c:0", "y:0"},
    ),
    "SPPF of YOLO": (
        f"""
        a = Conv(x, v0)
        p = MaxPool<{POOL}>(a)
        q = MaxPool<{POOL}>(p)
        d = Concat<axis=1>(a, p, q)
        y = Conv(d, t0)
        """,
        {"a:0", "y:0"},
    ),
    "C2f of YOLO": (
        f"""
        a = Conv(x, v0)
        s, t = Split<axis=1>(a, halves)
        b = Conv<{P}>(t, h0)
        c = Conv<{P}>(b, h1)
        r = Add(t, c)
        d = Concat<axis=1>(s, t, r)
        y = Conv(d, c0)
        """,
        {"a:0", "b:0", "c:0", "r:0", "y:0"},
    ),
    "U-Net": (
        f"""
        a = Conv<{P}>(x, w0)
        r = Relu(a)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        b = Conv<{P}>(m, w1)
        k = Relu(b)
        u = ConvTranspose<strides=[2,2]>(k, t2)
        d = Concat<axis=1>(r, u)
        y = Conv<{P}>(d, w3)
        """,
        {"a:0", "b:0", "u:0", "y:0"},
    ),
    "FPN": (
        f"""
        a = Conv<{P}>(x, w0)
        b = Conv<{P}, strides=[2,2]>(a, w1)
        l = Conv(a, v0)
        t = Conv(b, v1)
        u = Resize<mode="nearest">(t, , twice)
        s = Add(l, u)
        y = Conv<{P}>(s, w2)
        z = Conv<{P}>(t, w2)
        """,
        {"a:0", "b:0", "l:0", "t:0", "u:0", "s:1", "y:0", "z:0"},
    ),
    # Rule 8: they stay in float, and what they feed is quantized at the head.
    "normalization, softmax, gather": (
        f"""
        a = Conv<{P}>(x, w0)
        n = InstanceNormalization(a, gain, bias)
        b = Conv(n, v0)
        s = Softmax<axis=1>(b)
        i = Gather<axis=1>(s, order)
        y = Conv(i, h0)
        """,
        {"a:0", "b:0", "y:0"},
    ),
}
SHAPES = (
    {f"w{i}": (32, 32, 3, 3) for i in range(3)}
    | {f"v{i}": (32, 32, 1, 1) for i in range(2)}
    | {f"h{i}": (16, 16, 3, 3) for i in range(2)}
    | {"n0": (16, 32, 1, 1), "n1": (32, 16, 1, 1), "u0": (16, 8, 3, 3), "s0": (32, 16, 3, 3)}
    | {"m0": (32, 32), "bias": (32,), "gain": (32,), "d0": (32, 64, 1, 1), "t0": (32, 96, 1, 1)}
    | {"c0": (32, 48, 1, 1), "t2": (32, 32, 2, 2), "w3": (32, 64, 3, 3)}
)


def draw(net, body):
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    outputs = "float[A,B,C,D] y" if "Gemm" not in body else "float[N,32] y"
    if "z" in words:
        outputs += ", float[I,J,K,L] z"
    order = "order = Constant<value_ints=[3,1,0,2,5,4,7,6,9,8,11,10,13,12,15,14]>()"
    text = f"net (float[N,32,8,8] x) => ({outputs}) {{ {CONSTANTS} {order} {body} }}"
    return net(text, {name: shape for name, shape in SHAPES.items() if name in words})


@pytest.mark.parametrize("name", CASES)
def test_edges(net, tensorrt, rtx_build, name):
    body, expected = CASES[name]
    graph = draw(net, body)
    made = tensorrt(graph)
    assert {f"{node}:{index}" for node, index in made.reads_int8()} == expected
    assert min(made.sqnr.values()) > GOOD
    rtx_build(made.model, graph.feeds(1)[0])


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("slices of channels", ["l", "h"]),
        ("C2f of YOLO", ["t", "d"]),
        ("U-Net", ["m", "d"]),
        ("FPN", ["t", "u"]),
    ],
)
def test_what_must_agree_agrees(net, tensorrt, name, same):
    made = tensorrt(draw(net, CASES[name][0]))
    assert len({made.scale_of(tensor) for tensor in same}) == 1


def test_the_two_sides_of_a_resize_agree_though_interpolation_narrows(net, tensorrt, table_of):
    graph = draw(net, CASES["FPN"][0].replace('mode="nearest"', 'mode="linear"'))
    table = table_of(graph.model(), graph.feeds())
    assert table.ranges["u"].amax < table.ranges["t"].amax
    made = tensorrt(graph)
    assert made.scale_of("u") == made.scale_of("t")
    assert min(made.sqnr.values()) > GOOD


def test_concats_that_follow_each_other_share_one_scale(net, tensorrt, table_of):
    graph = draw(
        net,
        f"""
        five = Constant<value_float=5.0>()
        a = Conv<{P}>(x, w0)
        b = Mul(a, five)
        i = Concat<axis=1>(a, b)
        o = Concat<axis=1>(i, x)
        z = Conv(a, v0)
        y = Conv(o, t0)
        """,
    )
    made = tensorrt(graph)
    table = table_of(graph.model(), graph.feeds())
    widest = table.ranges["o"].amax / 127
    assert made.scale_of("a") == made.scale_of("x") == made.scale_of("o")
    assert made.scale_of("o") == pytest.approx(widest)


def test_a_concat_left_out_splits_the_scales(net, tensorrt):
    graph = draw(
        net,
        f"""
        five = Constant<value_float=5.0>()
        a = Conv<{P}>(x, w0)
        b = Mul(a, five)
        d = Concat<axis=1>(a, b)
        z = Conv(a, v0)
        y = Conv(d, d0)
        """,
    )
    together, apart = tensorrt(graph), tensorrt(graph, exclude=("d",))
    assert together.scale_of("a") == together.scale_of("d")
    assert apart.scale_of("a") < apart.scale_of("d") / 3


def test_a_graph_output_that_is_read_inside_is_float_outside_and_int8_inside(net, tensorrt):
    graph = net(
        f"""net (float[N,32,8,8] x) => (float[N,32,8,8] a, float[N,32,8,8] m, float[N,32,8,8] y) {{
        a = Conv<{P}>(x, w0)
        m = MaxPool<kernel_shape=[3,3], {P}>(a)
        b = Conv<{P}>(m, w1)
        d = Add(b, a)
        y = Conv(d, v0)
        }}""",
        {name: SHAPES[name] for name in ("w0", "w1", "v0")},
    )
    made = tensorrt(graph)
    assert {f"{node}:{index}" for node, index in made.reads_int8()} == {"a:0", "b:0", "d:1", "y:0"}
    writers = [output.inputs[0].op for output in made.model.graph.outputs]
    assert writers == ["Conv", "MaxPool", "Conv"]
