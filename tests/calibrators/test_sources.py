"""Tables of any origin, read: ours, TensorRT's caches, what onnxruntime.quantization writes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from calibration_tables import rows, table_of
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.calibrators.cache import write_cache
from graphopt.calibrators.ort_tables import from_flatbuffers
from graphopt.calibrators.sources import load_table, only
from graphopt.errors import UsageError
from graphopt.model import Model

RANGES = {"x": (-2.5, 2.0), "r1": (0.0, 4.25), "c2": (-1.0, 0.5)}


def ours(model: Model) -> CalibrationTable:
    ranges = {n: TensorRange(max(-a, b), a, b) for n, (a, b) in RANGES.items()}
    return CalibrationTable(ranges, "minmax", model.digest())


@pytest.mark.parametrize("version", [(5, 1, 5), (7, 1, 3), (8, 5, 2), (10, 3, 0)])
@pytest.mark.parametrize("algorithm", ["EntropyCalibration2", "MinMaxCalibration"])
def test_a_tensorrt_cache_of_any_version(
    tmp_path: Path, small: Model, version: tuple[int, int, int], algorithm: str
) -> None:
    path = tmp_path / "c.cache"
    write_cache(path, ours(small), version=version, algorithm=algorithm)
    loaded = load_table(path, small, wanted=["x", "r1"])
    assert loaded.origin == "TensorRT"
    assert path.read_text().splitlines()[0] in loaded.table.method
    for name, r in loaded.table.ranges.items():
        assert r.amax == pytest.approx(ours(small).ranges[name].amax, rel=1e-6)
        assert (r.low, r.high) == (-r.amax, r.amax)
    assert "does not say which model" in loaded.warnings[0]


@pytest.fixture
def ort_files(tmp_path: Path) -> Path:
    """Write RANGES with onnxruntime's own function."""
    pytest.importorskip("onnxruntime.quantization")
    from onnxruntime.quantization.calibrate import TensorData
    from onnxruntime.quantization.quant_utils import write_calibration_table

    data = {
        name: TensorData(lowest=np.array(low, "f4"), highest=np.array(high, "f4"))
        for name, (low, high) in RANGES.items()
    }
    write_calibration_table(data, str(tmp_path))
    return tmp_path


def test_the_json_of_onnxruntime_has_both_ends(ort_files: Path, small: Model) -> None:
    loaded = load_table(ort_files / "calibration.json", small)
    assert loaded.origin == "ONNX Runtime"
    assert {n: (r.low, r.high) for n, r in loaded.table.ranges.items()} == RANGES
    assert loaded.table.ranges["x"].amax == 2.5


@pytest.mark.parametrize("name", ["calibration.cache", "calibration.flatbuffers"])
def test_its_other_files_have_the_greatest_value(ort_files: Path, small: Model, name: str) -> None:
    loaded = load_table(ort_files / name, small)
    assert loaded.origin == "ONNX Runtime"
    greatest = {n: max(r) for n, r in RANGES.items()}
    assert {n: r.amax for n, r in loaded.table.ranges.items()} == greatest
    assert {n: r.low for n, r in loaded.table.ranges.items()} == {
        n: -m for n, m in greatest.items()
    }


def test_a_tensors_data_and_the_lists_of_old_versions(tmp_path: Path) -> None:
    array = {"data": [-2.0], "dtype": "float32", "CLS": "numpy.array"}
    new = {
        "CLS": "TensorsData",
        "data": {"t": {"CLS": "TensorData", "lowest": array, "highest": 3.0, "hist": array}},
        "calibration_method": {"CLS": "CalibrationMethod", "value": "CalibrationMethod.Entropy"},
    }
    for value in (new, {"t": [-2.0, 3.0]}):
        path = tmp_path / "t.json"
        path.write_text(json.dumps(value))
        assert load_table(path).table.ranges == {"t": TensorRange(3.0, -2.0, 3.0)}


