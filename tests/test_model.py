# ruff: noqa: E501
from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers import SHARED, conv_net, image_samples, needs_shared, parse, run
from onnx import TensorProto, helper, numpy_helper

import graphopt.model
from graphopt.errors import ModelFormatError, OutputError, UnsupportedModelError, UsageError
from graphopt.graph import constant
from graphopt.model import Model

REAL = ["face_rfb320", "face_yunet_n", "resnet20_cifar10", "resnet56_cifar10"]
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def info(
    name: str, elem: int = TensorProto.FLOAT, shape: tuple[int | str, ...] = (2,)
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, shape)


def proto_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs,
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def add_model(**options: int) -> onnx.ModelProto:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return proto_of([node], [info("x")], [info("y")], {"w": np.array([1, 2], "f4")}, **options)


def line_of(problem: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(problem.value)
    assert "\n" not in text and len(text) < 500
    return text


# --- files that are no model -----------------------------------------------------------------


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file") as problem:
        Model.load(tmp_path / "none.onnx")
    line_of(problem)
    with pytest.raises(UsageError, match="is a folder; name the") as problem:
        Model.load(tmp_path)
    line_of(problem)


def test_something_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        Model.load(tmp_path / "pipe")


@pytest.mark.parametrize(
    "content",
    {
        "empty": b"",
        "random": np.random.default_rng(0).bytes(4096),
        "zeros": bytes(100),
        "json": b'{"model": [1, 2, 3]}',
        "text": b"hello, world\n",
        "zip": b"PK\x03\x04" + bytes(60),
        "a tensor": numpy_helper.from_array(np.zeros(3)).SerializeToString(),
        "a graph": add_model().graph.SerializeToString(),
        "no graph": onnx.ModelProto(ir_version=8).SerializeToString(),
        "no opset": onnx.ModelProto(ir_version=8, graph=add_model().graph).SerializeToString(),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_is_no_model_is_refused_in_one_line(
    tmp_path: Path, content: tuple[str, bytes]
) -> None:
    for suffix in ("onnx", "json", "pb"):
        path = tmp_path / f"model.{suffix}"
        path.write_bytes(content[1])
        with pytest.raises(ModelFormatError, match="is not an ONNX model") as problem:
            Model.load(path)
        assert str(path) in line_of(problem)


def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    data = conv_net(8).to_onnx().SerializeToString()
    path = tmp_path / "cut.onnx"
    for at in range(0, len(data) - 1, max(1, len(data) // 40)):
        path.write_bytes(data[:at])
        with pytest.raises(ModelFormatError) as problem:
            Model.load(path)
        line_of(problem)


def test_a_tensor_cut_short_is_named() -> None:
    proto = add_model()
    proto.graph.initializer[0].raw_data = b"\0\0\0"
    with pytest.raises(ModelFormatError, match="name: w"):
        Model.from_onnx(proto)


def test_a_contradictory_model_is_refused() -> None:
    proto = add_model()
    proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelFormatError, match="not a valid model") as problem:
        Model.from_onnx(proto)
    line_of(problem)
    proto = add_model()
    proto.graph.initializer.append(proto.graph.initializer[0])
    with pytest.raises(ModelFormatError, match="not unique"):
        Model.from_onnx(proto)


def test_opsets_out_of_range_are_told() -> None:
    with pytest.raises(UnsupportedModelError, match="opset 6; graphopt reads 7 and newer"):
        Model.from_onnx(add_model(opset=6))
    with pytest.raises(UnsupportedModelError, match="pip install -U onnx"):
        Model.from_onnx(add_model(opset=9999))


# --- digest, clone, round trip ---------------------------------------------------------------


def everything() -> onnx.ModelProto:
    """A model with everything that a round trip through GraphSurgeon would drop."""
    nodes = [
        helper.make_node("Add", ["x", "w"], ["a"], name="sum", doc_string="adds"),
        helper.make_node("Twist", ["a", "", "s"], ["b", ""], domain="com.example", how=b"\xff\xfe"),
        helper.make_node("SequenceConstruct", ["b"], ["q"]),
        helper.make_node("SequenceAt", ["q", "zero"], ["y"]),
    ]
    nodes[0].metadata_props.add(key="scope", value="layer.0")
    extra = nodes[1].attribute
    extra.add(name="kind", type=onnx.AttributeProto.TYPE_PROTO).tp.CopyFrom(
        helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    )
    extra.add(name="empty", type=onnx.AttributeProto.FLOATS)
    body = helper.make_graph([], "body", [], [])
    extra.add(name="bodies", type=onnx.AttributeProto.GRAPHS).graphs.append(body)
    sparse_attribute = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([1.0], "f4"), "v"),
        numpy_helper.from_array(np.array([1], "i8"), "i"),
        [2],
    )
    extra.add(name="sparse", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(
        sparse_attribute
    )
    proto = proto_of(
        nodes,
        [info("x", shape=("N", 2))],
        [info("y", shape=("N", 2)), helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, ["N", 2])],
        {"w": np.array([1, 2], "f4"), "zero": np.array(0, "i8"), "q_scale": np.array(0.5, "f4")},
        domains=("com.example",),
    )  # fmt: skip
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.array([3.0], "f4"), "s"),
            numpy_helper.from_array(np.array([[1, 0]], "i8"), "s_indices"),
            [2, 2],
        )
    )
    proto.doc_string, proto.domain, proto.model_version = "a model", "com.example", 7
    proto.producer_name, proto.producer_version = "me", "1"
    proto.metadata_props.add(key="labels", value="cat,dog")
    proto.graph.doc_string = "a graph"
    proto.graph.metadata_props.add(key="graph", value="yes")
    proto.graph.input[0].doc_string = "the input"
    proto.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    proto.graph.initializer[0].doc_string = "the weights"
    annotation = proto.graph.quantization_annotation.add(tensor_name="a")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="q_scale")
    function = proto.functions.add(name="Twist", domain="com.example", overload="other")
    function.input.extend(["u"])
    function.output.extend(["v"])
    function.node.append(helper.make_node("Relu", ["u"], ["v"], doc_string="inner"))
    function.opset_import.append(helper.make_opsetid("", 17))
    return proto


