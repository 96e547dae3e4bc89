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
from graphopt.profiles.sweep import measure_points

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


def test_memory_is_what_the_engine_and_its_buffers_need(engine):
    with TensorRT().open(engine) as session:
        scratch = session.device_bytes()
        session.run(feeds(2))
        small = session.device_bytes()
        session.run(feeds(32))
        large = session.device_bytes()
    assert scratch == 3 << 20, "before the first run there are no buffers"
    # Four bytes an element; 3x8x8 in, 10 out. Buffers are for the largest shape so far, rounded up.
    assert small - scratch >= 2 * 4 * (3 * 8 * 8 + 10)
    assert large - small >= 20 * 4 * (3 * 8 * 8 + 10)


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


def test_points_share_contexts_and_each_burst_binds_its_batch_anew(engine):
    with TensorRT().open(engine) as session:
        one, two = session.timer(feeds(1)), session.timer(feeds(16))
        assert one.lanes == two.lanes
        context = session._context
        for timer, batch, profile in ((one, 1, 0), (two, 16, 1), (one, 1, 0)):
            burst = timer.burst(0, 3)
            assert burst.samples_ms == (cuda_standin.GRAPH_MS,) * 3
            assert context.active_optimization_profile == profile
            assert context.get_tensor_shape("x")[0] == batch == timer.batch
        with pytest.raises(UsageError, match="not built for the shape 40x3x8x8"):
            session.timer(feeds(40))
        sweep = measure_points([one, two], warmup_s=0, min_s=0, min_runs=4, recorded={})
        assert [p.batch for p in sweep.points] == [1, 16]
    assert fake_gpu().memory == {}
    assert fake_gpu().contexts == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("batch", [None, 2])
def test_each_stream_has_a_context_of_its_own(monkeypatch, tmp_path, version, batch):
    set_up(monkeypatch, tmp_path, version)
    options = BuildOptions(T4) if batch else BuildOptions(T4, ranges(1, 2, 4))
    path = TensorRT().build(convnet(batch=batch or "N"), tmp_path / "m.engine", options).path
    with TensorRT().open(path) as session:
        if batch is None and version.startswith("8"):
            with pytest.raises(EnvironmentProblem, match=r"3 streams: TensorRT 8\..* one shape"):
                session.timer(feeds(2), streams=3)
            return
        timer = session.timer(feeds(2), streams=3)
        assert timer.environment["streams"] == "3"
        contexts = {id(lane._session._context) for lane in timer.lanes}
        assert len(contexts) == timer.streams == 3
        launched = fake_gpu().launches
        burst = timer.burst(0, 4)
        assert fake_gpu().launches - launched == 12
        assert len(burst.samples_ms) == 12
        assert min(burst.samples_ms) > 0
    assert fake_gpu().memory == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_are_timed_by_tensorrts_profiler(monkeypatch, tmp_path, version):
    set_up(monkeypatch, tmp_path, version)
    options = BuildOptions(T4, ranges(1, 2, 4))
    path = TensorRT().build(convnet(), tmp_path / "m.engine", options).path
    with TensorRT().open(path) as session:
        timer = session.timer(feeds(2))
        launched = fake_gpu().launches
        times = session.layer_times(feeds(2), runs=5)
        assert fake_gpu().launches == launched, "layers in a CUDA graph cannot be told apart"
        assert {each.count for each in times.layers} == {5}
        # The stand-in's n-th layer takes n half milliseconds.
        assert [e.median_ms for e in times.layers] == [
            0.5 * (n + 1) for n in range(len(times.layers))
        ]
        assert len(times.layers) > 2
        assert session.timer(feeds(1)).burst(0, 1).samples_ms
        del timer
    assert fake_gpu().memory == {}


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
