"""fp16 in the graph: faithful, finite where a plain cast is not, few casts, everything told."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx.reference
import pytest
from helpers import SHARED, conv_net, image_samples, needs_shared, parse, rtx_refuses, run, sqnr
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.coverage import optimized_ops
from graphopt.dialects import DIALECTS
from graphopt.engines import BuildOptions, ShapeRange
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.graph import constant, is_op
from graphopt.model import Model
from graphopt.passes import PASSES, Pass
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.fp16_ops import HALF, Ports, ports
from graphopt.passes.fp16_ranges import Ranges, constant_problem
from graphopt.passes.fp16_regions import Crossing, choose
from graphopt.passes.fp16_scales import half_scale, weight_codes
from graphopt.passes.fp16_write import Rewrite
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.passes.simplify import Simplify
from graphopt.passes.to_fp16 import ToFp16, fp16_tensors
from graphopt.profiles import DeviceProfile

HEAD = '<ir_version: 9, opset_import: ["" : 19]>'


def measured(model: Model, feeds, *, scale: float = 1.0) -> CalibrationTable:
    """Return a table of the greatest and least value of every tensor fp16 is judged by."""
    names = [t.name for t in model.graph.inputs if t.name in feeds]
    ranges = {n: TensorRange(float(np.abs(feeds[n]).max()), *_ends(feeds[n])) for n in names}
    wanted = [n for n in _floats(model) if n not in ranges]
    clone = model.clone()
    tensors = clone.graph.tensors()
    own = {t.name for t in clone.graph.outputs}
    clone.graph.outputs += [tensors[n] for n in wanted if n not in own]
    found = dict(zip([t.name for t in clone.graph.outputs], run(clone, feeds), strict=True))
    for name in wanted:
        value = found[name] * scale
        ranges[name] = TensorRange(float(np.abs(value).max()), *_ends(value))
    return CalibrationTable(ranges, "unit", model.digest())


def _ends(values) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _floats(model: Model) -> list[str]:
    return [
        t.name for n in model.graph.nodes if n.op != "Constant" for t in n.outputs
        if t.name and t.dtype == np.float32
    ]  # fmt: skip


class Everywhere(Pass):
    """Run every node in fp16 that can be, whatever it costs or breaks: what a plain cast does."""

    name = "everywhere"

    def edit(self, model):
        half = {id(n): ports(n, model.opset) for n in model.graph.nodes}
        plain = {k: p for k, p in half.items() if isinstance(p, Ports)}
        yield from Rewrite(model.graph, plain).apply()


def everywhere(model: Model) -> Model:
    return Everywhere()(model).model


def exactly(model: Model, feeds) -> list[np.ndarray]:
    """Run a model on onnx's reference, in which fp16 is fp16.

    ONNX Runtime has few fp16 kernels on the CPU and takes out the casts around the others.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        made = onnx.reference.ReferenceEvaluator(model.to_onnx()).run(None, dict(feeds))
    return [np.asarray(a) for a in made]


def with_constants(model: Model, **values: np.ndarray) -> Model:
    """Make initializers of these inputs."""
    proto = model.to_onnx()
    kept = [i for i in proto.graph.input if i.name not in values]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    for name, value in values.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value.astype("f4"), name))
    return Model.from_onnx(proto)


def checked(model: Model) -> Model:
    onnx.checker.check_model(model.to_onnx(), full_check=True)
    return model


def casts(model: Model) -> int:
    return sum(n.op == "Cast" for n in model.graph.nodes)


def stays(result, where: str) -> str:
    return next(s.reason for s in result.skipped if s.where == where)


# --- real models -----------------------------------------------------------------------------


def images(count: int, part: str) -> np.ndarray:
    from PIL import Image

    files = sorted((SHARED / "cifar10" / part).glob("*/*.png"))
    files = files[:: len(files) // count][:count]
    x = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files]).astype("f4") / 255
    x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return x.transpose(0, 3, 1, 2).astype("f4")


@needs_shared
@pytest.mark.parametrize("file", ["resnet20_cifar10", "resnet56_cifar10"])
def test_the_resnets_stay_what_they_are_with_two_casts(file):
    model = Model.load(SHARED / "models" / f"{file}.onnx")
    model = FoldBatchNorm()(Simplify()(model).model).model
    name = model.graph.inputs[0].name
    table = measured(model, {name: images(32, "calib")})
    result = ToFp16(table)(model)
    half = checked(result.model)
    assert result.skipped == ()
    assert casts(half) == 2
    assert {t.dtype for t in [*half.graph.inputs, *half.graph.outputs]} == {np.dtype("f4")}
    x = {name: images(64, "test")}
    before, after = run(model, x, optimize=True)[0], run(half, x, optimize=True)[0]
    assert sqnr(before, after) > 50
    assert (before.argmax(1) == after.argmax(1)).all()
    few = {name: x[name][:2]}
    assert sqnr(run(model, few)[0], exactly(half, few)[0]) > 50
    assert half.weight_bytes() < 0.51 * model.weight_bytes()
    assert rtx_refuses(half) is None


