"""One small graph for each placement rule of the tensorrt dialect.

Every model that comes out is checked by onnx, run by ONNX Runtime and parsed by TensorRT-RTX (see
conftest). Nodes have no names here, so a node goes by the name of its first output.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.dialects.tensorrt import TensorRT
from graphopt.errors import UnsupportedModelError
from graphopt.passes.insert_qdq import InsertQDQ

GOOD = 28.0  # dB: int8 on a few layers; a wrong scale or axis costs ten or more

CHAIN = """
net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    y = Conv<pads=[1,1,1,1]>(r, w2)
}
"""
CHAIN_WEIGHTS = {"w1": (32, 32, 3, 3), "b1": (32,), "w2": (32, 32, 3, 3)}


def test_inputs_only_never_inside_a_partition_never_on_an_output(net, tensorrt):
    made = tensorrt(net(CHAIN, CHAIN_WEIGHTS))
    assert made.reads_int8() == {("a", 0), ("y", 0)}
    assert made.pairs() == 4  # x, r and two weights
    assert made.sqnr["y"] > GOOD
    assert made.model.graph.outputs[0].inputs[0].op == "Conv"


def test_what_is_written_is_the_common_denominator(net, tensorrt):
    proto = tensorrt(net(CHAIN, CHAIN_WEIGHTS, opset=13)).model.to_onnx()
    assert {o.version for o in proto.opset_import if not o.domain} == {13}
    values = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    weights = 0
    for node in proto.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        assert len(node.input) == 3
        scale, zero_point = values[node.input[1]], values[node.input[2]]
        assert scale.dtype == np.float32
        assert (scale > 0).all()
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
        assert scale.shape == zero_point.shape
        weights += scale.ndim
    assert weights == 4  # Q and DQ of two weights, one scale a channel
    assert values["w1"].dtype == np.float32
    assert values["b1"].dtype == np.float32


def test_scale_is_amax_over_127(net, tensorrt, table_of):
    float_net = net(CHAIN, CHAIN_WEIGHTS)
    table = table_of(float_net.model(), float_net.feeds())
    made = tensorrt(float_net, table=table)
    assert made.scale_of("r") == np.float32(table.ranges["r"].amax / 127)


def test_one_pair_for_all_readers(net, tensorrt):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,6,6] y, float[N,32,6,6] z) {
        y = Conv(x, w1)
        z = Conv(x, w2)
    }
    """
    made = tensorrt(net(text, {"w1": (32, 32, 3, 3), "w2": (32, 32, 3, 3)}))
    assert made.reads_int8() == {("y", 0), ("z", 0)}
    assert made.pairs() == 3


def test_residual_shortcut_is_quantized_and_the_conv_branch_joins(net, tensorrt):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        s = Conv<pads=[1,1,1,1]>(x, w0)
        t = Relu(s)
        a = Conv<pads=[1,1,1,1]>(t, w1)
        b = Relu(a)
        c = Conv<pads=[1,1,1,1]>(b, w2)
        d = Add(c, t)
        e = Relu(d)
        y = Conv(e, w3)
    }
    """
    weights = {f"w{i}": (32, 32, 3, 3) for i in range(3)} | {"w3": (32, 32, 1, 1)}
    made = tensorrt(net(text.replace("float[N,32,8,8] y", "float[N,32,8,8] y"), weights))
    assert made.reads_int8() == {("s", 0), ("a", 0), ("c", 0), ("d", 1), ("y", 0)}
    assert made.sqnr["y"] > GOOD - 3


@pytest.mark.parametrize("add", ["Add(c, p)", "Add(p, c)", "Sum(p, c)"])
def test_projection_shortcut_the_longer_branch_joins(net, tensorrt, add):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {{
        p = Conv(x, w0)
        a = Conv<pads=[1,1,1,1]>(x, w1)
        b = Relu(a)
        c = Conv<pads=[1,1,1,1]>(b, w2)
        y = {add}
    }}
    """
    weights = {"w0": (32, 32, 1, 1), "w1": (32, 32, 3, 3), "w2": (32, 32, 3, 3)}
    made = tensorrt(net(text, weights))
    shortcut = add[4:-1].split(", ").index("p")
    assert made.reads_int8() == {("p", 0), ("a", 0), ("c", 0), ("y", shortcut)}


