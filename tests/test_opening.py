from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from graphopt.engines import BuildOptions
from graphopt.engines.onnxruntime import OnnxRuntime
from graphopt.engines.sidecar import write_sidecar
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.model import Model
from graphopt.opening import opened
from graphopt.profiles import DeviceProfile
from graphopt.profiles.host import Gpu

NET = '<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }'
TENSORRT = "graphopt.engines.tensorrt.TensorRT"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    model = Model.from_onnx(onnx.parser.parse_model(NET))
    return Path(model.save(tmp_path / "net.onnx"))


@pytest.fixture
def engine(tmp_path: Path, net: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine of TensorRT 8.5.2, on a machine that has 8.5.2 and a T4; loading is counted."""
    path = tmp_path / "m.engine"
    path.write_bytes(struct.pack("<4sII4xQ4B", b"ftrt", 0, 232, 64, 8, 5, 2, 2) + bytes(36))
    monkeypatch.setattr(f"{TENSORRT}.missing", lambda _: None)
    monkeypatch.setattr(f"{TENSORRT}.cannot_run", lambda _: None)
    monkeypatch.setattr(f"{TENSORRT}.version", lambda _: "8.5.2.2")
    monkeypatch.setattr(f"{TENSORRT}.open", lambda *_: OnnxRuntime().open(net))
    monkeypatch.setattr("graphopt.profiles.host.gpus", lambda: (Gpu("Tesla T4", (7, 5)),))
    return path


def test_an_engine_that_belongs_here_is_loaded(engine: Path) -> None:
    said: list[str] = []
    facts = {"runtime_version": "8.5.2", "gpu": {"name": "NVIDIA T4", "sm": "7.5"}}
    write_sidecar(engine, {"runtime": "tensorrt", **facts})
    with opened(engine, warn=said.append) as session:
        assert session.run({"x": np.ones((1, 3), np.float32)})["y"].shape == (1, 3)
    assert said == []


def test_an_engine_from_elsewhere_is_loaded_with_a_warning(engine: Path) -> None:
    said: list[str] = []
    with opened(engine, warn=said.append):
        pass
    assert len(said) == 1
    assert "trust" in said[0]
    with opened(engine):
        pass


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({"runtime_version": "8.5.2", "gpu": {"name": "NVIDIA A10", "sm": "8.6"}}, 4),
        ({"runtime_version": "8.6.1"}, 2),
    ],
)
def test_one_that_does_not_is_never_loaded(
    engine: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object], kind: int
) -> None:
    def loads(*_: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(f"{TENSORRT}.open", loads)
    write_sidecar(engine, {"runtime": "tensorrt", **facts})
    with pytest.raises((EnvironmentProblem, UsageError)) as problem, opened(engine):
        pass
    assert problem.value.exit_code == kind
    assert "graphopt build" in problem.value.hint
    monkeypatch.setattr(f"{TENSORRT}.version", lambda _: "10.3.0")
    write_sidecar(engine, {"runtime": "tensorrt", "runtime_version": "8.5.2"})
    line = "8.5.2.2, and this machine has 10.3.0"
    with pytest.raises(EnvironmentProblem, match=line), opened(engine):
        pass


def test_a_model_of_onnx_runtime_is_held_to_its_sidecar(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.ort.onnx"
    device = DeviceProfile("host")
    artifact = OnnxRuntime().build(Model.load(net), path, BuildOptions(device))
    write_sidecar(path, {"engine": "onnxruntime", **artifact.facts})
    with opened(path) as session:
        assert list(session.inputs()) == ["x"]
    Model.from_onnx(onnx.parser.parse_model(NET.replace("Relu", "Sigmoid"))).save(path)
    with pytest.raises(UsageError, match="its sidecar tells of"), opened(path):
        pass


def test_a_model_without_a_sidecar_is_not_warned_of(net: Path) -> None:
    said: list[str] = []
    with opened(net, warn=said.append):
        pass
    assert said == []
    with pytest.raises(UsageError, match="no such file"), opened(net.with_name("x")):
        pass
