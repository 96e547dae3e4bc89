from __future__ import annotations

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import pytest
from helpers import SHARED, needs_shared, rtx_refuses, run
from hypothesis import given, settings
from hypothesis import strategies as st
from lower_cases import CASES, Case, X, feeds_of

from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.model import Feeds, Model
from graphopt.passes.lower_opset import LowerOpset

ORT = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])


def reference(model: Model, feeds: Feeds) -> list[np.ndarray]:
    """Run the model as it was; older runtimes know fewer opsets and attributes."""
    try:
        return run(model, feeds)
    except Exception as problem:
        if ORT >= (1, 32):
            raise
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__}: {str(problem)[:80]}")


def check(case: Case, ceiling: int) -> None:
    model = case.model()
    digest = model.digest()
    result = LowerOpset(ceiling)(model)
    assert model.digest() == digest
    proto = result.model.to_onnx()
    assert {o.version for o in proto.opset_import if not o.domain} == {min(case.opset, ceiling)}
    assert proto.ir_version <= onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid("", ceiling)]
    )
    onnx.checker.check_model(proto, full_check=True)
    assert [t.name for t in result.model.graph.outputs] == [t.name for t in model.graph.outputs]
    feeds = feeds_of(model)
    for before, after in zip(reference(model, feeds), run(result.model, feeds), strict=True):
        assert before.dtype == after.dtype
        if case.exact:
            np.testing.assert_array_equal(before, after)
        else:
            np.testing.assert_allclose(before, after, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_lowered_to_17_it_computes_the_same(name):
    check(CASES[name], 17)


@pytest.mark.parametrize("name", CASES)
def test_lowered_to_20_it_computes_the_same(name):
    check(CASES[name], 20)


@pytest.mark.parametrize("name", CASES)
def test_the_parser_of_tensorrt_takes_what_it_took(name):
    model = CASES[name].model()
    if rtx_refuses(model) is None:
        assert rtx_refuses(LowerOpset(17)(model).model) is None


REFUSED = {
    "computed axes": (
        Case(18, "y = ReduceMean(x, ax)", inputs=f"{X}, int64[1] ax"),
        "cannot lower the model from opset 18 to 17: ReduceMean 'y' it reduces axes that are",
    ),
    "col2im": (
        Case(
            18,
            "s = Constant<value = int64[2] {5, 5}>() k = Constant<value = int64[2] {1, 5}>() "
            "y = Col2Im(x, s, k)",
            inputs="float[1,5,5] x",
        ),
        "Col2Im 'y' needs opset 18; export it again with opset 17, or build for a newer TensorRT",
    ),
    "bitwise": (
        Case(18, "y = BitwiseAnd(x, x)", inputs="int32[2] x", output="int32[2] y"),
        "BitwiseAnd 'y' needs opset 18",
    ),
    "wrap": (
        Case(
            19,
            "p = Constant<value = int64[8] {0,0,1,1,0,0,1,1}>() y = Pad<mode=\"wrap\">(x, p)",
        ),
        "mode wrap is of opset 19",
    ),
    "pads": (
        Case(
            18, "ax = Constant<value = int64[1] {2}>() y = Pad(x, p, , ax)",
            inputs=f"{X}, int64[2] p",
        ),
        "it pads by what is computed at run time",
    ),
    "smaller": (
        Case(
            18,
            's = Constant<value = float[4] {1., 1., 0.5, 0.5}>() '
            'y = Resize<mode="linear", antialias=1>(x, , s)',
        ),
        "antialias changes what shrinks",
    ),
    "proportions": (
        Case(
            18,
            'z = Constant<value = int64[2] {16, 12}>() y = Resize<axes = [2, 3], '
            'keep_aspect_ratio_policy = "not_larger">(x, , , z)',
        ),
        "it keeps proportions (not_larger)",
    ),
    "symmetric": (
        Case(
            19,
            's = Constant<value = float[4] {1., 1., 2., 2.}>() y = Resize'
            '<mode="linear", coordinate_transformation_mode="half_pixel_symmetric">(x, , s)',
        ),
        "half_pixel_symmetric is of opset 19",
    ),
    "greatest": (
        Case(
            18,
            """i = Constant<value = int64[1,1,1,1] {1}>()
            u = Constant<value = float[1,1,1,1] {5.}>()
            y = ScatterElements<reduction="max">(x, i, u)""",
        ),
        "reduction max is of opset 18",
    ),
    "volumes": (
        Case(
            20, "y = GridSample(x, g)", inputs="float[1,1,4,4,4] x, float[1,2,2,2,3] g",
            output="float[a,b,c,d,e] y",
        ),
        "only images",
    ),
    "holes": (
        Case(19, "y = AveragePool<kernel_shape=[2,2], dilations=[2,2]>(x)"), "it has dilations"
    ),
    "lp ceil": (Case(18, "y = LpPool<kernel_shape=[3,3], ceil_mode=1>(x)"), "ceil_mode"),
    "float8": (
        Case(19, "h = Cast<to=17>(x) y = Cast<to=1>(h)"), "it casts to float8e4m3fn",
    ),
    "bfloat16": (
        Case(
            22, "y = Sin(x)", inputs="bfloat16[2] x", output="bfloat16[2] y",
        ),
        "bfloat16 ('x') is of an opset newer than 17",
    ),
    "strings": (
        Case(20, "y = StringConcat(x, x)", inputs="string[2] x", output="string[2] y"),
        "StringConcat 'y' needs opset 20",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_older_form_is_refused_in_one_line(name):
    case, said = REFUSED[name]
    model = case.model()
    with pytest.raises(UnsupportedModelError) as problem:
        LowerOpset(17)(model)
    assert said in str(problem.value)
    assert "\n" not in str(problem.value)
    # Where it is not required the model stays, and the reason is told.
    result = LowerOpset(17, required=False)(model)
    assert result.model.opset == model.opset
    assert result.model.digest() == model.digest()
    assert said in result.skipped[0].reason


def test_blocks_of_weights_are_refused():
    node = onnx.helper.make_node
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.INT8, [4, 4], [1] * 16)
    scale = onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [2, 4], [0.5] * 8)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            node("DequantizeLinear", ["w", "s"], ["d"], "d", axis=0, block_size=2),
            node("MatMul", ["x", "d"], ["y"], "y"),
        ],
        "net",
        [info("x", onnx.TensorProto.FLOAT, [2, 4])],
        [info("y", onnx.TensorProto.FLOAT, [2, 4])],
        [weight, scale],
    )
    opset = onnx.helper.make_opsetid("", 21)
    model = Model.from_onnx(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10))
    with pytest.raises(UnsupportedModelError, match="'d' it has blocks of weights"):
        LowerOpset(17)(model)


