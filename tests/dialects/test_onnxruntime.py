"""The onnxruntime dialect, judged by the operators that ONNX Runtime is left with."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.coverage import FLOAT_CONVOLUTIONS
from graphopt.dialects.onnxruntime import OnnxRuntime, saturates

GOOD = 28.0  # dB
C3 = (32, 32, 3, 3)


def integers_only(made, *also: str) -> bool:
    """Whether nothing but integer kernels, data movement and the outermost Q/DQ is left."""
    moves = {"Transpose", "Reshape", "Flatten", "MaxPool", "NhwcMaxPool", "Resize", "Concat"}
    moves |= {"Slice", "Split", "Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"}
    return all(op in moves or "Q" in op or "Integer" in op or op in also for op in made.ort)


def test_conv_relu_chain(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        r = Relu(a)
        y = Conv<pads=[1,1,1,1]>(r, w2)
    }
    """
    made = onnxruntime(net(text, {"w1": C3, "b1": (32,), "w2": C3}))
    assert made.ort["QLinearConv"] == 2
    assert made.ort["QuantizeLinear"] == made.ort["DequantizeLinear"] == 1
    assert "Relu" not in made.ort
    assert made.sqnr["y"] > GOOD
    assert [t.dtype for t in made.model.graph.inputs + made.model.graph.outputs] == [np.float32] * 2


def test_what_is_written(net, onnxruntime):
    text = "net (float[N,32,8,8] x) => (float[N,32,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w, b) }"
    proto = onnxruntime(net(text, {"w": C3, "b": (32,)}, opset=13)).model.to_onnx()
    values = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert values["w_quantized"].dtype == np.int8
    assert values["y_bias_quantized"].dtype == np.int32
    np.testing.assert_array_equal(
        values["y_bias_scale"], (values["w_scale"] * values["x_scale"]).astype(np.float32)
    )
    assert values["x_zero_point"].dtype == np.uint8
    assert "w" not in values
    assert "b" not in values


@pytest.mark.parametrize(
    "activation",
    ["Relu(a)", "Clip(a, lo, hi)", "Clip(a, lo, )", "LeakyRelu<alpha=0.1>(a)", "Sigmoid(a)"],
)
def test_activations_between_convs(net, onnxruntime, activation):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {{
        lo = Constant<value_float=0.0>()
        hi = Constant<value_float=0.7>()
        a = Conv<pads=[1,1,1,1]>(x, w1)
        r = {activation}
        y = Conv<pads=[1,1,1,1]>(r, w2)
    }}
    """
    made = onnxruntime(net(text, {"w1": C3, "w2": C3}))
    assert integers_only(made), made.ort
    assert made.sqnr["y"] > GOOD


@pytest.mark.parametrize("activation", ["HardSwish(a)", "Tanh(a)", "Clip(a, lo, hi)"])
def test_float_activations_leave_the_convs_integer(net, onnxruntime, activation):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {{
        lo = Constant<value_float=-0.5>()
        hi = Constant<value_float=0.7>()
        a = Conv<pads=[1,1,1,1]>(x, w1)
        r = {activation}
        y = Conv<pads=[1,1,1,1]>(r, w2)
    }}
    """
    made = onnxruntime(net(text, {"w1": C3, "w2": C3}))
    assert made.ort["QLinearConv"] == 2
    assert made.sqnr["y"] > GOOD


