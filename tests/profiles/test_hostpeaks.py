from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphopt.profiles import hostpeaks as module
from graphopt.profiles import load_device
from graphopt.profiles.device_file import device_toml
from graphopt.profiles.hostpeaks import (
    HostPeaks,
    convolutions,
    host_profile,
    last_cache,
    measure_host,
    repeated,
    spelled,
)

FOUND = HostPeaks(1, {"int8": 1.0123, "fp32": 0.25}, {"int8": 0.64, "fp32": 1.0}, 0.25, 40.0, 0.21)


def test_the_efficiency_is_a_geometric_mean():
    assert FOUND.efficiency == pytest.approx(0.8)
    assert spelled(FOUND) == (
        "int8 1012 GOP/s, fp32 250 GFLOP/s, 40.0 GB/s, 80 % of the peaks attained, 25 % by "
        "depthwise convolutions, 0.21 us a node"
    )


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
def test_the_models_are_what_is_counted(int8, depthwise):
    model = convolutions(8, 6, 3, int8=int8, depthwise=depthwise)
    onnx.checker.check_model(model, full_check=True)
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    shapes = [weights[f"w{i}"].shape for i in range(module.LENGTH)]
    assert shapes == [(8, 1 if depthwise else 8, 3, 3)] * module.LENGTH
    assert all(weights[f"w{i}"].dtype == (np.int8 if int8 else np.float32) for i in range(4))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"x": np.ones((1, 8, 6, 6), np.float32)})
    assert made.shape == (1, 8, 6, 6)
    assert np.isfinite(made).all()


def test_it_measures_something(monkeypatch):
    monkeypatch.setattr(module, "SHAPES", ((8, 8, 3), (16, 8, 1)))
    monkeypatch.setattr(module, "DEPTHWISE", ((8, 8, 3),))
    monkeypatch.setattr(module, "_CELL_S", 0.005)
    monkeypatch.setattr(module, "_BANDWIDTH_S", 0.01)
    monkeypatch.setattr(module, "_LEAST_BYTES", 1 << 20)
    monkeypatch.setattr(module, "_MOST_BYTES", 1 << 20)
    found = measure_host(1)
    assert found.threads == 1
    assert all(0 < peak < 1e3 for peak in found.peaks.values())
    assert all(0 < share <= 1 for share in found.attained.values())
    assert 0 < found.depthwise <= 1
    assert found.bandwidth_gbs > 0
    assert found.launch_us > 0


def test_what_was_measured_is_a_file_for_the_device(tmp_path):
    beside = HostPeaks(4, FOUND.peaks, FOUND.attained, 0.2, 80.0, 0.3)
    path = tmp_path / "mine.toml"
    path.write_text(device_toml(host_profile(FOUND, "mine", beside=beside)), encoding="utf-8")
    device = load_device(path)
    assert device.peaks == {"int8": 1.01, "fp32": 0.25}
    assert (device.bandwidth_gbs, device.efficiency, device.depthwise) == (40, 0.8, 0.25)
    assert (device.name, device.sm, device.launch_us) == ("mine", None, 0.21)
    assert device.sources["peaks.int8"].endswith("by graphopt devices --measure, 1 thread")
    assert any("With 4 threads" in note for note in device.notes)
    assert device.unverified() == ()


def test_calls_are_repeated_at_least_three_times():
    calls: list[int] = []
    times = repeated(lambda: calls.append(1), 0.0)
    assert len(times) == 3
    assert len(calls) == 4


def test_the_last_cache(tmp_path):
    assert last_cache(tmp_path) == 0
    for i, text in enumerate(["32K", "1M\n", "junk", "12345678901K", ""]):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(text)
    assert last_cache(tmp_path) == 1 << 20
