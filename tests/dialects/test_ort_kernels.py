"""Small graphs for each rule of the onnxruntime dialect that rewrites a node for its kernel.

Every model is also run with ONNX Runtime's optimizations off, where Q and DQ compute what they
say: the integer kernels must agree with that.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import run, sqnr

from graphopt.dialects.codes import WeightCodes
from graphopt.dialects.ort_moves import plain_moves
from graphopt.passes.insert_qdq import InsertQDQ

GOOD = 28.0  # dB
SAME = 33.0  # dB: integer kernels round once where Q and DQ round twice
C3 = (32, 32, 3, 3)


def agrees(graph, made, least: float = SAME) -> bool:
    """Whether the integer kernels compute what the Q and DQ say."""
    for feed in graph.feeds():
        integer, said = run(made.model, feed, optimize=True), run(made.model, feed)
        if any(sqnr(a, b) < least for a, b in zip(said, integer, strict=True)):
            return False
    return True


@pytest.mark.parametrize("relu", ["Relu(t)", "Clip(t, lo, hi)", "Identity(t)"])
@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ("strides=[2,2]", (32, 24, 2, 2)),
        ("strides=[2,2], pads=[1,1,1,1]", (32, 24, 4, 4)),
        ("strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]", (32, 24, 3, 3)),
        ("strides=[1,2], pads=[1,0,1,0]", (32, 24, 3, 2)),
        ("pads=[1,1,1,1]", (32, 24, 3, 3)),
    ],
)
def test_convtranspose_in_integers(net, onnxruntime, attributes, shape, relu):
    text = f"""
    net (float[N,32,6,7] x) => (float[N,32,H,W] y) {{
        lo = Constant<value_float=0.0>()
        hi = Constant<value_float=1.5>()
        a = Conv<pads=[1,1,1,1]>(x, w1)
        t = ConvTranspose<{attributes}>(a, w2, b2)
        r = {relu}
        y = Conv<pads=[1,1,1,1]>(r, w3)
    }}
    """
    if "Identity" in relu:
        text = text.replace("r = Identity(t)", "").replace("(r, w3)", "(t, w3)")
    graph = net(text, {"w1": C3, "w2": shape, "b2": (24,), "w3": (32, 24, 3, 3)})
    made = onnxruntime(graph)
    assert made.ort["QLinearConv"] == 3
    assert not {"ConvTranspose", "Relu", "Clip", "DepthToSpace"} & set(made.ort)
    assert made.ort["DequantizeLinear"] == made.ort["QuantizeLinear"] == 1
    assert "t" in made.quantized
    assert made.sqnr["y"] > GOOD
    assert agrees(graph, made)


def test_a_convtranspose_that_writes_the_output_keeps_its_name(net, onnxruntime):
    text = """
    net (float[N,32,6,6] x) => (float[N,16,12,12] t, float[N,32,6,6] a) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        t = ConvTranspose<strides=[2,2]>(a, w2)
    }
    """
    graph = net(text, {"w1": C3, "w2": (32, 16, 2, 2)})
    made = onnxruntime(graph)
    assert made.ort["QLinearConv"] == 2
    assert made.sqnr["t"] > GOOD
    assert agrees(graph, made)


def test_chosen_codes_of_a_convtranspose_are_spread_like_its_weight(net, table_of):
    text = """
    net (float[1,32,6,6] x) => (float[1,16,12,12] t) {
        t = ConvTranspose<strides=[2,2]>(x, w)
    }
    """
    graph = net(text, {"w": (32, 16, 2, 2)})
    model = graph.model()
    codes = np.random.default_rng(0).integers(-127, 127, (32, 16, 2, 2)).astype(np.int8)
    chosen = WeightCodes(codes, np.full(16, 0.01, np.float32))
    made = InsertQDQ("onnxruntime", table_of(model, graph.feeds()), codes={"t": chosen})(model)
    weight = made.model.graph.tensors()["w_quantized"].values
    expected = codes.transpose(2, 3, 1, 0).reshape(64, 32, 1, 1)
    np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("mode", [
    'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"',
    'mode="nearest"',
    'mode="nearest", coordinate_transformation_mode="asymmetric"',
    'mode="nearest", coordinate_transformation_mode="pytorch_half_pixel", nearest_mode="floor"',
    'mode="nearest", coordinate_transformation_mode="half_pixel", nearest_mode="ceil"',
    'mode="nearest", coordinate_transformation_mode="align_corners"',
])  # fmt: skip
@pytest.mark.parametrize("factors", ["2.0,2.0", "1.0,3.0", "4.0,4.0", "2.5,2.5"])
def test_nearest_resize(net, onnxruntime, mode, factors):
    text = f"""
    net (float[N,32,6,8] x) => (float[N,32,H,W] y) {{
        scales = Constant<value_floats=[1.0,1.0,{factors}]>()
        a = Conv<pads=[1,1,1,1]>(x, w1)
        m = Resize<{mode}>(a, , scales)
        y = Conv<pads=[1,1,1,1]>(m, w2)
    }}
    """
    graph = net(text, {"w1": C3, "w2": C3})
    made = onnxruntime(graph)
    assert made.ort["QLinearConv"] == 2
    assert made.ort["DequantizeLinear"] == 1
    assert made.sqnr["y"] > GOOD
    assert agrees(graph, made)
    if "2.5" in factors:
        assert "Resize" in made.ort


def test_which_nearest_resizes_are_copies(net):
    text = """
    net (float[N,32,6,8] x) => (float[N,64,12,16] y) {
        twice = Constant<value_floats=[1.0,1.0,2.0,2.0]>()
        a = Conv<pads=[1,1,1,1]>(x, w1)
        b = Conv<pads=[1,1,1,1]>(x, w2)
        m = Resize<mode="nearest", nearest_mode="floor">(a, , twice)
        n = Resize<mode="nearest">(b, , twice)
        y = Concat<axis=1>(m, n)
    }
    """
    model = net(text, {"w1": C3, "w2": C3}).model()
    nodes = {node.name: node for node in model.graph.nodes}
    assert plain_moves(nodes["n"]) is not None
    assert plain_moves(nodes["m"]) is None  # half_pixel and floor shift by one


def test_zero_pad_and_image_mean_in_integers(net, onnxruntime):
    """As ResNets for CIFAR have them: shortcuts filled up with channels, mean over the image."""
    text = """
    net (float[N,32,8,8] x) => (float[N,10] y) {
        pads = Constant<value_ints=[0,8,0,0,0,8,0,0]>()
        starts = Constant<value_ints=[0,0]>()
        ends = Constant<value_ints=[8,8]>()
        axes = Constant<value_ints=[2,3]>()
        steps = Constant<value_ints=[2,2]>()
        a = Conv<pads=[1,1,1,1]>(x, w1)
        r = Relu(a)
        b = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w2)
        s = Slice(r, starts, ends, axes, steps)
        p = Pad(s, pads)
        d = Add(b, p)
        e = Relu(d)
        m = ReduceMean<axes=[-1,2], keepdims=0>(e)
        y = Gemm<transB=1>(m, w3, b3)
    }
    """
    weights = {"w1": C3, "w2": (48, 32, 3, 3), "w3": (10, 48), "b3": (10,)}
    graph = net(text, weights)
    made = onnxruntime(graph)
    assert made.ort["QuantizeLinear"] == 1
    assert "DequantizeLinear" not in made.ort
    assert made.ort["QLinearGlobalAveragePool"] == made.ort["QLinearAdd"] == made.ort["QGemm"] == 1
    assert made.sqnr["y"] > GOOD
    assert agrees(graph, made)


@pytest.mark.parametrize(
    "pad", ['Pad<mode="reflect">(a, pads)', "Pad(a, pads, one)", "Pad(a, negative)"]
)
def test_other_pads_stay_float(net, onnxruntime, pad):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,H,W] y) {{
        pads = Constant<value_ints=[0,0,1,1,0,0,1,1]>()
        negative = Constant<value_ints=[0,0,1,1,0,0,-1,1]>()
        one = Constant<value_float=1.0>()
        a = Conv<pads=[1,1,1,1]>(x, w1)
        p = {pad}
        y = Conv(p, w2)
    }}
    """
    made = onnxruntime(net(text, {"w1": C3, "w2": C3}))
    assert made.quantized == {"a", "y"}
    assert made.ort["Pad"] == 1
    assert made.sqnr["y"] > GOOD


