"""The report and its summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphopt.console import Console
from graphopt.report import KINDS, Metric, Report, human, summary_rows


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1_234_567, "bytes", "1.23 MB"),
        (1_234, "bytes", "1.2 kB"),
        (99.5, "%", "99.50 %"),
        (1.23456, "ms", "1.235 ms"),
        (41_000_000, "", "41.000 M"),
        (1_820_000_000, "", "1.820 G"),
        (1234, "", "1,234"),
        (33.33, "dB", "33.3 dB"),
    ],
)
def test_figures_are_written_for_people(value: float, unit: str, text: str) -> None:
    assert human(value, unit) == text


def test_changes_are_told_in_the_unit_that_matters() -> None:
    metrics = [
        Metric("size", "bytes", {"before": 1000, "fp32": 800, "int8": 250}),
        Metric("accuracy", "%", {"before": 98.0, "fp32": 97.5, "int8": 97.25}),
        Metric("latency", "ms", {"before": 2.0, "int8": 1.0}),
        Metric("slower", "ms", {"before": 1.0, "int8": 3.0}),
        Metric("SQNR", "dB", {"int8": 30.0}),
    ]
    rows = summary_rows(metrics, ["before", "fp32", "int8"])
    assert [row[-1] for row in rows] == [
        "-75.0 %",
        "-0.75 points",
        "2.00x faster",
        "3.00x slower",
        "",
    ]
    assert rows[2][2] == "-"


def test_stages_are_timed_and_kept_even_when_one_fails() -> None:
    report = Report()
    with pytest.raises(RuntimeError), report.stage("broken"):
        raise RuntimeError
    assert [s.name for s in report.stages] == ["broken"]
    assert report.stages[0].seconds > 0


def test_json_has_what_pipelines_read(tmp_path: Path) -> None:
    report = Report()
    (tmp_path / "model.onnx").write_bytes(b"x")
    report.add_artifact("onnx-fp32", tmp_path / "model.onnx")
    report.gates.append({"name": "max-drop", "status": "fail"})
    value = json.loads(report.save(tmp_path).read_text())
    assert value["schema"] == 1
    assert value["status"] == "fail"
    assert value["artifacts"][0]["kind"] in KINDS
    assert len(value["artifacts"][0]["sha256"]) == 64
    assert {"metrics", "stages", "warnings", "decisions", "versions"} <= set(value)


def test_console_prints_plain_aligned_lines(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Console()
    ui.table("title", ["", "a"], [["row", "1"], ["longer [b]", "22"]])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "title"
    assert out[2].split() == ["row", "1"]
    assert "[b]" in out[3]
    assert out[2].index("1") == out[3].rindex("2")


def test_console_json_keeps_standard_output_clean(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Console(json=True)
    ui.info("working")
    ui.warn("careful")
    ui.warn("careful")
    ui.table("t", ["a"], [["b"]])
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.count("careful") == 1
    assert ui.warnings == ["careful"]


def test_quiet_says_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Console(verbosity=-1)
    ui.info("working")
    ui.detail("detail")
    with ui.progress("p", 3) as advance:
        advance(1)
    ui.warn("careful")
    assert capsys.readouterr().err.strip() == "warning: careful"