@needs_shared
def test_beside_int8_everything_left_is_fp16():
    model = Model.load(SHARED / "models" / "resnet20_cifar10.onnx")
    model = FoldBatchNorm()(Simplify()(model).model).model
    name = model.graph.inputs[0].name
    table = measured(model, {name: images(32, "calib")})
    quantized = InsertQDQ("tensorrt", table)(model).model
    result = ToFp16(table)(quantized)
    half = checked(result.model)
    assert half.opset == 19
    assert casts(half) == 1, "the logits; the input is quantized from fp32, and comes back as fp16"
    for node in half.graph.nodes:
        if is_op(node, "Conv", "Gemm", "Add", "Relu"):
            assert node.outputs[0].dtype == np.float16, node.name
        if is_op(node, "DequantizeLinear"):
            assert node.inputs[1].dtype == np.float16
    # Not ONNX Runtime: 1.23 does not round in QuantizeLinear of fp16, it cuts off.
    x = {name: images(8, "test")}
    floats, before = (run(m, x)[0] for m in (model, quantized))
    assert sqnr(floats, exactly(half, x)[0]) > sqnr(floats, before) - 1
    # The fp32 weights are gone: TensorRT gets the very integers that were chosen for fp32 scales.
    assert half.weight_bytes() < 0.3 * quantized.weight_bytes()
    codes = {n.name: weight_codes(n) for n in half.graph.nodes if is_op(n, "DequantizeLinear")}
    same = total = 0
    for node in quantized.graph.nodes:
        if is_op(node, "QuantizeLinear") and (w := constant(node.inputs[0])) is not None:
            scale = constant(node.inputs[1]).reshape(-1, *[1] * (w.ndim - 1))
            plain = np.clip(np.rint(w / scale), -127, 127)
            chosen = codes[node.name.replace("QuantizeLinear", "DequantizeLinear")]
            normal = np.broadcast_to(scale >= 2.0**-14, w.shape)
            same += int((plain == chosen)[normal].sum())
            total += int(normal.sum())
    assert total > 100_000
    assert same == total
    assert rtx_refuses(half) is None


# --- ranges ----------------------------------------------------------------------------------

WIDE = f"""{HEAD}
g (float[N, 256] x, float[256, 256] w) => (float[N, 256] y)
  <float hundred = {{1000.0}}, float back = {{0.001}}> {{
  [first] a = MatMul(x, w)
  [grow] b = Mul(a, hundred)
  [wide] c = Relu(b)
  [shrink] d = Mul(c, back)
  [last] y = MatMul(d, w)
}}"""


def wide() -> Model:
    return with_constants(parse(WIDE), w=np.random.default_rng(0).normal(size=(256, 256)))


def test_what_overflows_stays_fp32_and_finite_where_a_plain_cast_is_not():
    model = wide()
    x = {"x": np.random.default_rng(1).normal(size=(32, 256)).astype("f4") * 8}
    table = measured(model, x)
    assert table.ranges["b"].high > 1e5
    assert not np.isfinite(exactly(everywhere(model), x)[0]).all()
    result = ToFp16(table)(model)
    after = exactly(checked(result.model), x)[0]
    assert np.isfinite(after).all()
    assert sqnr(run(model, x)[0], after) > 50
    assert "'b' reaches" in stays(result, "grow")
    assert "fp16's 65,504" in stays(result, "wide")
    assert {c.where for c in result.changes if c.kind == "fp16"} == {"first", "last"}


def test_the_range_may_use_a_share_of_what_fp16_holds():
    model = wide()
    x = {"x": np.random.default_rng(1).normal(size=(32, 256)).astype("f4") * 0.5}
    table = measured(model, x)
    top = max(abs(table.ranges["b"].low), table.ranges["b"].high)
    assert 65504 / 4 < top < 65504
    assert not any(s.where == "grow" for s in ToFp16(table, share=1.0)(model).skipped)
    assert "25% of fp16" in stays(ToFp16(table)(model), "grow")
    with pytest.raises(UsageError, match="share"):
        ToFp16(table, share=0)(model)


def test_a_table_of_another_model_is_refused():
    table = CalibrationTable({"nothing": TensorRange(1.0, -1.0, 1.0)}, "unit", "")
    with pytest.raises(UsageError, match="belongs to another"):
        ToFp16(table)(wide())


def test_without_a_table_it_says_so_and_trusts_no_steep_operator():
    model = parse(f"""{HEAD}
    g (float[N, 256] x, float[256, 256] w) => (float[N, 256] y) {{
      [up] a = MatMul(x, w)
      [steep] b = Exp(a)
      [soft] c = Softmax(a)
      [sum] d = Add(b, c)
      [down] y = MatMul(d, w)
    }}""")
    model = with_constants(model, w=np.eye(256))
    result = ToFp16()(model)
    assert "not checked" in stays(result, "ranges")
    assert "how large the output of Exp gets is unknown" in stays(result, "steep")
    assert {"up", "soft", "down"} <= {c.where for c in result.changes if c.kind == "fp16"}


def test_missing_ranges_are_told_once():
    model = conv_net()
    x = {"image": image_samples(4)}
    table = measured(model, x)
    ranges = {n: r for n, r in table.ranges.items() if n != "c1"}
    result = ToFp16(CalibrationTable(ranges, "unit", ""))(model)
    assert [s.where for s in result.skipped] == ["c1"]
    assert "taken as safe" in stays(result, "c1")


def test_the_tensors_asked_for_are_those_that_nothing_bounds():
    names = fp16_tensors(conv_net())
    assert names == ["image", "c0", "c1", "c2", "a", "scores"]
    model = conv_net()
    given_ = measured(model, {"image": image_samples(4)}).ranges
    found = Ranges(model.graph, CalibrationTable({n: given_[n] for n in names}, "unit", ""))
    assert found.missing == []
    tensors = model.graph.tensors()
    for name, known in given_.items():
        bound = found.of(tensors[name])
        assert bound is not None
        assert bound.low <= known.low + 1e-6
        assert bound.high >= known.high - 1e-6


