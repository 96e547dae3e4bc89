# ruff: noqa: E501
from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from helpers import SHARED, needs_shared, parse, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphopt.model import Model
from graphopt.passes.base import PassResult
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.simplify import Simplify

BATCHNORM = "BatchNormalization <epsilon = 0.001>"
PARAMETERS = "float[4] g, float[4] b, float[4] m, float[4] v"


def with_weights(model: Model, seed: int = 0, **fixed: np.ndarray) -> Model:
    """Turn every input but x into an initializer of random values (variances: positive)."""
    rng = np.random.default_rng(seed)
    for tensor in list(model.graph.inputs):
        if tensor.name == "x":
            continue
        values = rng.normal(size=tensor.shape).astype(tensor.dtype)
        values = np.abs(values) + np.float32(0.1) if tensor.name.startswith("v") else values
        model.graph.inputs = [t for t in model.graph.inputs if t is not tensor]
        tensor.to_constant(np.asarray(fixed.get(tensor.name, values), dtype=values.dtype))
    return model


def fold(model: Model) -> PassResult:
    digest = model.digest()
    result = FoldBatchNorm()(model)
    assert model.digest() == digest
    onnx.checker.check_model(result.model.to_onnx(), full_check=True)
    again = FoldBatchNorm()(result.model)
    assert again.changes == () and again.model.digest() == result.model.digest()
    assert len(result.model.graph.nodes) + len(result.changes) == len(model.graph.nodes)
    return result


def assert_same(before: Model, after: Model, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    feeds = {
        name: rng.normal(size=[d if isinstance(d, int) else 3 for d in shape]).astype(dtype)
        for name, (dtype, shape) in before.inputs().items()
    }
    for a, b in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * float(np.abs(a).max()))


IMAGE = "float[N,3,6,6] x"
FOLDED = {
    "conv": f"{IMAGE}, float[4,3,3,3] w | c = Conv <pads = [1, 1, 1, 1]> (x, w)",
    "conv with bias": f"{IMAGE}, float[4,3,1,1] w, float[4] k | c = Conv (x, w, k)",
    "conv with an empty bias": f"{IMAGE}, float[4,3,1,1] w | c = Conv (x, w, )",
    "grouped conv": "float[N,6,5,5] x, float[4,3,3,3] w | c = Conv <group = 2> (x, w)",
    "depthwise conv": "float[N,4,5,5] x, float[4,1,3,3] w | c = Conv <group = 4> (x, w)",
    "conv 1d": "float[N,3,6] x, float[4,3,3] w | c = Conv (x, w)",
    "transposed conv": f"{IMAGE}, float[3,4,2,2] w, float[4] k"
    " | c = ConvTranspose <strides = [2, 2]> (x, w, k)",
    "grouped transposed conv": "float[N,6,3,3] x, float[6,2,2,2] w"
    " | c = ConvTranspose <group = 2> (x, w)",
    "gemm": "float[N,5] x, float[5,4] w | c = Gemm (x, w)",
    "gemm with everything": "float[N,5] x, float[4,5] w, float[1,4] k"
    " | c = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, k)",
    "gemm with transA": "float[5,N] x, float[5,4] w, float[4] k | c = Gemm <transA = 1> (x, w, k)",
    "gemm with a scalar bias": "float[N,5] x, float[5,4] w, float k | c = Gemm (x, w, k)",
    "gemm with a bias of the batch": "float[3,5] x, float[5,4] w, float[3,4] k"
    " | c = Gemm <beta = 0.5> (x, w, k)",
    "matmul": "float[N,5] x, float[5,4] w | c = MatMul (x, w)",
}  # fmt: skip


def split(case: str) -> tuple[str, str]:
    inputs, body = case.split(" | ")
    return inputs, body


@pytest.mark.parametrize("case", FOLDED)
def test_batchnorm_goes_into_the_operator_before(case: str) -> None:
    inputs, body = split(FOLDED[case])
    model = with_weights(
        parse(
            f"g ({inputs}, {PARAMETERS}) => (float[] y) {{ {body} y = {BATCHNORM} (c, g, b, m, v) }}"
        )
    )
    result = fold(model)
    assert [(c.kind, c.where) for c in result.changes] == [("folded", "BatchNormalization_y")]
    assert result.skipped == ()
    assert [t.name for t in result.model.graph.outputs] == ["y"]
    assert_same(model, result.model)


