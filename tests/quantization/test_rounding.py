"""Weights of whole models rounded by second order."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import conv_net, image_samples, rtx_refuses, sqnr
from weight_nets import batches, int8, net, one_layer, outputs, quality, samples, table_for

from graphopt.dialects.heads import HeadRules, find_heads, label
from graphopt.dialects.scales import channel_scales, dequantize_weight, quantize_weight
from graphopt.errors import DataError, UsageError
from graphopt.graph import constant
from graphopt.model import Model
from graphopt.quantization import rounding
from graphopt.quantization.rounding import FLOAT, SEQUENTIAL, round_weights
from graphopt.quantization.simulate import place, quantized_heads, simulate

CASES = [
    ("Conv", ("N", 16, 9, 9), (24, 16, 3, 3), True, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("Conv", ("N", 16, 9, 9), (24, 8, 3, 3), True, {"group": 2}),
    ("Conv", ("N", 16, 9, 9), (16, 1, 3, 3), False, {"group": 16}),
    ("Conv", ("N", 16, 20), (20, 16, 5), True, {}),
    ("ConvTranspose", ("N", 16, 6, 6), (16, 12, 3, 3), True, {"strides": [2, 2]}),
    ("ConvTranspose", ("N", 16, 6, 6), (16, 12, 2, 2), False, {"group": 4, "strides": [2, 2]}),
    ("Gemm", ("N", 32), (32, 20), True, {}),
    ("Gemm", ("N", 32), (20, 32), True, {"transB": 1, "alpha": -0.5}),
    ("Gemm", ("N", 32), (20, 32), False, {"transB": 1}),
    ("MatMul", ("N", 5, 32), (32, 24), True, {}),
    ("MatMul", ("N", 5, 32), (32, 24), False, {}),
]  # fmt: skip


def rounded_to_nearest(
    model: Model, levels: int = 127, only: frozenset[str] | None = None
) -> Model:
    """The model with float weights that stand for codes, activations left alone."""
    out = model.clone()
    for head in find_heads(out.graph, frozenset(), HeadRules())[0]:
        if only is not None and label(head.node) not in only:
            continue
        scales = channel_scales(head.values, head.axis, levels)
        codes = quantize_weight(head.values, scales, head.axis, levels)
        head.weight.values = dequantize_weight(codes, scales, head.axis)
    return out


@pytest.mark.parametrize("how", [FLOAT, SEQUENTIAL])
@pytest.mark.parametrize(("op", "x", "w", "bias", "attrs"), CASES)
def test_each_layer_errs_less_than_to_nearest(op, x, w, bias, attrs, how) -> None:
    model = one_layer(op, x, w, bias, **attrs)
    feeds = samples(model)
    table, digest = table_for(model, feeds), model.digest()
    found = round_weights(model, table, batches(feeds), dialect="tensorrt", how=how)
    assert model.digest() == digest
    assert not found.skipped
    (codes,) = found.codes.values()
    (head,) = find_heads(found.model.graph, frozenset(), HeadRules())[0]
    assert codes.codes.dtype == np.int8
    assert codes.codes.shape == head.values.shape
    assert np.abs(codes.codes.astype(int)).max() <= 127
    assert codes.scales.dtype == np.float32
    assert codes.scales.shape == (head.values.shape[head.axis],)
    np.testing.assert_allclose(
        dequantize_weight(codes.codes, codes.scales, head.axis), head.values, rtol=1e-6
    )
    before = quality(model, rounded_to_nearest(model), feeds)
    after = quality(model, found.model, feeds)
    assert after > before + (2 if how == FLOAT else 1)
    # What is written is what was chosen, and each checker takes it.
    written = int8(found.model, table, found.codes)
    onnx.checker.check_model(written.to_onnx(), full_check=True)
    assert rtx_refuses(written) is None
    quantize = next(n for n in written.graph.nodes if n.op == "QuantizeLinear" and len(
        n.inputs[1].shape))  # fmt: skip
    again = np.rint(constant(quantize.inputs[0]) / head_shape(codes.scales, head))
    np.testing.assert_array_equal(again, codes.codes)
    (solved,) = found.solved
    assert solved.after <= solved.before


def head_shape(scales: np.ndarray, head) -> np.ndarray:
    shape = [1] * head.values.ndim
    shape[head.axis] = -1
    return scales.reshape(shape)


@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
def test_the_simulation_is_the_quantized_network(dialect) -> None:
    model = conv_net(24)
    feeds = [{"image": part} for part in np.split(image_samples(8), 2)]
    table = table_for(model, feeds)
    placed = place(model, table, dialect)
    only = frozenset(label(head.node) for head in quantized_heads(model, placed))
    simulated = simulate(rounded_to_nearest(model, only=only), placed.model)
    a, b = outputs(placed.model, feeds)[0], outputs(simulated, feeds)[0]
    # Biases are rounded in one and not in the other; and the logits themselves.
    assert sqnr(a, b) > 35
    assert sqnr(outputs(model, feeds)[0], a) < sqnr(a, b)
    if dialect == "tensorrt":
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("how", [FLOAT, SEQUENTIAL])
def test_a_whole_network_gains(dialect, how) -> None:
    model = net(
        """g (float[N,8,12,12] x) => (float[N,10] y) {
          a = Conv<pads=[1,1,1,1]>(x, w0, b0)  ar = Relu(a)
          d = Conv<pads=[1,1,1,1], group=32>(ar, w1, b1)  dr = Relu(d)
          e = Conv(dr, w2, b2)  s = Add(e, ar)  sr = Relu(s)
          p = GlobalAveragePool(sr)  f = Flatten(p)  y = Gemm<transB=1>(f, w3, b3) }""",
        {"w0": (32, 8, 3, 3), "b0": (32,), "w1": (32, 1, 3, 3), "b1": (32,),
         "w2": (32, 32, 1, 1), "b2": (32,), "w3": (10, 32), "b3": (10,)},
    )  # fmt: skip
    feeds = samples(model, 16, seed=1)
    unseen = samples(model, 8, seed=2)
    table = table_for(model, feeds)
    found = round_weights(model, table, batches(feeds), dialect=dialect, how=how)
    assert found.codes
    before = quality(model, int8(model, table, dialect=dialect), unseen)
    after = quality(model, int8(found.model, table, found.codes, dialect=dialect), unseen)
    assert after > before


def test_the_same_samples_give_the_same_codes() -> None:
    model = conv_net(16)
    images = image_samples(8)
    table = table_for(model, [{"image": images}])
    found = [
        round_weights(model, table, batches([{"image": p} for p in np.split(images, n)]),
                      dialect="tensorrt")
        for n in (2, 2, 4)
    ]  # fmt: skip
    for name, codes in found[0].codes.items():
        np.testing.assert_array_equal(codes.codes, found[1].codes[name].codes)
        # Sums in another order: a tie may fall otherwise.
        other = found[2].codes[name].codes
        assert (codes.codes != other).mean() < 0.05
    assert found[0].model.digest() == found[1].model.digest()


def test_shared_weights_and_excluded_nodes_are_left() -> None:
    model = net(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
          a = Conv(x, w, b)  r = Relu(a)  c = Conv(r, w, b)  s = Relu(c)  y = Conv(s, v) }""",
        {"w": (16, 16, 1, 1), "b": (16,), "v": (16, 16, 1, 1)},
    )
    feeds = samples(model)
    table = table_for(model, feeds)
    found = round_weights(model, table, batches(feeds), dialect="tensorrt")
    assert set(found.codes) == {"y"}
    assert {s.where: s.reason for s in found.skipped} == dict.fromkeys("ac", rounding.SHARED)
    none = round_weights(model, table, batches(feeds), dialect="tensorrt", exclude=("y",))
    assert not none.codes


