"""TensorRT's engine, with the real Polygraphy, over strict stand-ins of each version's module.

What these cannot show: that the real TensorRT does what the stand-ins say they were asked.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_models import A10, T4, XAVIER, convnet, parsed
from trt_machine import (
    V8_5,
    V8_6,
    V10,
    V10_0,
    V11,
    VERSIONS,
    WITH_CALIBRATORS,
    set_up,
    tensorrt_standin,
)

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.calibrators.cache import read_cache
from graphopt.engines import BuildOptions, GpuCalibration, ShapeRange
from graphopt.engines.tensorrt import TensorRT
from graphopt.errors import DataError, EnvironmentProblem, UnsupportedModelError, UsageError
from graphopt.profiles.host import Gpu

pytest.importorskip("polygraphy", reason="Polygraphy is not installed")

XAVIER_GPU = Gpu("Xavier", (7, 2), None, "")


@pytest.fixture(params=VERSIONS)
def version(request, monkeypatch, tmp_path):
    """Each version in turn, installed."""
    set_up(monkeypatch, tmp_path, request.param)
    return request.param


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Returns what sets a machine up."""
    return lambda version, **facts: set_up(monkeypatch, tmp_path, version, **facts)


def build(tmp_path, model, options, name="m"):
    """Build; return the artifact and what the stand-in says that it was asked."""
    artifact = TensorRT().build(model, tmp_path / "out" / f"{name}.engine", options)
    return artifact, tensorrt_standin.told(artifact.path)


def table(method="entropy", names=("x", "conv1_r", "conv2_r", "flat", "fc_y")) -> CalibrationTable:
    ranges = {n: TensorRange(1.0 + i, -1.0 - i, 0.5) for i, n in enumerate(names)}
    return CalibrationTable(ranges, method, "")


def half() -> object:
    return parsed("g (float16[1, 4, 8, 8] x) => (float16[1, 4, 8, 8] y) { y = Relu(x) }")


def test_version_is_read_without_an_import(version):
    engine = TensorRT()
    assert (engine.version(), engine.missing(), engine.gpu()) == (version, None, "Tesla T4")


@pytest.mark.parametrize("quantized", [False, True])
def test_precision_is_what_the_graph_holds(version, quantized, shapes, tmp_path):
    artifact, told = build(tmp_path, convnet(quantized=quantized), BuildOptions(T4, shapes))
    assert told["strong"] == (version not in (V8_5, V8_6))
    flags = {"TF32"} | ({"INT8"} if quantized and not told["strong"] else set())
    assert set(told["flags"]) == flags
    assert artifact.facts["precision"] == ("int8" if quantized else "fp32")
    assert artifact.facts["runtime_version"] == version
    assert artifact.facts["notes"] == []


def test_a_half_graph_is_allowed_fp16_and_no_more(version, tmp_path):
    artifact, told = build(tmp_path, half(), BuildOptions(T4))
    assert set(told["flags"]) == {"TF32"} | (set() if told["strong"] else {"FP16"})
    assert artifact.facts["builder_flags"] == ([] if told["strong"] else ["fp16"])


@pytest.mark.parametrize("version_", WITH_CALIBRATORS)
@pytest.mark.parametrize(
    ("method", "algorithm"),
    [("entropy", "EntropyCalibration2"), ("minmax", "MinMaxCalibration"), ("mse", "Entropy")],
)
def test_implicit_int8_takes_our_ranges(machine, version_, method, algorithm, shapes, tmp_path):
    machine(version_)
    options = BuildOptions(T4, shapes, implicit=table(method), fp16=method == "mse")
    artifact, told = build(tmp_path, convnet(), options)
    # The stand-in takes a cache under its own version's and calibrator's header alone.
    assert told["scales"]["x"] == "3c010204"
    assert set(told["scales"]) == set(table().ranges)
    assert set(told["flags"]) == {"INT8", "TF32"} | ({"FP16"} if method == "mse" else set())
    assert not told["strong"]
    facts = artifact.facts
    assert (facts["typing"], facts["precision"]) == ("weak", "int8")
    assert facts["quantization"] == "implicit"
    assert facts["ranges"]["with_range"] == 5