def test_a_round_trip_loses_nothing() -> None:
    proto = everything()
    given = proto.SerializeToString(deterministic=True)
    model = Model.from_onnx(proto)
    assert proto.SerializeToString(deterministic=True) == given
    for copy in (model, model.clone(), Model.from_onnx(model.to_onnx())):
        out = copy.to_onnx()
        # Unnamed nodes were named, and inference found inner shapes; the rest is as it was.
        for node, old in zip(out.graph.node, proto.graph.node, strict=True):
            assert node.name and (node.name == old.name or not old.name)
            node.name = old.name
            assert sorted(map(str, node.attribute)) == sorted(map(str, old.attribute))
            node.ClearField("attribute")
            node.attribute.extend(old.attribute)
            node.domain = old.domain
        del out.graph.value_info[:]
        assert str(out).splitlines() == str(_normal(proto)).splitlines()


def _normal(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in copy.graph.node:
        node.name = node.name
        node.domain = node.domain
    order = {"w": 0, "zero": 1, "q_scale": 2}
    copy.graph.initializer.sort(key=lambda t: order[t.name])
    return copy


def test_the_digest_is_of_what_is_computed() -> None:
    model = Model.from_onnx(everything())
    digest = model.digest()
    other = everything()
    other.producer_name, other.producer_version, other.doc_string = "you", "2", "elsewhere"
    other.graph.name, other.model_version = "other", 8
    other.graph.node[0].doc_string = ""
    del other.metadata_props[:]
    assert Model.from_onnx(other).digest() == digest
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([1, 3], "f4"), "w"))
    assert Model.from_onnx(other).digest() != digest
    different = everything()
    different.graph.node[1].attribute[0].s = b"\xff"
    assert Model.from_onnx(different).digest() != digest