def test_layers_that_stay_float_after_all_get_their_weights_back() -> None:
    model = conv_net(16)
    feeds = [{"image": image_samples(8)}]
    table = table_for(model, feeds)
    found = round_weights(model, table, batches(feeds), dialect="tensorrt")
    back = found.without(model, ["conv1", "nobody"])
    assert set(back.codes) == set(found.codes) - {"conv1"}
    nodes = [{n.name: n for n in m.graph.nodes} for m in (model, found.model, back.model)]
    for index in (1, 2):
        values = [constant(n["conv1"].inputs[index]) for n in nodes]
        np.testing.assert_array_equal(values[0], values[2])
        assert not np.array_equal(values[0], values[1])
        others = [constant(n["conv2"].inputs[index]) for n in nodes]
        np.testing.assert_array_equal(others[1], others[2])
    everything = found.without(model, list(found.codes))
    assert quality(model, everything.model, feeds) > 100


def test_biases_stay_where_they_should() -> None:
    model = conv_net(16)
    feeds = [{"image": image_samples(8)}]
    for how in (FLOAT, SEQUENTIAL):
        found = round_weights(
            model, table_for(model, feeds), batches(feeds), dialect="tensorrt", how=how, bias=False
        )
        assert found.codes
        pairs = list(zip(model.graph.nodes, found.model.graph.nodes, strict=True))
        assert any(len(node.inputs) > 2 for node, _ in pairs)
        for node, twin in pairs:
            if len(node.inputs) > 2:
                np.testing.assert_array_equal(constant(node.inputs[2]), constant(twin.inputs[2]))