def test_save_tensors_data_of_onnxruntime(tmp_path: Path) -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    if not hasattr(calibrate, "save_tensors_data"):
        pytest.skip("this onnxruntime has no save_tensors_data")
    data = {"t": (np.array(-2.0, "f4"), np.array(3.0, "f4"))}
    path = tmp_path / "t.json"
    calibrate.save_tensors_data(
        calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, data), path
    )
    assert load_table(path).table.ranges == {"t": TensorRange(3.0, -2.0, 3.0)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no calibration table"),
        ("hello world", "is no calibration table"),
        ("{}", "is no calibration table"),
        ("[1, 2]", "is no calibration table"),
        ('{"a": 1}', "is no calibration table"),
        ("{" * 100_000, "is no calibration table"),
        ('{"t": [1.0, 2.0], "u": 3}', "tensor 'u' has no range of two numbers"),
        ('{"t": [1.0, "2"]}', "tensor 't' has no range of two numbers"),
        ('{"t": [3.0, 2.0]}', "not a range"),
        ('{"t": [-Infinity, 2.0]}', "finite"),
        (f'{{"t": [0, 1{"0" * 400}]}}', "tensor 't'"),
        ("t 1.5\nt 2.5\n", "two ranges"),
        ("t 1.5\nu\n", "not 'tensor range': 'u'"),
        ("t 1.5\nu -2\n", "the greatest value, not the greatest magnitude"),
        ("t 1e999\n", "is no calibration table"),
        ("TRT-8502-EntropyCalibration2\nt: 7f800000\n", "line 2"),
        ("TRT-8502-EntropyCalibration2\nt: 3c010204\nt: 3c010204\n", "two scales"),
    ],
)
def test_what_is_no_table_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=told) as caught:
        load_table(path)
    assert "\n" not in str(caught.value)
    assert "t.txt" in str(caught.value)


@settings(max_examples=150)
@given(data=st.data())
def test_broken_flatbuffers_end_in_nothing_or_one_line(
    data: st.DataObject, ort_bytes: bytes
) -> None:
    broken = bytearray(ort_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken) - 4))
        word = data.draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 8, 255]))
        struct.pack_into("<I", broken, at, word)
    cut = data.draw(st.integers(0, len(broken)))
    for one in (bytes(broken), bytes(broken[:cut])):
        try:
            found = from_flatbuffers(one, "f")
        except UsageError as problem:
            assert "\n" not in str(problem)
        else:
            assert found is None or all(r.amax >= 0 for r in found.values())


@pytest.fixture(scope="module")
def ort_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    pytest.importorskip("onnxruntime.quantization")
    from onnxruntime.quantization.calibrate import TensorData
    from onnxruntime.quantization.quant_utils import write_calibration_table

    folder = tmp_path_factory.mktemp("ort")
    data = {
        n: TensorData(lowest=np.array(a, "f4"), highest=np.array(b, "f4"))
        for n, (a, b) in RANGES.items()
    }
    write_calibration_table(data, str(folder))
    return (folder / "calibration.flatbuffers").read_bytes()


def test_a_table_of_ours_must_fit_the_model(tmp_path: Path, small: Model) -> None:
    path = ours(small).save(tmp_path / "t.json")
    loaded = load_table(path, small, wanted=["x", "r1"])
    assert (loaded.table, loaded.origin, loaded.warnings) == (ours(small), "graphopt", ())
    with pytest.raises(UsageError, match=r"no range for 2 of 3 tensors .*'r2'"):
        load_table(path, small, wanted=["r1", "r2", "f"])


def test_a_table_of_another_model_is_refused_and_of_another_version_told(
    tmp_path: Path, small: Model
) -> None:
    table = CalibrationTable({"q": TensorRange(1.0, -1.0, 1.0)}, "mse", "digest")
    path = table.save(tmp_path / "t.json")
    with pytest.raises(UsageError, match=r"another model: of its 1 tensor none.*'q'"):
        load_table(path, small)
    ranges = {**ours(small).ranges, **table.ranges}
    path = CalibrationTable(ranges, "mse", "digest").save(path)
    strangers, digest = load_table(path, small, wanted=["x"]).warnings
    assert "1 of 4 tensors are not in this model, such as 'q'" in strangers
    assert "another version of this model (digest digest" in digest
    assert sorted(only(load_table(path).table, ["x", "r1"]).ranges) == ["r1", "x"]


def test_another_calibrator_is_taken_from_the_file(tmp_path: Path) -> None:
    path = table_of(rows(7)).save(tmp_path / "t.json")
    again = load_table(path, calibrator="percentile:99").table
    assert again == table_of(rows(7), "percentile:99")
    kept = only(again, ["a"])
    assert kept.counts is not None
    assert list(kept.counts.histograms) == ["a"]
    with pytest.raises(UsageError, match="no such file"):
        load_table(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot read"):
        load_table(tmp_path)


def test_a_file_too_large_for_a_table_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    with path.open("wb") as file:
        file.truncate(1 << 32)  # a hole
    with pytest.raises(UsageError, match="more than 1 GB"):
        load_table(path)
