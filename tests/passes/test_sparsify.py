"""Zeros among weights: where, how many, which layers, and what is said of devices."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import SHARED, conv_net, image_samples, needs_shared, parse, rtx_refuses, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from graphopt.errors import UsageError
from graphopt.graph import constant
from graphopt.model import Model
from graphopt.passes.base import Skip
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.simplify import Simplify
from graphopt.passes.sparsify import Sparsify
from graphopt.passes.sparsity import (
    Sparsity,
    candidates,
    check_sparsity,
    least_masked,
    parse_sparsity,
    stored,
)
from graphopt.profiles import DeviceProfile, load_device
from graphopt.statistics.layers import Layer

NODE = onnx.helper.make_node


def tensorrt_takes(weights: np.ndarray) -> bool:
    """The check of TensorRT's guide, on K, C, R, S."""
    k, c, r, s = weights.shape
    return c % 4 == 0 and all(
        np.count_nonzero(weights[i, 4 * g : 4 * g + 4, y, x]) <= 2
        for i in range(k)
        for y in range(r)
        for x in range(s)
        for g in range(c // 4)
    )


def weights_of(model: Model) -> dict[str, np.ndarray]:
    return {
        n.name: np.asarray(constant(n.inputs[1]))
        for n in model.graph.nodes
        if n.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")
    }


def test_two_of_four_input_channels_stay_in_every_convolution() -> None:
    model = conv_net(32)
    before, found = weights_of(model), Sparsify("2:4")(model)
    after = weights_of(found.model)
    assert {c.where for c in found.changes} == {"conv1", "conv2"}
    for name in ("conv1", "conv2"):
        assert tensorrt_takes(after[name])
        assert np.count_nonzero(after[name]) == before[name].size // 2
        kept = after[name] != 0
        assert np.array_equal(after[name][kept], before[name][kept])
        fours = np.abs(before[name]).reshape(before[name].shape[0], -1, 4, 3, 3)
        least = np.sort(fours, axis=2)[:, :, 2:].sum()
        assert np.abs(after[name]).sum() == pytest.approx(least, rel=1e-5)
    for name in ("stem", "fc"):
        assert np.array_equal(after[name], before[name])
    reasons = {s.where: s.reason for s in found.skipped}
    assert "3 and 32" in reasons["stem"]
    assert "32 and 10" in reasons["fc"]


@pytest.mark.parametrize(
    ("op", "attributes", "shape"),
    [
        ("Gemm", "<transB = 1>", (24, 32)),
        ("Gemm", "<alpha = -0.5>", (32, 24)),
        ("MatMul", "", (32, 24)),
    ],
)
def test_products_are_sparse_along_what_they_sum_over(
    op: str, attributes: str, shape: tuple[int, ...]
) -> None:
    model = parse(f"g (float[N, 32] x, float[{shape[0]}, {shape[1]}] w) => (float[N, 24] y) "
                  f"{{ y = {op} {attributes} (x, w) }}")  # fmt: skip
    w = np.random.default_rng(0).normal(size=shape).astype("f4")
    model = with_weights(model, w=w)
    (after,) = weights_of(Sparsify("2:4")(model).model).values()
    kcrs = (after if attributes == "<transB = 1>" else after.T)[:, :, None, None]
    assert tensorrt_takes(kcrs)
    assert np.count_nonzero(after) == w.size // 2


def with_weights(model: Model, **weights: np.ndarray) -> Model:
    proto = model.to_onnx()
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
        proto.graph.input.remove(next(i for i in proto.graph.input if i.name == name))
    return Model.from_onnx(proto)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75])
def test_the_number_of_zeros_is_exact(share: float) -> None:
    model = conv_net(32)
    before, found = weights_of(model), Sparsify(share)(model)
    for name, weight in weights_of(found.model).items():
        zeros = int(np.count_nonzero(weight == 0))
        dense = name == "stem" or weight.size < 1024
        assert zeros == (0 if dense else round(share * weight.size)), name
        kept = weight != 0
        assert np.array_equal(weight[kept], before[name][kept])
        if not dense:
            assert np.abs(weight[kept]).min() >= np.abs(before[name][~kept]).max()
    assert stored(found.model).compressed < stored(model).compressed


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**16))
@settings(max_examples=40)
def test_ties_and_zeros_never_change_the_count(c: int, o: int, taps: int, seed: int) -> None:
    layer = Layer("n", "Conv", "w", "x", "y", ("n", 2), 1, 4 * c, taps, o, 1)
    scores = np.random.default_rng(seed).integers(0, 3, size=(1, 4 * c * taps, o)).astype(float)
    mask = least_masked(scores, layer, Sparsity(0.5, structured=True))
    fours = mask.reshape(c, 4, taps, o)
    assert (fours.sum(axis=1) == 2).all()
    assert least_masked(scores, layer, Sparsity(0.7)).sum() == scores.size - round(
        0.7 * scores.size
    )


