"""The calibration table: exact in JSON, checked on the way in."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import Collected
from graphopt.calibrators.histogram import Histogram
from graphopt.calibrators.minmax import MinMax
from graphopt.errors import UsageError

TABLE = CalibrationTable(
    ranges={"b": TensorRange(0.1, -0.1, 0.05), "a": TensorRange(0.0, 0.0, 0.0)},
    method="entropy",
    model_digest="m",
    data_digest="d",
    samples=64,
    synthetic=True,
)


def collected(*values: float) -> Collected:
    return Collected({"t": Histogram.of(np.array(values, np.float32))}, 2)


def test_a_table_survives_the_file(tmp_path: Path) -> None:
    path = TABLE.save(tmp_path / "calibration.json")
    assert CalibrationTable.load(path) == TABLE
    first = path.read_bytes()
    again = CalibrationTable(dict(reversed(TABLE.ranges.items())), "entropy", "m", "d", 64, True)
    assert again.save(path).read_bytes() == first


@given(st.floats(0, allow_infinity=False, allow_nan=False))
def test_every_float_survives_json(amax: float) -> None:
    table = CalibrationTable({"t": TensorRange(amax, -amax, amax)}, "m", "d")
    read = json.loads(json.dumps(table.to_json()))["ranges"]["t"]
    assert (read["amax"], read["low"], read["high"]) == (amax, -amax, amax)


@pytest.mark.parametrize(
    ("amax", "low", "high"),
    [(-1.0, 0.0, 1.0), (1.0, 2.0, 1.0), (math.nan, 0.0, 0.0), (1.0, -math.inf, 0.0)],
)
def test_no_range_is_nonsense(amax: float, low: float, high: float) -> None:
    with pytest.raises(ValueError, match="range"):
        TensorRange(amax, low, high)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "\xff",
        '{"kind": "graphopt-calibration-table", "schema": 99}',
        '{"kind": "graphopt-calibration-table", "schema": 1, "ranges": {}}',
        '{"kind": "graphopt-calibration-table", "schema": 1, "ranges": {"a": {"amax": -1, '
        '"low": 0, "high": 0}}, "method": "", "model_digest": "", "data_digest": "", '
        '"samples": 1, "synthetic": false}',
    ],
)
def test_what_is_no_table_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"t\.json") as caught:
        CalibrationTable.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        CalibrationTable.load(tmp_path / "none.json")


def test_calibrate_records_where_it_came_from() -> None:
    table = calibrate(
        collected(-0.5, 0.25),
        MinMax(),
        method="minmax",
        model_digest="m",
        data_digest="d",
        synthetic=True,
    )
    assert table == CalibrationTable(
        {"t": TensorRange(0.5, -0.5, 0.25)}, "minmax", "m", "d", samples=2, synthetic=True
    )


def test_a_dead_tensor_has_the_range_zero() -> None:
    table = calibrate(collected(0.0, -0.0), MinMax(), method="minmax", model_digest="m")
    assert table.ranges["t"] == TensorRange(0.0, 0.0, 0.0)


@pytest.mark.parametrize("answer", [0.0, -1.0, math.nan, math.inf])
def test_a_calibrator_that_answers_nonsense_is_told(answer: float) -> None:
    with pytest.raises(UsageError, match=r"calibrator 'mine' gives tensor 't'"):
        calibrate(collected(1.0), lambda _: answer, method="mine", model_digest="m")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"ranges": []}, "its ranges are no table"),
        ({"ranges": {"a": {"amax": 1e300, "low": 0, "high": 1}}}, "'a': a range beyond float32"),
        ({"ranges": {"a": {"amax": 2, "low": 1, "high": -1}}}, "'a': not a range"),
        ({"samples": -4}, "its samples is no number"),
        ({"samples": "many"}, "its samples is no number"),
        ({"samples": True}, "its samples is no number"),
        ({"method": None}, "its method is no text"),
    ],
)
def test_fields_are_what_they_should_be(changed: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=r"^t\.json is not a valid") as refused:
        CalibrationTable.from_json({**TABLE.to_json(), **changed}, "t.json")
    assert told in str(refused.value)
