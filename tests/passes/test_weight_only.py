"""Weights in 4 and 8 bits: what is stored, what is computed, what second order is worth."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers import SHARED, needs_shared, parse, rtx_refuses, run, sqnr
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.engines import BuildOptions, ShapeRange
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.graph import constant, is_op
from graphopt.model import Model
from graphopt.passes import PASSES
from graphopt.passes.blocks import (
    BlockCodes,
    block_scales,
    fitting_block,
    fp16_scale,
    limits,
    round_blocks,
)
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.simplify import Simplify
from graphopt.passes.to_fp16 import ToFp16
from graphopt.passes.weight_only import WeightOnly
from graphopt.profiles import DeviceProfile
from graphopt.quantization.weight_only import weight_codes

MLP = """
g (float[N, 256] x) => (float[N, 64] y) {
  [up] a = MatMul(x, w1)
  [bias] b = Add(a, b1)
  [relu] c = Relu(b)
  [middle] d = Gemm<transB = 1>(c, w2, b2)
  [also] e = Relu(d)
  [down] y = Gemm(e, w3, b3)
}"""


def model_of(text: str, **values: np.ndarray) -> Model:
    """Make a model of ONNX text and the constants it reads."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, value in values.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return Model.from_onnx(proto)


def weight(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(5, size=(rows, columns)) / np.sqrt(rows)).astype("f4")


def mlp() -> Model:
    rng = np.random.default_rng(1)
    biases = {f"b{i}": rng.normal(size=n).astype("f4") for i, n in ((1, 384), (2, 256), (3, 64))}
    return model_of(MLP, w1=weight(256, 384), w2=weight(384, 256, 1).T.copy(),
                    w3=weight(256, 64, 2), **biases)  # fmt: skip


