"""Rules 2, 3, 9 and 12 over every kind of layer, and a reason for each that stays in float."""

from __future__ import annotations

import onnx
import pytest

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.dialects.tensorrt import TensorRT
from graphopt.dialects.untouched import left_alone
from graphopt.passes.insert_qdq import InsertQDQ

GOOD = 33.0  # dB: one layer


@pytest.mark.parametrize(
    ("layer", "x", "w", "axis"),
    [
        ("Conv<pads=[1,1]>(x, w)", "N,32,24", (40, 32, 3), 0),
        ("Conv(x, w)", "N,32,6,8,8", (40, 32, 3, 3, 3), 0),
        ("Conv<group=4>(x, w)", "N,32,8,8", (24, 8, 3, 3), 0),
        ("Conv<group=32>(x, w)", "N,32,8,8", (64, 1, 3, 3), 0),
        ("Conv<dilations=[2,2], pads=[2,2,2,2]>(x, w)", "N,32,8,8", (40, 32, 3, 3), 0),
        ("ConvTranspose<strides=[2]>(x, w)", "N,32,24", (32, 40, 2), 1),
        ("ConvTranspose<strides=[2,2]>(x, w)", "N,32,8,8", (32, 40, 2, 2), 1),
        ("ConvTranspose<group=4>(x, w)", "N,32,8,8", (32, 6, 2, 2), 1),
        ("Gemm(x, w)", "N,64", (64, 40), 1),
        ("Gemm<transA=1, transB=1>(x, w)", "64,N", (40, 64), 0),
        ("Gemm<alpha=0.25, beta=3.0>(x, w, c)", "N,64", (64, 40), 1),
        ("MatMul(x, w)", "N,64", (64, 40), 1),
        ("MatMul(x, w)", "N,3,5,64", (64, 40), 1),
    ],
)
def test_every_layer_by_output_channel(net, tensorrt, rtx_build, layer, x, w, axis):
    weights = {"w": w} | ({"c": (40,)} if "c)" in layer else {})
    rank = len(x.split(","))
    dims = ",".join("ABCDE"[:rank])
    graph = net(
        f"net (float[{x}] x) => (float[{dims}] y) {{ y = {layer} }}", weights, sizes={"N": 9}
    )
    made = tensorrt(graph)
    assert made.reads_int8() == {("y", 0)}
    (node,) = (n for n in made.model.graph.nodes if n.outputs[0].name == "y")
    quantize = node.inputs[1].inputs[0].inputs[0].inputs[0]
    assert quantize.op == "QuantizeLinear"
    assert quantize.attrs["axis"] == axis
    assert quantize.inputs[1].values.shape == (w[axis],)
    assert made.sqnr["y"] > GOOD
    rtx_build(made.model, graph.feeds(1)[0])


@pytest.mark.parametrize(
    ("body", "weights", "where", "reason"),
    [
        ('y = Einsum<equation="ni,ij->nj">(x, w)', {"w": (64, 64)}, "y", "export it as MatMul"),
        (
            "s = Constant<value_ints=[1,0,64]>() \n t = Reshape<allowzero=0>(x, s) \n"
            "a, y = LSTM<hidden_size=16>(t, w, r)",
            {"w": (1, 64, 64), "r": (1, 64, 16)},
            "a",
            "LSTM: recurrent layers have no integer kernel",
        ),
        (
            "s = Constant<value_ints=[1,0,64]>() \n t = Reshape(x, s) \n"
            "a, y = GRU<hidden_size=16>(t, w, r)",
            {"w": (1, 48, 64), "r": (1, 48, 16)},
            "a",
            "GRU: recurrent layers have no integer kernel",
        ),
        ("y = MatMul(x, w)", {"w": (2, 64, 64)}, "y", "not for a stack"),
        ("t = Transpose(x) \n y = MatMul(w, t)", {"w": (64, 64)}, "y", "the first factor"),
        ("t = Transpose(x) \n y = MatMul(x, t)", {}, "y", "both factors are activations"),
        ("y = other.Conv(x, w)", {"w": (64, 64)}, "y", "of domain 'other'"),
        ("y = other.FusedMatMul(x, w)", {"w": (64, 64)}, "y", "only standard operators"),
    ],
)
def test_what_stays_in_float_says_why(net, body, weights, where, reason):
    model = net(f"net (float[N,64] x) => (float[A,B] y) {{ {body} }}", weights).model()
    result = InsertQDQ("tensorrt", CalibrationTable({}, "none", ""))(model)
    assert not result.changes
    (skip,) = result.skipped
    assert skip.where == where
    assert reason in skip.reason


