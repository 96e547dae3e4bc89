"""A report as a run: whose figures, whose samples, which file."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.errors import UsageError
from graphopt.runs import run_of_report, shipped


def report(**more: Any) -> dict[str, Any]:
    profile = {"p90_ms": 1.5, "p99_ms": 2.0, "throughput": 900.0, "batch": 4,
               "samples_ms": [1.0, 1.25, 2.0], "environment": {"gpu": "Tesla T4"}}  # fmt: skip
    return {
        "kind": "graphopt-report",
        "source": {"name": "net.onnx", "digest": "d" * 64},
        "synthetic": False,
        "warnings": ["few samples"],
        "metrics": [
            {"name": "ONNX size", "unit": "bytes", "values": {"before": 400, "int8": 100}},
            {"name": "latency", "unit": "ms", "values": {"before": 3.0, "fp32": 2.5}},
            {"name": "engine latency", "unit": "ms", "values": {"int8": 1.25}},
            {"name": "top-1 agreement", "unit": "%", "values": {"fp32": 100.0, "int8": 99.0}},
        ],
        "latency": {"engine": profile},
        "gates": [
            {"name": "min-sqnr", "metric": "SQNR", "value": None, "limit": 30, "unit": "dB",
             "status": "pass"},
        ],
        "artifacts": [
            {"kind": "onnx-int8", "path": "model.int8.onnx", "sha256": "1" * 64},
            {"kind": "engine", "path": "model.engine", "sha256": "2" * 64},
        ],
        **more,
    }  # fmt: skip


def test_what_ships_is_measured_and_what_it_was_before() -> None:
    run = run_of_report(report())
    figures = {f.name: f.value for f in run.figures}
    assert figures["onnx_size"] == 100 and figures["onnx_size_before"] == 400
    assert figures["top1_agreement"] == 99.0
    assert "latency_p50" not in figures  # of fp32 there is one: that is not what ships
    assert figures["engine_latency_p50"] == 1.25 and figures["engine_latency_p99"] == 2.0
    assert run.samples_ms == (1.0, 1.25, 2.0) and run.batch == 4
    assert run.environment == {"gpu": "Tesla T4"}
    assert run.sha256 == "2" * 64 and run.model_digest == "d" * 64
    assert run.subject == "net.onnx" and run.notes == ("few samples",)
    assert run.status == "pass" and run.gates[0].value is None


def test_without_an_engine_the_model_is_the_file() -> None:
    value = report()
    value["artifacts"].pop()
    assert run_of_report(value).sha256 == "1" * 64


def test_a_build_that_only_optimizes_ships_fp32() -> None:
    value = report(metrics=[{"name": "MACs", "unit": "", "values": {"before": 4, "fp32": 2}}])
    assert shipped(value) == "fp32"
    figure = run_of_report(value, verb="optimize").figure("macs")
    assert figure is not None and figure.value == 2


def test_what_is_certain_of_the_change_has_its_interval() -> None:
    found = {"change": -0.5, "low": -0.6, "high": -0.4, "confidence": 0.95}
    run = run_of_report(report(comparison={"before_to_last": found}))
    figure = run.figure("latency_change")
    assert figure is not None
    assert (figure.value, figure.low, figure.high) == (-50.0, -60.0, -40.0)
    assert (
        run_of_report(report(comparison={"before_to_last": None})).figure("latency_change") is None
    )


def test_random_data_is_told_first() -> None:
    assert run_of_report(report(synthetic=True)).notes[0].startswith("SYNTHETIC")


def test_a_broken_report_is_told_in_one_line() -> None:
    for wrong in ({"metrics": [{}]}, {"gates": [{"name": "x"}]}, {"latency": {"engine": 3}}):
        with pytest.raises(UsageError, match="not a valid report"):
            run_of_report(report(**wrong))
