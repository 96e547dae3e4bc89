from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.engines.sidecar import (
    SCHEMA,
    check_sidecar,
    find_sidecar,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from graphopt.errors import UsageError
from graphopt.files import sha256

KIND = "graphopt-engine-sidecar"


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(b"vtrt an engine")
    return path


def test_it_lies_beside_the_engine_and_comes_back(engine):
    facts = {
        "runtime": "tensorrt",
        "shapes": {"x": {"min": [1]}},
        "synthetic": False,
        "gpu": {"name": "Tesla T4", "sm": "7.5"},
        "trtexec": ["--onnx=model.onnx", "--int8"],
    }
    written = write_sidecar(engine, facts)
    assert written == sidecar_path(engine)
    assert written.name == "model.engine.json"
    back = read_sidecar(engine)
    assert back == read_sidecar(written) == find_sidecar(engine)
    assert {key: back[key] for key in facts} == facts
    assert (back["file"], back["engine_bytes"]) == ("model.engine", 14)
    assert back["engine_sha256"] == sha256(engine)
    assert back["schema"] == SCHEMA
    assert check_sidecar(engine) == []


def test_the_first_schema_is_still_read(engine):
    told = json.loads(write_sidecar(engine, {"runtime": "tensorrt-rtx"}).read_text())
    told["schema"] = 1
    sidecar_path(engine).write_text(json.dumps(told))
    assert find_sidecar(engine) == told
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
    assert find_sidecar(engine) is None
    with pytest.raises(UsageError, match="no such file"):
        check_sidecar(tmp_path / "other.engine")
    with pytest.raises(UsageError, match="no such file"):
        write_sidecar(tmp_path / "other.engine", {})


NO_JSON = [
    b"",
    b"{",
    b"\xff\xfe",
    b'{"kind": "graphopt-engine-sidecar", "schema": 1, "x": NaN}',
    b'{"kind": "graphopt-engine-sidecar", "schema": 1, "x": -Infinity}',
    b'{"kind": "graphopt-engine-sidecar", "schema": 1, "x": ' + b"9" * 10_000 + b"}",
    b"[" * 100_000,
    b'{"a":' * 40 + b"1" + b"}" * 40,
    b'{"a": "' + b"x" * (17 << 20) + b'"}',
]
NOT_OURS = [b"[]", b"1", b'{"schema": 1}', b'{"kind": ["x"]}', b'{"Layers": [], "Bindings": []}']
UNREADABLE = [
    f'{{"kind": "{KIND}", "schema": {schema}}}'.encode()
    for schema in ("99", "null", "true", '"1"', "[1]", "1.0", '"' + "\\u001b[2J" * 99 + '"')
]


@pytest.mark.parametrize("content", [*NO_JSON, *NOT_OURS, *UNREADABLE], ids=lambda c: repr(c[:20]))
def test_what_is_no_sidecar_is_told(engine, content):
    sidecar_path(engine).write_bytes(content)
    with pytest.raises(UsageError) as problem:
        read_sidecar(engine)
    assert str(problem.value).isprintable()
    assert len(str(problem.value)) < 600
    assert len(check_sidecar(engine)) == 1
    if content in NOT_OURS:  # another tool's file of that name
        assert find_sidecar(engine) is None
    else:
        with pytest.raises(UsageError):
            find_sidecar(engine)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_or_a_folder_is_not_waited_for(engine):
    os.mkfifo(sidecar_path(engine))
    with pytest.raises(UsageError, match="not a file"):
        find_sidecar(engine)
    sidecar_path(engine).unlink()
    sidecar_path(engine).mkdir()
    with pytest.raises(UsageError, match="not a file"):
        read_sidecar(engine)
    sidecar_path(engine).rmdir()
    sidecar_path(engine).symlink_to("nowhere")
    with pytest.raises(UsageError, match="not a file"):
        find_sidecar(engine)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(settings.get_profile("repeatable"), max_examples=60)
@given(st.dictionaries(st.sampled_from(["schema", "kind", "engine_bytes", "engine_sha256"]), JSON))
def test_any_json_is_read_or_told(tmp_path_factory, told):
    engine = tmp_path_factory.mktemp("any") / "m.engine"
    engine.write_bytes(b"ftrt")
    sidecar_path(engine).write_text(json.dumps({"kind": KIND, "schema": 2, **told}))
    for line in check_sidecar(engine):
        assert line.isprintable()