@pytest.mark.parametrize(
    "clip",
    [
        "r = Clip(x, lo, hi)",
        "r = Clip(x, lo)",
        "r = Clip(x, , hi)",
        "r = Clip(x, below, hi)",
        "r = Clip(x, hi, hi)",
        "p = Relu(x) \n r = Clip(p, below, hi)",
        "p = Clip(x, below, hi) \n r = Relu(p)",
        "p = Clip(x, lo, hi) \n r = MaxPool<kernel_shape=[1,1]>(p)",
        "p = Transpose<perm=[0,1,3,2]>(x) \n r = Clip(p, lo, hi)",
    ],
)
def test_a_clip_of_the_input_loads_everywhere(net, onnxruntime, clip):
    """ONNX Runtime 1.23 fails on a Clip of a graph input that the Q behind it repeats."""
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,6,6] y) {{
        lo = Constant<value_float=0.0>()
        below = Constant<value_float=-1.5>()
        hi = Constant<value_float=2.0>()
        {clip}
        y = Conv(r, w)
    }}
    """
    made = onnxruntime(net(text, {"w": C3}))
    assert made.ort["QLinearConv"] == 1
    assert made.sqnr["y"] > 33


@pytest.mark.parametrize("add", ["Add", "Sum"])
def test_residual_block_is_integers_throughout(net, onnxruntime, add):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,10] y) {{
        s = Conv<pads=[1,1,1,1]>(x, w0)
        t = Relu(s)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t)
        a = Conv<pads=[1,1,1,1]>(m, w1)
        b = Relu(a)
        c = Conv<pads=[1,1,1,1]>(b, w2)
        d = {add}(c, m)
        e = Relu(d)
        g = GlobalAveragePool(e)
        f = Flatten(g)
        y = Gemm<transB=1>(f, w3, b3)
    }}
    """
    made = onnxruntime(net(text, {"w0": C3, "w1": C3, "w2": C3, "w3": (10, 32), "b3": (10,)}))
    assert integers_only(made), made.ort
    assert made.ort["QLinearConv"] == 3
    assert made.ort["QLinearAdd"] == made.ort["QLinearGlobalAveragePool"] == 1
    assert made.ort["QGemm"] == 1
    assert "DequantizeLinear" not in made.ort  # the logits come out of QGemm as float
    assert made.ort["QuantizeLinear"] == 1
    assert made.sqnr["y"] > GOOD


@pytest.mark.parametrize(
    ("gemm", "shape"),
    [
        ("Gemm<transB=1>(x, w, b)", (24, 32)),
        ("Gemm<transB=0>(x, w, b)", (32, 24)),
        ("Gemm<alpha=0.5, beta=3.0>(x, w, b)", (32, 24)),
        ("Gemm(x, w)", (32, 24)),
        ("Gemm<beta=2.0>(x, w, one)", (32, 24)),
    ],
)
def test_gemm_alpha_beta_and_bias_forms(net, onnxruntime, gemm, shape):
    text = f"""
    net (float[N,32] x) => (float[N,24] y) {{
        one = Constant<value_floats=[1.0]>()
        y = {gemm}
    }}
    """
    made = onnxruntime(net(text, {"w": shape, "b": (1, 24)}, sizes={"N": 5}))
    assert made.ort["QGemm"] == 1
    assert made.sqnr["y"] > 35


def test_gemm_with_a_bias_for_each_row_is_left_with_a_reason(net, onnxruntime):
    text = "net (float[5,32] x) => (float[5,24] y) { y = Gemm(x, w, b) }"
    made = onnxruntime(net(text, {"w": (32, 24), "b": (5, 24)}))
    assert "not one value a channel" in made.reason("y")
    assert made.sqnr["y"] > 200


def test_mlp_of_matmuls(net, onnxruntime):
    text = """
    net (float[N,7,32] x) => (float[N,7,24] y) {
        a = MatMul(x, w1)
        r = Relu(a)
        y = MatMul(r, w2)
    }
    """
    made = onnxruntime(net(text, {"w1": (32, 48), "w2": (48, 24)}))
    assert integers_only(made), made.ort
    assert "DequantizeLinear" not in made.ort
    assert made.sqnr["y"] > GOOD


@pytest.mark.parametrize(("left", "right"), [("r", "s"), ("r", "b"), ("a", "b")])
def test_concat_in_integers_whatever_mixes(net, onnxruntime, left, right):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w0)
        b = Conv<pads=[1,1,1,1]>(x, w1)
        r = Relu(a)
        s = Relu(b)
        c = Concat<axis=-3>({left}, {right})
        y = Conv<pads=[1,1,1,1]>(c, w2)
    }}
    """
    made = onnxruntime(net(text, {"w0": C3, "w1": C3, "w2": (32, 64, 3, 3)}))
    assert made.ort["QLinearConv"] == 3
    assert "Relu" not in made.ort
    assert integers_only(made), made.ort
    assert made.sqnr["y"] > GOOD


def test_a_relu_keeps_zero_point_0_beside_a_signed_concat_input(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w0)
        r = Relu(a)
        b = Conv<pads=[1,1,1,1]>(x, w1)
        c = Concat<axis=1>(r, b)
        y = Conv<pads=[1,1,1,1]>(c, w2)
    }
    """
    made = onnxruntime(net(text, {"w0": C3, "w1": C3, "w2": (32, 64, 3, 3)}))
    tensors = made.model.graph.tensors()
    assert tensors["r_zero_point"].values == 0
    assert tensors["c_zero_point"].values > 0
    assert made.ort["QLinearConcat"] == 1