SCALINGS = {
    "mul": ("c", "Mul (c, p)", "float[4,1,1]"),
    "mul on the left": ("c", "Mul (p, c)", "float[1,4,1,1]"),
    "div": ("c", "Div (c, p)", "float[4,1,1]"),
    "add": ("c", "Add (c, p)", "float[1,4,1,1]"),
    "sub": ("c", "Sub (c, p)", "float[4,1,1]"),
    "sub on the left": ("c", "Sub (p, c)", "float[4,1,1]"),
    "mul by a scalar": ("c", "Mul (c, p)", "float"),
    "add a scalar": ("c", "Add (c, p)", "float[1]"),
    "add a scalar of four axes": ("c", "Add (c, p)", "float[1,1,1,1]"),
}


@pytest.mark.parametrize("conv", ["conv with bias", "grouped transposed conv"])
@pytest.mark.parametrize("case", SCALINGS)
def test_scales_and_shifts_by_constants_go_too(case: str, conv: str) -> None:
    _, body, kind = SCALINGS[case]
    inputs, before = split(FOLDED[conv])
    model = with_weights(parse(f"g ({inputs}, {kind} p) => (float[] y) {{ {before} y = {body} }}"))
    result = fold(model)
    assert len(result.changes) == 1
    assert_same(model, result.model)


@pytest.mark.parametrize("linear", ["gemm with everything", "matmul"])
@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
@pytest.mark.parametrize("kind", ["float[4]", "float[1,4]", "float"])
def test_scales_and_shifts_of_features(linear: str, op: str, kind: str) -> None:
    inputs, before = split(FOLDED[linear])
    model = with_weights(
        parse(f"g ({inputs}, {kind} p) => (float[] y) {{ {before} y = {op} (c, p) }}")
    )
    result = fold(model)
    assert len(result.changes) == 1
    assert_same(model, result.model)


def test_a_chain_folds_in_one_pass() -> None:
    model = with_weights(
        parse(
            f"""g (float[N,3,6,6] x, float[4,3,3,3] w, {PARAMETERS}, float[4,1,1] p, float q)
            => (float[] y) {{
                c = Conv (x, w) d = Mul (c, p) e = Add (d, q)
                f = {BATCHNORM} (e, g, b, m, v) y = Sub (q, f)
            }}"""
        )
    )
    result = fold(model)
    assert len(result.changes) == 4 and [n.op for n in result.model.graph.nodes] == ["Conv"]
    assert_same(model, result.model)


def test_matmul_and_add_of_two_axes_become_a_gemm_and_of_three_stay() -> None:
    for shape, ops in (("float[N,5] x", ["Gemm"]), ("float[N,2,5] x", ["MatMul", "Add"])):
        model = with_weights(
            parse(
                f"g ({shape}, float[5,4] w, float[4] p, float[4] q) => (float[] y)"
                "{ c = MatMul (x, w) d = Mul (c, p) y = Add (d, q) }"
            )
        )
        result = fold(model)
        assert [n.op for n in result.model.graph.nodes] == ops
        assert_same(model, result.model)


def test_scales_fold_into_a_batchnorm_that_stays() -> None:
    model = with_weights(
        parse(
            f"""g (float[N,4,5,5] x, {PARAMETERS}, float[4,1,1] p, float[1,4,1,1] q) => (float[] y) {{
                r = Relu (x) c = {BATCHNORM} (r, g, b, m, v) d = Mul (c, p) e = Add (d, q)
                y = {BATCHNORM} (e, g, b, m, v)
            }}"""
        ),
        p=np.array([2, 0.5, -1, 3]).reshape(4, 1, 1),
    )
    result = FoldBatchNorm()(model)
    # Gamma is shared by the two: the scales cannot go into it.
    assert result.changes == () and "'g' are shared" in result.skipped[1].reason
    model.graph.nodes[-1].inputs[1] = gs.Constant("g2", np.ones(4, "f4"))
    result = fold(model)
    assert [n.op for n in result.model.graph.nodes] == ["Relu", "BatchNormalization"]
    assert "it follows Relu" in result.skipped[0].reason
    assert_same(model, result.model)


