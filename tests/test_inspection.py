from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from graphopt.console import Console
from graphopt.engines.safety import TRUST
from graphopt.engines.sidecar import sidecar_path, write_sidecar
from graphopt.inspection import inspect_engine
from graphopt.profiles.host import Gpu

TENSORRT = "graphopt.engines.tensorrt.TensorRT"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "m.engine"
    path.write_bytes(struct.pack("<4sII4xQ4B", b"ftrt", 0, 232, 64, 8, 5, 2, 2) + bytes(36))
    return path


def as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    inspect_engine(path, Console(json=True))
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


def test_a_machine_without_a_gpu_reads_the_header(
    engine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.profiles.host.gpus", lambda: ())
    write_sidecar(engine, {"runtime": "tensorrt", "runtime_version": "8.5.2", "precision": "int8"})
    value = as_json(engine, capsys)
    assert value["runtime"] == "tensorrt"
    assert (value["runtime_version"], value["version_is_sure"]) == ("8.5.2.2", True)
    assert (value["bytes"], value["serialization"]) == (64, 232)
    assert value["problems"] == []
    assert value["loads_here"] is False
    assert value["trust"] == TRUST
    inspect_engine(engine, Console())
    out = capsys.readouterr().out
    assert "m.engine: tensorrt engine, version 8.5.2.2, 0.1 kB" in out
    assert "would not load here: " in out
    assert "  precision: int8" in out
    assert TRUST in out


def test_whether_it_would_load(
    engine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{TENSORRT}.missing", lambda _: None)
    monkeypatch.setattr(f"{TENSORRT}.cannot_run", lambda _: None)
    monkeypatch.setattr(f"{TENSORRT}.version", lambda _: "8.5.2")
    monkeypatch.setattr("graphopt.profiles.host.gpus", lambda: (Gpu("Tesla T4", (7, 5)),))
    value = as_json(engine, capsys)
    assert (value["loads_here"], value["why_not"], value["sidecar"]) == (True, [], None)
    inspect_engine(engine, Console())
    out = capsys.readouterr().out
    assert "would load here" in out
    assert "no sidecar (m.engine.json)" in out
    write_sidecar(engine, {"runtime": "tensorrt", "gpu": {"name": "NVIDIA A10", "sm": "8.6"}})
    value = as_json(engine, capsys)
    assert value["loads_here"] is False
    assert "built on NVIDIA A10" in str(value["why_not"])
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    value = as_json(engine, capsys)
    assert "SHA-256 differs" in str(value["problems"])
    assert value["problems"] == value["why_not"]


def test_a_version_that_is_a_guess_is_called_one(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.write_bytes(engine.read_bytes() + b"more")
    assert as_json(engine, capsys)["version_is_sure"] is False
    inspect_engine(engine, Console())
    assert "version 8.5.2 as it seems" in capsys.readouterr().out


def test_layers_beside_it(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = engine.with_name("m.engine.layers.json")
    assert as_json(engine, capsys)["layers"] is None
    layers.write_text('{"Layers": ["a", {"Name": "b"}], "Bindings": []}')
    assert as_json(engine, capsys)["layers"] == {"file": layers.name, "count": 2}
    inspect_engine(engine, Console())
    assert "layers: m.engine.layers.json, 2 layers" in capsys.readouterr().out
    for content in ("[1]", "{", '{"Layers": 7}', "[" * 9999):
        layers.write_text(content)
        told = as_json(engine, capsys)["layers"]
        assert isinstance(told, dict)
        assert told["count"] is None


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[" * 9999,
        b'{"kind": "graphopt-engine-sidecar", "schema": 2, "x": NaN}',
        b'{"kind": "graphopt-engine-sidecar", "schema": 77}',
        b'{"kind": "graphopt-engine-sidecar", "schema": 2, "\\u001b[J": "\\ud800\\u001b]\\u0007"}',
        b'{"kind": "graphopt-engine-sidecar", "schema": 2, "runtime": {"a": [[[[1]]]]}, "gpu": 3}',
    ],
)
def test_hostile_sidecars_are_shown_harmlessly(
    engine: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    sidecar_path(engine).write_bytes(content)
    value = as_json(engine, capsys)
    assert value["problems"]
    assert value["loads_here"] is False
    inspect_engine(engine, Console())
    shown = capsys.readouterr()
    assert (shown.out + shown.err).replace("\n", "").isprintable()