@pytest.mark.parametrize(
    ("op", "shape", "kept"),
    [
        ("ReduceSum(a, axes)", 4096, True),
        ("ReduceMean(a, axes)", 4096, True),
        ("ReduceMean(a, axes)", 8, False),
        ("ReduceSumSquare(a, axes)", 4096, True),
        ("ReduceMax(a, axes)", 4096, False),
    ],
)
def test_sums_that_may_overflow_on_the_way_stay_fp32(op, shape, kept):
    model = parse(f"""{HEAD}
    g (float[4, 256] x, float[256, {shape}] w) => (float[4, {shape}] y) <int64[1] axes = {{1}}> {{
      [up] a = MatMul(x, w)
      [sum] s = {op}
      [use] b = Mul(a, s)
      [also] y = Relu(b)
    }}""")
    if op.startswith(("ReduceMax", "ReduceMean")):
        proto = model.to_onnx()  # At opset 19 their axes are no attribute but for these two.
        node = next(n for n in proto.graph.node if n.name == "sum")
        version = 19
        if len(onnx.defs.get_schema(node.op_type, version).inputs) == 1:
            del node.input[1]
            node.attribute.append(onnx.helper.make_attribute("axes", [1]))
        model = Model.from_onnx(proto)
    rng = np.random.default_rng(0)
    x = {
        "x": rng.normal(size=(4, 256)).astype("f4"),
        "w": rng.normal(size=(256, shape)).astype("f4"),
    }
    x["w"] += 3 * np.sign(x["w"])
    result = ToFp16(measured(model, x))(model)
    told = next((s.reason for s in result.skipped if s.where == "sum"), "")
    assert ("may pass fp16's" in told or "reaches" in told) == kept


def test_a_written_out_layer_norm_keeps_its_variance_in_fp32():
    model = parse(f"""{HEAD}
    g (float[N, 256] x, float[256, 256] w) => (float[N, 256] y)
      <int64[1] axes = {{1}}, float two = {{2.0}}, float eps = {{0.000000000001}}> {{
      [up] a = MatMul(x, w)
      [mean] m = ReduceMean(a, axes)
      [centre] c = Sub(a, m)
      [square] q = Pow(c, two)
      [variance] v = ReduceMean(q, axes)
      [eps] e = Add(v, eps)
      [root] r = Sqrt(e)
      [divide] n = Div(c, r)
      [down] y = MatMul(n, w)
    }}""".replace("ReduceMean(a, axes)", "ReduceMean <axes = [1]> (a)")
         .replace("ReduceMean(q, axes)", "ReduceMean <axes = [1]> (q)")
         .replace(HEAD, '<ir_version: 8, opset_import: ["" : 17]>'))  # fmt: skip
    rng = np.random.default_rng(0)
    # Deviations of 1e-3: their squares fade out in fp16, and eps is nothing.
    model = with_constants(model, w=rng.normal(size=(256, 256)) / 16)
    x = {"x": rng.normal(size=(8, 256)).astype("f4") * 1e-3}
    result = ToFp16(measured(model, x))(model)
    for name in ("square", "variance", "eps", "root"):
        assert "variance" in stays(result, name)
    before, after = run(model, x)[0], exactly(checked(result.model), x)[0]
    assert sqnr(before, after) > 50
    assert sqnr(before, exactly(everywhere(model), x)[0]) < 45


def test_constants_that_fp16_does_not_hold():
    assert constant_problem(np.array([1e5, 1], "f4")) == "1 of 2 values are beyond fp16's 65,504"
    assert "become 0" in str(constant_problem(np.array([1e-12], "f4")))
    rng = np.random.default_rng(0)
    weights = rng.normal(size=10_000).astype("f4") * 0.02
    weights[::10] = 1e-12
    assert constant_problem(weights) is None
    assert constant_problem(np.zeros(4, "f4")) is None
    assert constant_problem(np.array([-np.inf, 0], "f4")) is None
    assert constant_problem(np.array([1e-30, 1e-31], "f4")) is not None


def test_weights_that_become_nothing_are_counted():
    model = wide()
    proto = model.to_onnx()
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[-1]).copy()
    names = [i.name for i in proto.graph.initializer]
    at = names.index("w")
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[at]).copy()
    weight[:2, :3] = 1e-9
    proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    result = ToFp16()(Model.from_onnx(proto))
    change = next(c for c in result.changes if c.where == "first")
    assert change.detail == "6 of 65,536 values of 'w' become 0"


ATTENTION = f"""{HEAD}
g (float[N, 64, 128] q, float[N, 128, 64] k, int64[N, 1, 64] mask) => (float[N, 64, 128] y)
  <float one = {{1.0}}, float least = {{-3.4028234663852886e38}}> {{
  [project] p = MatMul(q, w)
  [scores] s = MatMul(p, k)
  [valid] m = Cast <to = 1> (mask)
  [invert] i = Sub(one, m)
  [minus] n = Mul(i, least)
  [masked] a = Add(s, n)
  [attend] t = Softmax(a)
  [out] y = MatMul(t, p)
}}"""