def test_one_backbone_the_other_input_is_quantized(net, tensorrt):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        h = Softmax(x)
        c = Conv<pads=[1,1,1,1]>(x, w)
        y = Add(h, c)
    }
    """
    assert ("y", 0) in tensorrt(net(text, {"w": (32, 32, 3, 3)})).reads_int8()


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        ("y = Add(c, x)", "the other input is a graph input"),
        ("k = Constant<value_float=1.0>() \n y = Add(c, k)", "the other input is a constant"),
        ("m = Relu(c) \n y = Add(c, m)", "both inputs come from the same Conv"),
        ("m = GlobalAveragePool(c) \n n = Softmax(m) \n y = Add(c, n)", "the shapes differ"),
    ],
)
def test_adds_that_are_not_residual(net, tensorrt, tail, why):
    text = f"""
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {{
        c = Conv<pads=[1,1,1,1]>(x, w)
        {tail}
    }}
    """
    made = tensorrt(net(text, {"w": (32, 32, 3, 3)}))
    assert not {where for where, _ in made.reads_int8()} & {"y"}, why


def test_add_of_two_tensors_read_elsewhere_runs_in_int8_or_is_left_with_a_reason(net, tensorrt):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y, float[N,32,8,8] z, float[N,32,8,8] u) {
        a = Conv<pads=[1,1,1,1]>(x, w0)
        b = Conv<pads=[1,1,1,1]>(x, w1)
        s = Add(a, b)
        y = Conv<pads=[1,1,1,1]>(a, w2)
        z = Conv<pads=[1,1,1,1]>(b, w3)
        u = Conv<pads=[1,1,1,1]>(s, w4)
    }
    """
    weights = {f"w{i}": (32, 32, 3, 3) for i in range(5)}
    made = tensorrt(net(text, weights))
    assert {("s", 0), ("s", 1)} <= made.reads_int8()
    float_reader = text.replace("Conv<pads=[1,1,1,1]>(b, w3)", "Softmax(b)")
    del weights["w3"]
    made = tensorrt(net(float_reader, weights))
    assert not {("s", 0), ("s", 1)} & made.reads_int8()
    assert "read in float elsewhere" in made.reason("s")


def test_maxpool_and_other_copies_share_the_scale_above_and_get_no_pair(net, tensorrt):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,4,4] y, float[N,16,8,8] z) {
        a = Conv<pads=[1,1,1,1]>(x, w0)
        r = Relu(a)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        k = Constant<value_ints=[16,16]>()
        s, t = Split<axis=1>(r, k)
        y = Conv<pads=[1,1,1,1]>(m, w1)
        z = Conv<pads=[1,1,1,1]>(s, w2)
    }
    """
    weights = {"w0": (32, 32, 3, 3), "w1": (32, 32, 3, 3), "w2": (16, 16, 3, 3)}
    made = tensorrt(net(text, weights))
    assert made.reads_int8() == {("a", 0), ("y", 0), ("z", 0)}
    assert made.scale_of("m") == made.scale_of("s")


def test_a_pad_with_another_value_than_zero_is_no_copy(net, tensorrt, table_of):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        a = Conv(x, w0)
        p = Pad(a, pads, value)
        y = Conv(p, w1)
    }
    """
    shapes = {"w0": (32, 32, 3, 3), "w1": (32, 32, 3, 3)}
    for value, wanted in ((0.0, "a"), (9.0, "p")):
        graph = net(
            text.replace(
                "a = Conv",
                f"pads = Constant<value_ints=[0,0,2,2,0,0,2,2]>() \n"
                f"value = Constant<value_float={value}>() \n a = Conv",
            ),
            shapes,
        )
        assert wanted in TensorRT().wanted(graph.model(), frozenset())
        made = tensorrt(graph)
        expected = table_of(graph.model(), graph.feeds()).ranges[wanted].amax
        assert made.scale_of("p") == pytest.approx(expected / 127)
        assert made.sqnr["y"] > GOOD - 3


def test_average_pools_and_resize_carry_int8_between_neighbours(net, tensorrt):
    text = """
    net (float[N,32,8,8] x) => (float[N,16] y) {
        a = Conv<pads=[1,1,1,1]>(x, w0)
        v = AveragePool<kernel_shape=[2,2], strides=[2,2]>(a)
        e = Constant<value_floats=[1.0,1.0,2.0,2.0]>()
        u = Resize<mode="nearest">(v, , e)
        b = Conv<pads=[1,1,1,1]>(u, w1)
        g = GlobalAveragePool(b)
        f = Flatten(g)
        y = Gemm<transB=1>(f, w2)
    }
    """
    weights = {"w0": (32, 32, 3, 3), "w1": (32, 32, 3, 3), "w2": (16, 32)}
    made = tensorrt(net(text, weights))
    assert made.reads_int8() == {("a", 0), ("v", 0), ("u", 0), ("b", 0), ("g", 0), ("y", 0)}
    assert made.sqnr["y"] > 25


