"""Every rule: a drawn graph that has the fault, and one that has not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drawn import draw, found

from graphopt.errors import UsageError
from graphopt.graph import is_constant
from graphopt.lint import LINTS
from graphopt.lint.finding import ERROR, NOTE, WARNING
from graphopt.lint.run import lint
from graphopt.profiles import DeviceProfile, load_device

P = "<pads=[1,1,1,1]>"
GOOD = f"""
    a = QDQ(x, 0.1)
    w = WEIGHT(32, 32, 3, 3)
    c = Conv{P}(a, w)
    s = Add(c, a)
    b = QDQ(s, 0.2)
    v = WEIGHT(32, 32, 3, 3)
    y = Conv{P}(b, v)
"""
XAVIER = load_device("jetson-agx-xavier")


def where(rule, lines, **options):
    device = options.pop("device", None)
    model = lines if not isinstance(lines, str) else draw(lines, **options)
    return [(f.severity, f.where) for f in found(rule, model, device)]


@pytest.mark.parametrize("rule", LINTS.names())
def test_no_rule_finds_anything_in_a_good_model(rule):
    assert where(rule, GOOD, device=XAVIER) == []


def test_a_rule_that_is_not_there():
    with pytest.raises(UsageError, match="did you mean 'island'"):
        lint(draw(GOOD), rules=["islands"])


def test_dialect():
    unsigned = draw(GOOD, integer=np.dtype(np.uint8))
    made = lint(unsigned)
    assert made.dialect == "onnxruntime"
    assert [f.rule for f in made.findings] == ["dialect"]
    assert made.accounts == ()
    assert "4 Q/DQ of activations are not int8" in made.findings[0].what
    operator = "y = com.microsoft.QLinearAdd(x, s, z, x, s, z, s, z)\ns = FLOAT(1)\nz = FLOAT(1)"
    assert "QLinearAdd" in found("dialect", draw(operator))[0].what


def test_opset():
    new = draw(GOOD, opset=19)
    assert where("opset", new, device=XAVIER) == [(ERROR, ())]
    assert where("opset", new, device=load_device("t4")) == []
    assert where("opset", new) == []
    bare = replace(load_device("t4"), precisions=("fp16", "fp32"))
    assert where("opset", GOOD, device=bare) == [(WARNING, ())]


def test_zero_point():
    assert where("zero-point", GOOD, zero=3)[0] == (ERROR, ("a_Q", "a_DQ", "b_Q", "b_DQ"))


def test_int32_bias():
    lines = f"""
        a = QDQ(x, 0.1)
        w = WEIGHT(32, 32, 3, 3)
        k = Constant<value=int32[32] {{{", ".join("1" * 32)}}}>()
        h = DequantizeLinear(k, w_scale)
        y = Conv{P}(a, w, h)
    """
    assert where("int32-bias", lines) == [(ERROR, ("h",))]


@pytest.mark.parametrize(
    ("value", "severity"),
    [(0.0, ERROR), (-0.1, ERROR), (np.nan, ERROR), (np.inf, ERROR), (1e-40, WARNING),
     (1e6, WARNING), (1e-30, None)],
)  # fmt: skip
def test_scale_value(value, severity):
    model = draw(GOOD)
    for tensor in model.graph.tensors().values():
        if tensor.name == "b_scale" and is_constant(tensor):
            tensor.values = np.float32(value)
    got = where("scale-value", model)
    assert got == ([] if severity is None else [(severity, ("b_Q", "b_DQ"))])


def test_scale_value_that_is_computed():
    lines = f"""
        s = ReduceMax<keepdims=0>(x)
        z = Constant<value=int8 {{0}}>()
        i = QuantizeLinear(x, s, z)
        a = DequantizeLinear(i, s, z)
        w = WEIGHT(32, 32, 3, 3)
        y = Conv{P}(a, w)
    """
    assert where("scale-value", lines) == [(ERROR, ("i", "a"))]


def test_channel_axis_of_weights():
    def product(op, weight, shapes):
        lines = f"a = QDQ(x, 0.1)\nw = {weight}\ny = {op}(a, w)"
        return where("channel-axis", lines, **shapes)

    image = {}
    matrix = {"inputs": "float[4,32] x", "outputs": "float[4,32] y"}
    wrong, right = [(WARNING, ("y",))], []
    assert product(f"Conv{P}", "WEIGHT1(32, 32, 3, 3)", image) == wrong
    assert product(f"Conv{P}", "WEIGHT(32, 32, 3, 3)", image) == right
    assert product(f"ConvTranspose{P}", "WEIGHT(32, 32, 3, 3)", image) == wrong
    assert product(f"ConvTranspose{P}", "WEIGHT1(32, 32, 3, 3)", image) == right
    assert product("MatMul", "WEIGHT(32, 32)", matrix) == wrong
    assert product("MatMul", "WEIGHT1(32, 32)", matrix) == right
    assert product("Gemm", "WEIGHT(32, 32)", matrix) == wrong
    assert product("Gemm<transB=1>", "WEIGHT(32, 32)", matrix) == right
    assert product("Gemm<transB=1>", "WEIGHT1(32, 32)", matrix) == wrong


def test_channel_axis_of_an_activation():
    lines = f"""
        w = WEIGHT(32, 32, 3, 3)
        i = QuantizeLinear<axis=1>(x, w_scale, w_zero)
        a = DequantizeLinear<axis=1>(i, w_scale, w_zero)
        y = Conv{P}(a, w)
    """
    assert where("channel-axis", lines) == [(ERROR, ("i", "a"))]


def test_three_inputs():
    lines = f"""
        w = WEIGHT(32, 32, 3, 3)
        z = Constant<value=float {{0.1}}>()
        i = Constant<value=int8[1,32,8,8] {{{", ".join("1" * 2048)}}}>()
        a = DequantizeLinear(i, z)
        c = Add(a, x)
        y = Conv{P}(c, w)
    """
    assert where("three-inputs", lines, device=XAVIER) == [(WARNING, ("a",))]
    assert where("three-inputs", lines) == [(NOTE, ("a",))]


def test_weight():
    data = f"a = QDQ(x, 0.1)\nw = FLOAT(32, 32, 3, 3)\ny = Conv{P}(a, w)"
    assert where("weight", data) == [(WARNING, ("y",))]
    weight = f"w = WEIGHT(32, 32, 3, 3)\ny = Conv{P}(x, w)"
    assert where("weight", weight) == [(WARNING, ("y",))]
    neither = f"w = FLOAT(32, 32, 3, 3)\nc = Conv{P}(x, w)\ny = QDQ(c, 1.0)"
    assert where("weight", neither) == []
    dynamic = """
        a = QDQ(x, 0.1)
        y = MatMul(a, x)
    """
    (only,) = found("weight", draw(dynamic))
    assert "is no constant" in only.what


UNFUSED = {
    "float": (f"u = FLOAT(32, 32, 3, 3)\ne = Conv{P}(x, u)\nb = QDQ(e, 0.2)", ("b_Q",)),
    "default": ("e = Softmax(x)\nb = QDQ(e, 0.2)", ("b_Q",)),
    "shared": (
        f"a = QDQ(x, 0.1)\nu = WEIGHT(32, 32, 3, 3)\ne = Conv{P}(a, u)\n"
        "o = Softmax(e)\nb = QDQ(e, 0.2)",
        ("b_Q",),
    ),
    "limited": (
        f"a = QDQ(x, 0.1)\nu = WEIGHT(32, 32, 3, 3)\ne = Conv{P}(a, u)\n"
        "f = Add(e, x)\nb = QDQ(f, 0.2)",
        ("b_Q",),
    ),
    "no-q": ("b = QDQ(x, 0.2)\no = GlobalAveragePool(b)", ("b_DQ",)),
}


@pytest.mark.parametrize("cause", UNFUSED)
def test_unfused(cause):
    lines, names = UNFUSED[cause]
    lines += f"\nw = WEIGHT(32, 32, 3, 3)\ny = Conv{P}(b, w)"
    outputs = "float[N,32,8,8] y" + (", float[N,32,M,K] o" if "o = " in lines else "")
    model = draw(lines, outputs)
    (only,) = found("unfused", model)
    assert only.where == names
    assert only.severity == (NOTE if cause == "default" else WARNING)
    assert {a.cause for a in lint(model).alone} == {cause}


def test_island():
    middle = f"""
        a = QDQ(x, 0.1)
        w = WEIGHT(32, 32, 3, 3)
        c = Conv{P}(a, w)
        u = FLOAT(32, 32, 3, 3)
        d = Conv{P}(c, u)
        r = Relu(d)
        b = QDQ(r, 0.2)
        v = WEIGHT(32, 32, 3, 3)
        y = Conv{P}(b, v)
    """
    (only,) = found("island", draw(middle))
    assert (only.severity, only.where) == (WARNING, ("d", "r"))
    assert "33.3% of the MACs" in only.what
    soft = middle.replace(f"Conv{P}(c, u)", "Softmax(c)")
    assert where("island", soft) == [(NOTE, ("d", "r"))]
    # Float at either end is no island.
    start = f"u = FLOAT(32, 32, 3, 3)\nd = Conv{P}(x, u)\nb = QDQ(d, 0.2)\n"
    start += f"w = WEIGHT(32, 32, 3, 3)\nc = Conv{P}(b, w)\ny = Softmax(c)"
    assert where("island", start) == []


def test_islands_of_the_same_make_are_told_once():
    lines = ["a0 = QDQ(x, 0.1)"]
    for i in range(5):
        lines += [f"w{i} = WEIGHT(32, 32, 3, 3)", f"c{i} = Conv{P}(a{i}, w{i})",
                  f"s{i} = Softmax(c{i})", f"a{i + 1} = QDQ(s{i}, 0.1)"]  # fmt: skip
    lines += ["w = WEIGHT(32, 32, 3, 3)", f"y = Conv{P}(a5, w)"]
    (only,) = found("island", draw("\n".join(lines)))
    assert only.what.startswith("5 islands of float between INT8: Softmax")
    assert only.where == tuple(f"s{i}" for i in range(5))
    assert only.line().count("'s") == 3
    assert "and 2 more" in only.line()


def test_conversions():
    lines = "s = Softmax(x)\nb = QDQ(s, 0.2)\nc = QDQ(b, 0.1)\nw = WEIGHT(32, 32, 3, 3)\n"
    (only,) = found("conversions", draw(lines + f"y = Conv{P}(c, w)"))
    # One behind Softmax; the DQ and the Q of another scale are one more.
    assert only.what.startswith("2 kernels only convert")


def test_concat_scales():
    lines = f"""
        a = QDQ(x, 0.1)
        w = WEIGHT(16, 32, 3, 3)
        c = Conv{P}(a, w)
        d = QDQ(c, SCALE)
        v = WEIGHT(16, 16, 3, 3)
        e = Conv{P}(d, v)
        k = Concat<axis=1>(d, e)
        b = QDQ(k, 0.2)
        u = WEIGHT(32, 32, 3, 3)
        y = Conv{P}(b, u)
    """
    assert where("concat-scales", lines.replace("SCALE", "0.3")) == [(WARNING, ("k",))]
    assert where("concat-scales", lines.replace("SCALE", "0.2")) == []


def test_quantized_twice():
    lines = f"""
        a = QDQ(x, 0.1)
        w = WEIGHT(32, 32, 3, 3)
        c = Conv{P}(a, w)
        m = MaxPool<kernel_shape=[1,1]>(c)
        d = QDQ(m, 0.2)
        v = WEIGHT(32, 32, 3, 3)
        e = Conv{P}(d, v)
        f = QDQ(m, SCALE)
        y = Add(e, f)
    """
    assert where("quantized-twice", lines.replace("SCALE", "0.3")) == [(WARNING, ("m",))]
    assert where("quantized-twice", lines.replace("SCALE", "0.2")) == []


def test_copy_scales():
    lines = f"""
        a = QDQ(x, 0.1)
        m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)
        b = QDQ(m, SCALE)
        w = WEIGHT(32, 32, 3, 3)
        y = Conv{P}(b, w)
    """
    assert where("copy-scales", lines.replace("SCALE", "0.3")) == [(WARNING, ("b_Q",))]
    assert where("copy-scales", lines.replace("SCALE", "0.1")) == []


def test_double():
    lines = f"a = QDQ(x, 0.1)\nb = QDQ(a, SCALE)\nw = WEIGHT(32, 32, 3, 3)\ny = Conv{P}(b, w)"
    assert where("double", lines.replace("SCALE", "0.3")) == [(WARNING, ("b_Q",))]
    assert where("double", lines.replace("SCALE", "0.1")) == [(NOTE, ("b_Q",))]


def test_output():
    lines = f"""
        a = QDQ(x, 0.1)
        w = WEIGHT(32, 32, 3, 3)
        c = Conv{P}(a, w)
        b = QDQ(c, 0.2)
        t = Transpose<perm=[0,1,3,2]>(b)
        y = Identity(t)
    """
    assert where("output", lines) == [(WARNING, ("b_DQ",))]
    read = lines + f"v = WEIGHT(32, 32, 3, 3)\nz = Conv{P}(b, v)"
    assert where("output", read, outputs="float[N,32,8,8] y, float[N,32,8,8] z") == []


def test_thin():
    def conv(weight, group, channels):
        lines = f"a = QDQ(x, 0.1)\nw = WEIGHT({weight})\n"
        lines += f"y = Conv<pads=[1,1,1,1], group={group}>(a, w)"
        shape = f"float[N,{channels},8,8]"
        return where("thin", lines, outputs=f"{shape} y", inputs=f"{shape} x")

    assert conv("8, 8, 3, 3", 1, 8) == [(WARNING, ("y",))]
    assert conv("8, 1, 3, 3", 8, 8) == []  # depthwise, a multiple of 8
    assert conv("10, 1, 3, 3", 10, 10) == [(WARNING, ("y",))]
    assert conv("16, 16, 3, 3", 1, 16) == []
    narrow = "a = QDQ(x, 0.1)\nw = WEIGHT1(32, 10)\ny = MatMul(a, w)"
    assert where("thin", narrow, outputs="float[4,10] y", inputs="float[4,32] x") == [
        (WARNING, ("y",))
    ]


def test_multiple():
    lines = f"a = QDQ(x, 0.1)\nw = WEIGHT(40, 32, 3, 3)\ny = Conv{P}(a, w)"
    options = {"outputs": "float[N,40,8,8] y"}
    device = DeviceProfile(name="some", channel_multiple={"int8": 32})
    assert where("multiple", lines, device=device, **options) == [(NOTE, ("y",))]
    device = DeviceProfile(name="some", channel_multiple={"int8": 8})
    assert where("multiple", lines, device=device, **options) == []
    assert where("multiple", lines, device=DeviceProfile(name="some"), **options) == []