def attention() -> tuple[Model, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    model = with_constants(
        parse(ATTENTION.replace("float[N, 128, 64] k,", "float[N, 128, 64] k, float[128, 128] w,")),
        w=rng.normal(size=(128, 128)) / 12,
    )
    mask = np.ones((2, 1, 64), np.int64)
    mask[:, :, 40:] = 0
    mask[1] = 0  # A padded sample: every score is masked.
    x = {"q": rng.normal(size=(2, 64, 128)).astype("f4"),
         "k": rng.normal(size=(2, 128, 64)).astype("f4"), "mask": mask}  # fmt: skip
    return model, x


def test_the_minus_infinity_of_a_mask_need_not_be_so_large():
    model, x = attention()
    result = ToFp16(measured(model, x))(model)
    half = checked(result.model)
    assert {"masked", "attend", "scores"} <= {c.where for c in result.changes if c.kind == "fp16"}
    before, after = run(model, x)[0], exactly(half, x)[0]
    assert sqnr(before[0], after[0]) > 50
    assert np.isfinite(after).all(), "and a sample that is masked altogether stays finite"
    assert not np.isfinite(exactly(everywhere(model), x)[0]).all()
    assert rtx_refuses(half) is None


def test_a_mask_that_comes_from_outside_or_leads_elsewhere_stays_fp32():
    text = f"""{HEAD}
    g (float[N, 64, 128] q, float[128, 64] w, float[64, 64] v, float[N, 64, 64] mask)
        => (float[N, 64, 64] y) {{
      [scores] s = MatMul(q, w)
      [masked] a = Add(s, mask)
      [attend] t = Softmax(a)
      [out] y = MatMul(t, v)
    }}"""
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(128, 64)), rng.normal(size=(64, 64))
    mask = np.where(rng.random((1, 64, 64)) < 0.5, np.float32(-3.4e38), 0).astype("f4")
    x = {"q": rng.normal(size=(1, 64, 128)).astype("f4"), "mask": mask}
    model = with_constants(parse(text), w=w, v=v)
    result = ToFp16(measured(model, x))(model)
    told = {s.where: s.reason for s in result.skipped}
    assert "masked" in told
    assert "scores" not in told
    assert sqnr(run(model, x)[0], exactly(checked(result.model), x)[0]) > 50
    elsewhere = text.replace("[attend] t = Softmax(a)", "[attend] t = Sigmoid(a)")
    model = with_constants(parse(elsewhere), w=w, v=v)
    told = {s.where: s.reason for s in ToFp16(measured(model, x))(model).skipped}
    assert "reaches" in told["masked"]


def test_scores_that_are_as_low_as_a_mask_are_none():
    text = """g (float[N, 128] q, float[128, 64] w) => (float[N, 64] y) {
      [scores] s = MatMul(q, w)
      [attend] y = Softmax(s)
    }"""
    model = with_constants(parse(HEAD + text), w=np.ones((128, 64)))
    x = {"q": -1000 - np.random.default_rng(0).random((4, 128)).astype("f4")}
    result = ToFp16(measured(model, x))(model)
    assert "reaches 1.28" in stays(result, "scores")
    assert np.isfinite(exactly(checked(result.model), x)[0]).all()


def test_no_range_is_asked_of_what_infinity_reaches():
    model = parse(
        f"""{HEAD}
    g (float[N, 8] x, bool[N, 8] b) => (float[N, 8] y)
      <float inf = {{-inf}}, float one = {{1.0}}> {{
      a = Mul(x, one)
      c = Where(b, a, inf)
      d = Add(c, a)
      y = Softmax(d)
    }}""".replace("{-inf}", "{-1.0}")
    )
    proto = model.to_onnx()
    at = [i.name for i in proto.graph.initializer].index("inf")
    proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(np.float32(-np.inf), "inf"))
    assert fp16_tensors(Model.from_onnx(proto)) == ["x", "a"]


@pytest.mark.parametrize("op", ["Expand", "ConstantOfShape"])
def test_no_range_is_asked_of_a_mask_made_as_the_model_runs(op):
    proto = onnx.parser.parse_model(
        f"""{HEAD}
    g (float[N, 8] x) => (float[N, N] y) {{
      t = Transpose<perm = [1, 0]>(x)
      scores = MatMul(x, t)
      size = Shape(scores)
      full = Expand(inf, size)
      mask = Trilu<upper = 1>(full, one)
      d = Add(scores, mask)
      y = Softmax(d)
    }}"""
    )
    inf = onnx.numpy_helper.from_array(np.float32([-np.inf]), "inf")
    proto.graph.initializer.extend([inf, onnx.numpy_helper.from_array(np.int64(1), "one")])
    if op == "ConstantOfShape":
        made = onnx.helper.make_node(op, ["size"], ["full"], value=inf)
        next(n for n in proto.graph.node if n.op_type == "Expand").CopyFrom(made)
    model = Model.from_onnx(proto)
    assert fp16_tensors(model) == ["x", "scores"]
    x = {"x": np.random.default_rng(0).normal(size=(8, 8)).astype("f4")}
    half = checked(everywhere(model))
    assert sqnr(run(model, x)[0], run(half, x)[0]) > 50


# --- the graph around ------------------------------------------------------------------------


def test_shared_constants_are_kept_twice_where_both_sides_read_them():
    model = wide()
    x = {"x": np.random.default_rng(1).normal(size=(32, 256)).astype("f4") * 8}
    result = ToFp16(measured(model, x), exclude=("last",))(model)
    assert [c.where for c in result.changes if c.kind == "kept-twice"] == ["w"]
    assert sqnr(run(model, x)[0], run(checked(result.model), x)[0]) > 50
    assert stays(result, "last") == "stays in fp32: it is to stay so"