def test_dense_block_with_batchnorm_behind_concat(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        b = Conv<pads=[1,1,1,1]>(a, w2)
        c = Concat<axis=1>(a, b)
        n = BatchNormalization(c, gamma, beta, mean, variance)
        r = Relu(n)
        y = Conv<pads=[1,1,1,1]>(r, w3)
    }
    """
    vectors = dict.fromkeys(("gamma", "beta", "mean", "variance"), (64,))
    graph = net(text, {"w1": C3, "w2": C3, "w3": (32, 64, 3, 3), **vectors})
    model = graph.model()
    tensors = model.graph.tensors()
    for name in ("gamma", "variance"):
        tensors[name].values = np.abs(tensors[name].values) + np.float32(0.5)
    from graphopt.dialects.ort_batchnorm import affine_heads

    assert len(affine_heads(model.graph, frozenset())) == 1
    assert affine_heads(model.graph, frozenset({"n"})) == []
    proto = model.to_onnx()
    made = onnxruntime(Ready(proto, graph))
    assert made.ort["QLinearConv"] == 4
    assert not {"BatchNormalization", "Relu", "Concat"} & set(made.ort)
    assert made.sqnr["y"] > GOOD
    assert agrees(graph, made)


class Ready:
    """A net whose weights were changed."""

    def __init__(self, proto, graph):
        self._proto, self.feeds = proto, graph.feeds

    def model(self):
        from graphopt.model import Model

        return Model.from_onnx(onnx.ModelProto.FromString(self._proto.SerializeToString()))


def test_a_batchnorm_beside_float_stays(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        n = BatchNormalization(x, gamma, beta, mean, gamma2)
        e = Exp(n)
        y = Conv<pads=[1,1,1,1]>(e, w)
    }
    """
    vectors = dict.fromkeys(("gamma", "beta", "mean", "gamma2"), (32,))
    graph = net(text, {"w": C3, **vectors})
    model = graph.model()
    model.graph.tensors()["gamma2"].values = np.ones(32, np.float32)
    made = onnxruntime(Ready(model.to_onnx(), graph))
    assert made.quantized == {"y"}
    assert made.ort["QLinearConv"] == 1


