"""Channels between layers made alike; the float network stays what it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weight_nets import batches, int8, net, outputs, quality, samples, table_for

from graphopt.graph import constant
from graphopt.quantization.equalize import equalize
from graphopt.quantization.factors import channel_maxima
from graphopt.quantization.sites import linear_sites

W = {"w0": (16, 8, 3, 3), "b0": (16,), "w1": (16, 16, 1, 1), "b1": (16,)}
TWO = "y = Conv(r, w1, b1)"


def between(middle: str) -> str:
    return f"""g (float[N,8,8,8] x) => (float[N,16,?,?] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w0, b0)  {middle} }}"""


# What is between, its further weights, which layers are rescaled.
KEPT = {
    "nothing": ("y = Conv(a, w1, b1)", {}, ["a"]),
    "relu": (f"r = Relu(a) {TWO}", {}, ["a"]),
    "leaky": (f"r = LeakyRelu<alpha=0.2>(a) {TWO}", {}, ["a"]),
    "prelu of channels": (f"r = PRelu(a, p) {TWO}", {"p": (16, 1, 1)}, ["a"]),
    "prelu": (f"r = PRelu(a, p) {TWO}", {"p": (1,)}, ["a"]),
    "pools": (
        f"q = MaxPool<kernel_shape=[2,2]>(a) r = AveragePool<kernel_shape=[2,2]>(q) {TWO}", {},
        ["a"]),
    "depthwise": (
        f"q = Relu(a) d = Conv<group=16,pads=[1,1,1,1]>(q, wd, bd) r = Relu(d) {TWO}",
        {"wd": (16, 1, 3, 3), "bd": (16,)}, ["a", "d"]),
    "depthwise, twice as many": (
        "q = Relu(a) d = Conv<group=16>(q, wd) r = Relu(d) y = Conv(r, wl)",
        {"wd": (32, 1, 3, 3), "wl": (16, 32, 1, 1)}, ["a", "d"]),
    "grouped": (
        "r = Relu(a) y = Conv<group=4>(r, wg)", {"wg": (16, 4, 1, 1)}, ["a"]),
    "transposed": (
        f"q = Relu(a) t = ConvTranspose<group=2,strides=[2,2]>(q, wt, bt) r = Relu(t) {TWO}",
        {"wt": (16, 8, 2, 2), "bt": (16,)}, ["a", "t"]),
    "two readers": (
        "r = Relu(a) c = Conv(r, w1, b1) d = Conv(r, w2) y = Add(c, d)", {"w2": (16, 16, 1, 1)},
        ["a"]),
    "relu by clip": (f"zero = Constant<value_float=0.0>() r = Clip(a, zero) {TWO}", {}, ["a"]),
}  # fmt: skip
REFUSED = {
    "relu6": (
        "zero = Constant<value_float=0.0>() six = Constant<value_float=6.0>() "
        f"r = Clip(a, zero, six) {TWO}", {}, "bounds of Clip"),
    "sigmoid": (f"r = Sigmoid(a) {TWO}", {}, "Sigmoid 'r' reads it"),
    "residual": ("r = Relu(a) c = Conv(r, w1, b1) y = Add(c, r)", {}, "Add 'y' reads it"),
    "square": (f"r = Mul(a, a) {TWO}", {}, "Mul 'r' reads it"),
    "same weight": (
        "r = Relu(a) c = Conv(r, w1, b1) s = Relu(c) y = Conv(s, w1, b1)", {}, "share the weight"),
    "slope of places": (f"r = PRelu(a, p) {TWO}", {"p": (8,)}, "PRelu 'r' reads it"),
}  # fmt: skip


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("case", KEPT)
def test_every_bit_stays(case, data) -> None:
    middle, more, expected = KEPT[case]
    model = net(between(middle), W | more)
    feeds, digest = samples(model), model.digest()
    result = equalize(model, batches(feeds) if data else None)
    assert model.digest() == digest
    assert [c.where for c in result.changes] == expected
    assert result.model.digest() != digest
    onnx.checker.check_model(result.model.to_onnx(), full_check=True)
    for a, b in zip(outputs(model, feeds), outputs(result.model, feeds), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", KEPT)
def test_exact_factors_change_little(case) -> None:
    middle, more, _ = KEPT[case]
    model = net(between(middle), W | more)
    feeds = samples(model)
    result = equalize(model, batches(feeds), exact=False)
    assert quality(model, result.model, feeds) > 110


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_why(case) -> None:
    middle, more, reason = REFUSED[case]
    model = net(between(middle), W | more)
    feeds = samples(model)
    result = equalize(model, batches(feeds))
    assert "a" not in {c.where for c in result.changes}
    assert reason in next(s.reason for s in result.skipped if s.where == "a")
    np.testing.assert_array_equal(outputs(model, feeds)[0], outputs(result.model, feeds)[0])


def test_graph_outputs_and_bodies_are_respected() -> None:
    seen = net(
        """g (float[N,8,8,8] x) => (float[N,16,?,?] y, float[N,16,8,8] r) {
          a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a) y = Conv(r, w1, b1) }""", W)  # fmt: skip
    result = equalize(seen)
    assert not result.changes
    assert result.skipped[0].reason == "the graph returns it"
    body = net(
        """g (float[N,8,8,8] x, bool c) => (float[N,16,?,?] y, float[N,16,?,?] z) {
          a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a) y = Conv(r, w1, b1)
          z = If(c)<then_branch = t () => (float[N,16,8,8] o) { o = Neg(r) },
                    else_branch = e () => (float[N,16,8,8] o2) { o2 = Identity(r) }> }""",
        W,
    )
    result = equalize(body)
    assert not result.changes
    assert "body" in result.skipped[0].reason


@pytest.mark.parametrize(
    ("tail", "size"),
    [("f = Flatten(r) y = Gemm<transB=1>(f, wf, bf)", 16 * 36),
     ("p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, wf, bf)", 16)],
)  # fmt: skip
def test_through_flatten(tail, size) -> None:
    model = net(
        f"""g (float[2,8,8,8] x) => (float[2,10] y) {{
          a = Conv(x, w0, b0) r = Relu(a) {tail} }}""",
        {"w0": (16, 8, 3, 3), "b0": (16,), "wf": (10, size), "bf": (10,)},
    )
    feeds = samples(model)
    result = equalize(model, batches(feeds))
    assert [c.where for c in result.changes] == ["a"]
    np.testing.assert_array_equal(outputs(model, feeds)[0], outputs(result.model, feeds)[0])


def test_linear_layers_and_biases_of_their_own() -> None:
    model = net(
        """g (float[N,5,16] x) => (float[N,5,8] y) {
          m = MatMul(x, w0) a = Add(b, m) r = Relu(a) n = MatMul(r, w1) y = Add(n, c) }""",
        {"w0": (16, 24), "b": (24,), "w1": (24, 8), "c": (8,)},
    )
    feeds = samples(model)
    result = equalize(model, batches(feeds))
    assert [c.where for c in result.changes] == ["m"]
    np.testing.assert_array_equal(outputs(model, feeds)[0], outputs(result.model, feeds)[0])
    shared = net(
        """g (float[N,5,16] x) => (float[N,5,16] y, float[N,5,16] z) {
          m = MatMul(x, w0) a = Add(b, m) r = Relu(a) n = MatMul(r, w1) y = Add(n, b)
          z = Add(x, b) }""",
        {"w0": (16, 16), "b": (16,), "w1": (16, 16)},
    )
    feeds = samples(shared)
    result = equalize(shared, batches(feeds))
    assert result.changes
    for a, b in zip(outputs(shared, feeds), outputs(result.model, feeds), strict=True):
        np.testing.assert_array_equal(a, b)


@given(
    seed=st.integers(0, 1000),
    kinds=st.lists(st.sampled_from(["conv", "depthwise", "pool", "relu6", "skip"]), max_size=5),
)
@settings(max_examples=25)
def test_random_chains_keep_every_bit(seed, kinds) -> None:
    text, weights, last = "t0 = Conv<pads=[1,1,1,1]>(x, w, b)", {"w": (8, 4, 3, 3), "b": (8,)}, "t0"
    for i, kind in enumerate(kinds, 1):
        new = f"t{i}"
        if kind == "conv":
            text += f" r{i} = Relu({last}) {new} = Conv(r{i}, w{i}, b{i})"
            weights |= {f"w{i}": (8, 8, 1, 1), f"b{i}": (8,)}
        elif kind == "depthwise":
            text += f" r{i} = LeakyRelu({last}) {new} = Conv<group=8,pads=[1,1,1,1]>(r{i}, w{i})"
            weights |= {f"w{i}": (8, 1, 3, 3)}
        elif kind == "pool":
            text += f" {new} = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>({last})"
        elif kind == "relu6":
            text += f" r{i} = HardSwish({last}) {new} = Relu(r{i})"
        else:
            text += f" r{i} = Relu({last}) {new} = Add(r{i}, {last})"
    model = net(
        f"g (float[N,4,8,8] x) => (float[N,3,?,?] y) {{ {text} y = Conv({last}, v) }}",
        weights | {"v": (3, 8, 1, 1)},
        seed=seed,
    )
    feeds = samples(model, 2, seed=seed)
    for data in (batches(feeds), None):
        result = equalize(model, data)
        np.testing.assert_array_equal(outputs(model, feeds)[0], outputs(result.model, feeds)[0])


def test_channels_come_closer_and_int8_gains() -> None:
    middle, more, _ = KEPT["depthwise"]
    model = net(between(middle), W | more, seed=4)
    feeds = samples(model, 16)
    result = equalize(model, batches(feeds))
    sites = [linear_sites(m)[0] for m in (model, result.model)]
    for i in (0, 1):
        spread = [
            np.ptp(np.log2(channel_maxima(m, batches(feeds), s)[i]))
            for m, s in zip((model, result.model), sites, strict=True)
        ]
        assert spread[1] < 0.5 * spread[0]
    unseen = samples(model, 8, seed=8)
    before = quality(model, int8(model, table_for(model, feeds)), unseen)
    after = quality(model, int8(result.model, table_for(result.model, feeds)), unseen)
    assert after > before + 1


def test_dead_channels_are_left() -> None:
    model = net(between(KEPT["relu"][0]), W)
    nodes = {n.name: n for n in model.graph.nodes}
    weight = constant(nodes["a"].inputs[1]).copy()
    bias = constant(nodes["a"].inputs[2]).copy()
    weight[2], bias[2] = 0, -1  # never above zero
    nodes["a"].inputs[1].values, nodes["a"].inputs[2].values = weight, bias
    read = constant(nodes["y"].inputs[1]).copy()
    read[:, 5] = 0  # read by zeros
    nodes["y"].inputs[1].values = read
    feeds = samples(model)
    result = equalize(model, batches(feeds))
    after = {n.name: n for n in result.model.graph.nodes}
    np.testing.assert_array_equal(constant(after["a"].inputs[2])[[2, 5]], bias[[2, 5]])
    assert np.isfinite(constant(after["a"].inputs[1])).all()
    np.testing.assert_array_equal(outputs(model, feeds)[0], outputs(result.model, feeds)[0])


def test_another_float_type_is_left() -> None:
    proto = net(between(KEPT["relu"][0]), W).to_onnx()
    for tensor in proto.graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del proto.graph.value_info[:]
    from graphopt.model import Model

    result = equalize(Model.from_onnx(proto))
    assert not result.changes
    assert "not float32" in result.skipped[0].reason