def test_shared_weights_stay_shared_and_the_input_stays_as_it_is() -> None:
    text = """g (float[N, 16, 8, 8] x, float[16, 16, 3, 3] w) => (float[N, 16, 4, 4] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        b = Relu (a)
        y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (b, w)
    }"""
    w = np.random.default_rng(1).normal(size=(16, 16, 3, 3)).astype("f4")
    model = with_weights(parse(text), w=w)
    digest = model.digest()
    found = Sparsify("2:4")(model)
    assert model.digest() == digest
    assert len(found.changes) == 1
    assert [t.name for t in found.model.graph.tensors().values() if t.name == "w"] == ["w"]
    assert all(tensorrt_takes(a) for a in weights_of(found.model).values())
    assert found.model.parameters() == model.parameters()


def test_layers_that_cannot_gain_stay_dense_and_say_why() -> None:
    text = """g (float[N, 32, 8, 8] x, float[32, 1, 3, 3] d, float[32, 8, 3, 3] s,
               float[32, 16, 2, 2] t) => (float[N, 16, 12, 12] y) {
        a = Conv <group = 32, pads = [1, 1, 1, 1]> (x, d)
        b = Conv <group = 4> (a, s)
        y = ConvTranspose <strides = [2, 2]> (b, t)
    }"""
    rng = np.random.default_rng(2)
    sizes = {"d": (32, 1, 3, 3), "s": (32, 8, 3, 3), "t": (32, 16, 2, 2)}
    model = with_weights(
        parse(text), **{k: rng.normal(size=v).astype("f4") for k, v in sizes.items()}
    )
    structured = Sparsify("2:4")(model)
    assert not structured.changes
    told = " ".join(s.reason for s in structured.skipped)
    assert "grouped" in told
    assert "ConvTranspose" in told
    free = Sparsify(0.5)(model)
    assert len(free.changes) == 2
    assert ["1 input channels" in s.reason for s in free.skipped] == [True]


def test_keep_leaves_layers_alone_and_tells_of_patterns_that_match_nothing() -> None:
    model = conv_net(32)
    found = Sparsify("2:4", keep=("conv1", "nothing*"))(model)
    assert [c.where for c in found.changes] == ["conv2"]
    assert Skip("nothing*", "this pattern matches no layer with weights") in found.skipped
    assert {"conv1", "nothing*"} <= {s.where for s in found.skipped}


def test_weights_read_in_two_ways_stay_dense() -> None:
    text = """g (float[16, 16] x, float[16, 16] w) => (float[16, 16] y) {
        a = Gemm <transB = 1> (x, w)
        y = Gemm (a, w)
    }"""
    w = np.random.default_rng(1).normal(size=(16, 16)).astype("f4")
    found = Sparsify("2:4")(with_weights(parse(text), w=w))
    assert not found.changes
    assert all("several ways" in s.reason for s in found.skipped)
    assert candidates(found.model, parse_sparsity("2:4")).shared == {"w"}


@pytest.mark.parametrize("text", ["1:4", "4:8", "half", "0", "1", "-0.5", "nan", "2:4:1", ""])
def test_other_patterns_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="2:4"):
        parse_sparsity(text)


def test_patterns_are_read_as_they_are_written() -> None:
    assert parse_sparsity(" 2:4 ") == Sparsity(0.5, structured=True)
    assert parse_sparsity(0.5) == parse_sparsity("0.5") == Sparsity(0.5)
    assert [str(parse_sparsity(t)) for t in ("2:4", "0.50")] == ["2:4", "0.5"]


@pytest.mark.parametrize("name", ["t4", "jetson-agx-xavier"])
def test_devices_before_ampere_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UsageError, match=r"Ampere.* is 7\.\d"):
        check_sparsity(parse_sparsity("2:4"), load_device(name))
    assert "no time" in check_sparsity(parse_sparsity(0.5), load_device(name))


@pytest.mark.parametrize("name", ["a10", "l4", "jetson-agx-orin"])
def test_devices_from_ampere_on_are_told_what_to_pass(name: str) -> None:
    assert "--sparsity=enable" in check_sparsity(parse_sparsity("2:4"), load_device(name))


def test_a_device_without_a_gpu_is_told_so() -> None:
    assert "'host' none" in check_sparsity(parse_sparsity("2:4"), DeviceProfile("host"))


def test_runs_and_is_taken_by_the_tensorrt_parser() -> None:
    found = Sparsify("2:4")(conv_net(32))
    onnx.checker.check_model(found.model.to_onnx(), full_check=True)
    assert np.isfinite(run(found.model, {"image": image_samples(2)})[0]).all()
    assert rtx_refuses(found.model) is None


@needs_shared
def test_real_weights_are_two_of_four() -> None:
    model = Model.load(SHARED / "models/resnet20_cifar10.onnx")
    for step in (Simplify(), FoldBatchNorm()):
        model = step(model).model
    found = Sparsify("2:4")(model)
    assert len(found.changes) == 18
    after = weights_of(found.model)
    for change in found.changes:
        assert tensorrt_takes(after[change.where])
        assert np.count_nonzero(after[change.where]) == after[change.where].size // 2
    assert rtx_refuses(found.model) is None
    assert Sparsify("2:4")(model).model.digest() == found.model.digest()