def test_a_pool_far_from_any_head_stays_float(net, tensorrt):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,4,4] y, float[N,32,6,6] z) {
        h = Exp(x)
        v = AveragePool<kernel_shape=[2,2], strides=[2,2]>(h)
        y = Softmax(v)
        z = Conv(x, w)
    }
    """
    assert tensorrt(net(text, {"w": (32, 32, 3, 3)})).reads_int8() == {("z", 0)}


def test_squeeze_excite_gate_and_its_pool_stay_float_where_the_map_is_read_in_float(net, tensorrt):
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
    weights = {"w0": (32, 32, 3, 3), "w1": (16, 32, 1, 1), "w2": (32, 16, 1, 1)}
    made = tensorrt(net(text, weights | {"w3": (32, 32, 3, 3)}))
    assert made.reads_int8() == {("a", 0), ("c", 0), ("e", 0), ("y", 0)}


def test_silu_is_inside_the_partition(net, tensorrt):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        t = Conv<pads=[1,1,1,1]>(x, w0)
        a = Conv<pads=[1,1,1,1]>(t, w1)
        s = Sigmoid(a)
        m = Mul(a, s)
        d = Add(t, m)
        y = Conv<pads=[1,1,1,1]>(d, w2)
    }
    """
    made = tensorrt(net(text, {f"w{i}": (32, 32, 3, 3) for i in range(3)}))
    assert made.reads_int8() == {("t", 0), ("a", 0), ("d", 0), ("y", 0)}


def test_concat_and_its_quantized_inputs_share_one_scale(net, tensorrt, table_of):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y, float[N,32,8,8] z) {
        a = Conv<pads=[1,1,1,1]>(x, w0)
        big = Constant<value_float=5.0>()
        b = Mul(a, big)
        c = Concat<axis=1>(a, b)
        y = Conv<pads=[1,1,1,1]>(a, w1)
        z = Conv<pads=[1,1,1,1]>(c, w2)
    }
    """
    weights = {"w0": (32, 32, 3, 3), "w1": (32, 32, 3, 3), "w2": (32, 64, 3, 3)}
    graph = net(text, weights)
    made = tensorrt(graph)
    table = table_of(graph.model(), graph.feeds())
    assert made.scale_of("a") == made.scale_of("c") == np.float32(table.ranges["c"].amax / 127)


@pytest.mark.parametrize(
    ("op", "shape", "axis"),
    [
        ("Conv(x, w)", (24, 32, 3, 3), 0),
        ("Conv<group=4>(x, w)", (24, 8, 3, 3), 0),
        ("Conv<group=32>(x, w)", (32, 1, 3, 3), 0),
        ("ConvTranspose<strides=[2,2]>(x, w)", (32, 24, 2, 2), 1),
    ],
)
def test_convolution_weights_by_output_channel(net, tensorrt, op, shape, axis):
    text = f"net (float[N,32,8,8] x) => (float[N,C,H,W] y) {{ y = {op} }}"
    made = tensorrt(net(text, {"w": shape}))
    node = next(n for n in made.model.graph.nodes if n.op.startswith("Conv"))
    quantize = node.inputs[1].inputs[0].inputs[0].inputs[0]
    assert quantize.attrs["axis"] == axis
    assert quantize.inputs[1].values.shape == (shape[axis],)
    assert made.sqnr["y"] > 33


@pytest.mark.parametrize(
    ("op", "shape", "axis"),
    [
        ("Gemm<transB=1>(x, w, b)", (24, 32), 0),
        ("Gemm<alpha=0.5, beta=2.0>(x, w, b)", (32, 24), 1),
        ("MatMul(x, w)", (32, 24), 1),
    ],
)
def test_matrix_weights_by_output_channel(net, tensorrt, op, shape, axis):
    text = f"net (float[N,32] x) => (float[N,24] y) {{ y = {op} }}"
    made = tensorrt(net(text, {"w": shape, "b": (24,)}, sizes={"N": 9}))
    node = next(n for n in made.model.graph.nodes if n.op in ("Gemm", "MatMul"))
    quantize = node.inputs[1].inputs[0].inputs[0].inputs[0]
    assert quantize.attrs["axis"] == axis
    assert quantize.inputs[1].values.shape == (24,)
    assert made.sqnr["y"] > 33


def test_shared_weight_is_quantized_once_and_other_readers_keep_the_float_one(net, tensorrt):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y, float[32,32,1,1] e) {
        a = Conv(x, w, b)
        r = Relu(a)
        y = Conv(r, w, b)
        e = Exp(w)
    }
    """
    made = tensorrt(net(text, {"w": (32, 32, 1, 1), "b": (32,)}))
    assert made.pairs() == 3  # x, r and w
    exp = next(n for n in made.model.graph.nodes if n.op == "Exp")
    assert exp.inputs[0].name == "w"
    assert made.sqnr["e"] > 200


