# ruff: noqa: E501
from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import SHARED, needs_shared, parse, run

from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.model import Model
from graphopt.passes.raise_opset import RaiseOpset

OPS = {
    "batchnorm 7": (7, "float[1,2,3] x", "BatchNormalization(x, two, two, two, two)", "<float[2] two = {0.5, 2}>"),
    "batchnorm 8": (8, "float[1,2,3] x", "BatchNormalization(x, two, two, two, two)", "<float[2] two = {0.5, 2}>"),
    "dropout 7": (7, "float[1,2,3] x", "Dropout <ratio = 0.3> (x)", ""),
    "dropout 10": (10, "float[1,2,3] x", "Dropout (x)", ""),
    "upsample 7": (7, "float[1,1,2,3] x", 'Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]> (x)', ""),
    "upsample 9": (9, "float[1,1,2,3] x", 'Upsample <mode = "nearest"> (x, s)', "<float[4] s = {1, 1, 2, 2}>"),
    "upsample 9 linear": (9, "float[1,1,2,3] x", 'Upsample <mode = "linear"> (x, s)', "<float[4] s = {1, 1, 2, 2}>"),
    "resize 10": (10, "float[1,1,3,3] x", 'Resize <mode = "linear"> (x, s)', "<float[4] s = {1, 1, 1.5, 2}>"),
    "resize 10 nearest": (10, "float[1,1,3,3] x", 'Resize <mode = "nearest"> (x, s)', "<float[4] s = {1, 1, 1.5, 2}>"),
    "resize 10 shrinks": (10, "float[1,1,5,7] x", 'Resize <mode = "nearest"> (x, s)', "<float[4] s = {1, 1, 0.6, 0.3}>"),
    "resize 10 shrinks linear": (10, "float[1,1,5,7] x", 'Resize <mode = "linear"> (x, s)', "<float[4] s = {1, 1, 0.6, 0.7}>"),
    "roialign": (10, "float[1,1,6,6] x", "RoiAlign <output_height = 2, output_width = 2> (x, r, b)", "<float[1,4] r = {0, 1, 4, 5}, int64[1] b = {0}>"),
    "topk 7": (7, "float[2,5] x", "y, i = TopK <k = 2> (x)", ""),
    "topk 10": (10, "float[2,5] x", "y, i = TopK (x, k)", "<int64[1] k = {3}>"),
    "instancenorm": (7, "float[1,2,4] x", "InstanceNormalization (x, e, e)", "<float[2] e = {0.5, 0.1}>"),
    "lrn": (7, "float[1,4,2,2] x", "LRN <size = 3> (x)", ""),
    "conv": (7, "float[1,1,4,4] x", "Conv (x, w)", "<float[1,1,2,2] w = {1, 2, 3, 4}>"),
    "convtranspose": (7, "float[1,1,4,4] x", "ConvTranspose <strides = [2, 2]> (x, w)", "<float[1,1,2,2] w = {1, 2, 3, 4}>"),
    "gather": (7, "float[3,4] x", "Gather <axis = 1> (x, i)", "<int64[2] i = {1, 3}>"),
    "concat": (7, "float[3,4] x", "Concat <axis = 1> (x, x)", ""),
    "expand": (8, "float[3,1] x", "Expand (x, k)", "<int64[2] k = {3, 2}>"),
    "thresholds": (10, "float[3,2] x", "ThresholdedRelu <alpha = 0.3> (x)", ""),
    "clip both": (9, "float[1,2,3] x", "Clip <min = -0.5, max = 0.5> (x)", ""),
    "clip min": (7, "float[1,2,3] x", "Clip <min = 0.0> (x)", ""),
    "clip none": (10, "float[1,2,3] x", "Clip (x)", ""),
    "squeeze": (11, "float[1,2,1,3] x", "Squeeze <axes = [0, 2]> (x)", ""),
    "squeeze all": (11, "float[1,2,1,3] x", "Squeeze (x)", ""),
    "unsqueeze": (12, "float[2,3] x", "Unsqueeze <axes = [0, 3]> (x)", ""),
    "pad": (9, "float[2,3] x", "Pad <pads = [1, 0, 2, 1], value = 2.5> (x)", ""),
    "pad reflect": (7, "float[2,3] x", 'Pad <mode = "reflect", pads = [1, 1, 0, 1]> (x)', ""),
    "slice": (9, "float[3,5] x", "Slice <axes = [1], starts = [1], ends = [-1]> (x)", ""),
    "slice no axes": (8, "float[3,5] x", "Slice <starts = [1, 2], ends = [3, 9]> (x)", ""),
    "softmax default axis": (11, "float[N,2,3] x", "Softmax (x)", ""),
    "softmax axis 2": (9, "float[N,2,3] x", "Softmax <axis = 2> (x)", ""),
    "softmax axis 0": (12, "float[N,2,3] x", "Softmax <axis = 0> (x)", ""),
    "logsoftmax": (9, "float[2,2,3] x", "LogSoftmax (x)", ""),
    "hardmax": (9, "float[N,2,3] x", "Hardmax (x)", ""),
    "hardmax last": (11, "float[2,2,3] x", "Hardmax <axis = -1> (x)", ""),
    "reducesum": (11, "float[2,2,3] x", "ReduceSum <axes = [1], keepdims = 0> (x)", ""),
    "reducesum all": (7, "float[2,2,3] x", "ReduceSum <keepdims = 1> (x)", ""),
    "reducemean": (9, "float[2,2,3] x", "ReduceMean <axes = [-1]> (x)", ""),
    "flatten": (8, "float[2,2,3] x", "Flatten (x)", ""),
    "gemm": (7, "float[2,2] x", "Gemm <alpha = 0.5> (x, w, w)", "<float[2,2] w = {1, 2, 3, 4}>"),
    "maxpool": (8, "float[1,1,4,4] x", "MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)", ""),
    "averagepool": (7, "float[1,1,5,5] x", "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", ""),
    "scatter": (9, "float[3,2] x", "Scatter (x, i, u)", "<int64[1,2] i = {1, 2}, float[1,2] u = {5, 6}>"),
    "pow": (7, "float[2,3] x", "Pow (x, e)", "<float[1] e = {2}>"),
    "prelu": (8, "float[1,2,3] x", "PRelu (x, e)", "<float[2,1] e = {0.5, 0.1}>"),
    "argmax": (9, "float[2,3] x", "ArgMax <axis = 1> (x)", ""),
    "depthtospace": (9, "float[1,4,2,2] x", "DepthToSpace <blocksize = 2> (x)", ""),
}  # fmt: skip