def test_bodies_of_loops_and_branches_are_named(net):
    text = """
    net (float[N,32,8,8] x, bool c) => (float[N,32,6,6] z) {
        z = If(c) <
            then_branch = yes () => (float[N,32,6,6] t) { t = Conv(x, w0) },
            else_branch = no () => (float[N,32,6,6] e) { r = Relu(x) e = Conv(r, w0) }
        >
    }
    """
    model = net(text, {"w0": (32, 32, 3, 3)}).model()
    found = {skip.where: skip.reason for skip in left_alone(model.graph)}
    assert set(found) == {"t", "e"}
    assert all("inside the body of If 'z'" in reason for reason in found.values())


def test_operators_without_weights_are_no_news(net):
    text = """
    net (float[N,64] x) => (float[A,B] y) {
        a = Einsum<equation="ni,mi->nm">(x, x)
        y = other.Conv(a)
    }
    """
    assert not list(left_alone(net(text).model().graph))


CHAIN = """
net (float[N,64] x) => (float[N,64] y) {
    a = MatMul(x, w0)
    b = Relu(a)
    y = Gemm(b, w1)
}
"""


def test_the_batch_of_the_calibration_decides_nothing(net, tensorrt):
    """ModelOpt leaves a Gemm out when it is calibrated at batch 1."""
    weights = {"w0": (64, 64), "w1": (64, 64)}
    found = [tensorrt(net(CHAIN, weights, sizes={"N": n})).reads_int8() for n in (1, 8)]
    assert found[0] == found[1] == {("a", 0), ("y", 0)}


def test_a_static_batch_of_one_does(net, tensorrt):
    made = tensorrt(net(CHAIN.replace("[N,", "[1,"), {"w0": (64, 64), "w1": (64, 64)}))
    assert made.reads_int8() == set()
    assert "matrix times vector" in made.reason("y")


def test_a_bias_that_layers_share_stays_one_float_initializer(net, tensorrt):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        a = Conv(x, w0, b)
        y = Conv(a, w1, b)
    }
    """
    shapes = {"w0": (32, 32, 1, 1), "w1": (32, 32, 1, 1), "b": (32,)}
    made = tensorrt(net(text, shapes))
    biases = {node.inputs[2].name for node in made.model.graph.nodes if node.op == "Conv"}
    assert biases == {"b"}
    names = [t.name for t in made.model.to_onnx().graph.initializer]
    assert names.count("b") == 1


def test_an_initializer_that_is_a_graph_output_keeps_its_values(net, tensorrt):
    graph = net(
        "net (float[N,32,8,8] x) => (float[N,32,8,8] y, float[32,32,1,1] w) { y = Conv(x, w) }",
        {"w": (32, 32, 1, 1)},
    )
    made = tensorrt(graph)
    assert made.reads_int8() == {("y", 0)}
    assert made.sqnr["w"] > 200


def test_the_same_model_gives_the_same_bytes(net):
    weights = {"w0": (64, 64), "w1": (64, 64)}
    model = net(CHAIN, weights).model()
    wanted = TensorRT().wanted(model, frozenset())
    first = {name: TensorRange(3.0, -3.0, 3.0) for name in wanted}
    last = {name: first[name] for name in reversed(wanted)}
    made = [
        InsertQDQ("tensorrt", CalibrationTable(ranges, "unit", ""))(model).model
        for ranges in (first, last)
    ]
    assert made[0].to_onnx().SerializeToString() == made[1].to_onnx().SerializeToString()
    onnx.checker.check_model(made[0].to_onnx(), full_check=True)