def test_a_weight_used_along_two_axes_is_quantized_twice(net, tensorrt):
    text = """
    net (float[N,32] x) => (float[N,32] y) {
        a = Gemm<transB=1>(x, w)
        y = Gemm(a, w)
    }
    """
    made = tensorrt(net(text, {"w": (32, 32)}, sizes={"N": 9}))
    assert made.pairs() == 4
    assert made.sqnr["y"] > GOOD


def test_dead_channels_and_dead_tensors_get_positive_scales(net, quantizer):
    graph = net(CHAIN, CHAIN_WEIGHTS)
    model = graph.model()
    weight = model.graph.tensors()["w1"]
    values = weight.values.copy()
    values[:] = 0
    weight.values = values
    model.graph.tensors()["b1"].values = np.zeros(32, np.float32)
    made = quantizer(model, "tensorrt", graph.feeds())
    scales = [n.inputs[1].values for n in made.model.graph.nodes if n.op == "QuantizeLinear"]
    assert all((np.asarray(s) > 0).all() and np.isfinite(s).all() for s in scales)


def test_graph_output_read_by_another_conv_stays_float(net, tensorrt):
    text = CHAIN.replace("(float[N,32,8,8] y)", "(float[N,32,8,8] y, float[N,32,8,8] r)")
    made = tensorrt(net(text, CHAIN_WEIGHTS))
    assert made.sqnr["r"] > GOOD
    assert made.model.graph.outputs[1].inputs[0].op == "Relu"


def test_custom_ops_sub_graphs_and_other_dtypes_are_left_alone(net, tensorrt):
    text = """
    net (float[N,32,8,8] x, bool c) => (float[N,32,6,6] y, float[N,32,6,6] z, float16[N,32,6,6] h) {
        y = Conv(x, w0)
        p = other.Conv(x, w0)
        k = Identity(p)
        z = If(c) <
            then_branch = yes () => (float[N,32,6,6] t) { t = Conv(x, w0) },
            else_branch = no () => (float[N,32,6,6] e) { e = Identity(y) }
        >
        xh = Cast<to=10>(x)
        wh = Cast<to=10>(w1)
        h = Conv(xh, wh)
        gone = Identity(k)
    }
    """
    graph = net(text, {"w0": (32, 32, 3, 3), "w1": (32, 32, 3, 3)})
    model = graph.model()
    made = InsertQDQ("tensorrt", _unit_table(model))(model)
    nodes = {n.outputs[0].name: n for n in made.model.graph.nodes}
    assert nodes["y"].inputs[0].inputs[0].op == "DequantizeLinear"
    assert nodes["h"].inputs[0].name == "xh"
    body = nodes["z"].attrs["then_branch"]
    assert [t.name for t in body.nodes[0].inputs] == ["x", "w0"]
    assert {c.where for c in made.changes} == {"y"}
    assert made.skipped[0].where == "h"


def _unit_table(model):
    from graphopt.calibrators import CalibrationTable, TensorRange

    names = TensorRT().wanted(model, frozenset())
    return CalibrationTable(dict.fromkeys(names, TensorRange(4.0, -4.0, 4.0)), "unit", "")


def test_dynamic_height_and_width(net, tensorrt):
    text = CHAIN.replace("[N,32,8,8]", "[N,32,H,W]")
    made = tensorrt(net(text, CHAIN_WEIGHTS, sizes={"N": 3, "H": 7, "W": 11}))
    assert made.sqnr["y"] > GOOD


def test_odd_widths(net, tensorrt):
    weights = {"w1": (29, 32, 3, 3), "b1": (29,), "w2": (19, 29, 3, 3)}
    text = CHAIN.replace("(float[N,32,8,8] y)", "(float[N,19,8,8] y)")
    assert tensorrt(net(text, weights)).sqnr["y"] > GOOD


def test_an_older_opset_is_refused(net):
    model = net(CHAIN, CHAIN_WEIGHTS, opset=12).model()
    with pytest.raises(UnsupportedModelError, match="opset 12"):
        InsertQDQ("tensorrt", _unit_table(model))(model)
