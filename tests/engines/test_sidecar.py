from __future__ import annotations

import pytest

from graphopt.engines.sidecar import check_sidecar, read_sidecar, sidecar_path, write_sidecar
from graphopt.errors import UsageError
from graphopt.files import sha256


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(b"vtrt an engine")
    return path


def test_it_lies_beside_the_engine_and_comes_back(engine):
    facts = {"runtime": "tensorrt-rtx", "shapes": {"x": {"min": [1]}}, "synthetic": False}
    written = write_sidecar(engine, facts)
    assert written == sidecar_path(engine)
    assert written.name == "model.engine.json"
    back = read_sidecar(engine)
    assert back == read_sidecar(written)
    assert {key: back[key] for key in facts} == facts
    assert (back["file"], back["engine_bytes"]) == ("model.engine", 14)
    assert back["engine_sha256"] == sha256(engine)
    assert check_sidecar(engine) == []


def test_the_same_facts_give_the_same_bytes(engine):
    first = write_sidecar(engine, {"a": 1, "b": 2}).read_bytes()
    assert write_sidecar(engine, {"b": 2, "a": 1}).read_bytes() == first


def test_the_engine_is_hashed_and_not_believed(engine):
    write_sidecar(engine, {"engine_sha256": "0" * 64})
    assert read_sidecar(engine)["engine_sha256"] == sha256(engine)


def test_another_engine_is_noticed(engine):
    write_sidecar(engine, {})
    engine.write_bytes(b"vtrt AN ENGINE")
    (line,) = check_sidecar(engine)
    assert "SHA-256 differs" in line
    engine.write_bytes(b"vtrt")
    (line,) = check_sidecar(engine)
    assert "4 bytes" in line


def test_no_sidecar_and_no_engine(engine, tmp_path):
    (line,) = check_sidecar(engine)
    assert line.startswith("no sidecar")
    with pytest.raises(UsageError, match="no such file"):
        check_sidecar(tmp_path / "other.engine")
    with pytest.raises(UsageError, match="no such file"):
        write_sidecar(tmp_path / "other.engine", {})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"schema": 1}',
        b'{"kind": "graphopt-engine-sidecar", "schema": 99}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_sidecar_is_told(engine, content):
    sidecar_path(engine).write_bytes(content)
    with pytest.raises(UsageError) as problem:
        read_sidecar(engine)
    assert "\n" not in str(problem.value)
    assert len(check_sidecar(engine)) == 1
