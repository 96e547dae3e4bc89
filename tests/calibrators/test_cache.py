"""TensorRT's calibration cache: the bytes TensorRT writes, and hostile files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.calibrators.cache import (
    CacheHeader,
    parse_version,
    read_cache,
    scale_of,
    write_cache,
)
from graphopt.errors import UsageError


def table(**amax: float) -> CalibrationTable:
    return CalibrationTable({n: TensorRange(a, -a, a) for n, a in amax.items()}, "minmax", "m")


def test_the_bytes_are_those_of_tensorrt(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "c.cache", table(images=1.0, conv=127.0))
    assert path.read_bytes() == b"TRT-8502-EntropyCalibration2\nconv: 3f800000\nimages: 3c010204\n"


@pytest.mark.parametrize(
    ("version", "algorithm", "header"),
    [
        ((8, 5, 2), "EntropyCalibration2", "TRT-8502-EntropyCalibration2"),
        ((8, 6, 1), "EntropyCalibration2", "TRT-8601-EntropyCalibration2"),
        ((7, 1, 3), "EntropyCalibration2", "TRT-7103-EntropyCalibration2"),
        ((10, 3, 0), "MinMaxCalibration", "TRT-100300-MinMaxCalibration"),
        ((10, 13, 3), "EntropyCalibration2", "TRT-101303-EntropyCalibration2"),
    ],
)
def test_headers_both_ways(tmp_path: Path, version, algorithm: str, header: str) -> None:
    path = write_cache(tmp_path / "c", table(x=1.0), version=version, algorithm=algorithm)
    assert path.read_text().splitlines()[0] == header
    assert read_cache(path)[0] == CacheHeader(version, algorithm)


names = st.text(
    st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1, max_size=12
)
ranges = st.floats(2.0**-50, 2.0**60)


@given(st.dictionaries(names, ranges, max_size=6))
def test_names_and_scales_survive(tmp_path_factory, amax: dict[str, float]) -> None:
    path = write_cache(tmp_path_factory.mktemp("cache") / "c", table(**amax))
    _, scales = read_cache(path)
    assert scales == {name: float(np.float32(a / 127)) for name, a in amax.items()}
    assert list(scales) == sorted(amax)


def test_scales_are_those_of_the_qdq_nodes() -> None:
    from graphopt.dialects.scales import symmetric_scale

    for amax in (0.0, 1e-30, 1e-9, 0.1, 1.0, 6.0, 1e9, 3e38):
        assert scale_of(amax) == float(symmetric_scale(amax)) > 0


def test_a_dead_tensor_has_a_positive_scale(tmp_path: Path) -> None:
    _, scales = read_cache(write_cache(tmp_path / "c", table(dead=0.0)))
    assert scales["dead"] > 0


def test_caches_written_elsewhere_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(
        b"TRT-8601-EntropyCalibration2\r\n"
        b"(Unnamed Layer* 3) [Constant]_output: 0\r\n"
        b"a: b: 3C010204\r\n\r\n"
    )
    _, scales = read_cache(path)
    one = struct.unpack(">f", bytes.fromhex("3c010204"))[0]
    assert scales == {"(Unnamed Layer* 3) [Constant]_output": 0.0, "a: b": one}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x 3c010204", "not 'tensor: scale"),
        ("x:3c010204", "not 'tensor: scale"),
        (": 3c010204", "not 'tensor: scale"),
        ("x: ", "not 'tensor: scale"),
        ("x: 3c01020", None),
        ("x: 3c0102040", "not 'tensor: scale"),
        ("x: 0x3c0102", "not 'tensor: scale"),
        ("x: +3c01020", "not 'tensor: scale"),
        ("x: 7fc00000", "not 'tensor: scale"),
        ("x: 7f800000", "not 'tensor: scale"),
        ("x: bc010204", "not 'tensor: scale"),
        ("ok: 3c010204", "two scales"),
    ],
)
def test_bad_lines_are_told_by_number(tmp_path: Path, line: str, words: str | None) -> None:
    path = tmp_path / "c"
    path.write_text(f"TRT-8502-EntropyCalibration2\nok: 3c010204\n{line}\n")
    if words is None:  # seven digits: TensorRT writes no leading zeros
        assert set(read_cache(path)[1]) == {"ok", "x"}
        return
    with pytest.raises(UsageError, match=f"line 3: .*{words}"):
        read_cache(path)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"TRT-8502\n", b"TRT-x-E\n", b"x: 3c010204\n", b"\xff\xfe\x00", b"PK\x03"]
)
def test_what_is_no_cache_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"is not (a TensorRT calibration cache|text)"):
        read_cache(path)


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_cache(tmp_path / "none")
    with pytest.raises(UsageError, match="cannot read"):
        read_cache(tmp_path)


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader(tmp_path_factory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("hostile") / "c"
    path.write_bytes(b"TRT-8502-EntropyCalibration2\n" + data)
    try:
        _, scales = read_cache(path)
    except UsageError as problem:
        assert "\n" not in str(problem)
    else:
        assert all(np.isfinite(s) and s >= 0 for s in scales.values())


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb"])
def test_names_that_break_lines_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="rename"):
        write_cache(tmp_path / "c", table(**{name: 1.0}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("version", "algorithm"),
    [((11, 0, 0), "EntropyCalibration2"), ((8, 12, 0), "E"), ((8, 5, 2), "a b"), ((8, 5, 2), "")],
)
def test_headers_that_no_tensorrt_reads_are_refused(tmp_path: Path, version, algorithm) -> None:
    with pytest.raises(UsageError, match="no TensorRT reads"):
        write_cache(tmp_path / "c", table(x=1.0), version=version, algorithm=algorithm)


@pytest.mark.parametrize(
    ("text", "version"),
    [("8.5.2", (8, 5, 2)), ("8.5.2.2", (8, 5, 2)), ("10.3", (10, 3, 0)), (" 8.6.1 ", (8, 6, 1))],
)
def test_versions_are_parsed(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "8", "eight", "8.5.x", "11.0.0", "-8.5.2", "8.5.2."])
def test_what_is_no_version_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="version"):
        parse_version(text)
