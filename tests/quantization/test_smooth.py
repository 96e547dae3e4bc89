"""Outliers behind normalizations moved into the weights that read them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from weight_nets import batches, int8, net, outputs, quality, samples, table_for

from graphopt.graph import constant
from graphopt.quantization.smooth import smooth

OPERATOR = "n = LayerNormalization<axis=-1>(x, g, b)"
NO_BIAS = "n = LayerNormalization(x, g)"
NODES = """m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q)
           e = Add(v, eps) s = Sqrt(e) u = Div(d, s) k = Mul(g, u) n = Add(k, b)"""
WEIGHTS = {"g": (32,), "b": (32,), "wq": (32, 24), "wk": (32, 24), "bias": (24,)}


def attention(norm: str, tail: str = "y = MatMul(n, wq) k0 = MatMul(n, wk) z = Add(k0, bias)"):
    model = net(
        f"g (float[N,6,32] x) => (float[N,6,24] y, float[N,6,24] z) {{ {norm} {tail} }}",
        WEIGHTS | ({"eps": (1,)} if "eps" in norm else {}),
    )
    nodes = {n.name: n for n in model.graph.nodes}
    holder = nodes["n"] if "LayerNormalization" in norm else nodes["k"]
    index = 1 if "LayerNormalization" in norm else 0
    gain = 1 + 0.1 * np.abs(constant(holder.inputs[index]))
    gain[[3, 17]] = 40  # outliers
    holder.inputs[index].values = gain.astype("f4")
    if "eps" in norm:
        nodes["e"].inputs[1].values = np.array([1e-5], "f4")
    return model


@pytest.mark.parametrize("norm", [OPERATOR, NO_BIAS, NODES])
def test_the_function_stays_and_outliers_shrink(norm) -> None:
    model = attention(norm)
    feeds, digest = samples(model), model.digest()
    result = smooth(model, batches(feeds))
    assert model.digest() == digest
    (change,) = result.changes
    assert change.kind == "smoothed"
    assert "'y', 'k0'" in change.detail
    assert quality(model, result.model, feeds) > 120
    onnx.checker.check_model(result.model.to_onnx(), full_check=True)
    tables = [table_for(m, feeds) for m in (model, result.model)]
    before, after = (t.ranges["n"].amax for t in tables)
    assert after < before / 3
    unseen = samples(model, 8, seed=7)
    scores = [
        quality(model, int8(m, t), unseen)
        for m, t in zip((model, result.model), tables, strict=True)
    ]
    assert scores[1] > scores[0] + 5


def test_alpha_says_how_much_goes_to_the_weights() -> None:
    model = attention(OPERATOR)
    feeds = samples(model)
    ratios = []
    for alpha in (0.2, 0.5, 0.9):
        result = smooth(model, batches(feeds), alpha=alpha)
        gain = constant(next(n for n in result.model.graph.nodes if n.name == "n").inputs[1])
        ratios.append(gain[3] / np.median(gain))
    assert ratios[0] > ratios[1] > ratios[2]


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("y = MatMul(n, wq) r = Softmax(n) z = MatMul(r, wk)", "Softmax 'r' reads it"),
        ("y = MatMul(n, wq) z = MatMul(n, wq)", "share the weight"),
        ("y = MatMul(n, wq) r = Relu(n) c = Concat<axis=-1>(r, r) w = Concat<axis=0>(wk, wk) "
         "z = MatMul(c, w)", "Concat 'c' reads it"),
    ],
)  # fmt: skip
def test_what_else_reads_it_keeps_it_as_it_is(tail, reason) -> None:
    model = attention(OPERATOR, tail)
    feeds = samples(model)
    result = smooth(model, batches(feeds))
    assert not result.changes
    assert reason in result.skipped[0].reason
    for a, b in zip(outputs(model, feeds), outputs(result.model, feeds), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_residual_stream_behind_the_norm_is_left() -> None:
    model = net(
        """g (float[N,6,32] x) => (float[N,6,32] y) {
          n = LayerNormalization(x, g, b) m = MatMul(n, w) y = Add(m, n) }""",
        {"g": (32,), "b": (32,), "w": (32, 32)},
    )
    result = smooth(model, batches(samples(model)))
    assert not result.changes
    assert result.skipped[0].reason == "Add 'y' reads it"


def test_the_class_token_is_followed_to_the_head() -> None:
    model = net(
        """g (float[N,6,32] x) => (float[N,10] y) {
          n = LayerNormalization(x, g, b) i = Constant<value_int=0>() t = Gather<axis=1>(n, i)
          y = Gemm<transB=1>(t, w, c) }""",
        {"g": (32,), "b": (32,), "w": (10, 32), "c": (10,)},
    )
    feeds = samples(model)
    result = smooth(model, batches(feeds))
    assert [c.where for c in result.changes] == ["n"]
    assert quality(model, result.model, feeds) > 120


def test_nothing_to_smooth_reads_no_data() -> None:
    model = net("g (float[N,8] x) => (float[N,8] y) { y = Relu(x) }", {})

    def never():
        raise AssertionError("samples were read")

    assert not smooth(model, never).changes