def model_of(opset: int, inputs: str, body: str, constants: str = "") -> Model:
    kind = "int64" if body.startswith("ArgMax") else "float"
    body = body if body.startswith("y,") else f"y = {body}"
    return parse(
        f'<ir_version: 6, opset_import: ["" : {opset}]> '
        f"g ({inputs}) => ({kind}[] y) {constants} {{ {body} }}"
    )


def feed(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=[d if isinstance(d, int) else 2 for d in shape]).astype("f4")
        for name, (_, shape) in model.inputs().items()
    }


@pytest.mark.parametrize("case", OPS)
def test_the_converted_operator_computes_the_same(case: str) -> None:
    model = model_of(*OPS[case])
    result = RaiseOpset()(model)
    assert result.model.opset == 13
    assert result.changes[0].detail == f"opset {OPS[case][0]} -> 13: per-channel Q/DQ needs 13"
    onnx.checker.check_model(result.model.to_onnx(), full_check=True)
    x = feed(model)
    for before, after in zip(run(model, x), run(result.model, x), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize(("opset", "op"), [(9, "Upsample"), (10, "Resize")])
def test_sampling_stays_asymmetric_inside_the_graph(opset: int, op: str, mode: str) -> None:
    model = parse(
        f"""<ir_version: 6, opset_import: ["" : {opset}]> g (float[1,1,3,4] x) => (float[] y)
        <float[4] s = {{1, 1, 2, 3}}, float[4] t = {{1, 1, 1.5, 1}}> {{
        a = {op} <mode = "{mode}"> (x, s)  b = Relu (a)
        c = {op} <mode = "{mode}"> (b, t)  y = Neg (c) }}"""
    )
    names = [(n.name, n.outputs[0].name) for n in model.graph.nodes]
    result = RaiseOpset()(model).model
    after = [(n.name, n.outputs[0].name) for n in result.graph.nodes if n.op != "Constant"]
    assert after == names
    x = feed(model)
    np.testing.assert_array_equal(run(model, x)[0], run(result, x)[0])


def test_softmax_of_a_rank_that_shape_arithmetic_hides_stays_one_node() -> None:
    model = parse(
        """<ir_version: 6, opset_import: ["" : 11]> g (float[N,T,8] x) => (float[N,T,8] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4},
         int64[1] eight = {8}> {
        s = Shape (x)  n = Gather (s, zero)  t = Gather (s, one)
        heads = Concat <axis = 0> (n, t, two, four)  h = Reshape (x, heads)
        a = Softmax <axis = 3> (h)
        back = Concat <axis = 0> (n, t, eight)  y = Reshape (a, back) }"""
    )
    result = RaiseOpset()(model).model
    ops = [n.op for n in result.graph.nodes]
    assert ops == ["Reshape", "Softmax", "Reshape"]
    x = feed(model)
    np.testing.assert_array_equal(run(model, x)[0], run(result, x)[0])


def test_split_gets_its_sizes_as_an_input() -> None:
    model = parse(
        '<ir_version: 6, opset_import: ["" : 11]> g (float[N,5] x) => (float[N,2] a, float[N,3] b)'
        "{ a, b = Split <axis = 1, split = [2, 3]> (x) }"
    )
    result = RaiseOpset()(model).model
    x = feed(model)
    for before, after in zip(run(model, x), run(result, x), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_new_model_is_left_alone() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    result = RaiseOpset()(model)
    assert result.changes == () and result.model.opset == 17
    assert result.model.digest() == model.digest()


def test_the_input_model_is_untouched_and_a_second_run_does_nothing() -> None:
    model = model_of(*OPS["clip min"])
    digest = model.digest()
    once = RaiseOpset()(model).model
    assert model.digest() == digest and model.opset == 7
    again = RaiseOpset()(once)
    assert again.changes == () and again.model.digest() == once.digest()


def test_metadata_names_weights_and_custom_operators_survive() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 6, opset_import: ["" : 9, "com.example" : 3], producer_name: "me",
            metadata_props: ["labels": "cat,dog"]>
        g (float[1,2] x) => (float[1,2] y) {
            a = com.example.Twist <how = "left"> (x)
            b = MatMul(a, w)
            y = Clip <min = 0.0> (b)
        }"""
    )
    weight = np.arange(4, dtype="f4").reshape(2, 2)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    big = np.zeros((64, 64), "f4")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(big, "unused"))
    proto.graph.node[1].name = "product"
    proto.graph.node[1].doc_string = "the product"
    proto.graph.node[1].metadata_props.add(key="scope", value="layer.0")
    proto.doc_string = "a model"
    result = RaiseOpset()(Model.from_onnx(proto)).model.to_onnx()
    assert {o.domain: o.version for o in result.opset_import} == {"": 13, "com.example": 3}
    assert result.doc_string == "a model" and result.producer_name == "me"
    assert [(p.key, p.value) for p in result.metadata_props] == [("labels", "cat,dog")]
    node = next(n for n in result.graph.node if n.op_type == "MatMul")
    assert node.name == "product" and node.doc_string == "the product"
    assert [(p.key, p.value) for p in node.metadata_props] == [("scope", "layer.0")]
    twist = next(n for n in result.graph.node if n.op_type == "Twist")
    assert twist.domain == "com.example" and twist.attribute[0].s == b"left"


def test_large_weights_never_pass_through_the_converter() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 64)).astype("f4")
    model = parse(
        '<ir_version: 3, opset_import: ["" : 9]> g (float[1,64] x) => (float[1,64] y)'
        "{ a = MatMul(x, w) y = Clip <min = 0.0> (a) }".replace("(float[1,64] x)", "(float[1,64] x, float[64,64] w)")
    )  # fmt: skip
    proto = model.to_onnx()
    del proto.graph.input[1]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = Model.from_onnx(proto)
    result = RaiseOpset()(model).model
    assert list(result.inputs()) == ["x"] and result.parameters() == 64 * 64 + 1
    assert result.graph.tensors()["w"].values is model.graph.tensors()["w"].values
    x = feed(model)
    np.testing.assert_array_equal(run(model, x)[0], run(result, x)[0])


def test_bodies_are_raised_too() -> None:
    model = parse(
        """<ir_version: 6, opset_import: ["" : 9]> g (bool c, float[1,4] x) => (float[1,2] y) {
        y = If (c) <
          then_branch = t () => (float[1,2] o) { o = Slice <axes = [1], starts = [1], ends = [3]> (x) },
          else_branch = e () => (float[1,2] p) { p = Slice <axes = [1], starts = [0], ends = [2]> (x) }>
        }"""
    )
    result = RaiseOpset()(model).model
    for choice in (True, False):
        x = {"c": np.array(choice), "x": np.arange(4, dtype="f4")[None]}
        np.testing.assert_array_equal(run(model, x)[0], run(result, x)[0])


def test_local_functions_are_inlined_first() -> None:
    model = Model.from_onnx(
        onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["" : 9, "local" : 1]>
            g (float[2,3] x) => (float[2,3] y) { a = local.Keep(x) y = Relu(a) }
            <domain: "local", opset_import: ["" : 9]>
            Keep (v) => (o) { o = Clip <min = -1.0, max = 0.5> (v) }"""
        )
    )
    result = RaiseOpset()(model)
    assert [c.kind for c in result.changes][:2] == ["inlined", "raised"]
    assert not result.model.metadata.functions
    x = feed(model)
    np.testing.assert_array_equal(run(model, x)[0], run(result.model, x)[0])


