"""Histograms in a file: exact, the same bytes, and checked on the way in."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from calibration_tables import rows, table_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.calibrators import CalibrationTable
from graphopt.calibrators.histogram import BINS, Histogram
from graphopt.calibrators.packed import pack, unpack
from graphopt.errors import UsageError


@settings(max_examples=40)
@given(
    hnp.arrays(
        np.float32,
        st.integers(0, 80),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    st.sampled_from([1, 1 << 8, 1 << 20, 1 << 40]),
)
def test_a_histogram_survives(values: np.ndarray, times: int) -> None:
    found = Histogram.of(values)
    found = Histogram(found.counts * times, found.exponent, found.low, found.high)
    plain = json.loads(json.dumps(pack(found)))
    assert unpack(plain, found.low, found.high) == found
    assert pack(unpack(plain, found.low, found.high)) == plain


def test_the_file_is_compact_and_the_same_bytes(tmp_path: Path) -> None:
    table = table_of(rows(0, 200))
    path = table.save(tmp_path / "a.json")
    assert CalibrationTable.load(path) == table
    assert CalibrationTable.load(path).save(tmp_path / "b.json").read_bytes() == path.read_bytes()
    counts = json.loads(path.read_text())["counts"]["histograms"]
    assert sum(len(one["counts"]) for one in counts.values()) < 3 * BINS
    assert table.to_json(histograms=False)["ranges"] == table.to_json()["ranges"]


def test_schema_1_is_read(tmp_path: Path) -> None:
    old = {
        "schema": 1,
        "kind": "graphopt-calibration-table",
        "method": "entropy",
        "model_digest": "m",
        "data_digest": "d",
        "samples": 3,
        "synthetic": False,
        "ranges": {"t": {"amax": 1.5, "low": -2.0, "high": 1.0}},
    }
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    table = CalibrationTable.load(path)
    assert table.counts is None
    assert (table.ranges["t"].amax, table.samples) == (1.5, 3)


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


GOOD = table_of(rows(3)).to_json()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("histograms", "a", "counts"), "no base64!"),
        (("histograms", "a", "counts"), base64.b64encode(b"no zlib").decode()),
        (("histograms", "a", "counts"), packed(bytes(BINS - 1))),
        (("histograms", "a", "counts"), packed(bytes(100 << 20))),  # unpacked, 100 MB
        (("histograms", "a", "counts"), packed(bytes(BINS) + b"more")),
        (("histograms", "a", "counts"), packed(b"\x01" * BINS)[:-8]),
        (("histograms", "a", "counts"), 5),
        (("histograms", "a", "bytes"), 3),
        (("histograms", "a", "bytes"), True),
        (("histograms", "a", "exponent"), 9),
        (("histograms", "a", "exponent"), "9"),
        (("histograms", "a"), {"bytes": 8, "exponent": -7, "counts": packed(b"\xff" * 8 * BINS)}),
        (("histograms", "a"), {}),
        (("histograms", "a"), None),
        (("histograms",), {}),
        (("histograms",), []),
        (("patch_gains",), {"nobody": 1.0}),
        (("patch_gains",), {"a": -1.0}),
        (("patch_gains",), {"a": float("nan")}),
        (("samples_seen",), ["not hex"]),
        (("samples_seen",), [5]),
        (("samples_seen",), None),
        (("positions",), 0),
        (("positions",), 1.5),
    ],
)
def test_a_file_that_was_tampered_with_is_told_in_one_line(
    tmp_path: Path, path: tuple[str, ...], value: object
) -> None:
    raw = json.loads(json.dumps(GOOD))
    inner = raw["counts"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(UsageError, match=r"bad\.json is not a valid calibration table") as caught:
        CalibrationTable.load(file)
    assert "\n" not in str(caught.value)


def test_ranges_that_are_not_those_of_the_counts_are_refused(tmp_path: Path) -> None:
    raw = json.loads(json.dumps(GOOD))
    raw["ranges"]["blur"]["high"] *= 4
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(UsageError, match="'blur': counts do not go with the range"):
        CalibrationTable.load(file)
