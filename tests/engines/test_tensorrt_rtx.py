from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from engine_models import A10, HOST, T4, XAVIER, convnet, needs_rtx, parsed
from helpers import SHARED, needs_shared

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.engines import BuildOptions, ShapeRange
from graphopt.engines.header import identify
from graphopt.engines.tensorrt_rtx import TensorRTRTX, no_wheel
from graphopt.errors import (
    EnvironmentProblem,
    MissingDependencyError,
    ModelFormatError,
    OutputError,
    UnsupportedModelError,
    UsageError,
)
from graphopt.model import Model
from graphopt.profiles import DeviceProfile


@needs_rtx
@pytest.mark.parametrize("quantized", [False, True])
def test_builds_a_real_engine_without_a_gpu(quantized, shapes, tmp_path):
    engine, model = TensorRTRTX(), convnet(quantized=quantized)
    digest = model.digest()
    artifact = engine.build(model, tmp_path / "m.engine", BuildOptions(HOST, shapes))
    assert artifact.path.read_bytes()[:4] == b"vtrt"
    header = identify(artifact.path)
    assert (header.kind, header.version) == ("tensorrt-rtx", engine.version())
    facts = artifact.facts
    assert facts["runtime_version"] == engine.version()
    assert facts["precision"] == ("int8" if quantized else "fp32")
    assert facts["typing"] == "strong"
    assert facts["shapes"]["x"] == {"min": [1, 3, 8, 8], "opt": [4, 3, 8, 8], "max": [16, 3, 8, 8]}
    assert [p.name for p in tmp_path.iterdir()] == ["m.engine"]
    assert model.digest() == digest


@needs_rtx
def test_the_same_model_gives_the_same_bytes(shapes, tmp_path):
    engine, options = TensorRTRTX(), BuildOptions(HOST, shapes)
    files = [tmp_path / "a.engine", tmp_path / "b.engine"]
    for file in files:
        engine.build(convnet(quantized=True), file, options)
    assert files[0].read_bytes() == files[1].read_bytes()


@needs_rtx
def test_the_device_and_the_shapes_reach_the_builder(shapes, tmp_path):
    engine = TensorRTRTX()
    built = {}
    for name, device, ranges in (
        ("portable", HOST, shapes),
        ("a10", A10, shapes),
        ("fixed", HOST, {"x": ShapeRange(*[(2, 3, 8, 8)] * 3)}),
    ):
        options = BuildOptions(device, ranges)
        artifact = engine.build(convnet(), tmp_path / f"{name}.engine", options)
        built[name] = (artifact.facts["compute_capabilities"], artifact.path.read_bytes())
    assert [built[n][0] for n in ("portable", "a10", "fixed")] == [None, ["8.6"], None]
    assert len({data for _, data in built.values()}) == 3


@needs_rtx
def test_a_fixed_shape_needs_no_range(tmp_path):
    artifact = TensorRTRTX().build(convnet(batch=2), tmp_path / "m.engine", BuildOptions(HOST))
    assert artifact.facts["shapes"]["x"]["max"] == [2, 3, 8, 8]


@needs_rtx
def test_a_workspace_limit_is_taken(shapes, tmp_path):
    options = BuildOptions(HOST, shapes, workspace_bytes=64 << 20)
    artifact = TensorRTRTX().build(convnet(), tmp_path / "m.engine", options)
    assert identify(artifact.path).kind == "tensorrt-rtx"


@needs_rtx
def test_several_profiles_are_built(shapes, tmp_path):
    more = tuple({"x": ShapeRange(*[(n, 3, 8, 8)] * 3)} for n in (32, 64))
    built = {}
    for count in (0, 1, 2):
        options = BuildOptions(HOST, shapes, more[:count])
        artifact = TensorRTRTX().build(convnet(), tmp_path / f"{count}.engine", options)
        built[count] = artifact.path.stat().st_size
        told = artifact.facts.get("more_shapes", [])
        assert [profile["x"]["opt"][0] for profile in told] == [32, 64][:count]
    # Each profile has its own plan.
    assert built[0] < built[1] < built[2]


@needs_rtx
def test_sparse_weights_and_a_builder_level_are_taken(shapes, tmp_path):
    options = BuildOptions(HOST, shapes, sparse=True, level=1)
    artifact = TensorRTRTX().build(convnet(), tmp_path / "m.engine", options)
    assert (artifact.facts["sparse"], artifact.facts["level"]) == (True, 1)