def test_squeeze_excite(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w0)
        r = Relu(a)
        g = GlobalAveragePool(r)
        c = Conv(g, w1)
        d = Relu(c)
        e = Conv(d, w2)
        s = Sigmoid(e)
        m = Mul(r, s)
        y = Conv<pads=[1,1,1,1]>(m, w3)
    }
    """
    weights = {"w0": C3, "w1": (16, 32, 1, 1), "w2": (32, 16, 1, 1), "w3": C3}
    made = onnxruntime(net(text, weights))
    assert integers_only(made), made.ort
    assert made.ort["QLinearMul"] == made.ort["QLinearSigmoid"] == 1
    assert made.sqnr["y"] > GOOD


@pytest.mark.parametrize(
    "move",
    [
        "MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)",
        'Resize<mode="nearest">(a, , scales)',
        "Transpose<perm=[0,1,3,2]>(a)",
        "Slice(a, starts, ends, axes)",
        "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)",
        "AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(a)",
    ],
)
def test_moves_and_pools_in_integers(net, onnxruntime, move):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,H,W] y) {{
        scales = Constant<value_floats=[1.0,1.0,2.0,2.0]>()
        starts = Constant<value_ints=[2]>()
        ends = Constant<value_ints=[7]>()
        axes = Constant<value_ints=[2]>()
        a = Conv<pads=[1,1,1,1]>(x, w1)
        m = {move}
        y = Conv<pads=[1,1,1,1]>(m, w2)
    }}
    """
    made = onnxruntime(net(text, {"w1": C3, "w2": C3}))
    assert integers_only(made), made.ort
    assert made.ort["QuantizeLinear"] == made.ort["DequantizeLinear"] == 1
    assert made.sqnr["y"] > GOOD


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_that_computes_new_values_stays_float(net, onnxruntime, mode):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,H,W] y) {{
        scales = Constant<value_floats=[1.0,1.0,2.0,2.0]>()
        a = Conv<pads=[1,1,1,1]>(x, w1)
        m = Resize<mode="{mode}">(a, , scales)
        y = Conv<pads=[1,1,1,1]>(m, w2)
    }}
    """
    made = onnxruntime(net(text, {"w1": C3, "w2": C3}))
    assert made.quantized == {"a", "y"}
    assert made.ort["QLinearConv"] == 2
    assert made.sqnr["y"] > GOOD


@pytest.mark.parametrize("between", ["Identity(p)", "Relu(p)", "Transpose<perm=[0,1,3,2]>(p)"])
def test_average_pool_whose_integer_kernel_is_wrong_never_meets_a_quantizelinear(
    net, onnxruntime, between
):
    """QLinearAveragePool divides overhanging windows by their full size: 12 dB (ORT 1.32)."""
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,H,W] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w1)
        p = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, count_include_pad=1>(a)
        b = {between}
        c = Conv<pads=[1,1,1,1]>(b, w2)
        d = Add(c, b)
        y = Conv<pads=[1,1,1,1]>(d, w3)
    }}
    """
    text = text.replace("b = Identity(p)", "").replace("(b", "(p") if "Ident" in between else text
    text = text.replace("Add(c, b)", "Add(c, p)") if "Ident" in between else text
    made = onnxruntime(net(text, {"w1": C3, "w2": C3, "w3": C3}))
    assert "QLinearAveragePool" not in made.ort
    assert "AveragePool 'p'" in made.reason("c")
    assert made.sqnr["y"] > GOOD


