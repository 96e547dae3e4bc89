"""What is said of a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calibration_tables import rows, table_of

from graphopt.calibrators import CALIBRATORS, CalibrationTable, TensorRange
from graphopt.calibrators.judge import (
    compare_calibrators,
    differences,
    judge,
    table_warnings,
)


def test_a_tensor_is_judged_by_its_counts() -> None:
    values = np.concatenate((np.full(50, 8.0), np.linspace(-1, 1, 950))).astype(np.float32)
    table = table_of({"t": values.reshape(10, 100)}, "minmax")
    (whole,) = judge(table)
    assert whole.clipped == 0
    assert whole.kind == ""
    clipped = replace(table, ranges={"t": TensorRange(2.0, -1.0, 8.0)})
    (cut,) = judge(clipped)
    assert cut.clipped == pytest.approx(0.05)
    back = np.clip(np.rint(values / 2 * 127), -127, 127) * (2 / 127)
    sqnr = 10 * np.log10(np.square(values).sum() / np.square(values - back).sum())
    assert cut.sqnr_db == pytest.approx(sqnr, abs=0.05)
    (bare,) = judge(replace(clipped, counts=None))
    assert (bare.clipped, bare.sqnr_db) == (None, None)


def test_every_calibrator_is_compared_on_the_same_counts() -> None:
    table = table_of(rows(4))
    assert table.counts is not None
    found = compare_calibrators(table.counts)
    assert list(found.methods) == CALIBRATORS.names()
    for i, name in enumerate(found.methods):
        assert {t: a[i] for t, a in found.amax.items()} == {
            t: r.amax for t, r in table_of(rows(4), name).ranges.items()
        }
    best = found.methods.index("mse")
    for tensor, sqnr in found.sqnr_db.items():
        if tensor == "dead":
            assert set(sqnr) == {None}
        else:
            assert max(sqnr) - sqnr[best] < 0.02
    title, head, cells = found.rows()
    assert "SQNR" in title
    assert {len(row) for row in cells} == {len(head)}
    assert found.to_json()["tensors"]["dead"]["amax"] == dict.fromkeys(found.methods, 0.0)


def test_differences_come_by_ratio() -> None:
    def table(**amax: float) -> CalibrationTable:
        return CalibrationTable({n: TensorRange(a, -a, a) for n, a in amax.items()}, "x", "m")

    a = table(same=1.0, double=2.0, half=1.0, dead=0.0, only_a=1.0, third=3.0)
    b = table(same=1.0, double=1.0, half=2.0, dead=1.0, only_b=1.0, third=1.0)
    found = differences(a, b)
    assert [d.name for d in found] == ["dead", "only_a", "only_b", "third", "double", "half"]
    assert found[3].ratio == 3.0
    assert differences(a, a) == []


def test_warnings_name_what_looks_wrong() -> None:
    values = {
        "dead": np.zeros((40, 10), np.float32),
        "constant": np.full((40, 10), 3.0, np.float32),
        "large": np.linspace(0, 70_000, 400, dtype=np.float32).reshape(40, 10),
        "fine": np.random.default_rng(0).normal(size=(40, 1000)).astype(np.float32),
    }
    outliers = np.random.default_rng(1).normal(size=(40, 20_000)).astype(np.float32)
    outliers[0, 0] = 200.0
    table = table_of({**values, "outliers": outliers}, "percentile")
    told = table_warnings(table)
    for name, what in {
        "dead": "zero on every sample",
        "constant": "one value on every sample",
        "large": "beyond the range of fp16",
        "outliers": "outliers more than 16 times",
    }.items():
        (line,) = [w for w in told if what in w]
        assert line.endswith(f": {name}")
        assert line.startswith("1 tensor ")
    assert len(told) == 4
    few = table_warnings(replace(table, samples=3, synthetic=True))
    assert any("calibrated on 3 samples" in w for w in few)
    assert any("SYNTHETIC" in w for w in few)
    assert table_warnings(table_of({"fine": values["fine"]})) == []
    foreign = CalibrationTable({"t": TensorRange(1.0, -1.0, 1.0)}, "TensorRT", "")
    assert table_warnings(foreign) == []  # samples unknown, not few
