"""Which nodes are heads, and the reasons of those that are not."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.dialects import DIALECTS
from graphopt.dialects.heads import HeadRules, find_heads
from graphopt.dialects.tensorrt import TensorRT
from graphopt.errors import UnsupportedModelError

RULES = TensorRT().rules


def judge(model, rules: HeadRules = RULES, exclude: frozenset[str] = frozenset()) -> str:
    """The reason against the node 'y', or an empty string if it is a head."""
    heads, skipped = find_heads(model.graph, exclude, rules)
    assert len(heads) + len(skipped) == 1
    return skipped[0].reason if skipped else ""


@pytest.mark.parametrize(
    ("cin", "cout", "group", "head"),
    [
        (3, 16, 1, True),
        (16, 3, 1, True),
        (15, 15, 1, False),
        (8, 8, 8, True),
        (12, 12, 12, False),
        (8, 12, 1, False),
        (12, 12, 4, False),
        (20, 20, 20, True),
    ],
)
def test_thin_convs(net, cin, cout, group, head):
    text = f"net (float[N,{cin},8,8] x) => (float[N,C,8,8] y) {{ y = Conv<group={group}>(x, w) }}"
    reason = judge(net(text, {"w": (cout, cin // group, 1, 1)}).model())
    assert (reason == "") == head
    if not head:
        assert f"{cin} channels in and {cout} out are too few" in reason


@pytest.mark.parametrize(
    ("batch", "k", "n", "reason"),
    [
        ("1", 64, 64, "matrix times vector"),
        ("8", 64, 64, ""),
        ("N", 64, 64, ""),
        ("8", 64, 10, "64 x 10 weight is too narrow"),
        ("8", 8, 64, "8 x 64 weight is too narrow"),
    ],
)
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_gemv_and_narrow_products_by_static_shape(net, op, batch, k, n, reason):
    text = f"net (float[{batch},{k}] x) => (float[{batch},{n}] y) {{ y = {op}(x, w) }}"
    found = judge(net(text, {"w": (k, n)}).model())
    assert reason in found
    assert bool(reason) == bool(found)


def test_a_matmul_of_many_rows_at_batch_one_is_no_gemv(net):
    text = "net (float[1,7,64] x) => (float[1,7,64] y) { y = MatMul(x, w) }"
    assert judge(net(text, {"w": (64, 64)}).model()) == ""
    text = "net (float[64,1] x) => (float[1,64] y) { y = Gemm<transA=1>(x, w) }"
    assert "matrix times vector" in judge(net(text, {"w": (64, 64)}).model())


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("w = Exp(x) \n y = MatMul(x, w)", {}, "both factors are activations"),
        ("w = Exp(x) \n y = Gemm(x, w)", {}, "weight is not a constant"),
        ("b = ReduceSum<keepdims=0>(x) \n y = Gemm(x, w, b)", {"w": (64, 64)}, "bias is not a"),
        ("y = MatMul(w, x)", {"w": (64, 64)}, "weight is the first factor"),
        ("y = MatMul(x, w)", {"w": (2, 64, 64)}, "weight has rank 3: scales for each column"),
    ],
)
def test_reasons(net, body, weights, reason):
    text = f"net (float[64,64] x) => (float[A,B] y) {{ {body} }}"
    assert reason in judge(net(text, weights).model())


def test_float16_is_left(net):
    model = net("net (float[8,64] x) => (float[8,64] y) { y = MatMul(x, w) }", {"w": (64, 64)})
    graph = model.model()
    weight = graph.graph.tensors()["w"]
    weight.values = weight.values.astype(np.float16)
    assert "computes in float16" in judge(graph)


def test_excluded_by_name(net):
    model = net("net (float[8,64] x) => (float[8,64] y) { y = MatMul(x, w) }", {"w": (64, 64)})
    assert judge(model.model(), exclude=frozenset({"y"})) == "MatMul: left in float as asked"


def test_a_weight_of_a_constant_node_counts(net):
    text = """
    net (float[8,1] x) => (float[8,2] y) {
        w = Constant<value = float[1,2] {1.0, 2.0}>()
        y = MatMul(x, w)
    }
    """
    assert judge(net(text).model(), HeadRules()) == ""


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dialect", DIALECTS.names())
def test_a_weight_that_is_not_finite_is_an_error_that_names_it(net, dialect, value):
    model = net("net (float[8,64] x) => (float[8,64] y) { y = MatMul(x, w) }", {"w": (64, 64)})
    graph = model.model()
    weight = graph.graph.tensors()["w"]
    values = weight.values.copy()
    values[3, 5] = value
    weight.values = values
    with pytest.raises(UnsupportedModelError, match="weight 'w' of 'y' holds NaN or infinity"):
        DIALECTS.load(dialect)().wanted(graph, frozenset())


@pytest.mark.parametrize("dialect", DIALECTS.names())
def test_a_quantized_model_is_an_error_with_a_way_out(net, dialect):
    text = """
    net (float[8,64] x) => (float[8,64] y) {
        s = Constant<value_float=0.1>()
        z = Constant<value = int8 {0}>()
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        y = MatMul(d, w)
    }
    """
    model = net(text, {"w": (64, 64)}).model()
    with pytest.raises(UnsupportedModelError, match=r"quantized already: 2 .* 'q'; quantize the"):
        DIALECTS.load(dialect)().wanted(model, frozenset())


@pytest.mark.parametrize("dialect", DIALECTS.names())
def test_wanted_is_in_graph_order_without_repeats(net, dialect):
    text = """
    net (float[N,32,8,8] x) => (float[N,32,8,8] y) {
        a = Conv(x, w1)
        b = Conv(a, w1)
        c = Add(b, a)
        y = Conv(c, w1)
    }
    """
    wanted = DIALECTS.load(dialect)().wanted(net(text, {"w1": (32, 32, 1, 1)}).model(), frozenset())
    order = ["x", "a", "b", "c", "y"]
    assert wanted == [name for name in order if name in wanted]
    assert {"x", "a", "c"} <= set(wanted)