def correlated(count: int, seed: int = 0) -> np.ndarray:
    """Inputs as layers see them: a few directions hold most of the energy."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(32, 256))
    noise = 0.1 * rng.normal(size=(count, 256))
    return (rng.normal(size=(count, 32)) @ mix / 6 + noise).astype("f4")


def checked(model: Model) -> Model:
    onnx.checker.check_model(model.to_onnx(), full_check=True)
    return model


def reasons(result) -> dict[str, str]:
    return {s.where: s.reason for s in result.skipped}


# --- what is written -------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "block", "floor"), [(4, None, 13), (4, 32, 15), (8, None, 36),
                                                      (8, 64, 40)])  # fmt: skip
def test_an_mlp_gives_nearly_what_it_gave(bits, block, floor):
    model, x = mlp(), {"x": correlated(64)}
    result = WeightOnly(bits, block)(model)
    small = checked(result.model)
    assert result.counts()[f"int{bits}"] == 3
    assert sqnr(run(model, x)[0], run(small, x)[0]) > floor
    stored = {n.inputs[0].dtype for n in small.graph.nodes if is_op(n, "DequantizeLinear")}
    assert stored == {np.dtype(ml_dtypes.int4 if bits == 4 else np.int8)}
    before, after = (len(m.to_onnx().SerializeToString()) for m in (model, small))
    assert after < before * (0.19 if bits == 4 else 0.31)
    assert rtx_refuses(small) is None
    assert Model.from_onnx(small.to_onnx()).digest() == small.digest()


def test_the_values_are_codes_times_scales_along_the_blocks():
    model = mlp()
    small = WeightOnly(4, 64)(model).model
    for name, columns in (("w1", 384), ("w2", 256)):
        node = next(n for n in small.graph.nodes if n.name == f"{name}_DequantizeLinear")
        codes, scales = constant(node.inputs[0]), constant(node.inputs[1])
        assert len(node.inputs) == 2, "TensorRT wants no zero-point"
        assert node.attrs == {"axis": 0, "block_size": 64}
        assert scales.shape == (len(codes) // 64, columns)
        full = codes.astype("f4") * np.repeat(scales, 64, axis=0)
        old = constant(model.graph.tensors()[name])
        old = old.T if name == "w2" else old
        assert np.abs(full - old).max() <= np.repeat(scales, 64, axis=0).max() * 3
        assert sqnr(old, full) > 17
        np.testing.assert_array_equal(scales, scales.astype(np.float16).astype("f4"))


def test_gemm_is_stored_as_matmul_is():
    """ONNX Runtime fuses DequantizeLinear with no transposed weight."""
    small = WeightOnly()(mlp()).model
    gemms = [n for n in small.graph.nodes if n.op == "Gemm"]
    assert [n.name for n in gemms] == ["middle", "down"]
    assert not any(n.attrs.get("transB", 0) for n in gemms)


def test_a_gemm_that_scales_stays_a_gemm():
    model = model_of(
        "g (float[N, 128] x) => (float[N, 32] y) {\n"
        "  [scaled] a = Gemm<alpha = 0.5, transB = 1>(x, w, c)\n"
        "  [halved] y = Gemm<beta = 2.0>(a, v, c)\n}",
        w=weight(32, 128), v=weight(32, 32), c=np.ones(32, "f4"),
    )  # fmt: skip
    x = {"x": correlated(8)[:, :128]}
    result = WeightOnly(8, 32)(model)
    assert [n.op for n in result.model.graph.nodes if n.op == "Gemm"] == ["Gemm", "Gemm"]
    assert sqnr(run(model, x)[0], run(checked(result.model), x)[0]) > 35
    assert rtx_refuses(result.model) is None


def test_rows_that_divide_into_no_block():
    model = model_of(
        "g (float[N, 100] x, float[N, 96] z) => (float[N, 8] y, float[N, 8] v) {\n"
        "  [odd] y = MatMul(x, w)\n  [smaller] v = MatMul(z, u)\n}",
        w=weight(100, 8), u=weight(96, 8),
    )  # fmt: skip
    result = WeightOnly()(model)
    assert reasons(result)["odd"] == "its 100 rows divide into no blocks of 32 up"
    (change,) = [c for c in result.changes if c.kind == "int4"]
    assert "blocks of 32: 3,072 -> 480 bytes" in change.detail
    assert "smaller" in reasons(WeightOnly(least=64)(model))
    # A scale a column needs no blocks.
    assert WeightOnly(8)(model).counts() == {"int8": 2}
    assert WeightOnly(8)(model).model.opset == 17


def test_what_stays_and_why():
    model = model_of(
        "g (float[N, 64] x, float[64] v, int64[2] i) =>\n"
        "    (float[N, 64] y, float[2, 64] e, float[N, 64] o, float[64] p, float[N, N] q) {\n"
        "  [twice] a = MatMul(x, tied)\n  [look] e = Gather(tied, i)\n"
        "  [kept] b = MatMul(a, w)\n  [left] c = MatMul(w, w2)\n  y = MatMul(b, c)\n"
        "  [deep] o0 = MatMul(x, w3)\n  o = Squeeze(o0, zero)\n  [vector] p = MatMul(v, w4)\n"
        "  [ta] q = Gemm<transA = 1>(t, x2)\n  t = Transpose(x)\n  x2 = Transpose(x)\n}".replace(
            "[ta] q = Gemm<transA = 1>(t, x2)\n  t = Transpose(x)\n  x2 = Transpose(x)",
            "t = Transpose(x)\n  [ta] q = Gemm<transA = 0>(x, t)",
        ),
        tied=weight(64, 64), w=weight(64, 64, 1), w2=weight(64, 64, 2), w4=weight(64, 64, 4),
        w3=weight(64, 64, 3)[None], zero=np.array([0]),
    )  # fmt: skip
    result = WeightOnly(exclude=("kep*", "nothing"))(model)
    told = reasons(result)
    assert "others than products read its weight 'tied'" in told["twice"]
    assert told["kept"] == "it is to stay so"
    assert "neither input is a constant" in told["left"]
    assert "3 dimensions" in told["deep"]
    assert "vector" in told["vector"]
    assert "neither" in told["ta"]
    assert "matches no node" in told["nothing"]
    assert result.changes == ()
    assert result.model.digest() == model.digest(), "not even the opset"


def test_a_block_is_never_all_of_a_weight():
    # TensorRT takes a single scale for one of the whole tensor, and then refuses the block.
    text = "g (float[N, 128] x) => (float[N, 1] y) { [one] y = MatMul(x, w) }"
    result = WeightOnly(4)(model_of(text, w=weight(128, 1)))
    assert result.changes == ()
    assert "TensorRT refuses" in reasons(result)["one"]
    for rows, columns in ((256, 1), (128, 2)):
        model = model_of(text.replace("128", str(rows)).replace("N, 1]", f"N, {columns}]"),
                         w=weight(rows, columns))  # fmt: skip
        small = checked(WeightOnly(4)(model).model)
        assert any(is_op(n, "DequantizeLinear") for n in small.graph.nodes)
        assert rtx_refuses(small) is None


@pytest.mark.parametrize(("bits", "opset"), [(8, 19), (4, 21)])
def test_fp16_weights_need_an_opset_with_fp16_scales(bits, opset):
    text = "g (float16[N, 256] x) => (float16[N, 64] y) { y = MatMul(x, w) }"
    model = model_of(text, w=weight(256, 64).astype(np.float16))
    small = checked(WeightOnly(bits)(model).model)
    assert small.opset == opset
    x = {"x": correlated(16).astype(np.float16)}
    before, after = (run(m, x)[0] for m in (model, small))
    assert after.dtype == np.float16
    assert sqnr(before, after) > (36 if bits == 8 else 13)


def test_a_shared_weight_is_written_once():
    model = model_of(
        "g (float[N, 64] x) => (float[N, 64] y) {\n"
        "  [one] a = MatMul(x, w)\n  b = Relu(a)\n  [two] y = MatMul(b, w)\n}", w=weight(64, 64)
    )  # fmt: skip
    result = WeightOnly(4, 64)(model)
    assert [c.where for c in result.changes if c.kind == "int4"] == ["one", "two"]
    assert sum(n.op == "DequantizeLinear" for n in result.model.graph.nodes) == 1
    x = correlated(64)[:, :64]
    codes = weight_codes(model, WeightOnly(4, 64), lambda: iter([{"x": x}]), threads=1)
    assert set(codes) == {"w"}


def test_bodies_that_read_the_weight_keep_it():
    model = model_of(
        "g (float[N, 64] x, bool c) => (float[N, 64] y) {\n"
        "  [one] a = MatMul(x, w)\n"
        "  y = If (c) <then_branch = t () => (float[N, 64] u) { u = MatMul(a, w) },\n"
        "              else_branch = e () => (float[N, 64] v) { v = Identity(a) }>\n}",
        w=weight(64, 64),
    )  # fmt: skip
    assert "others than products" in reasons(WeightOnly()(model))["one"]


def test_refusals():
    with pytest.raises(UsageError, match="4 or 8 bits"):
        WeightOnly(2)(mlp())
    with pytest.raises(UsageError, match="16, 32, 64"):
        WeightOnly(4, 100)(mlp())
    with pytest.raises(UnsupportedModelError, match="up to 17"):
        WeightOnly(max_opset=17)(mlp())
    good = round_blocks(weight(256, 384), 4, 128)
    for codes, scales, said in (
        (good.codes[:-1], good.scales, "are wanted"),
        (good.codes, good.scales[:1], "are wanted"),
        (good.codes + np.int8(9), good.scales, "do not fit 4 bits"),
        (good.codes, good.scales * 0, "finite and > 0"),
    ):
        with pytest.raises(UsageError, match=said):
            WeightOnly(codes={"w1": BlockCodes(codes, scales)})(mlp())


def test_a_broken_weight_stays():
    broken = weight(64, 64)
    broken[3, 3] = np.nan
    text = "g (float[N, 64] x) => (float[N, 64] y) { [one] y = MatMul(x, w) }"
    assert "NaN" in reasons(WeightOnly()(model_of(text, w=broken)))["one"]


def test_the_same_input_gives_the_same_bytes_and_stays_as_it_was():
    model = mlp()
    before = model.digest()
    made = [WeightOnly()(m).model.to_onnx().SerializeToString(deterministic=True)
            for m in (model, mlp())]  # fmt: skip
    assert made[0] == made[1]
    assert model.digest() == before
    assert PASSES.load("weight-only") is WeightOnly


def test_nothing_is_done_twice():
    once = WeightOnly()(mlp()).model
    again = WeightOnly()(once)
    assert again.changes == ()
    assert again.model.digest() == once.digest()


def test_with_fp16_activations():
    model = mlp()
    x = {"x": correlated(32)}
    small = WeightOnly()(model).model
    half = checked(ToFp16()(small).model)
    for node in half.graph.nodes:
        if is_op(node, "DequantizeLinear"):
            assert node.inputs[0].dtype == ml_dtypes.int4
            assert node.outputs[0].dtype == np.float16
    assert sum(n.op == "Cast" for n in half.graph.nodes) == 2
    assert sqnr(run(small, x)[0], run(half, x)[0]) > 50
    assert rtx_refuses(half) is None
    # The other way round: weights that are fp16 already.
    other = checked(WeightOnly()(ToFp16()(model).model).model)
    assert sqnr(run(model, x)[0], run(other, x)[0]) > 13
    assert rtx_refuses(other) is None


# --- rounding --------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 999), st.sampled_from([4, 8]), st.sampled_from([None, 16, 32]))
def test_searched_scales_beat_the_plain_ones_in_every_block(seed, bits, block):
    rng = np.random.default_rng(seed)
    matrix = (rng.standard_t(3, size=(64, 5)) * 10.0 ** rng.integers(-6, 6)).astype("f4")
    matrix[:, 0] = 0
    found = round_blocks(matrix, bits, block)
    low, high = limits(bits)
    assert found.codes.min() >= low
    assert found.codes.max() <= high
    assert (found.scales > 0).all()
    assert (found.codes[:, 0] == 0).all()
    size = block or 64
    blocks = matrix.reshape(64 // size, size, 5)
    amax = np.abs(blocks).max(axis=1)
    plain = fp16_scale(np.where(amax > 0, amax, 1) / np.float32(high))[:, None]
    codes = np.clip(np.rint(blocks / plain), low, high)
    worst = np.square((codes * plain - blocks).astype("f8")).sum(axis=1)
    ours = np.square((found.values() - matrix).astype("f8")).reshape(blocks.shape).sum(axis=1)
    assert (ours <= worst * (1 + 1e-4) + 1e-30).all()


def test_an_int4_block_whose_greatest_weight_is_negative_may_use_minus_eight():
    column = np.array([-8.0] + [float(i % 7) for i in range(31)], "f4")[:, None]
    found = round_blocks(column, 4, 32)
    assert found.codes.min() == -8
    assert sqnr(column, found.values()) > 40


def test_scales_weigh_errors_by_what_they_meet():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(32, 50)).astype("f4")
    matrix[0] = 6
    energy = np.ones(32)
    energy[0] = 1e-6
    plain, wise = (block_scales(matrix, 4, 32, w) for w in (None, energy))
    assert wise.mean() < plain.mean()


@pytest.mark.parametrize(("rows", "block", "least", "want"), [
    (4096, 128, 32, 128), (192, 128, 32, 64), (96, 128, 32, 32), (96, 128, 64, None),
    (100, 128, 16, None), (48, 16, 16, 16), (100, 128, 32, None)])  # fmt: skip
def test_the_block_that_fits(rows, block, least, want):
    assert fitting_block(rows, block, least) == want


@pytest.mark.parametrize(("bits", "block"), [(4, 128), (4, 32), (8, None)])
def test_second_order_is_better_on_data_it_has_not_seen(bits, block):
    model = mlp()
    seen, other = correlated(512), {"x": correlated(128, 7)}
    plain = WeightOnly(bits, block)
    batches = lambda: iter([{"x": seen[i : i + 64]} for i in range(0, 512, 64)])  # noqa: E731
    codes = weight_codes(model, plain, batches, threads=1)
    assert set(codes) == {"w1", "w2", "w3"}
    want = run(model, other)[0]
    nearest = sqnr(want, run(plain(model).model, other)[0])
    chosen = sqnr(want, run(replace(plain, codes=codes)(model).model, other)[0])
    assert chosen > nearest + 2


@pytest.mark.parametrize("bits", [4, 8])
def test_second_order_keeps_zeros(bits):
    values = weight(128, 32)
    values[::2] = 0
    model = model_of("g (float[N, 128] x) => (float[N, 32] y) { y = MatMul(x, w) }", w=values)
    x = np.random.default_rng(2).normal(size=(32, 128)).astype("f4")
    (codes,) = weight_codes(model, WeightOnly(bits, 64), lambda: iter([{"x": x}])).values()
    assert not codes.codes[values == 0].any()
    assert codes.codes[values != 0].any()


def test_one_sample_is_enough_to_run():
    model = mlp()
    codes = weight_codes(model, WeightOnly(), lambda: iter([{"x": correlated(1)}]), threads=1)
    small = replace(WeightOnly(), codes=codes)(model).model
    assert sqnr(run(model, {"x": correlated(16)})[0], run(small, {"x": correlated(16)})[0]) > 5


# --- real ------------------------------------------------------------------------------------


@needs_shared
def test_the_classifier_of_a_resnet():
    model = Model.load(SHARED / "models" / "resnet20_cifar10.onnx")
    model = FoldBatchNorm()(Simplify()(model).model).model
    name = model.graph.inputs[0].name
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(64, 3, 32, 32)).astype("f4")}
    other = {name: rng.normal(size=(64, 3, 32, 32)).astype("f4")}
    plain = WeightOnly(4)
    codes = weight_codes(model, plain, lambda: iter([x]), threads=1)
    want = run(model, other)[0]
    near = run(plain(model).model, other)[0]
    best = run(checked(replace(plain, codes=codes)(model).model), other)[0]
    assert sqnr(want, best) > sqnr(want, near) + 3


@pytest.mark.parametrize("half", [False, True])
def test_it_builds(half, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    from graphopt.engines.tensorrt_rtx import TensorRTRTX

    model = WeightOnly()(mlp()).model
    model = ToFp16()(model).model if half else model
    shapes = {"x": ShapeRange((1, 256), (4, 256), (8, 256))}
    options = BuildOptions(DeviceProfile(name="host", title="host"), shapes)
    artifact = TensorRTRTX().build(model, tmp_path / "m.engine", options)
    assert artifact.path.stat().st_size > 100_000


@pytest.mark.parametrize(
    ("since", "bits", "shape", "op"),
    [((1, 20), 4, "N, 7, 256", "MatMul"), ((1, 30), 4, "N, 256", "Gemm"),
     ((1, 30), 8, "N, 7, 256", "MatMul")],
)  # fmt: skip
def test_onnx_runtime_makes_one_kernel_of_it(since, bits, shape, op, tmp_path):
    import onnxruntime as ort

    if tuple(int(p) for p in ort.__version__.split(".")[:2]) < since:
        pytest.skip(f"ONNX Runtime {ort.__version__} does not")
    from graphopt.runtime import open_session, session_options

    out = shape.replace("256", "384")
    attrs, w = (
        ("<transB = 1>", weight(256, 384).T.copy()) if op == "Gemm" else ("", weight(256, 384))
    )
    text = f"g (float[{shape}] x) => (float[{out}] y) {{ [one] y = {op}{attrs}(x, w) }}"
    options = session_options(threads=1)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    with open_session(WeightOnly(bits)(model_of(text, w=w)).model, options=options):
        pass
    kinds = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds == ["MatMulNBits"]


def test_text_models_too():
    """Constant nodes are weights as well."""
    model = parse(
        "g (float[N, 16] x) => (float[N, 2] y) <float[16, 2] w = "
        + "{" + ", ".join(f"{0.1 * (i % 7) - 0.3:.2f}" for i in range(32)) + "}> {\n"
        "  [one] y = MatMul(x, w)\n}"
    )  # fmt: skip
    assert WeightOnly(4, 16, least=16)(model).counts()["int4"] == 1