@pytest.mark.parametrize("how", [FLOAT, SEQUENTIAL])
def test_layers_too_wide_are_seen_by_channel_or_rounded_to_nearest(how, monkeypatch) -> None:
    model = one_layer("Conv", ("N", 16, 9, 9), (24, 16, 3, 3))
    feeds = samples(model)
    table = table_for(model, feeds)
    for most, expected in ((20, 1), (10, 0)):
        for module in ("graphopt.quantization.rounding", "graphopt.statistics.collect",
                       "graphopt.recovery.least_squares"):  # fmt: skip
            monkeypatch.setattr(f"{module}.fits", lambda g, f, most=most: f <= most)
        found = round_weights(model, table, batches(feeds), dialect="tensorrt", how=how)
        assert len(found.codes) == expected
        assert [s.reason for s in found.skipped] == [rounding.TOO_WIDE] * (1 - expected)
        if expected:
            before = quality(model, rounded_to_nearest(model), feeds)
            assert quality(model, found.model, feeds) > before


def test_one_sample_and_dead_channels() -> None:
    model = net(
        """g (float[1,16,6,6] x) => (float[1,16,6,6] y) {
          a = Conv(x, w, b)  r = Relu(a)  y = Conv(r, v) }""",
        {"w": (16, 16, 1, 1), "b": (16,), "v": (16, 16, 1, 1)},
    )
    weights = {n.name: n for n in model.graph.nodes}
    dead = constant(weights["a"].inputs[1]).copy()
    dead[3:6] = 0
    weights["a"].inputs[1].values = dead
    feeds = samples(model, 1, 1)
    table = table_for(model, feeds)
    for how in (FLOAT, SEQUENTIAL):
        found = round_weights(model, table, batches(feeds), dialect="tensorrt", how=how)
        assert not found.codes["a"].codes[3:6].any()
        assert (found.codes["a"].scales > 0).all()
        assert np.isfinite(outputs(int8(found.model, table, found.codes), feeds)[0]).all()


def test_what_cannot_be_is_said() -> None:
    model = conv_net(16)
    feeds = [{"image": image_samples(4)}]
    table = table_for(model, feeds)
    with pytest.raises(UsageError, match="not 'best'"):
        round_weights(model, table, batches(feeds), dialect="tensorrt", how="best")
    with pytest.raises(DataError, match="no samples"):
        round_weights(model, table, batches([]), dialect="tensorrt")


def test_labels_are_node_names() -> None:
    model = conv_net(16)
    feeds = [{"image": image_samples(4)}]
    found = round_weights(model, table_for(model, feeds), batches(feeds), dialect="onnxruntime")
    heads, _ = find_heads(model.graph, frozenset(), HeadRules())
    assert set(found.codes) <= {label(head.node) for head in heads}
    assert [s.node for s in found.solved] == list(found.codes)


def test_zeros_stay_zero_where_they_are_a_pattern() -> None:
    model = one_layer("Conv", ("N", 16, 9, 9), (24, 16, 3, 3), True)
    (head,) = find_heads(model.graph, frozenset(), HeadRules())[0]
    values = head.values.copy()
    values[:, [0, 3, 5, 6, 8, 11, 13, 14]] = 0
    head.weight.values = values
    feeds = samples(model)
    found = round_weights(model, table_for(model, feeds), batches(feeds), dialect="tensorrt")
    (codes,) = found.codes.values()
    assert not codes.codes[values == 0].any()
    assert found.solved[0].after < found.solved[0].before