@needs_rtx
def test_what_it_has_not_is_refused(shapes, tmp_path):
    table = CalibrationTable({"x": TensorRange(1.0, -1.0, 1.0)}, "entropy", "")
    for options, said in (
        (BuildOptions(HOST, shapes, implicit=table), r"no implicit INT8: .*explicit"),
        (BuildOptions(HOST, shapes, dla=0), "no DLA: leave it out"),
        (BuildOptions(HOST, shapes, fp16=True), "no FP16 but by the graph"),
    ):
        with pytest.raises(UsageError, match=said):
            TensorRTRTX().build(convnet(), tmp_path / "m.engine", options)


@needs_rtx
def test_refuses_names_every_node_and_build_says_the_same(tmp_path):
    model = parsed(
        "g (float[1, 4] x, float[2, 2] d) => (float[1, 4] y, float z) {\n"
        "  [one] a = my.ops.Fancy(x)\n  [two] y = my.ops.Fancier(a)\n  [det] z = Det(d)\n}"
    )
    lines = TensorRTRTX().refuses(model, BuildOptions(HOST))
    assert [line.split(":")[0] for line in lines] == [
        "node 'one' (Fancy)",
        "node 'two' (Fancier)",
        "node 'det' (Det)",
    ]
    assert "Plugin not found" in lines[0]
    assert lines[2].endswith("operator Det is not supported")
    out = tmp_path / "m.engine"
    with pytest.raises(UnsupportedModelError, match=r"node 'one' \(Fancy\)") as problem:
        TensorRTRTX().build(model, out, BuildOptions(HOST))
    assert "node 'two' (Fancier)" in problem.value.hint
    assert "\n" not in str(problem.value)
    assert list(tmp_path.iterdir()) == []


@needs_rtx
def test_refuses_the_zero_point_that_tensorrt_does_not_take():
    model = parsed(
        "g (float[1, 4] x) => (float[1, 4] y) <float s = {0.5}, uint8 z = {3}> {\n"
        "  [quantize] q = QuantizeLinear(x, s, z)\n  y = DequantizeLinear(q, s, z)\n}"
    )
    (line,) = TensorRTRTX().refuses(model, BuildOptions(HOST))
    assert line.startswith("node 'quantize' (QuantizeLinear): Non-zero zero point")


@needs_rtx
def test_accepts_what_it_can_build():
    assert TensorRTRTX().refuses(convnet(quantized=True), BuildOptions(HOST)) == []


@needs_rtx
def test_errors_of_the_builder_are_one_line_and_say_the_way_out(shapes, tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"'fc' for Turing.*FP32 GEMM") as problem:
        TensorRTRTX().build(convnet(), tmp_path / "m.engine", BuildOptions(T4, shapes))
    assert "build with TensorRT" in problem.value.hint
    assert "/_src" not in str(problem.value)
    assert list(tmp_path.iterdir()) == []


@needs_rtx
def test_turing_is_built_for_where_it_can_be(shapes, tmp_path):
    model = convnet(gemm=False)
    artifact = TensorRTRTX().build(model, tmp_path / "m.engine", BuildOptions(T4, shapes))
    assert artifact.facts["compute_capabilities"] == ["7.5"]


@needs_rtx
def test_int8_on_turing_is_refused_by_what_the_graph_holds(shapes, tmp_path):
    model = convnet(quantized=True, gemm=False)
    with pytest.raises(EnvironmentProblem, match="no INT8 on Turing"):
        TensorRTRTX().build(model, tmp_path / "m.engine", BuildOptions(T4, shapes))


@needs_rtx
def test_shapes_are_checked_before_the_build(shapes, tmp_path):
    out = tmp_path / "m.engine"
    with pytest.raises(UsageError, match="--opt-shapes x:1x3x8x8"):
        TensorRTRTX().build(convnet(), out, BuildOptions(HOST))


@needs_rtx
def test_a_build_that_takes_too_long_is_stopped(shapes, tmp_path):
    options = replace(BuildOptions(HOST, shapes), time_limit_s=0.001)
    with pytest.raises(EnvironmentProblem, match=r"stopped after 0\.001 s"):
        TensorRTRTX().build(convnet(), tmp_path / "m.engine", options)
    assert list(tmp_path.iterdir()) == []


@needs_rtx
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_told(shapes, tmp_path, monkeypatch):
    # The worker writes the engine itself: let it write to a device that is always full.
    folder = tmp_path / "out"
    from graphopt.engines import _builder

    run = _builder.run_job

    def full(job, *args):
        return run({**job, "engine": "/dev/full"}, *args)

    monkeypatch.setattr(_builder, "run_job", full)
    with pytest.raises(OutputError, match="no space left"):
        TensorRTRTX().build(convnet(), folder / "m.engine", BuildOptions(HOST, shapes))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@needs_rtx
