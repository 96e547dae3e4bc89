from __future__ import annotations

import struct

import pytest
from engine_models import HOST, convnet, needs_rtx
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.engines import BuildOptions
from graphopt.engines.header import identify, is_engine
from graphopt.engines.tensorrt_rtx import TensorRTRTX
from graphopt.errors import GraphoptError, ModelFormatError, UsageError


def made_up(magic: bytes, *, size: int = 64, declared: int | None = None, major: int = 1) -> bytes:
    head = struct.pack(
        "<4sII4xQ4B", magic, 0, 232, size if declared is None else declared, major, 7, 1, 4
    )
    return head + bytes(size - len(head))


@needs_rtx
def test_a_real_engine_and_its_pieces(tmp_path):
    path = tmp_path / "m.engine"
    TensorRTRTX().build(convnet(batch=1), path, BuildOptions(HOST))
    header = identify(path)
    assert header.kind == "tensorrt-rtx"
    assert header.version == TensorRTRTX().version()
    assert header.size == path.stat().st_size
    assert header.sure
    assert header.serialization == 2
    assert is_engine(path)
    whole = path.read_bytes()
    for length in (0, 3, 4, 20, 27, 28, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFormatError):
            identify(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelFormatError, match="damaged"):
        identify(path)


@pytest.mark.parametrize(
    ("data", "version", "sure"),
    [
        (made_up(b"ftrt", major=10), "10.7.1.4", True),
        (made_up(b"ftrt", major=10, declared=9), "10.7.1", False),
        (made_up(b"ftrt", major=0), None, False),
        (made_up(b"ftrt", major=200), None, False),
    ],
)
def test_the_version_of_tensorrt_is_sure_only_where_the_length_agrees(
    data, version, sure, tmp_path
):
    path = tmp_path / "m.engine"
    path.write_bytes(data)
    header = identify(path)
    assert (header.kind, header.version, header.sure) == ("tensorrt", version, sure)
    assert header.serialization == (232 if sure else None)


def test_what_is_no_engine_is_told(tmp_path):
    path = tmp_path / "m.engine"
    with pytest.raises(UsageError, match="no such file"):
        identify(path)
    with pytest.raises(UsageError, match="cannot read"):
        identify(tmp_path)
    path.write_bytes(b"\x08\x08\x12\x04onnx" * 10)
    with pytest.raises(ModelFormatError, match="is not a TensorRT engine"):
        identify(path)
    assert not is_engine(path)
    assert not is_engine(tmp_path)


@settings(settings.get_profile("repeatable"), max_examples=60)
@given(st.binary(max_size=80), st.sampled_from([b"", b"ftrt", b"vtrt"]))
def test_any_bytes_give_a_header_or_one_of_our_errors(tmp_path_factory, tail, magic):
    path = tmp_path_factory.mktemp("header") / "m.engine"
    path.write_bytes(magic + tail)
    try:
        assert identify(path).size == len(magic + tail)
    except GraphoptError as problem:
        assert "\n" not in str(problem)