def test_the_digest_does_not_depend_on_how_weights_are_stored_or_whether_they_were_read() -> None:
    proto = add_model()
    model = Model.from_onnx(proto)
    proto.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]))
    assert proto.graph.initializer[0].float_data
    stored = Model.from_onnx(proto)
    digest = model.digest()
    assert stored.digest() == digest
    everything_read = Model.from_onnx(everything())
    before = everything_read.digest()
    for tensor in everything_read.graph.tensors().values():
        constant(tensor)
    assert everything_read.digest() == before


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_real_models_survive_clone_and_save(name: str, tmp_path: Path) -> None:
    path = SHARED / "models" / f"{name}.onnx"
    model = Model.load(path)
    saved = Model.load(model.save(tmp_path / "copy.onnx"))
    assert model.digest() == model.clone().digest() == saved.digest()
    proto, original = onnx.load(tmp_path / "copy.onnx"), onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version == original.ir_version
    shape = [d if isinstance(d, int) else 64 for d in next(iter(model.inputs().values()))[1]]
    x = {
        next(iter(model.inputs())): np.random.default_rng(0)
        .normal(size=[1, *shape[1:]])
        .astype("f4")
    }
    for a, b in zip(run(model, x), run(saved, x), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda p: p.stem)
def test_light_models_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    model = Model.load(path)
    assert model.graph.ir_version == 3
    saved = Model.load(model.save(tmp_path / "copy.onnx"))
    assert saved.digest() == model.digest() == model.clone().digest()
    onnx.checker.check_model(onnx.load(tmp_path / "copy.onnx"))
    assert list(saved.inputs()) == list(model.inputs()) and len(model.inputs()) == 1


def test_light_models_compute_the_same_after_a_round_trip() -> None:
    path = LIGHT / "light_squeezenet.onnx"
    if not path.exists():
        pytest.skip("this onnx package ships no light models")
    model = Model.load(path)
    again = Model.from_onnx(model.to_onnx())
    name, (_, shape) = next(iter(model.inputs().items()))
    x = {name: np.random.default_rng(0).normal(size=shape).astype("f4")}
    np.testing.assert_array_equal(run(model, x)[0], run(again, x)[0])


# --- types -----------------------------------------------------------------------------------

DTYPES = ["float16", "float64", "int8", "uint16", "bool", "complex64", "bfloat16", "int4", "uint4",
          "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_every_type_survive(dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    values = np.array([0, 1, 1, 0, 1], dtype=kind)
    elem = helper.np_dtype_to_tensor_dtype(kind)
    node = helper.make_node("Identity", ["w"], ["y"])
    proto = proto_of([node], [], [info("y", elem, (5,))], {"w": values}, opset=21, ir_version=10)
    model = Model.from_onnx(proto)
    digest = model.digest()
    weights = constant(model.graph.nodes[0].inputs[0])
    assert weights is not None and weights.dtype == kind
    assert model.graph.outputs[0].dtype == kind
    out = model.clone().to_onnx()
    assert out.graph.initializer[0].data_type == elem
    np.testing.assert_array_equal(numpy_helper.to_array(out.graph.initializer[0]), values)
    assert model.digest() == digest == Model.from_onnx(out).digest()
    assert model.parameters() == (5 if "float" in dtype else 0)


def test_strings_survive_even_if_they_are_not_text() -> None:
    node = helper.make_node("Identity", ["w"], ["y"])
    for strings in ([b"a", "ü".encode()], [b"\xff", b"b"]):
        proto = proto_of([node], [], [info("y", TensorProto.STRING)])
        tensor = proto.graph.initializer.add(name="w", data_type=TensorProto.STRING, dims=[2])
        tensor.string_data.extend(strings)
        model = Model.from_onnx(proto)
        assert list(model.clone().to_onnx().graph.initializer[0].string_data) == strings
        assert Model.from_onnx(model.to_onnx()).digest() == model.digest()


def test_sparse_initializers_are_read_dense_and_written_sparse() -> None:
    model = Model.from_onnx(everything())
    tensor = model.graph.tensors()["s"]
    values = constant(tensor)
    assert values is not None and values.dtype == np.float32 and values.tolist() == [[0, 0], [3, 0]]
    assert len(model.to_onnx().graph.sparse_initializer) == 1


def test_map_optional_and_sequence_types_survive() -> None:
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    kinds = [
        helper.make_sequence_type_proto(element),
        helper.make_optional_type_proto(element),
        helper.make_map_type_proto(TensorProto.INT64, element),
    ]
    for kind in kinds:
        value = [helper.make_value_info(name, kind) for name in ("x", "y")]
        node = helper.make_node("Pass", ["x"], ["y"], domain="com.example")
        proto = proto_of([node], [value[0]], [value[1]], domains=("com.example",))
        model = Model.from_onnx(proto)
        out = model.clone().to_onnx()
        assert out.graph.input[0].type == kind and out.graph.output[0].type == kind
        assert model.graph.inputs[0].dtype is None


def test_constants_are_read_only() -> None:
    model = Model.from_onnx(add_model())
    values = constant(model.graph.tensors()["w"])
    assert values is not None
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 5


# --- names, inputs, versions -----------------------------------------------------------------


def test_nodes_get_unique_names() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], name="same"),
        helper.make_node("Relu", ["b"], ["c"], name="same"),
        helper.make_node("Relu", ["c"], ["y"], name="same_1"),
    ]
    model = Model.from_onnx(proto_of(nodes, [info("x")], [info("y")]))
    assert [n.name for n in model.graph.nodes] == ["Relu_a", "same", "same_2", "same_1"]


