"""The stand-in against our own commands and readers: a build, a load, and every refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt.engines import ShapeRange
from graphopt.engines.header import identify
from graphopt.engines.trtexec.command import Request, Timing, command
from graphopt.engines.trtexec.features import Features, banner_number
from graphopt.engines.trtexec.layers import read_layer_times, read_layers
from graphopt.engines.trtexec.log import read_log
from graphopt.engines.trtexec.output import read_times

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import engine_models

X = ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))
V85, V86, V10, V11 = (8, 5, 2), (8, 6, 1), (10, 3, 0), (11, 0, 0)


@pytest.fixture
def plain(tmp_path):
    engine_models.convnet().save(tmp_path / "plain.onnx")
    return tmp_path / "plain.onnx"


@pytest.fixture
def quantized(tmp_path):
    engine_models.convnet(quantized=True).save(tmp_path / "quantized.onnx")
    return tmp_path / "quantized.onnx"


def request(path, **more):
    """Build and measure, everything exported beside the model."""
    at = path.parent
    return replace(
        Request(
            onnx=str(path),
            save=str(at / "m.engine"),
            profiles=({"x": X},),
            timing=Timing(duration_s=0, iterations=25),
            times=str(at / "times.json"),
            layer_times=str(at / "profile.json"),
            layers=str(at / "layers.json"),
            timing_cache=str(at / "t.cache"),
        ),
        **more,
    )


def words(asked, version):
    return list(command(asked, Features.of(version)).words)


@pytest.mark.parametrize("int8", [False, True])
def test_a_build_in_each_version_reads_back(version, ran, plain, quantized, int8):
    path = quantized if int8 else plain
    status, log = ran(version, words(request(path, int8=int8), version))
    outcome = read_log(log)
    assert (status, outcome.problem(status)) == (0, None), log
    assert outcome.version == version and outcome.passed and outcome.engine_s is not None
    times = read_times(path.parent / "times.json", batch=4)
    assert len(times.latency.samples_ms) == 25
    told = outcome.summaries["GPU Compute Time"]
    # The log rounds to six digits, and its median of an even count is the upper one.
    assert told["median"] == pytest.approx(times.latency.p50, rel=0.02)
    assert told["min"] == pytest.approx(min(times.latency.samples_ms), rel=1e-4)
    assert not any(times.columns["h2dMs"])
    layers = read_layers(path.parent / "layers.json")
    assert layers.detailed and layers.tensors[0] == "x"
    profile = read_layer_times(path.parent / "profile.json")
    assert [each.name for each in profile.layers] == [each.name for each in layers.layers]
    assert sum(each.percent for each in profile.layers) == pytest.approx(100, rel=1e-4)
    header = identify(path.parent / "m.engine")
    assert (header.kind, header.version) == ("tensorrt", ".".join(map(str, (*version, 2))))
    assert (path.parent / "t.cache").stat().st_size > 64
    again, log = ran(
        version, words(Request(load=str(path.parent / "m.engine"), timing=Timing()), version)
    )
    assert (again, read_log(log).problem(again)) == (0, None)


def test_the_same_model_takes_the_same_time_and_a_smaller_one_less(ran, tmp_path):
    found = []
    for width in (64, 64, 32):
        path = tmp_path / f"m{width}.onnx"
        engine_models.convnet(width=width).save(path)
        status, _ = ran(V10, words(request(path), V10))
        assert status == 0
        found.append(read_times(tmp_path / "times.json").latency.samples_ms)
    assert found[0] == found[1]
    assert np.median(found[2]) < np.median(found[0])


def test_an_engine_of_another_version_or_gpu_is_refused(ran, plain):
    engine = plain.parent / "m.engine"
    assert ran(V86, words(request(plain), V86))[0] == 0
    load = Request(load=str(engine), timing=Timing())
    for version, more, message in (
        (V85, {}, "expecting library version 8.5.2.2 got 8.6.1.2, please rebuild"),
        (V10, {}, "expecting library version 10.3.0.2 got 8.6.1.2, please rebuild"),
        (V86, {"sm": "7.2"}, "incompatible device, expecting compute 7.2 got compute 7.5"),
    ):
        status, log = ran(version, words(load, version), **more)
        assert status == 1 and message in read_log(log).problem(status)
    data = engine.read_bytes()
    engine.write_bytes(data[:-1])
    status, log = ran(V86, words(load, V86))
    assert status == 1 and "Size specified in header" in read_log(log).problem(status)
    engine.unlink()
    status, log = ran(V86, words(load, V86))
    assert "Error opening engine file" in read_log(log).problem(status)


def test_shapes_for_a_static_model_are_refused_and_none_are_needed(ran, tmp_path):
    path = tmp_path / "static.onnx"
    engine_models.convnet(batch=2).save(path)
    status, log = ran(V85, words(request(path), V85))
    assert status == 1 and "Static model does not take explicit shapes" in read_log(log).problem(1)
    status, log = ran(V85, words(request(path, profiles=()), V85))
    assert status == 0, log
    dynamic = tmp_path / "dynamic.onnx"
    engine_models.convnet().save(dynamic)
    status, log = ran(V85, words(request(dynamic, profiles=()), V85))
    assert status == 0
    assert "Automatically overriding shape to: 1x3x8x8" in " ".join(read_log(log).warnings)


def _changed(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def _opset(version):
    def change(model):
        model.opset_import[0].version = version
        model.ir_version = min(model.ir_version, 10)

    return change


def _two_inputs(model):
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            del node.input[2]


def _scale(value):
    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name == "x_scale":
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), "x_scale"))

    return change


def _zero(value, dtype=np.int8):
    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name == "x_zero":
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, dtype), "x_zero"))

    return change


def _int8_weights(model):
    """Quantize the first weight beforehand: DequantizeLinear reads int8."""
    node = next(n for n in model.graph.node if n.input[0] == "conv1_w")
    weight = next(t for t in model.graph.initializer if t.name == "conv1_w")
    stored = numpy_helper.from_array(
        np.clip(numpy_helper.to_array(weight) * 100, -127, 127).astype(np.int8), node.output[0]
    )
    model.graph.node.remove(node)
    model.graph.initializer.remove(weight)
    model.graph.initializer.append(stored)


def _unknown_op(model):
    model.graph.node.append(
        helper.make_node("Strange", ["x"], ["strange"], name="odd", domain="com.example")
    )
    model.opset_import.append(helper.make_opsetid("com.example", 1))


@pytest.mark.parametrize(
    ("change", "refusing", "taking", "message"),
    [
        (_opset(18), [V85, V86], [V10, V11], "Opset 18 is newer"),
        (_opset(21), [V10], [(10, 9, 0), V11], "Opset 21 is newer"),
        (_two_inputs, [V85, V86], [V10, V11], "requires 3 inputs for the DequantizeLinear"),
        (_scale(0), [V85, V10, V11], [], "Scale coefficients must all be positive"),
        (_zero(3), [V85, V10, V11], [], "zeroPt must be all zeros"),
        (_zero(0, np.uint8), [V85, V11], [], "not uint8"),
        (_int8_weights, [V85, V86], [V10, V11], "conv1_w_q: invalid weights type of Int8"),
        (_unknown_op, [V85, V11], [], "No importer registered for op: Strange"),
    ],
)
def test_a_dialect_is_taken_where_the_parser_takes_it(
    ran, quantized, change, refusing, taking, message
):
    _changed(quantized, change)
    for version in refusing:
        status, log = ran(version, words(request(quantized, int8=True), version))
        assert status == 1
        assert message in read_log(log).problem(status), (version, log)
    for version in taking:
        status, log = ran(version, words(request(quantized, int8=True), version))
        assert status == 0, (version, log)


def test_weak_typing_wants_the_flags_and_strong_typing_ignores_them(ran, quantized):
    for version in (V85, V86):
        status, log = ran(version, words(request(quantized), version))
        assert status == 1
        assert "int8 is not configured in the builder" in read_log(log).problem(status)
    status, log = ran(V10, [*words(request(quantized, int8=True), V10), "--int8"])
    assert status == 0
    assert any("setting int8 mode is not allowed" in w for w in read_log(log).warnings)


def _cache(path, names, version, algorithm="EntropyCalibration2"):
    lines = [f"TRT-{banner_number(version)}-{algorithm}", *(f"{name}: 3c010204" for name in names)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_calibration_cache_must_be_of_this_version_and_algorithm(ran, plain):
    names = ["x", *(name for n in onnx.load(plain).graph.node for name in n.output)]
    cache = plain.parent / "calib.cache"
    for version in (V85, V86, V10):
        asked = request(plain, calibration=_cache(cache, names, version))
        status, log = ran(version, words(asked, version))
        assert (status == 0 and read_log(log).warnings == ()) or "timing cache" in log, log
        assert not [w for w in read_log(log).warnings if "Missing scale" in w]
        fast = read_times(plain.parent / "times.json").latency.p50
        ran(version, words(request(plain), version))
        assert fast < read_times(plain.parent / "times.json").latency.p50
    _cache(cache, names[:2], V85)
    status, log = ran(V85, words(request(plain, calibration=str(cache)), V85))
    assert status == 0
    assert [w for w in read_log(log).warnings if "Missing scale and zero-point for tensor" in w]
    for other in (_cache(cache, names, V86), _cache(cache, names, V85, "MinMaxCalibration")):
        status, log = ran(V85, words(request(plain, calibration=other), V85))
        assert status == 1
        assert "first line must be TRT-8502-EntropyCalibration2" in read_log(log).problem(1)


def test_the_dla_takes_what_it_can_and_the_rest_falls_back(ran, plain, quantized):
    xavier = {"gpu": "Xavier", "sm": "7.2", "dla_cores": 2}
    fallback = words(request(plain, dla=1), V85)
    status, log = ran(V85, fallback, **xavier)
    assert status == 0
    assert [w for w in read_log(log).warnings if "Unsupported on DLA" in w]
    status, log = ran(V85, words(request(plain, dla=0, gpu_fallback=False), V85), **xavier)
    assert status == 1 and "GPU fallback is not enabled" in read_log(log).problem(1)
    status, log = ran(V85, fallback)
    assert status == 1 and "Cannot create DLA engine, 1 not available" in read_log(log).problem(1)
    by_hand = [*words(request(quantized, int8=True), V85), "--useDLACore=0", "--allowGPUFallback"]
    status, log = ran(V85, by_hand, **xavier)
    assert status == 1 and "Q/DQ layers are not supported on DLA" in read_log(log).problem(1)


def test_words_that_trtexec_cannot_read(ran, plain, version):
    for wrong, message in (
        (["--onnx"], "Failed to parse ONNX"),
        ([f"--onnx={plain}", "--iterations=many"], "stoi"),
        ([f"--onnx={plain}", "--minShapes=x:1x3x8x8"], "Must specify only --optShapes"),
        ([f"--onnx={plain}", "--iterations", "10"], "stoi"),
        (["--verbose"], "Model missing"),
        ([f"--onnx={plain}", "stray"], "Unknown option: stray"),
    ):
        status, log = ran(version, wrong)
        assert status == 1 and "&&&& FAILED" in log
        assert message in read_log(log).problem(status)


def test_failures_asked_for(ran, plain):
    asked = words(request(plain), V10)
    status, log = ran(V10, asked, fail={"build": "Error[2]: Out of memory"})
    assert (status, read_log(log).problem(status)) == (1, "Out of memory")
    status, log = ran(V10, asked, full=("save",))
    assert (status, read_log(log).problem(1)) == (1, "Saving engine to file failed.")
    half = (plain.parent / "m.engine").stat().st_size
    assert ran(V10, asked)[0] == 0
    assert half == (plain.parent / "m.engine").stat().st_size // 2
    # Nobody checks the exported files: trtexec passes with half of them written.
    status, log = ran(V10, asked, full=("times", "profile"))
    assert read_log(log).problem(status) is None
    for read in (read_times, read_layer_times):
        name = "times.json" if read is read_times else "profile.json"
        with pytest.raises(Exception, match="is not what trtexec writes"):
            read(plain.parent / name)
    ran(V10, asked, garbage="times")
    with pytest.raises(Exception, match="is not what trtexec writes"):
        read_times(plain.parent / "times.json")


def test_installed_it_is_a_program(tmp_path, plain):
    from trtexec import install

    folder = tmp_path / "it's a bin"
    program = install(folder, "8.5.2", record=str(tmp_path / "calls"), garbage="log")
    assert os.access(program, os.X_OK)
    shown = subprocess.run([program, "--help"], capture_output=True, check=True)
    assert Features.from_help(shown.stdout.decode()) == Features.of(V85)
    asked = words(request(plain), V85)
    done = subprocess.run([program, *asked], capture_output=True, check=False)
    assert done.returncode == 0
    log = (done.stderr + done.stdout).decode(errors="replace")
    assert read_log(log).problem(0) is None
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == [["--help"], asked]


def test_it_can_be_killed_and_fail_to_start(tmp_path, plain):
    from trtexec import install

    program = install(tmp_path / "bin", V11, killed="build")
    done = subprocess.run([program, *words(request(plain), V11)], capture_output=True, check=False)
    assert done.returncode == -9
    outcome = read_log((done.stderr + done.stdout).decode())
    assert outcome.problem(done.returncode).startswith("trtexec was killed")
    program = install(tmp_path / "bin", V11, cannot_start="libnvinfer.so.11: cannot open")
    done = subprocess.run([program, "--help"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (127, b"")