def test_the_same_pool_without_overhang_runs_in_integers(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,H,W] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        p = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1, count_include_pad=1>(a)
        y = Conv<pads=[1,1,1,1]>(p, w2)
    }
    """
    made = onnxruntime(net(text, {"w1": C3, "w2": C3}))
    assert made.ort["QLinearAveragePool"] == 1
    assert made.sqnr["y"] > GOOD


def test_split_and_shuffle(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        k = Constant<value_ints=[16,16]>()
        five = Constant<value_ints=[0,2,16,8,8]>()
        four = Constant<value_ints=[0,32,8,8]>()
        a = Conv<pads=[1,1,1,1]>(x, w0)
        p, q = Split<axis=1>(a, k)
        c = Conv<pads=[1,1,1,1]>(q, w1)
        d = Concat<axis=1>(p, c)
        e = Reshape(d, five)
        f = Transpose<perm=[0,2,1,3,4]>(e)
        g = Reshape(f, four)
        y = Conv<pads=[1,1,1,1]>(g, w2)
    }
    """
    made = onnxruntime(net(text, {"w0": C3, "w1": (16, 16, 3, 3), "w2": C3}))
    assert integers_only(made), made.ort
    assert made.ort["DequantizeLinear"] == 1
    assert made.sqnr["y"] > GOOD


@pytest.mark.parametrize(("shape", "group"), [((32, 1, 3, 3), 32), ((32, 8, 3, 3), 4)])
def test_depthwise_and_grouped(net, onnxruntime, shape, group):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {{
        a = Conv<pads=[1,1,1,1], group={group}>(x, w1)
        r = Relu(a)
        y = Conv(r, w2)
    }}
    """
    made = onnxruntime(net(text, {"w1": shape, "w2": (32, 32, 1, 1)}))
    assert made.ort["QLinearConv"] == 2
    assert made.sqnr["y"] > GOOD


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [("strides=[2,2], group=2", (32, 16, 2, 2)), ("strides=[2,2]", (32, 32, 3, 3))],
)
def test_a_convtranspose_that_is_no_conv_stays_float(net, onnxruntime, attributes, shape):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,H,W] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w1)
        t = ConvTranspose<{attributes}>(a, w2)
        y = Conv<pads=[1,1,1,1]>(t, w3)
    }}
    """
    made = onnxruntime(net(text, {"w1": C3, "w2": shape, "w3": C3}))
    assert "no integer kernel" in made.reason("t")
    assert made.ort["QLinearConv"] == 2
    assert made.ort["ConvTranspose"] == 1
    assert made.sqnr["y"] > GOOD


def test_thin_conv_stays_float_only_at_the_output(net, onnxruntime):
    text = """
    net (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w0)
        r = Relu(a)
        y = Conv<pads=[1,1,1,1]>(r, w1)
    }
    """
    made = onnxruntime(net(text, {"w0": (8, 3, 3, 3), "w1": (4, 8, 3, 3)}))
    assert "writes the model's output" in made.reason("y")
    assert made.quantized == {"a"}
    assert made.ort["QLinearConv"] == 1
    assert sum(made.ort.get(op, 0) for op in FLOAT_CONVOLUTIONS) == 1


def test_inner_tensor_that_is_also_an_output_keeps_name_and_float_type(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y, float[N,32,8,8] r) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        r = Relu(a)
        y = Conv<pads=[1,1,1,1]>(r, w2)
    }
    """
    made = onnxruntime(net(text, {"w1": C3, "w2": C3}))
    assert made.ort["QLinearConv"] == 2
    assert made.sqnr["r"] > 33
    assert made.sqnr["y"] > GOOD


def test_sub_graph_reads_the_dequantized_value(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y, float[N,32,8,8] z) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        r = Relu(a)
        y = Conv<pads=[1,1,1,1]>(r, w2)
        zero = Constant<value_float=0.0>()
        s = ReduceSum<keepdims=0>(r)
        c = Greater(s, zero)
        z = If(c) <
            then_branch = yes () => (float[N,32,8,8] t) { t = Exp(r) },
            else_branch = no () => (float[N,32,8,8] e) { e = Identity(r) }
        >
    }
    """
    made = onnxruntime(net(text, {"w1": C3, "w2": C3}))
    assert made.ort["QLinearConv"] == 2
    assert made.sqnr["z"] > 33