def test_what_cannot_be_converted_is_refused_with_a_way_out() -> None:
    model = parse(
        '<ir_version: 6, opset_import: ["" : 9]> g (float[1,1,2,3] x, float[4] s) => (float[] y)'
        '{ y = Upsample <mode = "nearest"> (x, s) }'
    )
    result = None
    try:
        result = RaiseOpset()(model)
    except UnsupportedModelError as problem:
        assert "opset 9 to 13" in str(problem) and "export it again" in str(problem)
        assert "\n" not in str(problem)
    if result is not None:  # Newer converters know it: then it has to be right.
        x = {**feed(model), "s": np.array([1, 1, 2, 2], "f4")}
        np.testing.assert_array_equal(run(model, x)[0], run(result.model, x)[0])


def test_sparse_initializers_are_refused_below_the_minimum() -> None:
    values = onnx.numpy_helper.from_array(np.array([1, 2], "f4"), "w")
    indices = onnx.numpy_helper.from_array(np.array([0, 3], "i8"), "")
    sparse = onnx.helper.make_sparse_tensor(values, indices, [4])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x", 1, [4])],
        [info("y", 1, [4])],
        sparse_initializer=[sparse],
    )
    imports = [onnx.helper.make_opsetid("", 11)]
    model = Model.from_onnx(onnx.helper.make_model(graph, opset_imports=imports, ir_version=6))
    with pytest.raises(UnsupportedModelError, match="'w' is sparse; export it again"):
        RaiseOpset()(model)


def test_an_opset_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="newer than this onnx package"):
        RaiseOpset(999)(model_of(*OPS["clip min"]))


@needs_shared
@pytest.mark.parametrize("name", ["face_rfb320", "face_yunet_n"])
@pytest.mark.parametrize("target", [13, 17])
def test_real_models(name: str, target: int) -> None:
    model = Model.load(SHARED / "models" / f"{name}.onnx")
    result = RaiseOpset(target)(model).model
    assert result.opset == target and result.parameters() >= model.parameters()
    rng = np.random.default_rng(0)
    shape = (1, 3, 240, 320) if name == "face_rfb320" else (1, 3, 64, 96)
    x = {next(iter(model.inputs())): rng.uniform(0, 255, shape).astype("f4")}
    for before, after in zip(run(model, x), run(result, x), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
