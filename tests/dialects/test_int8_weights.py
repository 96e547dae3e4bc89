"""Weights as int8 initializer -> DQ, for TensorRT 10 and newer: the same numbers, fewer bytes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import conv_net, image_samples, rtx_refuses, run
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.dialects.codes import WeightCodes
from graphopt.dialects.scales import channel_scales, quantize_weight
from graphopt.dialects.tensorrt import TensorRT
from graphopt.graph import constant, is_op, producer
from graphopt.lint.run import lint
from graphopt.model import Model
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.passes.to_fp16 import ToFp16

INT8 = {"int8_weights": True}
NETS = {
    "conv": (
        "net (float[N,32,8,8] x) => (float[N,32,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w, b) }",
        {"w": (32, 32, 3, 3), "b": (32,)},
    ),
    "grouped": (
        "net (float[N,32,8,8] x) => (float[N,64,8,8] y) { y = Conv<group=2>(x, w) }",
        {"w": (64, 16, 1, 1)},
    ),
    "transposed": (
        "net (float[N,32,8,8] x) => (float[N,48,16,16] y) {"
        " y = ConvTranspose<strides=[2,2],kernel_shape=[2,2]>(x, w) }",
        {"w": (32, 48, 2, 2)},
    ),
    "gemm": ("net (float[32,64] x) => (float[32,48] y) { y = Gemm(x, w) }", {"w": (64, 48)}),
    "gemm^T": (
        "net (float[32,64] x) => (float[32,48] y) { y = Gemm<transB=1>(x, w) }",
        {"w": (48, 64)},
    ),
    "matmul": (
        "net (float[2,32,64] x) => (float[2,32,48] y) { y = MatMul(x, w) }",
        {"w": (64, 48)},
    ),
    "shared": (
        """net (float[N,32,8,8] x) => (float[N,32,8,8] y, float[N,32,8,8] z) {
            r = Conv(x, w)
            y = Conv(r, w)
            z = ConvTranspose(r, w)
        }""",
        {"w": (32, 32, 1, 1)},
    ),
}  # fmt: skip


def weights_of(model: Model) -> list[np.ndarray]:
    """What the DequantizeLinear nodes of constants read."""
    found = (constant(n.inputs[0]) for n in model.graph.nodes if is_op(n, "DequantizeLinear"))
    return [values for values in found if values is not None]


def both(model: Model, table, codes=None) -> tuple[Model, Model]:
    """The model with fp32 weights behind Q/DQ and with int8 ones."""
    plain = InsertQDQ("tensorrt", table, codes=codes or {})(model).model
    stored = InsertQDQ("tensorrt", table, codes=codes or {}, options=INT8)(model).model
    return plain, stored


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("optimize", [False, True])
def test_the_same_numbers_bit_for_bit(name, optimize, net, table_of):
    made = net(*NETS[name])
    feeds = made.feeds()
    plain, stored = both(made.model(), table_of(made.model(), feeds))
    proto = stored.to_onnx()
    onnx.checker.check_model(proto, full_check=True)
    kept = {t.name: t.data_type for t in proto.graph.initializer}
    assert onnx.TensorProto.FLOAT not in {kept.get("w"), kept.get("r")}
    assert all(w.dtype == np.int8 and abs(w.astype(int)).max() == 127 for w in weights_of(stored))
    assert weights_of(plain) == []
    # Optimized, the one folds its Q and the other has none: still the same integers.
    for feed in feeds:
        for a, b in zip(run(plain, feed), run(stored, feed, optimize=optimize), strict=True):
            if optimize:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
            else:
                np.testing.assert_array_equal(a, b)
    assert rtx_refuses(plain) is None
    assert rtx_refuses(stored) is None


def test_a_shared_weight_is_stored_once_for_each_axis(net, table_of):
    made = net(*NETS["shared"])
    _, stored = both(made.model(), table_of(made.model(), made.feeds()))
    assert len(weights_of(stored)) == 2  # the two Conv share one, ConvTranspose has another axis


@settings(settings.get_profile("repeatable"), max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-30, 1e-7, 1.0, 3e4, 1e15]),
    st.booleans(),
)
def test_codes_are_those_that_quantizelinear_computes(seed, size, dead):
    """Over sizes at which scales are clipped, a channel of zeros among them."""
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(8, 40)) * size * 10.0 ** rng.integers(-3, 3, (8, 1))).astype("f4")
    if dead:
        weight[3] = 0
    scales = channel_scales(weight, 0)
    text = """
    <ir_version: 8, opset_import: ["" : 13]>
    q (float[8,40] w, float[8] s, int8[8] z) => (int8[8,40] y) {
        y = QuantizeLinear<axis=0>(w, s, z)
    }
    """
    model = Model.from_onnx(onnx.parser.parse_model(text))
    (said,) = run(model, {"w": weight, "s": scales, "z": np.zeros(8, np.int8)})
    np.testing.assert_array_equal(said, quantize_weight(weight, scales, 0))


def test_chosen_codes_are_written_as_they_are(net, table_of):
    made = net(*NETS["conv"])
    model = made.model()
    rng = np.random.default_rng(5)
    chosen = WeightCodes(
        rng.integers(-127, 128, (32, 32, 3, 3)).astype(np.int8),
        rng.uniform(1e-4, 1e-2, 32).astype(np.float32),
    )
    plain, stored = both(model, table_of(model, made.feeds()), {"y": chosen})
    (written,) = weights_of(stored)
    np.testing.assert_array_equal(written, chosen.codes)
    for feed in made.feeds():
        np.testing.assert_array_equal(run(plain, feed)[0], run(stored, feed)[0])


def test_a_quarter_of_the_bytes(table_of):
    model = conv_net(64)
    feeds = [{"image": image_samples(2)}]
    plain, stored = both(model, table_of(model, feeds))
    sizes = [len(m.to_onnx().SerializeToString()) for m in (plain, stored)]
    assert sizes[1] < 0.3 * sizes[0]


def test_fp16_beside_int8_weights(table_of):
    model = conv_net(32)
    feeds = [{"image": image_samples(4)}]
    table = table_of(model, feeds)
    halves = [ToFp16(table)(m).model for m in both(model, table)]
    for half in halves:
        onnx.checker.check_model(half.to_onnx(), full_check=True)
        assert rtx_refuses(half) is None
        scales = {
            constant(n.inputs[1]).dtype for n in half.graph.nodes if is_op(n, "DequantizeLinear")
        }
        assert np.dtype(np.float16) in scales
    assert [run(h, feeds[0])[0].shape for h in halves] == [(4, 10)] * 2
    np.testing.assert_allclose(
        run(halves[0], feeds[0])[0], run(halves[1], feeds[0])[0], rtol=0, atol=2e-2
    )


@pytest.mark.parametrize("name", NETS)
def test_the_linter_sees_the_same_kernels(name, net, table_of):
    made = net(*NETS[name])
    reports = [lint(m) for m in both(made.model(), table_of(made.model(), made.feeds()))]
    assert {f.rule for f in reports[1].findings} == {f.rule for f in reports[0].findings}


def test_sharing_with_a_float_reader_keeps_the_float_weight(net, table_of):
    text = """net (float[N,32,8,8] x) => (float[N,32,8,8] y, float[32,32,1,1] z) {
        y = Conv(x, w)
        z = Softmax(w)
    }"""
    made = net(text, {"w": (32, 32, 1, 1)})
    plain, stored = both(made.model(), table_of(made.model(), made.feeds()))
    feed = made.feeds()[0]
    for a, b in zip(run(plain, feed), run(stored, feed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_off_by_default_and_activations_are_written_alike(net, table_of):
    assert not TensorRT().int8_weights
    made = net(*NETS["conv"])
    plain, stored = both(made.model(), table_of(made.model(), made.feeds()))
    for model in (plain, stored):
        (conv,) = (n for n in model.graph.nodes if n.op == "Conv")
        assert producer(producer(conv.inputs[0]).inputs[0]).op == "QuantizeLinear"