def test_shared_weight_and_bias(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        a = Conv(x, w, b)
        r = Relu(a)
        y = Conv(r, w, b)
    }
    """
    made = onnxruntime(net(text, {"w": (32, 32, 1, 1), "b": (32,)}))
    proto = made.model.to_onnx()
    int8 = [t.name for t in proto.graph.initializer if t.name.startswith("w_quantized")]
    int32 = [t.name for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT32]
    assert int8 == ["w_quantized"]
    assert len([n for n in int32 if "quantized" in n]) == 2  # one bias for each data scale
    assert made.sqnr["y"] > GOOD


def test_a_bias_far_beyond_its_weights_does_not_overflow(net, quantizer):
    text = "net (float[N,32,8,8] x) => (float[N,32,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w, b) }"
    graph = net(text, {"w": C3, "b": (32,)})
    model = graph.model()
    weight, bias = model.graph.tensors()["w"], model.graph.tensors()["b"]
    values = weight.values.copy()
    values[3] *= 1e-12
    values[4] = 0
    weight.values = values
    offsets = bias.values.copy()
    offsets[3:5] = 1.5, -1.5
    bias.values = offsets
    made = quantizer(model, "onnxruntime", graph.feeds())
    assert made.ort["QLinearConv"] == 1
    assert made.sqnr["y"] > GOOD


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        ("Conv<pads=[1,1,1,1]>(r, w2, b2)", C3),
        ("Conv<pads=[1,1,1,1], group=4>(r, w2)", (32, 8, 3, 3)),
        ("ConvTranspose<pads=[1,1,1,1], group=2>(r, w2)", (32, 16, 3, 3)),
    ],
)
@pytest.mark.parametrize("rectified", [False, True])
def test_a_head_left_in_float_keeps_its_float_weight(net, onnxruntime, op, shape, rectified):
    """ONNX Runtime would quantize it by itself, with one scale for the whole weight."""
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w1)
        r = Relu(a)
        b = {op}
        c = Relu(b)
        y = Conv<pads=[1,1,1,1]>(c, w3)
    }}
    """
    if not rectified:
        text = text.replace("c = Relu(b)", "").replace("(c, w3)", "(b, w3)")
    weights = {"w1": C3, "w2": shape, "b2": (32,), "w3": C3}
    made = onnxruntime(net(text, weights), exclude=("b",))
    assert made.ort["QLinearConv"] == 2
    assert sum(made.ort.get(op, 0) for op in (*FLOAT_CONVOLUTIONS, "ConvTranspose")) == 1
    assert made.ort["DequantizeLinear"] == 2  # the data of b, and y
    assert made.sqnr["y"] > GOOD


def test_a_gemm_left_in_float_keeps_its_float_weight(net, onnxruntime):
    text = """
    net (float[N,32] x) => (float[N,32] y, float[N,32] z) {
        a = Gemm(x, w1)
        r = Relu(a)
        z = Gemm(r, w4)
        b = Gemm<transB=1>(r, w2, b2)
        c = Relu(b)
        y = Gemm(c, w3)
    }
    """
    weights = {"w1": (32, 32), "w2": (32, 32), "b2": (32,), "w3": (32, 32), "w4": (32, 32)}
    made = onnxruntime(net(text, weights, sizes={"N": 5}), exclude=("b",))
    assert made.ort["Gemm"] == 1
    assert made.ort["QGemm"] == 3


def test_excluded_relu_add_and_conv_stay_float(net, onnxruntime):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1)
        r = Relu(a)
        b = Conv<pads=[1,1,1,1]>(r, w2)
        d = Add(b, r)
        y = Conv<pads=[1,1,1,1]>(d, w3)
    }
    """
    graph = net(text, {"w1": C3, "w2": C3, "w3": C3})
    made = onnxruntime(graph, exclude=("d", "b"))
    assert made.quantized == {"a", "y"}
    assert made.reason("b") == "Conv: left in float as asked"
    assert made.sqnr["y"] > GOOD


def test_seven_bits_where_products_saturate(net):
    assert not saturates("x86_64", ("avx512_vnni",))
    assert saturates("x86_64", ())
    assert saturates("AMD64", ())
    assert not saturates("aarch64", ())
    assert OnnxRuntime(reduce_range=True).levels == 64
    assert OnnxRuntime(reduce_range=False).levels == 127


def test_reduced_range_limits_the_weights(net, table_of):
    text = "net (float[N,32,8,8] x) => (float[N,32,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    graph = net(text, {"w": C3})
    model = graph.model()
    table = table_of(model, graph.feeds())
    list(OnnxRuntime(reduce_range=True).insert(model, table, frozenset(), {}))
    weight = model.graph.tensors()["w_quantized"].values
    assert np.abs(weight.astype(int)).max() == 64