UNTOUCHED = {
    "along the width": ("float[N,3,6,6] x, float[4,3,1,1] w, float[6] p", "c = Conv (x, w) y = Mul (c, p)"),
    "along the height": ("float[N,3,6,6] x, float[4,3,1,1] w, float[6,1] p", "c = Conv (x, w) y = Add (c, p)"),
    "along the batch": ("float[1,3,6,6] x, float[4,3,1,1] w, float[2,1,1,1] p", "c = Conv (x, w) y = Add (c, p)"),
    "one more axis": ("float[N,3,6,6] x, float[4,3,1,1] w, float[1,1,1,1,1] p", "c = Conv (x, w) y = Add (c, p)"),
    "widens one channel": ("float[N,3,6,6] x, float[1,3,1,1] w, float[4,1,1] p", "c = Conv (x, w) y = Add (c, p)"),
    "constant over conv": ("float[N,3,6,6] x, float[4,3,1,1] w, float[4,1,1] p", "c = Conv (x, w) y = Div (p, c)"),
    "no linear operator": ("float[N,4,6,6] x, float[4,1,1] p", "c = Relu (x) y = Mul (c, p)"),
    "two results": ("float[N,3,6,6] x, float[4,3,1,1] w", "c = Conv (x, w) y = Mul (c, c)"),
    "weights computed": ("float[N,3,6,6] x, float[4,3,1,1] w, float[4,1,1] p", "z = Relu (w) c = Conv (x, z) y = Mul (c, p)"),
    "gemm along the batch": ("float[3,5] x, float[5,4] w, float[3,1] p", "c = Gemm (x, w) y = Mul (c, p)"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNTOUCHED)
def test_what_is_no_map_of_channels_is_left_alone_silently(case: str) -> None:
    inputs, body = UNTOUCHED[case]
    model = with_weights(parse(f"g ({inputs}) => (float[] y) {{ {body} }}"))
    result = fold(model)
    assert result.changes == () and result.skipped == ()
    assert result.model.digest() == model.digest()


CONV = "c = Conv (x, w)"
REFUSED = {
    "shared weights": ("", "(float[] y, float[] z)", f"{CONV} z = Conv (x, w) y = {BATCHNORM} (c, g, b, m, v)", "the weights 'w' are shared"),
    "graph output": ("", "(float[] y, float[] c)", f"{CONV} y = {BATCHNORM} (c, g, b, m, v)", "'c', which it reads, is an output"),
    "other readers": ("", "(float[] y, float[] z)", f"{CONV} z = Relu (c) y = {BATCHNORM} (c, g, b, m, v)", "others read 'c' too"),
    "read by a body": ("bool t", "(float[] y, float[] z)", f"{CONV} y = {BATCHNORM} (c, g, b, m, v) z = If (t) <then_branch = p () => (float[] o) {{ o = Relu (c) }}, else_branch = q () => (float[] r) {{ r = Abs (c) }}>", "others read 'c' too"),
    "training": ("", "(float[] y)", f"{CONV} y, n, o = BatchNormalization <training_mode = 1> (c, g, b, m, v)", "training mode"),
    "parameters computed": ("", "(float[] y)", f"{CONV} h = Relu (g) y = {BATCHNORM} (c, h, b, m, v)", "its parameters are not constants"),
    "bias computed": ("", "(float[] y)", f"h = Relu (g) c = Conv (x, w, h) y = {BATCHNORM} (c, g, b, m, v)", "the bias of Conv 'Conv_c' is not constant"),
    "weights computed": ("", "(float[] y)", f"h = Relu (w) c = Conv (x, h) y = {BATCHNORM} (c, g, b, m, v)", "the weights of Conv 'Conv_c' are no initializer"),
    "after relu": ("", "(float[] y)", f"{CONV} r = Relu (c) y = {BATCHNORM} (r, g, b, m, v)", "it follows Relu, not a convolution"),
    "scaling of shared weights": ("", "(float[] y, float[] z)", f"{CONV} z = Conv (x, w) y = Mul (c, b0)", "the weights 'w' are shared"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    more, outputs, body, reason = REFUSED[case]
    text = (
        f"g (float[N,3,6,6] x, float[4,3,1,1] w, {PARAMETERS}, float[4,1,1] b0{', ' + more if more else ''})"
        f" => {outputs} {{ {body} }}"
    )
    model = parse(text)
    condition = [t for t in model.graph.inputs if t.name == "t"]
    model.graph.inputs = [t for t in model.graph.inputs if t.name != "t"]
    model = with_weights(model)
    model.graph.inputs += condition
    result = fold(model)
    assert result.changes == ()
    assert [reason in s.reason for s in result.skipped] == [True], result.skipped
    assert result.model.digest() == model.digest()


SHARED_BY_TWO = {
    "conv": ("float[N,3,6,6] x, float[4,3,3,3] w, float[4] k", "Conv ({}, w, k)"),
    "conv without bias": ("float[N,3,6,6] x, float[4,3,1,1] w", "Conv ({}, w)"),
    "gemm": ("float[N,5] x, float[4,5] w, float[4] k", "Gemm <transB = 1, beta = 0.5> ({}, w, k)"),
    "matmul": ("float[N,5] x, float[5,4] w", "MatMul ({}, w)"),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARED_BY_TWO)
def test_weights_that_two_branches_share_take_a_map_that_both_have(case: str) -> None:
    inputs, op = SHARED_BY_TWO[case]
    model = with_weights(
        parse(
            f"g ({inputs}, {PARAMETERS}) => (float[] y, float[] z) {{ n = Neg (x)"
            f" c = {op.format('x')} d = {op.format('n')}"
            f" y = {BATCHNORM} (c, g, b, m, v) z = {BATCHNORM} (d, g, b, m, v) }}"
        )
    )
    result = fold(model)
    assert [c.where for c in result.changes] == [n.name for n in model.graph.nodes[-2:]]
    first, second = result.model.graph.nodes[1:]
    assert all(a is b for a, b in zip(first.inputs[1:], second.inputs[1:], strict=True))
    assert_same(model, result.model)


def test_a_chain_of_maps_folds_into_shared_weights() -> None:
    model = with_weights(
        parse(
            "g (float[N,3,6,6] x, float[4,3,3,3] w, float[4,1,1] p, float[4,1,1] q)"
            " => (float[] y, float[] z) { n = Neg (x) c = Conv (x, w) d = Conv (n, w)"
            " e = Mul (c, p) f = Mul (d, p) y = Add (e, q) z = Add (f, q) }"
        )
    )
    result = fold(model)
    assert [n.op for n in result.model.graph.nodes] == ["Neg", "Conv", "Conv"]
    assert_same(model, result.model)


UNEQUAL = {
    "other parameters": f"c = Conv (x, w) d = Conv (n, w) y = {BATCHNORM} (c, g, b, m, v) z = {BATCHNORM} (d, b, g, m, v)",
    "other bias": f"c = Conv (x, w, b) d = Conv (n, w, g) y = {BATCHNORM} (c, g, b, m, v) z = {BATCHNORM} (d, g, b, m, v)",
    "no map on one": f"c = Conv (x, w) d = Conv (n, w) y = {BATCHNORM} (c, g, b, m, v) z = Relu (d)",
    "one is read twice": f"c = Conv (x, w) d = Conv (n, w) y = {BATCHNORM} (c, g, b, m, v) e = {BATCHNORM} (d, g, b, m, v) z = Add (e, d)",
    "another operator": f"c = Conv (x, w) d = ConvTranspose (n4, w) y = {BATCHNORM} (c, g, b, m, v) z = Relu (d)",
    "data of one": f"c = Conv (x, w) d = Conv (w, x1) y = {BATCHNORM} (c, g, b, m, v) z = Relu (d)",
    "in a body": f"c = Conv (x, w) y = {BATCHNORM} (c, g, b, m, v) z = If (t) <then_branch = p () => (float[] o) {{ d = Conv (n, w) o = {BATCHNORM} (d, g, b, m, v) }}, else_branch = q () => (float[] r) {{ r = Neg (n) }}>",
}


@pytest.mark.parametrize("case", UNEQUAL)
def test_shared_weights_stay_where_the_maps_differ(case: str) -> None:
    model = parse(
        f"g (float[N,3,6,6] x, float[4,3,1,1] w, {PARAMETERS}, bool t, float[1,4,2,2] n4, float[1,3,1,1] x1)"
        f" => (float[] y, float[] z) {{ n = Neg (x) {UNEQUAL[case]} }}"
    )
    model = with_weights(model)
    result = FoldBatchNorm()(model)
    assert result.changes == ()
    assert {s.reason for s in result.skipped} & {
        "the weights 'w' are shared",
        "others read 'd' too",
    }
    assert sum(n.op == "BatchNormalization" for n in result.model.graph.nodes) >= 1
    old, new = (m.graph.tensors()["w"] for m in (model, result.model))
    np.testing.assert_array_equal(old.values, new.values)


def test_batchnorm_on_an_input_and_over_three_axes_is_refused() -> None:
    model = with_weights(
        parse(
            f"g (float[N,4] x, {PARAMETERS}) => (float[] y) {{ y = {BATCHNORM} (x, g, b, m, v) }}"
        )
    )
    assert "a graph input" in fold(model).skipped[0].reason
    model = with_weights(
        parse(
            f"g (float[N,4,5] x, float[5,6] w, {PARAMETERS}) => (float[] y)"
            f"{{ c = MatMul (x, w) y = {BATCHNORM} (c, g, b, m, v) }}"
        )
    )
    assert "not along axis 1" in fold(model).skipped[0].reason


def test_training_outputs_of_old_opsets_are_refused() -> None:
    model = with_weights(
        parse(
            f"""<ir_version: 7, opset_import: ["" : 9]> g ({IMAGE}, float[4,3,1,1] w, {PARAMETERS})
            => (float[] y) {{ c = Conv (x, w) y, n, o, p, q = {BATCHNORM} (c, g, b, m, v) }}"""
        )
    )
    assert "training mode" in FoldBatchNorm()(model).skipped[0].reason


@pytest.mark.parametrize(
    ("fixed", "reason"),
    [
        ({"v": np.full(4, -1.0)}, "not above zero"),
        ({"v": np.full(4, np.nan)}, "not above zero"),
        ({"g": np.full(4, np.inf)}, "not finite"),
        ({"w": np.full((4, 3, 1, 1), 3e38), "g": np.full(4, 100.0)}, "not finite"),
    ],
)
def test_what_would_not_be_finite_is_refused(fixed: dict[str, np.ndarray], reason: str) -> None:
    inputs, body = split(FOLDED["conv"])
    inputs = inputs.replace("[4,3,3,3]", "[4,3,1,1]")
    model = with_weights(
        parse(
            f"g ({inputs}, {PARAMETERS}) => (float[] y) {{ {body} y = {BATCHNORM} (c, g, b, m, v) }}"
        ),
        **fixed,
    )
    result = FoldBatchNorm()(model)
    assert result.changes == () and reason in result.skipped[0].reason


def test_division_by_zero_is_refused() -> None:
    model = with_weights(
        parse(
            "g (float[N,5] x, float[5,4] w, float[4] p) => (float[] y) { c = Gemm (x, w) y = Div (c, p) }"
        ),
        p=np.array([1, 0, 1, 1]),
    )
    assert FoldBatchNorm()(model).skipped[0].reason == "it divides by zero"


def test_half_precision_weights_stay_half_precision() -> None:
    model = with_weights(
        parse(
            "g (float16[N,3,6,6] x, float16[4,3,3,3] w, float16[4] g, float16[4] b, float16[4] m, float16[4] v)"
            f" => (float16[] y) {{ c = Conv (x, w) y = {BATCHNORM} (c, g, b, m, v) }}"
        )
    )
    result = fold(model)
    assert {str(t.dtype) for t in result.model.graph.nodes[0].inputs[1:]} == {"float16"}
    # ONNX Runtime has no half-precision BatchNorm on the CPU: the operators' reference does it.
    x = {"x": np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype("f2")}
    before, after = (ReferenceEvaluator(m.to_onnx()).run(None, x)[0] for m in (model, result.model))
    np.testing.assert_allclose(after, before, rtol=1e-2, atol=1e-2)


def test_names_of_nodes_and_outputs_stay() -> None:
    inputs, body = split(FOLDED["conv"])
    model = with_weights(
        parse(
            f"g ({inputs}, {PARAMETERS}) => (float[] y, float[] z)"
            f"{{ {body} y = {BATCHNORM} (c, g, b, m, v) z = Relu (y) }}"
        )
    )
    result = fold(model)
    assert [t.name for t in result.model.graph.outputs] == ["y", "z"]
    assert result.model.graph.nodes[0].name == "Conv_c"
    assert_same(model, result.model)


@settings(max_examples=40)
@given(
    op=st.sampled_from(["Conv", "ConvTranspose"]),
    group=st.integers(1, 3),
    each=st.integers(1, 3),
    steps=st.lists(st.sampled_from(["bn", "Mul", "Add", "Sub", "Div"]), min_size=1, max_size=4),
    biased=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_chain_folds_to_the_same_function(
    op: str, group: int, each: int, steps: list[str], biased: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    inner = int(rng.integers(1, 3))
    channels = group * each
    shape = (channels, inner, 2, 2) if op == "Conv" else (group * inner, each, 2, 2)
    weights = {"w": rng.normal(size=shape), "k": rng.normal(size=channels)}
    nodes = [f"t0 = {op} <group = {group}> (x, w{', k' if biased else ''})"]
    for i, step in enumerate(steps):
        if step == "bn":
            for p in "gbmv":
                value = rng.normal(size=channels)
                weights[f"{p}{i}"] = np.abs(value) + 0.1 if p == "v" else value
            nodes.append(f"t{i + 1} = BatchNormalization (t{i}, g{i}, b{i}, m{i}, v{i})")
        else:
            wide = [(channels, 1, 1), (1, channels, 1, 1), (1,), ()][int(rng.integers(4))]
            weights[f"p{i}"] = rng.uniform(0.5, 2, size=wide)
            flip = step in ("Mul", "Add", "Sub") and rng.integers(2)
            nodes.append(f"t{i + 1} = {step} ({f'p{i}, t{i}' if flip else f't{i}, p{i}'})")
    used = " ".join(nodes)
    kinds = ", ".join(
        f"float[{','.join(map(str, v.shape))}] {k}" if v.shape else f"float {k}"
        for k, v in weights.items()
        if biased or k != "k"
    )
    last = f"t{len(steps)}"
    model = with_weights(
        parse(f"g (float[2,{group * inner},4,4] x, {kinds}) => (float[] {last}) {{ {used} }}"),
        **weights,
    )
    result = fold(model)
    assert len(result.changes) == len(steps)
    assert_same(model, result.model)


@needs_shared
@pytest.mark.parametrize(("name", "count"), [("resnet56_cifar10", 55), ("face_rfb320", 35)])
def test_real_models(name: str, count: int) -> None:
    model = Simplify()(Model.load(SHARED / "models" / f"{name}.onnx")).model
    result = fold(model)
    assert result.counts() == {"folded": count} and result.skipped == ()
    assert not any(n.op == "BatchNormalization" for n in result.model.graph.nodes)
    shape = (4, 3, 32, 32) if name.startswith("resnet") else (1, 3, 240, 320)
    x = {next(iter(model.inputs())): np.random.default_rng(0).normal(size=shape).astype("f4")}
    for before, after in zip(run(model, x), run(result.model, x), strict=True):
        np.testing.assert_allclose(
            after, before, rtol=1e-5, atol=1e-5 * float(np.abs(before).max())
        )