@pytest.mark.parametrize("bias", ["Add(a, b1)", "Add(b1, a)"])
@pytest.mark.parametrize("rank", ["N,7,32", "N,32", "2,7,32", "2,3,N,32"])
def test_linear_layers_of_transformers(net, onnxruntime, bias, rank):
    """MatMul and Add become one Gemm before ONNX Runtime looks for integer kernels."""
    text = f"""
    net (float[{rank}] x) => (float[{rank.replace("32", "24")}] y) {{
        a = MatMul(x, w1)
        c = {bias}
        e = Erf(c)
        g = Mul(c, e)
        h = MatMul(g, w2)
        y = Add(h, b2)
    }}
    """
    weights = {"w1": (32, 48), "b1": (48,), "w2": (48, 24), "b2": (24,)}
    graph = net(text, weights)
    made = onnxruntime(graph)
    assert made.ort["QGemm"] == 2
    assert not {"MatMul", "Gemm", "DequantizeLinear", "QLinearMul"} & set(made.ort), made.ort
    assert made.sqnr["y"] > GOOD
    assert agrees(graph, made)


def test_mlp_with_relu_is_integers_throughout(net, onnxruntime):
    text = """
    net (float[N,7,32] x) => (float[N,7,24] y) {
        a = MatMul(x, w1)
        c = Add(a, b1)
        r = Relu(c)
        h = MatMul(r, w2)
        y = Add(h, b2)
    }
    """
    graph = net(text, {"w1": (32, 48), "b1": (1, 48), "w2": (48, 24), "b2": (24,)})
    made = onnxruntime(graph)
    assert made.ort["QGemm"] == 2
    assert not {"Relu", "DequantizeLinear", "Add"} & set(made.ort), made.ort
    assert made.sqnr["y"] > GOOD
    assert agrees(graph, made)


@pytest.mark.parametrize(
    ("add", "shape"),
    [
        ("Add(a, b1)", (7, 48)),
        ("Add(a, b1)", (1, 1, 1, 48)),
        ("Add(a, b1)", (1,)),
        ("Add(a, a)", (1,)),
    ],
)
def test_other_additions_behind_a_matmul_stay_float(net, onnxruntime, add, shape):
    text = f"""
    net (float[N,7,32] x) => (float c) {{
        a = MatMul(x, w1)
        c = {add}
    }}
    """.replace("float c", "float[K,N,7,48] c" if len(shape) == 4 else "float[N,7,48] c")
    graph = net(text, {"w1": (32, 48), "b1": shape})
    made = onnxruntime(graph)
    assert made.ort["MatMulIntegerToFloat"] == 1
    assert made.sqnr["c"] > GOOD


def test_an_excluded_bias_addition_stays_float(net, onnxruntime):
    text = "net (float[N,32] x) => (float[N,48] c) { a = MatMul(x, w1) \n c = Add(a, b1) }"
    made = onnxruntime(net(text, {"w1": (32, 48), "b1": (48,)}), exclude=("c",))
    assert made.quantized == {"a"}
    assert "c_bias_quantized" not in made.model.graph.tensors()


