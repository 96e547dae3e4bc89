"""One drawn graph for each rule of fusion."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import accounts, draw, needs_rtx, parsed, verdicts

from graphopt.lint.from_onnx import read_onnx
from graphopt.lint.from_parsed import read_parsed
from graphopt.lint.fusion import ALONE, BOUNDARY, CANCELLED, FOLDED, FUSED, Accounting

P = "<pads=[1,1,1,1]>"
# Name -> (lines, {Q or DQ: verdict} of those that matter, {Q or DQ: the head of its kernel}).
CASES = {
    "a Conv takes in data, weight and the Q behind it": (
        f"""a = QDQ(x, 0.1)
            w = WEIGHT(32, 32, 3, 3)
            c = Conv{P}(a, w)
            r = Relu(c)
            b = QDQ(r, 0.2)
            v = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, v)""",
        {"a_Q": BOUNDARY, "a_DQ": FUSED, "w_Q": FUSED, "w_DQ": FUSED, "b_Q": FUSED, "b_DQ": FUSED},
        {"a_DQ": "c", "w_DQ": "c", "b_Q": "c", "b_DQ": "y"},
    ),
    "a shortcut's other input fuses, and so does the Q behind the Add": (
        f"""a = QDQ(x, 0.1)
            w = WEIGHT(32, 32, 3, 3)
            c = Conv{P}(a, w)
            s = Add(c, a)
            r = Relu(s)
            b = QDQ(r, 0.2)
            v = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, v)""",
        {"a_DQ": FUSED, "b_Q": FUSED, "b_DQ": FUSED},
        {"a_DQ": "c", "b_Q": "c"},
    ),
    "a shortcut in float makes the kernel write float": (
        f"""a = QDQ(x, 0.1)
            w = WEIGHT(32, 32, 3, 3)
            c = Conv{P}(a, w)
            s = Add(c, x)
            b = QDQ(s, 0.2)
            v = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, v)""",
        {"a_DQ": FUSED, "b_Q": ALONE, "b_DQ": FUSED},
        {},
    ),
    "SiLU is taken in": (
        f"""a = QDQ(x, 0.1)
            w = WEIGHT(32, 32, 3, 3)
            c = Conv{P}(a, w)
            g = Sigmoid(c)
            m = Mul(c, g)
            b = QDQ(m, 0.2)
            v = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, v)""",
        {"b_Q": FUSED, "b_DQ": FUSED},
        {"b_Q": "c"},
    ),
    "a tensor that is read in float as well is not written in INT8": (
        f"""a = QDQ(x, 0.1)
            w = WEIGHT(32, 32, 3, 3)
            c = Conv{P}(a, w)
            b = QDQ(c, 0.2)
            v = WEIGHT(32, 32, 3, 3)
            d = Conv{P}(b, v)
            s = Softmax(c)
            y = Concat<axis=0>(d, s)""",
        {"b_Q": ALONE, "b_DQ": FUSED},
        {},
    ),
    "Q moves up and DQ down past max pools and reshapes": (
        f"""a = QDQ(x, 0.1)
            p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)
            w = WEIGHT(32, 32, 3, 3)
            c = Conv{P}(p, w)
            m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)
            t = Transpose<perm=[0,1,3,2]>(m)
            b = QDQ(t, 0.2)
            v = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, v)""",
        {"a_Q": BOUNDARY, "a_DQ": FUSED, "b_Q": FUSED},
        {"a_DQ": "c", "b_Q": "c"},
    ),
    "Q splits over the inputs of a Concat": (
        f"""a = QDQ(x, 0.1)
            w = WEIGHT(16, 32, 3, 3)
            c = Conv{P}(a, w)
            v = WEIGHT(16, 32, 3, 3)
            d = Conv{P}(a, v)
            k = Concat<axis=1>(c, d)
            b = QDQ(k, 0.2)
            u = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, u)""",
        {"a_DQ": FUSED, "b_Q": FUSED},
        {"a_DQ": "c d", "b_Q": "c d"},
    ),
    "an average pool between DQ and Q runs in INT8": (
        f"""a = QDQ(x, 0.1)
            g = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)
            b = QDQ(g, 0.2)
            w = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, w)""",
        {"a_DQ": FUSED, "b_Q": FUSED, "b_DQ": FUSED},
        {"a_DQ": "g", "b_Q": "g", "b_DQ": "y"},
    ),
    "an average pool without Q behind it does not": (
        """a = QDQ(x, 0.1)
            y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)""",
        {"a_Q": BOUNDARY, "a_DQ": ALONE},
        {},
    ),
    "an Add of two quantized tensors is a kernel": (
        f"""a = QDQ(x, 0.1)
            h = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)
            s = Add(a, h)
            b = QDQ(s, 0.2)
            w = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, w)""",
        {"a_DQ": FUSED, "b_Q": FUSED},
        {"a_DQ": "s", "b_Q": "s"},
    ),
    "what computes in float neither takes nor gives INT8": (
        f"""a = QDQ(x, 0.1)
            s = Softmax(a)
            b = QDQ(s, 0.2)
            w = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, w)""",
        {"a_Q": BOUNDARY, "a_DQ": ALONE, "b_Q": ALONE, "b_DQ": FUSED},
        {},
    ),
    "a pair behind a pair of the same scale cancels": (
        f"""a = QDQ(x, 0.1)
            b = QDQ(a, 0.1)
            w = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, w)""",
        {"a_Q": BOUNDARY, "a_DQ": CANCELLED, "b_Q": CANCELLED, "b_DQ": FUSED},
        {},
    ),
    "a pair behind a pair of another scale is a kernel": (
        f"""a = QDQ(x, 0.1)
            b = QDQ(a, 0.2)
            w = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, w)""",
        {"a_DQ": ALONE, "b_Q": ALONE, "b_DQ": FUSED},
        {},
    ),
    "a quantized weight under float data becomes float again": (
        f"""w = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(x, w)""",
        {"w_Q": FOLDED, "w_DQ": FOLDED},
        {},
    ),
    "quantized data under a float weight is made float at run time": (
        f"""a = QDQ(x, 0.1)
            w = FLOAT(32, 32, 3, 3)
            y = Conv{P}(a, w)""",
        {"a_DQ": ALONE},
        {},
    ),
    "on the way out DQ is at the boundary": (
        f"""a = QDQ(x, 0.1)
            w = WEIGHT(32, 32, 3, 3)
            c = Conv{P}(a, w)
            y = QDQ(c, 0.2)""",
        {"a_Q": BOUNDARY, "y_Q": FUSED, "y_DQ": BOUNDARY},
        {"y_Q": "c"},
    ),
    "a float Conv does not write INT8": (
        f"""u = FLOAT(32, 32, 3, 3)
            e = Conv{P}(x, u)
            r = Relu(e)
            b = QDQ(r, 0.2)
            w = WEIGHT(32, 32, 3, 3)
            y = Conv{P}(b, w)""",
        {"b_Q": ALONE, "b_DQ": FUSED},
        {},
    ),
}


def heads(account) -> set[str]:
    return {title.split("'")[1] for title in account.kernels}


@pytest.mark.parametrize("case", CASES)
def test_the_file(case):
    lines, want, kernels = CASES[case]
    made = accounts(draw(lines))
    assert {name: made[name].verdict for name in want} == want
    assert {name: heads(made[name]) for name in kernels} == {
        name: set(into.split()) for name, into in kernels.items()
    }
    for account in made.values():
        assert account.detail
        assert bool(account.cause) == (account.verdict == ALONE)
        assert account.name in account.line()


@needs_rtx
@pytest.mark.parametrize("case", ["SiLU is taken in", "Q splits over the inputs of a Concat",
                                  "an Add of two quantized tensors is a kernel"])  # fmt: skip
def test_the_parsed_network_is_accounted_for_alike(case):
    model = draw(CASES[case][0])
    mine = Accounting(read_onnx(model)).accounts
    theirs = Accounting(read_parsed(parsed(model))).accounts
    assert {(a.name, a.verdict, frozenset(heads(a))) for a in mine} == {
        (a.name, a.verdict, frozenset(heads(a))) for a in theirs
    }


def test_attention_fuses_with_q_behind_its_softmax_and_not_without():
    lines = """
        a = QDQ(x, 0.1)
        t = Transpose<perm=[0,1,3,2]>(a)
        s = MatMul(a, t)
        k = Mul(s, half)
        p = Softmax<axis=-1>(k)
        {pair}
        o = MatMul({probabilities}, a)
        b = QDQ(o, 0.2)
        w = WEIGHT1(8, 32)
        y = MatMul(b, w)
        half = FLOAT(1)
    """
    shapes = {"inputs": "float[N,4,16,8] x", "outputs": "float[N,4,16,32] y"}
    whole = draw(lines.format(pair="q = QDQ(p, 0.01)", probabilities="q"), **shapes)
    made = accounts(whole)
    assert (made["q_Q"].verdict, heads(made["q_Q"])) == (FUSED, {"s"})
    assert (made["q_DQ"].verdict, made["a_DQ"].verdict) == (FUSED, FUSED)
    half = draw(lines.format(pair="", probabilities="p"), **shapes)
    assert verdicts(half)["a_DQ"] == ALONE


def test_weights_alone_are_a_way_for_matrix_products():
    lines = "w = WEIGHT1(8, 32)\ny = MatMul(x, w)"
    made = accounts(draw(lines, "float[N,32] y", "float[N,8] x"))
    assert made["w_DQ"].verdict == FUSED
    assert "alone is quantized" in made["w_DQ"].detail


def test_the_body_of_an_if_reads_in_float():
    lines = f"""
        a = QDQ(x, 0.1)
        w = WEIGHT(32, 32, 3, 3)
        c = Conv{P}(a, w)
        b = QDQ(c, 0.2)
        v = WEIGHT(32, 32, 3, 3)
        d = Conv{P}(b, v)
        e = If (on) <
            then_branch = yes () => (float[N,32,8,8] t) {{ t = Relu(c) }},
            else_branch = no () => (float[N,32,8,8] f) {{ f = Identity(c) }}
        >
        y = Add(d, e)
    """.replace("e = If (on) <\n", "e = If (on) <").replace(",\n            else", ", else")
    joined = lines.replace("}\n        >", "} >").replace("<            then", "< then")
    model = draw(joined, inputs="float[N,32,8,8] x, bool on")
    assert verdicts(model)["b_Q"] == ALONE
    assert "If" in accounts(model)["b_Q"].detail


def test_scales_that_are_computed_agree_with_nothing():
    lines = f"""
        s = ReduceMax<keepdims=0>(x)
        z = Constant<value=int8 {{0}}>()
        i = QuantizeLinear(x, s, z)
        a = DequantizeLinear(i, s, z)
        b = QDQ(a, 0.1)
        w = WEIGHT(32, 32, 3, 3)
        y = Conv{P}(b, w)
    """
    assert verdicts(draw(lines))["b_Q"] == ALONE


def test_a_long_chain_takes_linear_time():
    """Were any step quadratic, or recursive, 20,000 layers would not come back."""
    lines = ["a = QDQ(x, 0.1)", "w = WEIGHT(32, 32, 1, 1)", "t0 = Conv(a, w)"]
    lines += [f"t{i + 1} = {'Relu' if i % 3 else 'MaxPool<kernel_shape=[1,1]>'}(t{i})"
              for i in range(20_000)]  # fmt: skip
    lines += ["b = QDQ(t20000, 0.2)", "v = WEIGHT(32, 32, 1, 1)", "y = Conv(b, v)"]
    made = verdicts(draw("\n".join(lines)))
    assert made["a_DQ"] == FUSED
    assert made["b_DQ"] == FUSED


def test_nothing_is_lost_of_a_value_that_a_constant_is():
    model = draw("w = WEIGHT(1, 32, 1, 1)\ny = Add(x, w)")
    assert verdicts(model) == {"w_Q": FOLDED, "w_DQ": FOLDED}
    assert np.isfinite(Accounting(read_onnx(model)).conversions())