def test_initializers_listed_as_inputs_are_no_inputs() -> None:
    proto = add_model(ir_version=3)
    proto.graph.input.append(info("w"))
    model = Model.from_onnx(proto)
    assert list(model.inputs()) == ["x"]
    out = model.to_onnx()
    assert [i.name for i in out.graph.input] == ["x"] and out.ir_version >= 4
    onnx.checker.check_model(out)
    # Exporters that forgot to list them were never refused by a runtime.
    assert list(Model.from_onnx(add_model(ir_version=3)).inputs()) == ["x"]


@pytest.mark.parametrize(
    ("opset", "given", "written"),
    [(9, 4, 4), (13, 7, 7), (13, 4, 7), (17, 8, 8), (21, 10, 10), (13, 9, 9)],
)
def test_the_ir_version_rises_only_as_the_opset_needs(opset: int, given: int, written: int) -> None:
    assert Model.from_onnx(add_model(opset=opset, ir_version=given)).to_onnx().ir_version == written


def test_the_standard_domain_by_its_other_name() -> None:
    proto = add_model()
    proto.opset_import[0].domain = "ai.onnx"
    proto.graph.node[0].domain = "ai.onnx"
    model = Model.from_onnx(proto)
    assert model.opset == 17
    assert model.digest() == Model.from_onnx(add_model()).digest()


def test_a_domain_that_a_pass_brings_in_is_imported() -> None:
    model = Model.from_onnx(add_model())
    model.graph.nodes[0].domain = "com.microsoft"
    imports = {o.domain: o.version for o in model.to_onnx().opset_import}
    assert imports == {"": 17, "com.microsoft": 1}


def test_a_model_of_custom_operators_alone() -> None:
    node = helper.make_node("Twist", ["x"], ["y"], domain="com.example")
    proto = proto_of([node], [info("x")], [info("y")], domains=("com.example",))
    del proto.opset_import[0]
    model = Model.from_onnx(proto)
    assert [o.domain for o in model.to_onnx().opset_import] == ["com.example"]


def test_an_output_without_a_shape_is_no_reason_to_refuse() -> None:
    proto = add_model()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = Model.from_onnx(proto)
    assert not proto.graph.output[0].type.tensor_type.HasField("shape")
    assert model.graph.outputs[0].shape == [2]


