"""Engines built, run and timed on a GPU, compared with ONNX Runtime: ``pytest -m gpu tests/gpu``.

Takes TensorRT (8.5 to 11) or TensorRT-RTX, whichever is installed, and PyCUDA or cuda-python; what
is missing is skipped, and said.

NOT RUN where this was written: there was no GPU. What was run is this suite over stand-ins of
TensorRT and PyCUDA (``tests/engines/test_gpu_suite.py``), which shows that it asks for what there
is, and nothing of how a GPU answers. The tolerances are estimates.
"""

from __future__ import annotations

import json
import math
import os
import time

import numpy as np
import onnxruntime
import pytest
from engine_models import convnet, parsed

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.calibrators.cache import read_cache
from graphopt.engines import BuildOptions, GpuCalibration, ShapeRange
from graphopt.engines.cuda import cuda_python
from graphopt.errors import EnvironmentProblem, GraphoptError, UsageError
from graphopt.profiles.host import host

pytestmark = pytest.mark.gpu

# The greatest difference to ONNX Runtime, of the output's range: TF32 and fp16 have 10 bits of
# mantissa; int8 differs where a value lies on the edge of a step, which is 1/127 of a tensor.
TOLERANCE = {"fp32": 5e-3, "fp16": 2e-2, "int8": 5e-2, "implicit": 0.2}


def ranges(low: int, mid: int, high: int) -> dict[str, ShapeRange]:
    return {"x": ShapeRange(*((n, 3, 8, 8) for n in (low, mid, high)))}


def feeds(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(batch, 3, 8, 8)).astype(np.float32)}


def by_onnxruntime(model, given) -> list[np.ndarray]:
    data = model.to_onnx().SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, given)


def check(got, want, tolerance: float) -> None:
    for name, expected in zip(got, want, strict=True):
        assert got[name].dtype == expected.dtype
        assert got[name].shape == expected.shape
        spread = float(np.ptp(expected)) or 1.0
        worst = float(np.abs(got[name].astype(np.float32) - expected).max()) / spread
        assert worst <= tolerance, f"{name}: {worst:.2%} of its range"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_outputs_are_those_of_onnxruntime(engine, precision, tmp_path):
    model = convnet(quantized=precision == "int8")
    options = BuildOptions(host(), ranges(1, 4, 16))
    path = engine.build(model, tmp_path / "m.engine", options).path
    with engine.open(path) as session:
        for batch in (1, 4, 16, 3):
            given = feeds(batch, batch)
            check(session.run(given), by_onnxruntime(model, given), TOLERANCE[precision])
        with pytest.raises(UsageError, match="not built for the shape"):
            session.run(feeds(17))
        # The refusal leaves the session as it was.
        check(session.run(feeds(2)), by_onnxruntime(model, feeds(2)), TOLERANCE[precision])


def test_half_precision_in_the_graph(engine, tmp_path):
    model = parsed("g (float16[2, 8] x) => (float16[2, 8] y) { s = Sigmoid(x) \n y = Add(s, x) }")
    given = {"x": np.linspace(-3, 3, 16, dtype=np.float16).reshape(2, 8)}
    path = engine.build(model, tmp_path / "m.engine", BuildOptions(host())).path
    with engine.open(path) as session:
        check(session.run(given), by_onnxruntime(model, given), TOLERANCE["fp16"])


def test_the_profile_that_fits_is_taken(engine, tmp_path):
    model = convnet()
    options = BuildOptions(host(), ranges(1, 1, 2), (ranges(8, 16, 32), ranges(64, 64, 64)))
    path = engine.build(model, tmp_path / "m.engine", options).path
    with engine.open(path) as session:
        for batch in (1, 64, 8, 2, 32):
            given = feeds(batch, batch)
            check(session.run(given), by_onnxruntime(model, given), TOLERANCE["fp32"])
        with pytest.raises(UsageError, match="not built for the shape 4x3x8x8"):
            session.run(feeds(4))


def test_latency_is_measured_by_events(engine, tmp_path):
    options = BuildOptions(host(), ranges(1, 8, 8))
    path = engine.build(convnet(), tmp_path / "m.engine", options).path
    with engine.open(path) as session:
        began = time.perf_counter()
        profile = session.time(feeds(8), warmup_s=0.05, min_s=0.2, min_runs=50)
        wall_ms = 1000 * (time.perf_counter() - began)
        # After timing, it runs as before.
        check(session.run(feeds(8)), by_onnxruntime(convnet(), feeds(8)), TOLERANCE["fp32"])
    assert all(math.isfinite(s) and s > 0 for s in profile.samples_ms)
    assert sum(profile.samples_ms) < wall_ms
    assert profile.batch == 8
    assert profile.environment["clock"].startswith("CUDA events")
    if cuda_python() is not None:
        assert profile.environment["cuda_graph"] == "yes"