def test_attention_stays_float_between_integer_projections(net, onnxruntime):
    text = """
    net (float[N,7,32] x) => (float[N,7,32] y) {
        four = Constant<value_ints=[0,7,4,8]>()
        three = Constant<value_ints=[0,7,32]>()
        qm = MatMul(x, wq) \n qb = Add(qm, b) \n qr = Reshape(qb, four)
        q = Transpose<perm=[0,2,1,3]>(qr)
        km = MatMul(x, wk) \n kr = Reshape(km, four) \n k = Transpose<perm=[0,2,3,1]>(kr)
        s = MatMul(q, k) \n p = Softmax(s)
        o = MatMul(p, q) \n ot = Transpose<perm=[0,2,1,3]>(o) \n r = Reshape(ot, three)
        m = MatMul(r, wo) \n y = Add(x, m)
    }
    """
    graph = net(text, {"wq": (32, 32), "wk": (32, 32), "wo": (32, 32), "b": (32,)})
    made = onnxruntime(graph)
    assert made.quantized == {"qm", "km", "m"}
    assert made.pairs() == 2  # x and r: neither q nor k is quantized for the moves behind them
    assert made.sqnr["y"] > GOOD
    assert agrees(graph, made)


def test_hard_activations_keep_the_layout(net, onnxruntime):
    """MobileNet v3: float activations, but pool and Mul of squeeze-and-excite on integers."""
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        h = HardSwish(a)
        g = GlobalAveragePool(h)
        c = Conv(g, w2)
        r = Relu(c)
        d = Conv(r, w3)
        s = HardSigmoid(d)
        m = Mul(h, s)
        y = Conv<pads=[1,1,1,1]>(m, w4)
    }
    """
    weights = {"w1": C3, "w2": (16, 32, 1, 1), "w3": (32, 16, 1, 1), "w4": C3}
    graph = net(text, weights)
    made = onnxruntime(graph)
    assert made.ort["QLinearMul"] == made.ort["QLinearGlobalAveragePool"] == 1
    assert made.ort["Transpose"] == 2
    assert made.sqnr["y"] > GOOD
    assert agrees(graph, made)


@pytest.mark.parametrize("size", ["64,64", "H,W"])
def test_stem(net, onnxruntime, size):
    text = f"""
    net (float[N,3,{size}] x) => (float[N,32,H2,W2] y) {{
        a = Conv<pads=[3,3,3,3], strides=[2,2]>(x, w1, b1)
        r = Relu(a)
        y = Conv(r, w2)
    }}
    """
    weights = {"w1": (32, 3, 7, 7), "b1": (32,), "w2": (32, 32, 1, 1)}
    graph = net(text, weights, sizes={"H": 62, "W": 65})
    made = onnxruntime(graph)
    assert made.ort.get("SpaceToDepth" if "64" in size else "Pad") == 1
    assert made.ort["QLinearConv"] == 2
    assert made.ort["QuantizeLinear"] == 1
    assert made.sqnr["y"] > GOOD
    assert agrees(graph, made)


def test_an_input_that_others_read_too(net, onnxruntime):
    text = """
    net (float[N,3,64,64] x) => (float[N,32,32,32] y, float[N,32,32,32] z, float[N,3,64,64] e) {
        a = Conv<pads=[3,3,3,3], strides=[2,2]>(x, w1)
        r = Relu(a)
        y = Conv(r, w2)
        z = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w3)
        e = Exp(x)
    }
    """
    weights = {"w1": (32, 3, 7, 7), "w2": (32, 32, 1, 1), "w3": (32, 3, 3, 3)}
    graph = net(text, weights)
    made = onnxruntime(graph)
    assert made.ort["SpaceToDepth"] == made.ort["Pad"] == made.ort["Exp"] == 1
    assert made.ort["QLinearConv"] == 3
    assert min(made.sqnr.values()) > GOOD
    assert made.sqnr["e"] > 200
    assert agrees(graph, made)


def test_odd_channels_are_filled_up_and_cut_off(net, onnxruntime):
    text = """
    net (float[N,13,8,8] x) => (float[N,21,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        b = Relu(a)
        c = Conv<pads=[1,1,1,1]>(b, w2, b2)
        d = Add(c, b)
        y = Relu(d)
    }
    """
    weights = {"w1": (21, 13, 3, 3), "b1": (21,), "w2": (21, 21, 3, 3), "b2": (21,)}
    graph = net(text, weights)
    made = onnxruntime(graph)
    shapes = {
        name: tensor.values.shape
        for name, tensor in made.model.graph.tensors().items()
        if name.endswith("_quantized") and hasattr(tensor, "values") and "bias" not in name
    }
    assert shapes == {"w1_quantized": (24, 16, 3, 3), "w2_quantized": (24, 24, 3, 3)}
    assert made.sqnr["y"] > GOOD
    assert agrees(graph, made)