def test_an_initializer_may_be_an_output() -> None:
    proto = add_model()
    proto.graph.output.append(info("w"))
    model = Model.from_onnx(proto)
    x = {"x": np.zeros(2, "f4")}
    for copy in (model, model.clone(), Model.from_onnx(model.to_onnx())):
        assert [a.tolist() for a in run(copy, x)] == [[1, 2], [1, 2]]


def test_two_constants_of_one_name_are_caught() -> None:
    model = Model.from_onnx(add_model())
    twin = model.clone().graph.nodes[0].inputs[1]
    node = model.clone().graph.nodes[0]
    twin.values = np.array([5, 6], "f4")
    node.outputs[0].name = "z"
    model.graph.nodes.append(type(node)("Add", "again", inputs=[model.graph.inputs[0], twin], outputs=[node.outputs[0]]))  # fmt: skip
    with pytest.raises(ValueError, match="two different constants are named 'w'"):
        model.to_onnx()


# --- bodies ----------------------------------------------------------------------------------


def branching() -> Model:
    return parse(
        """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}> {
            a = Add (x, w)
            y = If (c) <then_branch = t () => (float[2] o) { m = Mul (a, w) o = Add (m, v) },
                        else_branch = e () => (float[2] p) { p = Sub (a, v) }>
        }"""
    )


def test_bodies_share_the_tensors_of_the_outer_graph() -> None:
    model = branching()
    for copy in (model, model.clone(), model.clone().clone(), Model.from_onnx(model.to_onnx())):
        w = copy.graph.nodes[0].inputs[1]
        then, other = copy.graph.subgraphs()
        assert (
            then.nodes[0].inputs[1] is w
            and then.nodes[0].inputs[0] is copy.graph.nodes[0].outputs[0]
        )
        assert then.nodes[1].inputs[1] is other.nodes[0].inputs[1]
        assert (
            copy.digest() == model.digest() and copy.parameters() == 4 and copy.weight_bytes() == 16
        )
        for choice, expected in ((True, [4, 8]), (False, [-1, 0])):
            feeds = {"c": np.array(choice), "x": np.array([0, 0] if choice else [1, 2], "f4")}
            assert run(copy, feeds)[0].tolist() == expected


def test_a_weight_of_the_outer_graph_edited_in_a_clone_is_edited_for_its_bodies() -> None:
    model = branching()
    clone = model.clone()
    clone.graph.nodes[0].inputs[1].values = np.array([10, 20], "f4")
    feeds = {"c": np.array(True), "x": np.zeros(2, "f4")}
    assert run(clone, feeds)[0].tolist() == [103, 404]
    assert run(model, feeds)[0].tolist() == [4, 8]


def test_a_clone_does_not_share_attributes_or_shapes() -> None:
    model = conv_net(8)
    clone = model.clone()
    clone.graph.nodes[0].attrs["pads"][0] = 9
    clone.graph.inputs[0].shape[0] = 5
    assert model.graph.nodes[0].attrs["pads"] == [1, 1, 1, 1]
    assert model.graph.inputs[0].shape[0] == "N"


# --- shapes ----------------------------------------------------------------------------------


def test_inference_fills_in_and_never_makes_up_names() -> None:
    model = parse(
        """g (float[N,3] x, int64[2] s) => (float[A,B] y) {
            a = Relu (x) b = Reshape (a, s) y = Relu (b)
        }"""
    )
    tensors = model.graph.tensors()
    assert tensors["a"].shape == ["N", 3] and tensors["a"].dtype == np.float32
    assert tensors["b"].shape == [None, None]
    assert tensors["y"].shape == ["A", "B"]


def test_inference_replaces_what_a_pass_made_stale() -> None:
    model = conv_net(8)
    weight = model.graph.nodes[0].inputs[1]
    bias = model.graph.nodes[0].inputs[2]
    assert model.graph.tensors()["c0"].shape == ["N", 8, 16, 16]
    weight.values, bias.values = weight.values[:4], bias.values[:4]
    model.infer_shapes()
    assert model.graph.tensors()["c0"].shape == ["N", 4, 16, 16]
    assert model.graph.tensors()["r0"].shape == ["N", 4, 16, 16]