def test_a_file_named_like_a_module_in_the_current_folder_is_not_imported(
    shapes, tmp_path, monkeypatch
):
    for name in ("tensorrt_rtx.py", "polygraphy.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the current folder')\n")
    monkeypatch.chdir(tmp_path)
    out = Path("m.engine")
    artifact = TensorRTRTX().build(convnet(), out, BuildOptions(HOST, shapes))
    assert identify(artifact.path).kind == "tensorrt-rtx"


@needs_rtx
def test_an_engine_cannot_be_run_without_a_gpu(shapes, tmp_path, monkeypatch):
    engine = TensorRTRTX()
    artifact = engine.build(convnet(), tmp_path / "m.engine", BuildOptions(HOST, shapes))
    monkeypatch.setattr("graphopt.profiles.host.gpus", lambda: ())
    assert "no NVIDIA GPU" in str(engine.cannot_run())
    with pytest.raises(EnvironmentProblem, match="no NVIDIA GPU"):
        engine.open(artifact.path)


def test_what_it_cannot_target():
    engine = TensorRTRTX()
    assert engine.cannot_build(HOST, "int8") is None
    assert engine.cannot_build(A10, "int8") is None
    assert engine.cannot_build(T4, "fp32") is None
    assert "no INT8 on Turing" in str(engine.cannot_build(T4, "int8"))
    assert "on the device itself" in str(engine.cannot_build(XAVIER, "fp32"))
    hopper = DeviceProfile(name="h100", sm=(9, 0))
    assert "h100 (compute capability 9.0)" in str(engine.cannot_build(hopper, "fp32"))


@needs_rtx
def test_a_target_this_version_does_not_know_is_told(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("graphopt.engines.tensorrt_rtx.TARGETS", ((9, 9),))
    device = DeviceProfile(name="future", sm=(9, 9))
    with pytest.raises(EnvironmentProblem, match="cannot target SM99"):
        TensorRTRTX().build(convnet(), tmp_path / "m.engine", BuildOptions(device, shapes))


def test_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("graphopt.engines.tensorrt_rtx.installed", lambda name: False)
    monkeypatch.setattr("graphopt.engines.tensorrt_rtx.no_wheel", lambda *machine: None)
    assert TensorRTRTX().missing() == (
        'tensorrt-rtx and polygraphy are not installed: pip install "graphopt[rtx]"'
    )
    with pytest.raises(MissingDependencyError, match="pip install"):
        TensorRTRTX().refuses(convnet(), BuildOptions(HOST))
    monkeypatch.setattr("graphopt.engines.tensorrt_rtx.no_wheel", lambda *machine: "no reason")
    assert "cannot be here: no reason" in str(TensorRTRTX().missing())


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (("Linux", "x86_64", (3, 10), "glibc"), None),
        (("Windows", "AMD64", (3, 12), ""), None),
        (("Linux", "aarch64", (3, 12), "glibc"), "not for aarch64"),
        (("Darwin", "arm64", (3, 12), ""), "not for Darwin"),
        (("Linux", "x86_64", (3, 12), ""), "glibc"),
        (("Linux", "x86_64", (3, 99), "glibc"), "this is 3.99"),
    ],
)
def test_where_there_is_no_wheel(machine, why):
    said = no_wheel(*machine)
    assert (said is None) if why is None else (why in str(said))


def test_only_its_own_engines_are_opened(tmp_path):
    other = tmp_path / "m.engine"
    other.write_bytes(b"ftrt" + bytes(100))
    with pytest.raises(UsageError, match="is an engine of tensorrt, not of tensorrt-rtx"):
        TensorRTRTX().open(other)
    other.write_bytes(os.urandom(100))
    with pytest.raises(ModelFormatError, match="is not a TensorRT engine"):
        TensorRTRTX().open(other)


@needs_rtx
@needs_shared
@pytest.mark.parametrize(
    ("file", "three"),
    [
        ("resnet20_cifar10", ((1, 3, 32, 32), (8, 3, 32, 32), (64, 3, 32, 32))),
        ("face_rfb320", ((1, 3, 240, 320),) * 3),
        ("face_yunet_n", ((1, 3, 160, 160), (1, 3, 320, 320), (4, 3, 640, 640))),
    ],
)
def test_real_models_are_built(file, three, tmp_path):
    model = Model.load(SHARED / "models" / f"{file}.onnx")
    given = {model.graph.inputs[0].name: ShapeRange(*three)}
    assert TensorRTRTX().refuses(model, BuildOptions(HOST)) == []
    artifact = TensorRTRTX().build(model, tmp_path / "m.engine", BuildOptions(HOST, given))
    assert identify(artifact.path).size > 100_000
    assert artifact.facts["layers"] > len(model.graph.nodes) / 2
