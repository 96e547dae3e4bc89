from __future__ import annotations

import numpy as np
import onnx
import pytest
from engine_models import HOST, convnet, parsed

from graphopt.engines import BuildOptions, ShapeRange
from graphopt.engines.onnxruntime import OnnxRuntime
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.model import Model
from graphopt.runtime import open_session

RNG = np.random.default_rng(1)
FEEDS = {"x": RNG.normal(size=(4, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("quantized", [False, True])
def test_build_open_run_and_time(quantized, shapes, tmp_path):
    engine, model = OnnxRuntime(), convnet(quantized=quantized)
    out = tmp_path / f"model{engine.suffix}"
    artifact = engine.build(model, out, BuildOptions(HOST, shapes, threads=1))
    assert [p.name for p in tmp_path.iterdir()] == ["model.ort.onnx"]
    with open_session(model) as session:
        want = session.run(None, FEEDS)[0]
    with engine.open(artifact.path) as session:
        assert session.inputs() == model.inputs() == {"x": (np.float32, ("N", 3, 8, 8))}
        got = session.run(FEEDS)
        profile = session.time(FEEDS, warmup_s=0, min_s=0, min_runs=7)
    assert list(got) == [model.graph.outputs[0].name]
    np.testing.assert_array_equal(got[model.graph.outputs[0].name], want)
    assert (len(profile.samples_ms), profile.batch) == (7, 4)
    assert min(profile.samples_ms) > 0
    assert profile.environment["engine"] == "onnxruntime"
    assert artifact.facts["runtime_version"] == engine.version()
    assert artifact.facts["shapes"]["x"]["opt"] == [4, 3, 8, 8]


def test_the_artifact_is_the_portable_model(tmp_path):
    model = convnet()
    artifact = OnnxRuntime().build(model, tmp_path / "m.ort.onnx", BuildOptions(HOST))
    assert Model.load(artifact.path).digest() == model.digest()
    domains = {node.domain for node in onnx.load(artifact.path).graph.node}
    assert domains == {""}


def test_the_counts_tell_float_from_integer_kernels(tmp_path):
    facts = OnnxRuntime().build(convnet(), tmp_path / "a.ort.onnx", BuildOptions(HOST)).facts
    assert (facts["float_compute"], facts["integer_compute"]) == (3, 0)
    assert sum(facts["op_counts"].values()) >= 3
    # Quantized as ONNX Runtime wants it, output and all: one integer Conv and no other.
    model = parsed(
        "g (float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y)\n"
        "<float s = {0.1}, uint8 z = {128}, float t = {0.02}, int8 k = {0},\n"
        " int8[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {\n"
        "  q = QuantizeLinear(x, s, z)\n  d = DequantizeLinear(q, s, z)\n"
        "  v = DequantizeLinear(w, t, k)\n  [conv] c = Conv(d, v)\n"
        "  r = QuantizeLinear(c, s, z)\n  y = DequantizeLinear(r, s, z)\n}"
    )
    facts = OnnxRuntime().build(model, tmp_path / "b.ort.onnx", BuildOptions(HOST)).facts
    assert (facts["float_compute"], facts["integer_compute"]) == (0, 1)


def test_a_model_it_refuses_leaves_nothing_behind(tmp_path):
    model = parsed("g (float[1, 4] x) => (float[1, 4] y) {\n  y = my.ops.Fancy(x)\n}")
    (line,) = OnnxRuntime().refuses(model, BuildOptions(HOST))
    assert "Fancy" in line
    with pytest.raises(UnsupportedModelError, match="Fancy"):
        OnnxRuntime().build(model, tmp_path / "m.ort.onnx", BuildOptions(HOST))
    assert list(tmp_path.iterdir()) == []
    assert OnnxRuntime().refuses(convnet(), BuildOptions(HOST)) == []


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "input 'x' is not given"),
        ({"y": FEEDS["x"]}, "'y' is no input of the model; its inputs: x"),
        ({"x": FEEDS["x"].astype(np.float64)}, "must be float32, not float64"),
        ({"x": FEEDS["x"][0]}, "must have the shape Nx3x8x8, not 3x8x8"),
        ({"x": FEEDS["x"][:, :2]}, "must have the shape Nx3x8x8, not 4x2x8x8"),
    ],
)
def test_wrong_inputs_are_told_by_name(feeds, said, tmp_path):
    artifact = OnnxRuntime().build(convnet(), tmp_path / "m.ort.onnx", BuildOptions(HOST))
    with OnnxRuntime().open(artifact.path) as session:
        with pytest.raises(UsageError) as problem:
            session.run(feeds)
        assert said in str(problem.value)
        with pytest.raises(UsageError):
            session.time(feeds)


def test_a_run_that_fails_is_told_in_one_line(tmp_path):
    model = parsed("g (float[N] x, int64[M] s) => (float[K] y) {\n  y = Reshape(x, s)\n}")
    artifact = OnnxRuntime().build(model, tmp_path / "m.ort.onnx", BuildOptions(HOST))
    with (
        OnnxRuntime().open(artifact.path) as session,
        pytest.raises(UsageError, match="could not run these inputs") as problem,
    ):
        session.run({"x": np.zeros(4, np.float32), "s": np.array([3])})
    assert "\n" not in str(problem.value)


def test_there_must_be_a_file(tmp_path):
    with (
        pytest.raises(UsageError, match="no such file"),
        OnnxRuntime().open(tmp_path / "m.ort.onnx"),
    ):
        pass


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ({"image": ShapeRange(*[(1, 3, 8, 8)] * 3)}, "'image' is no input"),
        ({"x": ShapeRange(*[(1, 3, 8)] * 3)}, "the min shape 1x3x8 does not fit"),
        ({"x": ShapeRange(*[(1, 4, 8, 8)] * 3)}, "the min shape 1x4x8x8 does not fit"),
        ({"x": ShapeRange(*[(0, 3, 8, 8)] * 3)}, "must be at least 1"),
        ({"x": ShapeRange((4, 3, 8, 8), (2, 3, 8, 8), (8, 3, 8, 8))}, "grow from min to max"),
    ],
)
def test_shapes_that_do_not_fit_are_told(ranges, said, tmp_path):
    with pytest.raises(UsageError, match=said):
        OnnxRuntime().build(convnet(), tmp_path / "m.ort.onnx", BuildOptions(HOST, ranges))