def test_the_timing_cache_is_used_again(tensorrt, tmp_path):
    cache = tmp_path / "timing.cache"
    options = BuildOptions(host(), ranges(1, 4, 16), timing_cache=cache)
    first = tensorrt.build(convnet(), tmp_path / "a.engine", options)
    size = cache.stat().st_size
    assert first.facts["timing_cache"] == "timing.cache"
    second = tensorrt.build(convnet(), tmp_path / "b.engine", options)
    assert (first.facts["notes"], second.facts["notes"]) == ([], [])
    assert cache.stat().st_size >= size > 0
    # One of no TensorRT is ignored, and stays.
    cache.write_bytes(b"not a timing cache")
    third = tensorrt.build(convnet(), tmp_path / "c.engine", options)
    assert "ignored" in third.facts["notes"][0]
    assert cache.read_bytes() == b"not a timing cache"


def test_layer_information_is_saved(tensorrt, tmp_path):
    artifact = tensorrt.build(
        convnet(), tmp_path / "m.engine", BuildOptions(host(), ranges(1, 1, 1))
    )
    told = json.loads(artifact.files["layers"].read_text())
    assert told["Layers"]


@pytest.fixture
def implicit(tensorrt):
    """TensorRT that still has calibrators, or a skip."""
    import importlib

    trt = importlib.import_module("tensorrt")
    if not hasattr(trt, "IInt8EntropyCalibrator2"):
        pytest.skip(f"TensorRT {trt.__version__} has no implicit INT8")
    return tensorrt


def test_implicit_int8_with_ranges_of_ours(implicit, tmp_path):
    model, given = convnet(), feeds(4)
    session = onnxruntime.InferenceSession(
        _with_all_outputs(model), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    seen = dict(zip(names, session.run(names, given), strict=True)) | given
    found = {
        name: TensorRange(float(np.abs(v).max()), float(v.min()), float(v.max()))
        for name, v in seen.items()
    }
    table = CalibrationTable(found, "minmax", model.digest())
    options = BuildOptions(host(), ranges(1, 4, 16), implicit=table, fp16=True)
    artifact = implicit.build(model, tmp_path / "m.engine", options)
    assert artifact.facts["ranges"]["with_range"] >= 5
    with implicit.open(artifact.path) as opened:
        check(opened.run(given), by_onnxruntime(model, given), TOLERANCE["implicit"])


@pytest.mark.parametrize("method", ["entropy", "minmax"])
def test_implicit_int8_calibrated_on_the_gpu(implicit, method, tmp_path):
    model = convnet()
    data = [feeds(4, seed) for seed in range(8)]
    options = BuildOptions(
        host(), ranges(1, 4, 16), calibration=GpuCalibration(data, method), fp16=True
    )
    artifact = implicit.build(model, tmp_path / "m.engine", options)
    _, scales = read_cache(artifact.files["calibration-cache"])
    greatest = max(float(np.abs(one["x"]).max()) for one in data)
    assert 0 < scales["x"] <= greatest / 127 * 1.01
    with implicit.open(artifact.path) as opened:
        check(opened.run(data[0]), by_onnxruntime(model, data[0]), TOLERANCE["implicit"])


def test_a_damaged_or_foreign_engine_is_refused_and_crashes_nothing(engine, tmp_path):
    path = engine.build(convnet(batch=1), tmp_path / "m.engine", BuildOptions(host())).path
    whole = path.read_bytes()
    for content in (whole[:4], whole[: len(whole) // 2], os.urandom(4096)):
        path.write_bytes(content)
        with pytest.raises(GraphoptError) as problem, engine.open(path):
            pass
        assert "\n" not in str(problem.value)
    other = b"ftrt" if whole[:4] == b"vtrt" else b"vtrt"
    path.write_bytes(other + whole[4:])
    with pytest.raises(UsageError, match="is an engine of"), engine.open(path):
        pass


def test_a_core_that_is_not_there_is_told(tensorrt, tmp_path):
    options = BuildOptions(host(), ranges(1, 1, 1), fp16=True, dla=15)
    with pytest.raises((UsageError, EnvironmentProblem), match=r"DLA|graph alone"):
        tensorrt.build(convnet(), tmp_path / "m.engine", options)


def _with_all_outputs(model) -> bytes:
    import onnx

    made = model.to_onnx()
    known = {o.name for o in made.graph.output}
    made.graph.output.extend(
        onnx.ValueInfoProto(name=name)
        for node in made.graph.node
        for name in node.output
        if name not in known
    )
    return made.SerializeToString()