def test_shapes_behind_custom_operators_are_kept() -> None:
    proto = everything()
    proto.graph.value_info.append(info("b", shape=("N", 2)))
    model = Model.from_onnx(proto)
    model.infer_shapes()
    assert model.graph.tensors()["b"].shape == ["N", 2]


# --- saving ----------------------------------------------------------------------------------


def test_large_models_go_to_external_data_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = conv_net(32)
    monkeypatch.setattr(graphopt.model, "EXTERNAL_DATA_BYTES", 10_000)
    path = model.save(tmp_path / "large.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert path.stat().st_size < 10_000 < (tmp_path / "large.onnx.data").stat().st_size
    back = Model.load(path)
    assert back.digest() == model.digest()
    x = {"image": image_samples(2)}
    np.testing.assert_array_equal(run(back, x)[0], run(model, x)[0])
    # Saved again, the data file is replaced and not appended to.
    size = (tmp_path / "large.onnx.data").stat().st_size
    back.save(path)
    assert (tmp_path / "large.onnx.data").stat().st_size == size
    assert Model.load(path).digest() == model.digest()


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Model.from_onnx(add_model()).save(tmp_path / "model.onnx")
    before = path.read_bytes()

    def full_disk(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save_model", full_disk)
    with pytest.raises(OutputError, match="no space left") as problem:
        conv_net(8).save(path)
    line_of(problem)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def external(tmp_path: Path, **entries: str) -> Path:
    proto = add_model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_is_read(tmp_path: Path) -> None:
    path = external(tmp_path, location="weights.bin", offset="4", length="8")
    (path.parent / "weights.bin").write_bytes(b"skip" + np.array([7, 8], "f4").tobytes())
    assert run(Model.load(path), {"x": np.zeros(2, "f4")})[0].tolist() == [7, 8]


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "missing.bin"},
        {"location": "../secret.bin"},
        {"location": "../models/../secret.bin"},
        {"location": "/etc/passwd"},
        {"location": "link.bin"},
        {"location": "linked/secret.bin"},
        {"location": "."},
        {"location": ""},
        {},
        {"location": "short.bin"},
        {"location": "secret8.bin", "offset": "-4"},
        {"location": "secret8.bin", "offset": "4", "length": "99999999999999"},
        {"location": "secret8.bin", "offset": "many"},
        {"location": "secret8.bin", "length": "-1"},
    ],
    ids=str,
)
def test_hostile_and_broken_external_data_is_refused_in_one_line(
    tmp_path: Path, entries: dict[str, str]
) -> None:
    path = external(tmp_path, **entries)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.array([7, 8], "f4").tobytes())
    (path.parent / "secret8.bin").write_bytes(np.array([7, 8], "f4").tobytes())
    (path.parent / "short.bin").write_bytes(b"123")
    (path.parent / "link.bin").symlink_to(secret)
    (path.parent / "linked").symlink_to(tmp_path)
    with pytest.raises(ModelFormatError) as problem:
        Model.load(path)
    assert str(path) in line_of(problem)


def test_external_data_without_a_path_is_told(tmp_path: Path) -> None:
    proto = onnx.load(external(tmp_path, location="w.bin"), load_external_data=False)
    with pytest.raises(ModelFormatError, match="in another file: use Model"):
        Model.from_onnx(proto)


# --- the rest of the interface ---------------------------------------------------------------


def test_counts() -> None:
    model = conv_net(8)
    values = sum(v.size for v in map(constant, model.graph.tensors().values()) if v is not None)
    assert model.parameters() == values and model.weight_bytes() == 4 * values
    assert model.inputs() == {"image": (np.float32, ("N", 3, 16, 16))}
    empty = parse(
        "g (float[2] x) => (float[2] y) { c = Constant <value_float = 1.0> () y = Add (x, c) }"
    )
    assert empty.parameters() == 0