def test_implicit_int8_is_refused_where_calibrators_went(machine, shapes, tmp_path):
    machine(V11)
    with pytest.raises(UsageError, match=r"11\.0.* has no implicit INT8.*--quantization explicit"):
        build(tmp_path, convnet(), BuildOptions(T4, shapes, implicit=table()))
    with pytest.raises(UsageError, match="precision from the graph alone"):
        build(tmp_path, convnet(), BuildOptions(T4, shapes, fp16=True))
    assert not (tmp_path / "out").exists()


def test_implicit_int8_contradictions(machine, shapes, tmp_path):
    machine(V8_6)
    options = BuildOptions(T4, shapes, implicit=table())
    with pytest.raises(UsageError, match="the graph has Q/DQ"):
        build(tmp_path, convnet(quantized=True), options)
    with pytest.raises(UsageError, match="choose one"):
        build(tmp_path, convnet(), replace(options, calibration=GpuCalibration([])))
    with pytest.raises(UsageError, match="names no tensor of this model"):
        build(tmp_path, convnet(), replace(options, implicit=table(names=("of", "another"))))


def batches(count: int, batch: int = 4):
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(batch, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("version_", WITH_CALIBRATORS)
def test_calibrates_on_the_gpu(machine, version_, shapes, tmp_path):
    machine(version_)
    data = batches(3)
    options = BuildOptions(T4, shapes, calibration=GpuCalibration(iter(data), "minmax"))
    artifact, told = build(tmp_path, convnet(), options)
    greatest = max(float(np.abs(feeds["x"]).max()) for feeds in data)
    path = artifact.files["calibration-cache"]
    header, scales = read_cache(path)
    assert header.algorithm == "MinMaxCalibration"
    assert scales["x"] == pytest.approx(greatest / 127, rel=1e-6)
    assert path.name == "m.engine.calibration.cache"
    assert "INT8" in told["flags"]


def test_calibration_data_is_checked(machine, shapes, tmp_path):
    machine(V8_5)

    def attempt(feeds, method="entropy"):
        options = BuildOptions(T4, shapes, calibration=GpuCalibration(feeds, method))
        build(tmp_path, convnet(), options)

    with pytest.raises(DataError, match="no batch to calibrate"):
        attempt([])
    with pytest.raises(DataError, match=r"batch 1: input 'x' is 2x3x8x8, the first .* 4x3x8x8"):
        attempt([*batches(1), *batches(1, batch=2)])
    with pytest.raises(DataError, match="input 'x' is not in"):
        attempt([{"y": np.zeros(1, np.float32)}])
    with pytest.raises(UsageError, match="entropy or minmax on the GPU, not by 'mse'"):
        attempt(batches(1), "mse")


def test_a_calibrator_without_cuda_is_told_and_not_taken_for_the_end(
    machine, shapes, tmp_path, monkeypatch
):
    machine(V8_6)
    for module in (tmp_path).glob("modules-*/pycuda/driver.py"):
        module.write_text("raise ImportError('libcuda.so.1 is not there')\n")
    options = BuildOptions(T4, shapes, calibration=GpuCalibration(batches(1)))
    with pytest.raises(UnsupportedModelError, match=r"CUDA cannot be used.*libcuda\.so\.1"):
        build(tmp_path, convnet(), options)


def test_every_optimization_profile_is_built(version, shapes, tmp_path):
    more = {"x": ShapeRange(*[(64, 3, 8, 8)] * 3)}
    artifact, told = build(tmp_path, convnet(), BuildOptions(T4, shapes, (more,)))
    assert [p["x"][2][0] for p in told["profiles"]] == [16, 64]
    assert artifact.facts["shapes"]["x"]["max"] == [16, 3, 8, 8]
    assert artifact.facts["more_shapes"][0]["x"]["opt"] == [64, 3, 8, 8]


def test_a_second_profile_is_checked_like_the_first(machine, shapes, tmp_path):
    machine(V10)
    wrong = {"x": ShapeRange(*[(1, 4, 8, 8)] * 3)}
    with pytest.raises(UsageError, match="does not fit"):
        build(tmp_path, convnet(), BuildOptions(T4, shapes, (wrong,)))


def test_the_builders_options_reach_it(version, shapes, tmp_path):
    options = BuildOptions(T4, shapes, sparse=True, workspace_bytes=64 << 20)
    _, told = build(tmp_path, convnet(), options)
    assert "SPARSE_WEIGHTS" in told["flags"]
    assert told["pools"] == {"WORKSPACE": 64 << 20}
    assert told["verbosity"] == "DETAILED"
    assert (told["dla"], told["level"]) == (None, None)


def test_builder_level_where_there_is_one(version, shapes, tmp_path):
    options = BuildOptions(T4, shapes, level=5)
    if version == V8_5:
        with pytest.raises(UsageError, match=r"8\.5.*no builder optimization level.*leave"):
            build(tmp_path, convnet(), options)
        return
    artifact, told = build(tmp_path, convnet(), options)
    assert told["level"] == artifact.facts["level"] == 5


@pytest.mark.parametrize("version_", [V8_5, V8_6, V10_0])
def test_a_dla_core_and_its_fallback(machine, version_, tmp_path):
    machine(version_, dla_cores=2, gpu=XAVIER_GPU)
    ranges = table(names=("x", "conv1_r", "conv2_r", "pooled"))
    # All of it runs on a DLA but for Flatten.
    fixed = convnet(gemm=False, batch=1)
    options = BuildOptions(XAVIER, implicit=ranges, fp16=True, dla=1)
    artifact, told = build(tmp_path, fixed, options)
    assert told["dla"] == 1  # Polygraphy takes core 0.
    assert {"INT8", "FP16", "GPU_FALLBACK"} <= set(told["flags"])
    assert artifact.facts["dla"] == {"core": 1, "gpu_fallback": True}
    with pytest.raises(UnsupportedModelError, match="Flatten is not supported on DLA"):
        build(tmp_path, fixed, replace(options, gpu_fallback=False))


def test_what_a_dla_cannot(machine, tmp_path):
    machine(V8_5, dla_cores=2, gpu=XAVIER_GPU)
    model = convnet(batch=1)
    with pytest.raises(UsageError, match="DLA core 2 on this machine, which has 2 DLA cores"):
        build(tmp_path, model, BuildOptions(XAVIER, implicit=table(), dla=2))
    with pytest.raises(UsageError, match="computes in INT8 or FP16"):
        build(tmp_path, model, BuildOptions(XAVIER, dla=0))
    # A DLA takes the entropy calibrator alone, whatever rule chose the ranges.
    _, told = build(tmp_path, model, BuildOptions(XAVIER, implicit=table("minmax"), dla=0))
    assert told["scales"]
    machine(V10)
    with pytest.raises(UsageError, match="which has no DLA: leave --dla out"):
        build(tmp_path, model, BuildOptions(T4, fp16=True, dla=0))


def test_layer_information_is_saved_beside(version, shapes, tmp_path):
    artifact, _ = build(tmp_path, convnet(), BuildOptions(T4, shapes))
    path = artifact.files["layers"]
    assert path == tmp_path / "out" / "m.engine.layers.json"
    layers = json.loads(path.read_text())["Layers"]
    assert {"Name": "conv1", "LayerType": "CONVOLUTION"} in layers
    assert sorted(p.name for p in path.parent.iterdir()) == ["m.engine", "m.engine.layers.json"]


def test_layers_of_an_earlier_engine_do_not_stay(machine, shapes, tmp_path, monkeypatch):
    machine(V8_6)
    artifact, _ = build(tmp_path, convnet(), BuildOptions(T4, shapes))
    standin = next(tmp_path.glob("modules-*")) / "tensorrt" / "_standin" / "run.py"
    text = standin.read_text()
    standin.write_text(text.replace('assert format.name == "JSON"', 'raise RuntimeError("no")'))
    said: list[str] = []
    again, _ = build(tmp_path, convnet(), BuildOptions(T4, shapes, say=said.append))
    assert said == ["no layer information: no"] == again.facts["notes"]
    assert again.files == {}
    assert not artifact.files["layers"].exists()


def test_the_parser_of_each_version_refuses(version, tmp_path):
    engine, options = TensorRT(), BuildOptions(T4)
    newer = parsed("g (float[1, 4] x) => (float[1, 4] y) { [a] y = my.ops.Fancy(x) }")
    (line,) = engine.refuses(newer, options)
    assert line.startswith("node 'a' (Fancy): Plugin not found")
    assert engine.refuses(convnet(quantized=True), options) == []
    short = parsed(
        "g (float[1, 4] x) => (float[1, 4] y) <float s = {0.5}> {\n"
        "  [q] q = QuantizeLinear(x, s)\n [d] y = DequantizeLinear(q, s)\n}"
    )
    said = engine.refuses(short, options)
    # Two inputs mean uint8, and TensorRT 8 wants three; the names are known from 10 on.
    old = version.startswith("8")
    assert (len(said) == 2) == old
    if old:
        assert said[0].startswith("node 'q' (QuantizeLinear): This version of TensorRT requires 3")


def test_the_parsed_network_is_read(version, tmp_path):
    network = TensorRT().network(convnet(quantized=True), BuildOptions(T4))
    kinds = [layer.kind for layer in network.layers]
    assert kinds.count("CONVOLUTION") == 2
    assert kinds.count("QUANTIZE") == kinds.count("DEQUANTIZE") == 6
    assert network.version == version


def cache_file(tmp_path: Path, version: str, gpu: str = "Tesla-T4") -> Path:
    folder = tmp_path / "user-cache" / "graphopt" / "timing"
    return folder / f"tensorrt-{version}-{gpu}.cache"


def test_timings_are_kept_for_each_version_and_gpu(machine, shapes, tmp_path):
    options = BuildOptions(T4, shapes)
    for version_ in (V8_6, V10):
        machine(version_)
        artifact, told = build(tmp_path, convnet(), options)
        assert told["timings_found"] == 0
        assert artifact.facts["timing_cache"] == f"tensorrt-{version_}-Tesla-T4.cache"
        _, told = build(tmp_path, convnet(), options)
        assert told["timings_found"] > 0
    machine(V10, gpu=Gpu("NVIDIA A10", (8, 6), 24.0, "550"))
    _, told = build(tmp_path, convnet(), BuildOptions(A10, shapes))
    assert told["timings_found"] == 0
    names = sorted(p.name for p in cache_file(tmp_path, V10).parent.glob("*.cache"))
    assert names == [
        f"tensorrt-{V10}-NVIDIA-A10.cache",
        f"tensorrt-{V10}-Tesla-T4.cache",
        f"tensorrt-{V8_6}-Tesla-T4.cache",
    ]


def test_a_timing_cache_of_ones_own(machine, shapes, tmp_path):
    mine = tmp_path / "mine.cache"
    machine(V10)
    options = BuildOptions(T4, shapes, timing_cache=mine)
    build(tmp_path, convnet(), options)
    assert build(tmp_path, convnet(), options)[1]["timings_found"] > 0
    assert not cache_file(tmp_path, V10).exists()
    # Of another version: ignored, said, and left as it is; the build goes on.
    before = mine.read_bytes()
    machine(V11)
    artifact, told = build(tmp_path, convnet(), options)
    assert told["timings_found"] == 0
    (note,) = artifact.facts["notes"]
    assert note.endswith("is no cache of this TensorRT and GPU: ignored, and left as it is")
    assert mine.read_bytes() == before


@pytest.mark.parametrize("content", [b"garbage", b"TIMINGS{", b"\0" * 100])
def test_a_damaged_cache_of_graphopts_is_replaced(machine, shapes, tmp_path, content):
    machine(V8_5)
    path = cache_file(tmp_path, V8_5)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    artifact, _ = build(tmp_path, convnet(), BuildOptions(T4, shapes))
    assert "ignored" in artifact.facts["notes"][0]
    assert build(tmp_path, convnet(), BuildOptions(T4, shapes))[1]["timings_found"] > 0


def test_a_cache_that_cannot_be_kept_stops_nothing(machine, shapes, tmp_path):
    machine(V10)
    (tmp_path / "user-cache").write_text("a file where the folder should be")
    artifact, _ = build(tmp_path, convnet(), BuildOptions(T4, shapes))
    assert "cannot be" in artifact.facts["notes"][0]
    assert "timing_cache" not in artifact.facts


def test_errors_of_the_builder_are_one_line(machine, tmp_path):
    machine(V8_5, dla_cores=1)
    options = BuildOptions(XAVIER, fp16=True, dla=0, gpu_fallback=False)
    with pytest.raises(EnvironmentProblem, match=r"this is Tesla T4 \(7\.5\), not Xavier"):
        build(tmp_path, convnet(batch=1), options)
    with pytest.raises(UnsupportedModelError) as problem:
        build(tmp_path, convnet(batch=1), replace(options, device=T4))
    assert str(problem.value) == (
        "TensorRT cannot build the model: Operation Flatten is not supported on DLA, and GPU "
        "fallback is off"
    )