def test_bodies_outputs_and_shapes_read_what_they_read_before():
    model = parse(f"""{HEAD}
    g (float[N, 256] x, bool cond, float[256, 256] w) =>
      (float[N, 256] y, float[N, 256] a, int64[2] s) {{
      [up] a = MatMul(x, w)
      [relu] b = Relu(a)
      [more] c = MatMul(b, w)
      [shape] s = Shape(c)
      [choose] d = If (cond) <
        then_branch = t () => (float[N, 256] u) {{ u = Neg(b) }},
        else_branch = e () => (float[N, 256] v) {{ v = Identity(c) }}>
      [down] y = MatMul(d, w)
    }}""")
    rng = np.random.default_rng(0)
    model = with_constants(model, w=rng.normal(size=(256, 256)) / 16)
    for cond in (True, False):
        x = {"x": rng.normal(size=(5, 256)).astype("f4"), "cond": np.array(cond)}
        result = ToFp16()(model)
        half = checked(result.model)
        assert "body" in stays(result, "choose")
        assert {"up", "relu", "more"} <= {c.where for c in result.changes if c.kind == "fp16"}
        for before, after in zip(run(model, x), run(half, x), strict=True):
            assert before.dtype == after.dtype
            assert sqnr(before, after) > 50
    assert [t.name for t in half.graph.outputs] == ["y", "a", "s"]


def test_custom_operators_and_unknown_types_stay():
    text = (
        '<ir_version: 9, opset_import: ["" : 19, "my" : 1]>'
        "g (float[N, 256] x, float[256, 256] w) => (float[N, 256] y) {\n"
        "  [up] a = MatMul(x, w)\n  [mine] b = my.Thing(a)\n  [down] y = MatMul(b, w)\n}"
    )
    result = ToFp16()(parse(text))
    assert "no standard operator" in stays(result, "mine")
    assert "the type of 'b' is not known" in stays(result, "down")


def test_a_small_island_is_not_worth_its_casts():
    model = parse(f"""{HEAD}
    g (float[N, 256] x) => (float[N, 256] y) {{
      [floor] a = Floor(x)
      [alone] b = Relu(a)
      [round] y = Round(b)
    }}""")
    result = ToFp16()(model)
    assert result.changes == ()
    assert "casts would cost more" in stays(result, "alone")
    assert result.model.digest() == model.digest()


def test_a_model_that_is_fp16_already_is_left():
    model = ToFp16()(conv_net(64)).model
    again = ToFp16()(model)
    assert again.model.digest() == model.digest()
    half = parse(f"{HEAD} g (float16[N] x) => (float16[N] y) {{ y = Relu(x) }}")
    assert [s.reason for s in ToFp16()(half).skipped] == ["nothing in it is fp32"]


def test_no_cast_is_left_that_undoes_another():
    """A model's own Cast to fp16 and back joins what is around it."""
    model = parse(f"""{HEAD}
    g (float[N, 256] x, float[256, 256] w) => (float[N, 256] y) {{
      [up] a = MatMul(x, w)
      b = Cast <to = 10> (a)
      c = Relu(b)
      d = Cast <to = 1> (c)
      [down] y = MatMul(d, w)
    }}""")
    rng = np.random.default_rng(0)
    model = with_constants(model, w=rng.normal(size=(256, 256)))
    result = ToFp16()(model)
    assert casts(result.model) == 2, "x and y: graph inputs and outputs keep their type"
    x = {"x": rng.normal(size=(4, 256)).astype("f4")}
    assert sqnr(run(model, x)[0], exactly(checked(result.model), x)[0]) > 50


def test_whole_numbers_stay_exact():
    model = parse(f"""{HEAD}
    g (int64[N, 256] i, float[256, 256] w) => (float[N, 256] y) {{
      [position] f = Cast <to = 1> (i)
      y = MatMul(f, w)
    }}""")
    table = CalibrationTable({"f": TensorRange(3000.0, 0.0, 3000.0),
                              "y": TensorRange(1.0, -1.0, 1.0)}, "unit", "")  # fmt: skip
    model = with_constants(model, w=np.eye(256))
    assert "exact" in stays(ToFp16(table)(model), "position")
    table.ranges["f"] = TensorRange(100.0, 0.0, 100.0)
    assert not any(s.where == "position" for s in ToFp16(table)(model).skipped)


def test_qdq_on_a_target_of_old_opsets_is_refused():
    model = conv_net()
    names = DIALECTS.load("tensorrt")().wanted(model, frozenset())
    table = CalibrationTable(dict.fromkeys(names, TensorRange(6.0, -6.0, 6.0)), "unit", "")
    quantized = InsertQDQ("tensorrt", table)(model).model
    with pytest.raises(UnsupportedModelError, match="opset 19"):
        ToFp16(max_opset=17)(quantized)
    assert ToFp16(max_opset=17)(model).model.opset == 17


@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
def test_int8_of_either_dialect(dialect):
    model = conv_net(32)
    x = {"image": image_samples(16)}
    table = measured(model, x)
    quantized = InsertQDQ(dialect, table)(model).model
    half = checked(ToFp16(table)(quantized).model)
    floats, before = (run(m, x)[0] for m in (model, quantized))
    assert sqnr(floats, exactly(half, x)[0]) > sqnr(floats, before) - 1