def test_an_older_model_keeps_its_opset_and_gets_its_ir_version():
    proto = CASES["HardSwish-22"].model().to_onnx()
    proto.opset_import[0].version, proto.ir_version = 15, 11
    model = Model.from_onnx(proto)
    result = LowerOpset(17)(model)
    assert (result.model.opset, result.changes) == (15, ())
    assert result.model.to_onnx().ir_version == 8
    assert Model.from_onnx(proto).to_onnx().ir_version == 11
    again = LowerOpset(17)(result.model)
    assert again.model.digest() == result.model.digest()


def test_a_ceiling_below_all_targets_is_refused():
    with pytest.raises(UsageError, match="lowered to opset 17 and newer, not 13"):
        LowerOpset(13)(CASES["Cast"].model())


def test_computed_axes_that_fold_are_constants():
    case = Case(
        18,
        """s = Shape(x) g = Constant<value = int64[1] {1}>() d = Gather<axis=0>(s, g)
        six = Constant<value = int64[1] {6}>() a = Div(d, six) y = ReduceMean(x, a)""",
    )
    check(case, 17)


def test_functions_of_the_model_are_lowered_too():
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18, "mine" : 1]>
        net (float[2,6,8,8] x) => (float[a,b,c,d] y) { y = mine.Middle(x) }
        <domain: "mine", opset_import: ["" : 18]>
        Middle (v) => (w) { ax = Constant<value = int64[1] {1}>() w = ReduceMean(v, ax) }"""
    )
    model = Model.from_onnx(proto)
    lowered = LowerOpset(17)(model).model
    feeds = feeds_of(model)
    np.testing.assert_array_equal(run(model, feeds)[0], run(lowered, feeds)[0])
    assert lowered.opset == 17


@pytest.mark.parametrize("ceiling", [17, 20])
def test_fp16_scales_become_fp32_and_the_numbers_stay(ceiling):
    """Against NumPy: ONNX Runtime 1.23 rounds fp16 to other integers."""
    case = Case(
        19,
        """s1 = Constant<value = float {0.0625}>() s = Cast<to=10>(s1)
        z = Constant<value = int8 {0}>() h = Cast<to=10>(x)
        q = QuantizeLinear(h, s, z) d = DequantizeLinear(q, s, z) y = Cast<to=1>(d)""",
    )
    lowered = LowerOpset(ceiling)(case.model()).model
    onnx.checker.check_model(lowered.to_onnx(), full_check=True)
    if ceiling == 17:
        feeds = feeds_of(lowered)
        steps = np.rint(feeds["x"].astype(np.float16).astype(np.float32) / np.float32(0.0625))
        wanted = np.clip(steps, -128, 127) * np.float32(0.0625)
        np.testing.assert_array_equal(run(lowered, feeds)[0], wanted)


def test_what_was_done_is_said():
    result = LowerOpset(17)(CASES["Gelu"].model())
    assert result.changes[0].detail == "opset 20 -> 17"
    assert any(c.kind == "expanded" and "1 Gelu" in c.detail for c in result.changes)
    result = LowerOpset(17)(CASES["Split-rest"].model())
    assert result.changes[1].detail == "Split: its parts are 2, 2, 2, 1"


@settings(settings.get_profile("repeatable"), max_examples=60)
@given(
    st.sampled_from(["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"]),
    st.lists(st.integers(-3, 2), max_size=3, unique_by=lambda axis: axis % 3),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
)
def test_reductions_of_any_axes(op, axes, keep, noop, shape):
    said = "" if not axes else f"ax = Constant<value = int64[{len(axes)}] {{{str(axes)[1:-1]}}}>()"
    call = f"Reduce{op}<keepdims={int(keep)}, noop_with_empty_axes={int(noop)}>"
    rank = 3 if keep or (noop and not axes) else 3 - len(axes or shape)
    dims = ",".join("abc"[:rank])
    case = Case(
        18,
        f"{said} y = {call}(x{', ax' if axes else ''})",
        inputs=f"float[{','.join(map(str, shape))}] x",
        output=f"float[{dims}] y",
        exact=False,
    )
    check(case, 17)


@settings(settings.get_profile("repeatable"), max_examples=40)
@given(st.integers(1, 12), st.integers(1, 4))
def test_splits_of_any_size(size, count):
    outputs = ", ".join(f"float[n{i}] y{i}" for i in range(count))
    names = ", ".join(f"y{i}" for i in range(count))
    part = -(-size // count)
    if part * (count - 1) >= size:
        return  # A part without elements, which ONNX Runtime refuses.
    case = Case(
        18, f"{names} = Split<num_outputs={count}>(x)", inputs=f"float[{size}] x", output=outputs
    )
    check(case, 17)


@settings(settings.get_profile("repeatable"), max_examples=40)
@given(
    st.lists(st.integers(-3, 2), min_size=1, max_size=3, unique_by=lambda axis: axis % 3),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
    st.sampled_from(["constant", "edge", "reflect"]),
)
def test_pads_of_any_axes(axes, amounts, mode):
    count = len(axes)
    case = Case(
        18,
        f"""p = Constant<value = int64[{2 * count}] {{{str(amounts[: 2 * count])[1:-1]}}}>()
        ax = Constant<value = int64[{count}] {{{str(axes)[1:-1]}}}>()
        y = Pad<mode="{mode}">(x, p, , ax)""",
        inputs="float[3,4,5] x",
        output="float[a,b,c] y",
    )
    check(case, 17)


@needs_shared
def test_real_nets():
    for name, opset in (("resnet56_cifar10", 18), ("resnet20_cifar10", 22), ("face_yunet_n", 21)):
        proto = onnx.load(SHARED / "models" / f"{name}.onnx")
        proto = onnx.version_converter.convert_version(proto, opset)
        model = Model.from_onnx(proto)
        assert model.opset == opset
        lowered = LowerOpset(17)(model).model
        onnx.checker.check_model(lowered.to_onnx(), full_check=True)
        assert (lowered.opset, lowered.to_onnx().ir_version) == (17, 8)
        assert rtx_refuses(lowered) is None
        shape = (1, 3, 96, 96) if "yunet" in name else (2, 3, 32, 32)
        (given_input,) = model.inputs()
        feeds = {given_input: np.random.default_rng(1).normal(size=shape).astype("f4")}
        for before, after in zip(run(model, feeds), run(lowered, feeds), strict=True):
            np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [32, 512])
def test_definitions_of_what_reads_initializers(width):
    """Small ones, large ones, and what a body makes: onnx's inliner asks for their types."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 11, opset_import: ["" : 23]>
        net (float[2,3,{width}] x, bool c) => (float[2,3,{width}] y) {{
            a = RMSNormalization (x, s)
            b = If (c) <
                then_branch = one () => (float[2,3,{width}] t) {{ t = Gelu (s) }},
                else_branch = two () => (float[2,3,{width}] e) {{ r = Mul (a, own) e = Gelu (r) }}>
            d = Add (a, b)
            y = Attention <q_num_heads = 4, kv_num_heads = 4> (d, d, d)
        }}"""
    )
    values = np.linspace(0.5, 1.5, width, dtype=np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(values, "s"))
    one, two = (a.g for a in proto.graph.node[1].attribute)
    one.output[0].type.tensor_type.ClearField("shape")
    two.initializer.append(onnx.numpy_helper.from_array(values[::-1].copy(), "own"))
    model = Model.from_onnx(proto)
    lowered = LowerOpset(17)(model).model
    onnx.checker.check_model(lowered.to_onnx())
    assert lowered.opset == 17
    x = np.random.default_rng(0).normal(size=(2, 3, width)).astype("f4")
    for c in (True, False):
        feeds = {"x": x, "c": np.array(c)}
        before, after = reference(model, feeds)[0], run(lowered, feeds)[0]
        np.testing.assert_allclose(before, after, rtol=2e-5, atol=2e-5)
