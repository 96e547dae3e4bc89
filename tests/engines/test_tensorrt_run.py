"""Engines opened, run and timed: every version's module and PyCUDA, as strict stand-ins.

The stand-in's engine is run by ONNX Runtime on the fake GPU's memory: what is checked is that each
version's calls are made as it wants them, with the right buffers, shapes and profile.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import pytest
from engine_models import T4, convnet
from trt_machine import V8_5, V10, V11, VERSIONS, cuda_standin, set_up

from graphopt.engines import BuildOptions, ShapeRange
from graphopt.engines.tensorrt import TensorRT
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles.host import Gpu

pytest.importorskip("polygraphy", reason="Polygraphy is not installed")


def ranges(low: int, mid: int, high: int) -> dict[str, ShapeRange]:
    return {"x": ShapeRange(*((n, 3, 8, 8) for n in (low, mid, high)))}


def fake_gpu():
    return sys.modules["fake_gpu"].GPU


@pytest.fixture(params=VERSIONS)
def engine(request, monkeypatch, tmp_path):
    """An engine with three profiles, for each version."""
    set_up(monkeypatch, tmp_path, request.param)
    options = BuildOptions(T4, ranges(1, 1, 4), (ranges(1, 16, 32), ranges(64, 64, 64)))
    return TensorRT().build(convnet(), tmp_path / "m.engine", options).path


def feeds(batch: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(batch).normal(size=(batch, 3, 8, 8)).astype(np.float32)}


def test_runs_on_the_profile_that_fits(engine):
    reference = onnxruntime.InferenceSession(
        convnet().to_onnx().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    with TensorRT().open(engine) as session:
        assert session.inputs()["x"] == (np.float32, (None, 3, 8, 8))
        context = session._context
        for batch, profile in ((1, 0), (2, 0), (16, 1), (64, 2), (4, 0), (32, 1)):
            got = session.run(feeds(batch))
            want = reference.run(None, feeds(batch))
            np.testing.assert_allclose(got["fc_y"], want[0], rtol=1e-5, atol=1e-6)
            assert context.active_optimization_profile == profile
        said = r"not built for the shape 40x3x8x8; it was built for 1x3x8x8 to 4x3x8x8, or 1x"
        with pytest.raises(UsageError, match=said):
            session.run(feeds(40))
        assert session.run(feeds(3))["fc_y"].shape == (3, 10)
    assert fake_gpu().memory == {}
    assert fake_gpu().contexts == 0


def test_time_is_the_gpus_own_in_a_graph_by_cuda_python(engine):
    with TensorRT().open(engine) as session:
        profile = session.time(feeds(2), warmup_s=0, min_s=0, min_runs=5)
        assert fake_gpu().launches > 5
    assert profile.samples_ms == (cuda_standin.GRAPH_MS,) * 5
    assert profile.environment["cuda_graph"] == "yes"
    assert profile.environment["clock"] == "CUDA events (pycuda)"
    assert fake_gpu().memory == {}


def test_without_cuda_python_pycuda_times_without_a_graph(monkeypatch, tmp_path):
    set_up(monkeypatch, tmp_path, V8_5)
    engine = TensorRT().build(convnet(batch=2), tmp_path / "m.engine", BuildOptions(T4)).path
    monkeypatch.setattr("graphopt.engines.cuda.cuda_python", lambda: None)
    with TensorRT().open(engine) as session:
        profile = session.time(feeds(2), warmup_s=0, min_s=0, min_runs=3)
    assert profile.samples_ms == (cuda_standin.RUN_MS,) * 3
    assert profile.environment["cuda_graph"] == "no"


def test_an_engine_of_another_version_or_gpu_is_told(monkeypatch, tmp_path):
    set_up(monkeypatch, tmp_path, V10)
    engine = TensorRT().build(convnet(batch=1), tmp_path / "m.engine", BuildOptions(T4)).path
    set_up(monkeypatch, tmp_path, V11)
    said = r"cannot be loaded on this machine: .*expecting library version 11.*got 10\.13"
    with pytest.raises(EnvironmentProblem, match=said), TensorRT().open(engine):
        pass
    set_up(monkeypatch, tmp_path, V10, gpu=Gpu("NVIDIA A10", (8, 6)))
    with pytest.raises(EnvironmentProblem, match="incompatible device"), TensorRT().open(engine):
        pass