INTEGERS = """
g (float[N, 32, 8, 8] x, float[32, 32, 3, 3] w, float[32] b, float[32, 64, 1, 1] v) =>
    (float[N, 32, 8, 8] y) {
  [first] a = Conv<pads = [1, 1, 1, 1]>(x, w, b)
  [relu] c = Relu(a)
  [second] d = Conv<pads = [1, 1, 1, 1]>(c, w, b)
  [both] e = Concat<axis = 1>(c, d)
  [last] f = Conv(e, v)
  [soft] h = Softmax<axis = 1>(f)
  [tail] y = Conv<pads = [1, 1, 1, 1]>(h, w)
}"""


def test_integer_kernels_of_onnx_runtime_stay_what_they_are():
    # With fp16 scales ONNX Runtime overflows when it makes integers of the biases, and then
    # refuses its own QLinearConcat.
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(32, 32, 3, 3)) / 17, "b": rng.normal(size=32),
              "v": rng.normal(size=(32, 64, 1, 1)) / 8}  # fmt: skip
    model = parse(f"{HEAD}{INTEGERS}")
    model = with_constants(model, **{n: v.astype("f4") for n, v in values.items()})
    x = {"x": (0.01 * rng.normal(size=(4, 32, 8, 8))).astype("f4")}
    table = measured(model, x)
    quantized = InsertQDQ("onnxruntime", table, ("tail",))(model).model
    result = ToFp16(table, integer_kernels=True)(quantized)
    half = checked(result.model)
    assert half.opset == quantized.opset
    assert "tail" in {n.name for n in half.graph.nodes if n.outputs[0].dtype == np.float16}
    assert stays(result, "second").endswith("fp32 Q/DQ only")
    integers = {"QLinearConv": 3, "QLinearConcat": 1}
    ops = optimized_ops(half)
    assert {op: ops.get(op, 0) for op in integers} == integers
    before, after = (run(m, x, optimize=True)[0] for m in (quantized, half))
    assert sqnr(before, after) > 60


def test_scales_that_fp16_fades_out_on():
    """A nearly dead channel: its integers change with its scale, none becomes zero."""
    assert half_scale(np.float32(1e-9)) > 0
    model = conv_net(32)
    proto = model.to_onnx()
    at = [i.name for i in proto.graph.initializer].index("w1")
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[at]).copy()
    weight[3] *= 1e-5
    weight[4] *= 1e-12
    proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(weight, "w1"))
    model = Model.from_onnx(proto)
    x = {"image": image_samples(8)}
    table = measured(model, x)
    quantized = InsertQDQ("tensorrt", table)(model).model
    result = ToFp16(table)(quantized)
    assert "conv1" in {c.where for c in result.changes if c.kind == "fp16"}
    node = next(n for n in result.model.graph.nodes if n.name == "w1_DequantizeLinear")
    assert (constant(node.inputs[1]) > 0).all()
    scale = constant(node.inputs[1]).astype("f4").reshape(-1, 1, 1, 1)
    back = constant(node.inputs[0]).astype("f4") * scale
    assert np.abs(back - weight)[3].max() < 0.02 * np.abs(weight[3]).max()
    activation = dict(table.ranges)
    activation["r0"] = TensorRange(1e-5, 0.0, 1e-5)
    tiny = CalibrationTable(activation, "unit", "")
    told = ToFp16(table)(InsertQDQ("tensorrt", tiny)(model).model)
    assert "fp16 does not hold its scale" in stays(told, "conv1")


def test_the_same_input_gives_the_same_bytes_and_stays_as_it_was():
    model = conv_net()
    before = model.to_onnx().SerializeToString(deterministic=True)
    table = measured(model, {"image": image_samples(4)})
    backwards = CalibrationTable(dict(reversed(table.ranges.items())), "unit", "")
    made = [ToFp16(t)(model) for t in (table, backwards)]
    texts = [r.model.to_onnx().SerializeToString(deterministic=True) for r in made]
    assert texts[0] == texts[1]
    assert made[0].changes == made[1].changes
    assert model.to_onnx().SerializeToString(deterministic=True) == before
    assert PASSES.load("to-fp16") is ToFp16


def test_every_float_node_is_told_of():
    model = wide()
    result = ToFp16(exclude=("grow",))(model)
    told = {c.where for c in result.changes} | {s.where for s in result.skipped}
    assert {n.name for n in model.graph.nodes} <= told


# --- operators -------------------------------------------------------------------------------

# operator -> nodes that make y from x and z, both [1, 8, 8, 8], with the constants below.
OPERATORS: dict[str, str] = {
    **{op: f"y = {op}(x)" for op in (
        "Abs", "Erf", "Exp", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish",
        "Identity", "LeakyRelu", "LogSoftmax", "Neg", "Relu", "Selu", "Sigmoid", "Sign", "Softmax",
        "Softplus", "Softsign", "Tanh", "Elu", "Transpose", "Mish", "ThresholdedRelu")},
    **{op: f"y = {op}(x, z)" for op in ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean",
                                            "MatMul")},
    **{op: f"b = {op}(x, z)\n y = Where(b, x, z)" for op in (
        "Greater", "Less", "GreaterOrEqual", "LessOrEqual")},
    "Where": "b = Greater(x, z)\n y = Where(b, x, z)",
    "Div": "p = Exp(z)\n y = Div(x, p)",
    "Pow": "y = Pow(x, two)",
    "Sqrt": "p = Exp(x)\n y = Sqrt(p)",
    "Log": "p = Exp(x)\n y = Log(p)",
    "Reciprocal": "p = Exp(x)\n y = Reciprocal(p)",
    "Clip": "y = Clip(x, one, two)",
    "Concat": "y = Concat<axis = 1>(x, z)",
    "Conv": "y = Conv<pads = [1, 1, 1, 1]>(x, k, v)",
    "ConvTranspose": "y = ConvTranspose(x, k, v)",
    "Gemm": "r = Flatten<axis = 3>(x)\n y = Gemm(r, m, v)",
    "Einsum": 'y = Einsum<equation = "bchw,bcwk->bchk">(x, z)',
    "MaxPool": "y = MaxPool<kernel_shape = [2, 2]>(x)",
    "AveragePool": "y = AveragePool<kernel_shape = [2, 2]>(x)",
    "BatchNormalization": "p = Exp(v)\n y = BatchNormalization(x, v, v, v, p)",
    "InstanceNormalization": "y = InstanceNormalization(x, v, v)",
    "LayerNormalization": "y = LayerNormalization(x, v, v)",
    "GroupNormalization": "y = GroupNormalization<num_groups = 2>(x, v, v)",
    "RMSNormalization": "y = RMSNormalization(x, v)",
    "DepthToSpace": "y = DepthToSpace<blocksize = 2>(x)",
    "SpaceToDepth": "y = SpaceToDepth<blocksize = 2>(x)",
    "Dropout": "y = Dropout(x)",
    "Expand": "y = Expand(x, five)",
    "Tile": "y = Tile(x, five)",
    "Reshape": "y = Reshape(x, eight)",
    "Flatten": "y = Flatten(x)",
    "Squeeze": "u = Unsqueeze(x, axis)\n y = Squeeze(u, axis)",
    "Unsqueeze": "y = Unsqueeze(x, axis)",
    "Gather": "y = Gather<axis = 1>(x, picks)",
    "GatherElements": "y = GatherElements<axis = 1>(x, where4)",
    "GatherND": "y = GatherND(x, where1)",
    "ScatterElements": "y = ScatterElements<axis = 1>(x, where4, u4)",
    "ScatterND": "y = ScatterND(x, where1, x)",
    "Slice": "y = Slice(x, axis, two_i, axis)",
    "Split": "y, q = Split<axis = 1, num_outputs = 2>(x)",
    "Pad": "y = Pad(x, pads, one)",
    "PRelu": "y = PRelu(x, k1)",
    "Gelu": "y = Gelu(x)",
    "Swish": "y = Swish(x)",
    "Resize": 'y = Resize<mode = "linear">(x, , scales)',
    "TopK": "y, i = TopK(x, axis)",
    "ArgMax": "i = ArgMax<axis = 1>(x)\n y = Cast<to = 1>(i)",
    "ArgMin": "i = ArgMin<axis = 1>(x)\n y = Cast<to = 1>(i)",
    "Trilu": "y = Trilu(x)",
    "Cast": "i = Greater(x, z)\n y = Cast<to = 1>(i)",
    "QuantizeLinear": "q = QuantizeLinear(x, scale, zero)\n y = DequantizeLinear(q, scale, zero)",
    **{f"Reduce{k}": f"y = Reduce{k}(x, axis)" for k in ("L1", "L2", "Max", "Mean", "Min", "Sum",
                                                         "SumSquare")},
}  # fmt: skip
# Newer than this opset, or than a runtime of ours.
NEWER = {"Gelu": 20, "RMSNormalization": 23, "Swish": 24, "GroupNormalization": 21}
NOT_HERE = {"Attention", "RotaryEmbedding"}  # opset 23: of no exporter's graphs yet


def operator_model(op: str) -> Model:
    opset = NEWER.get(op, 19)
    rng = np.random.default_rng(0)
    values = {
        "one": np.float32(-0.5), "two": np.float32(2.0), "axis": np.array([1]),
        "k": rng.normal(size=(8, 8, 3, 3)).astype("f4"), "v": rng.normal(size=8).astype("f4"),
        "m": rng.normal(size=(8, 8)).astype("f4"), "five": np.array([2, 1, 1, 1]),
        "eight": np.array([1, -1]), "picks": np.array([3, 1]), "two_i": np.array([3]),
        "where4": np.zeros((1, 1, 8, 8), np.int64),
        "u4": rng.normal(size=(1, 1, 8, 8)).astype("f4"),
        "where1": np.zeros((1, 1), np.int64), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "k1": rng.normal(size=(8, 1, 1)).astype("f4"), "scales": np.array([1, 1, 2, 2], "f4"),
        "scale": np.float32(0.02), "zero": np.int8(0),
    }  # fmt: skip
    body = OPERATORS[op]
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> g (float[1, 8, 8, 8] x, ' \
           f"float[1, 8, 8, 8] z) => (y) {{ {body} }}"  # fmt: skip
    proto = onnx.parser.parse_model(text)
    used = {name for node in proto.graph.node for name in node.input}
    for name in sorted(used & set(values)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values[name], name))
    if op == "GroupNormalization":  # onnx infers no shape for it
        proto.graph.output[0].CopyFrom(proto.graph.input[0])
        proto.graph.output[0].name = "y"
    proto = onnx.shape_inference.infer_shapes(proto)
    return Model.from_onnx(proto)


def test_the_battery_covers_every_operator():
    assert set(OPERATORS) == HALF - NOT_HERE


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_an_operator_in_fp16(op):
    model = operator_model(op)
    half = checked(everywhere(model))
    nodes = [n for n in half.graph.nodes if n.op == op]
    assert nodes
    assert any(t.dtype == np.float16 for n in nodes for t in [*n.inputs, *n.outputs]), "still fp32"
    rng = np.random.default_rng(1)
    x = {n: rng.normal(size=(1, 8, 8, 8)).astype("f4") for n in ("x", "z")}
    if NEWER.get(op, 0) < 24:  # else newer than this ONNX Runtime
        before, after = run(model, x)[0], run(half, x)[0]
        assert before.dtype == after.dtype == np.float32
        assert sqnr(before, after) > (25 if op in ("QuantizeLinear", "TopK") else 45)
    if rtx_refuses(model) is None:
        assert rtx_refuses(half) is None


# --- regions ---------------------------------------------------------------------------------


def cost_of(chosen, benefits, crossings) -> int:
    total = sum(b for i, b in enumerate(benefits) if i not in chosen)
    for c in crossings:
        source = c.source is not None and c.source in chosen
        if source and (c.kept or any(r not in chosen for r in c.readers)):
            total += c.cost
        if not source and any(r in chosen for r in c.readers):
            total += c.cost
    return total


@settings(max_examples=80)
@given(st.data())
def test_the_choice_is_the_cheapest_of_all(data):
    count = data.draw(st.integers(1, 7))
    numbers = st.integers(0, 9)
    benefits = [data.draw(numbers) for _ in range(count)]
    fixed = frozenset(i for i in range(count) if data.draw(st.integers(0, 3)) == 0)
    crossings = []
    for source in [None, *range(count)]:
        later = range(0 if source is None else source + 1, count)
        readers = tuple(r for r in later if data.draw(st.booleans()))
        crossings.append(Crossing(source, readers, data.draw(st.booleans()), data.draw(numbers)))
    chosen = choose(benefits, fixed, crossings)
    assert not chosen & fixed
    free = [i for i in range(count) if i not in fixed]
    every = [frozenset(c) for n in range(len(free) + 1) for c in itertools.combinations(free, n)]
    costs = [cost_of(c, benefits, crossings) for c in every]
    assert cost_of(chosen, benefits, crossings) == min(costs)
    assert len(chosen) == max(len(c) for c, cost in zip(every, costs, strict=True)
                              if cost == min(costs))  # fmt: skip


# --- any graph -------------------------------------------------------------------------------

UNARY = ["Relu", "Sigmoid", "Tanh", "Neg", "Exp", "Floor", "Softmax", "Abs", "Identity"]


@settings(max_examples=40)
@given(st.data())
def test_any_graph_gives_what_it_gave(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    nodes, weights, names = [], [], ["x"]
    make = onnx.helper.make_node
    for i in range(data.draw(st.integers(1, 9))):
        kind = data.draw(st.sampled_from(["unary", "add", "mul", "matmul", "big", "cast"]))
        a = data.draw(st.sampled_from(names))
        if kind == "unary":
            nodes.append(make(data.draw(st.sampled_from(UNARY)), [a], [f"t{i}"], f"n{i}"))
        elif kind in ("add", "mul"):
            b = data.draw(st.sampled_from(names))
            nodes.append(make("Add" if kind == "add" else "Mul", [a, b], [f"t{i}"], f"n{i}"))
        elif kind == "cast":
            nodes.append(make("Cast", [a], [f"h{i}"], f"c{i}", to=10))
            nodes.append(make("Cast", [f"h{i}"], [f"t{i}"], f"n{i}", to=1))
        else:
            shared = data.draw(st.booleans()) and weights
            if not shared:
                w = rng.normal(size=(8, 8)) * (300 if kind == "big" else 0.4)
                weights.append(onnx.numpy_helper.from_array(w.astype("f4"), f"w{i}"))
            nodes.append(make("MatMul", [a, weights[-1].name], [f"t{i}"], f"n{i}"))
        names.append(f"t{i}")
    outs = data.draw(st.lists(st.sampled_from(names[1:]), min_size=1, max_size=3, unique=True))
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", 1, ["N", 8])], [value(o, 1, ["N", 8]) for o in outs], weights
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = Model.from_onnx(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8))
    x = {"x": rng.normal(size=(16, 8)).astype("f4")}
    before = run(model, x)
    if not all(np.isfinite(b).all() for b in before):
        return
    try:
        table = measured(model, x)
    except ValueError:
        return  # An inner tensor that is not finite is not calibrated either.
    result = ToFp16(table)(model)
    half = checked(result.model)
    assert [t.name for t in half.graph.outputs] == outs
    after = exactly(half, x)
    steep = any(n.op in ("Exp", "Floor", "Mul", "Cast") for n in model.graph.nodes)
    for b, a in zip(before, after, strict=True):
        assert a.dtype == np.float32
        assert np.isfinite(a).all()
        assert steep or sqnr(b, a) > 35
    told = {c.where for c in result.changes} | {s.where for s in result.skipped}
    assert {n.name for n in model.graph.nodes} <= told


# --- the engine ------------------------------------------------------------------------------


@pytest.mark.parametrize("quantized", [False, True])
def test_it_builds_strongly_typed(quantized, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    from graphopt.engines.tensorrt_rtx import TensorRTRTX

    model = conv_net(32)
    table = measured(model, {"image": image_samples(8)})
    if quantized:
        model = InsertQDQ("tensorrt", table)(model).model
    half = ToFp16(table)(model).model
    shape = (1, 3, 16, 16)
    options = BuildOptions(
        DeviceProfile(name="host", title="host"), {"image": ShapeRange(shape, shape, shape)}
    )
    artifact = TensorRTRTX().build(half, tmp_path / "m.engine", options)
    assert artifact.facts["typing"] == "strong"
