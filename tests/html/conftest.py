"""A folder as a build leaves it, made from values: small, and the same every time."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphopt.calibrators.histogram import Histogram
from graphopt.calibrators.table import CalibrationTable, Counts, TensorRange
from graphopt.channels.plan import GroupPlan, PrunePlan
from graphopt.files import sha256
from graphopt.profiles.latency import LatencyProfile
from graphopt.profiles.run import Figure, Gate, Run


def _profile(middle: float, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    samples = tuple(middle * (1 + abs(draw.gauss(0, 0.05))) for _ in range(200))
    return LatencyProfile(samples, 1, {"cpu": "a CPU", "threads": "1"}).to_json()


def _fidelity(right_only_a: int, right_only_b: int) -> dict[str, Any]:
    total = {"sqnr_db": 21.5, "cosine": 0.9961, "max_abs": 4.5, "identical": False}
    accuracy = {
        "a": 0.926, "b": 0.929, "right_both": 858, "right_neither": 60,
        "right_only_a": right_only_a, "right_only_b": right_only_b,
    }  # fmt: skip
    return {
        "outputs": {"logits": total},
        "total": total,
        "samples": 932,
        "synthetic": False,
        "top1": {"accuracy": accuracy, "agreement": 0.97, "samples": 932},
    }


def report() -> dict[str, Any]:
    """Return a report.json with every part of it."""
    layers = [
        {"name": f"conv{i}", "op": "Conv", "tensor": f"t{i}", "sqnr_db": 45.0 - i,
         "identical": False, "macs": 1000 * i}
        for i in range(20)
    ]  # fmt: skip
    estimated = [
        {"name": f"conv{i}", "op": "Conv", "precision": "int8", "macs": 10 ** (5 + i % 3),
         "padded": 0, "bytes": 10 ** (3 + i % 4), "ms": 0.001 * (i + 1), "nodes": [],
         "compute_ms": 0.0, "memory_ms": 0.0, "bound": ("compute", "memory", "floor")[i % 3]}
        for i in range(12)
    ]  # fmt: skip
    return {
        "schema": 1,
        "kind": "graphopt-report",
        "status": "fail",
        "synthetic": False,
        "source": {"name": "net.onnx", "digest": "ab" * 32, "opset": 17,
                   "inputs": {"input": ["float32", ["batch", 3, 32, 32]]}},
        "recipe": {"prune": {"ratio": 0.3}, "engine": {"device": "t4"}},
        "decisions": [{"what": "align", "value": "8", "reason": "the device wants it"}],
        "stages": [
            {"name": "simplify", "seconds": 0.2, "counts": {"folded": 3}, "changes": [],
             "refusals": []},
            {"name": "prune-channels", "seconds": 0.1, "counts": {"pruned": 2}, "changes": [],
             "refusals": [
                {"where": "a", "reason": "the global allocation keeps all 16"},
                {"where": "b", "reason": "the global allocation keeps all 32"},
             ]},
            {"name": "calibrate", "seconds": 0.4, "counts": {}, "changes": [], "refusals": [],
             "facts": {"tensors": 2, "samples": 64}},
            {"name": "build-tensorrt", "seconds": 9.0, "counts": {}, "changes": [],
             "refusals": [], "facts": {"runtime_version": "10.3.0", "device": "t4"}},
        ],
        "metrics": [
            {"name": "weights", "unit": "bytes", "note": "as held",
             "values": {"before": 4000000, "fp32": 3000000, "int8": 800000}},
            {"name": "MACs", "unit": "", "note": "",
             "values": {"before": 125485696, "fp32": 100713088, "int8": 100713088}},
            {"name": "accuracy", "unit": "%", "note": "",
             "values": {"before": 92.6, "fp32": 92.9, "int8": 93.0}},
            {"name": "SQNR", "unit": "dB", "note": "", "values": {"fp32": 21.2, "int8": 20.3}},
            {"name": "latency", "unit": "ms", "note": "this CPU",
             "values": {"before": 2.0, "fp32": 1.3, "int8": 0.5}},
        ],
        "dla": {},
        "lint": {"findings": [
            {"rule": "island", "severity": "warning", "what": "an island of float",
             "advice": "quantize it too", "where": ["Conv_300"]},
        ]},
        "fidelity": {"data": "932 samples", "reference": "the model as given",
                     "fp32": _fidelity(5, 8), "int8": _fidelity(6, 10)},
        "layers": layers,
        "comparison": {"before_to_last": {"change": -0.75, "low": -0.76, "high": -0.74,
                                          "confidence": 0.95}},
        "roofline": {"schema": 1, "kind": "graphopt-estimate", "device": "t4", "batch": 1,
                     "ms": 0.078, "low_ms": 0.05, "high_ms": 0.1, "layers": estimated},
        "latency": {"before": _profile(2.0, 0), "fp32": _profile(1.3, 1),
                    "int8": _profile(0.5, 2)},
        "gates": [{"name": "max-drop", "metric": "accuracy", "value": 1.2, "limit": 1.0,
                   "unit": "points", "status": "fail"}],
        "artifacts": [],
        "warnings": ["an island of float ('Conv_300'); quantize it too [island]",
                     "no --eval: fidelity is measured on the calibration data"],
        "versions": {"graphopt": "0.1.0", "onnx": "1.23.0"},
    }  # fmt: skip


def write(folder: Path, value: dict[str, Any]) -> Path:
    """Write the report into a folder that holds what a build leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).normal(size=(2, 5000)).astype(np.float32)
    found = {f"t{i}": Histogram.of(row * (i + 1)) for i, row in enumerate(values)}
    ranges = {n: TensorRange(h.largest * 0.7, h.low, h.high) for n, h in found.items()}
    CalibrationTable(ranges, "entropy", "ab", samples=64, counts=Counts(found)).save(
        folder / "calibration.json"
    )
    groups = tuple(
        GroupPlan(f"layer{i}.conv1", 16, 8, 8, tuple(range(8))) if i % 2 else
        GroupPlan(f"layer{i}.conv1", 16, 16, 16, (), note="keeps all")
        for i in range(14)
    )  # fmt: skip
    (folder / "prune-plan.json").write_text(PrunePlan(0.3, 8, "obs", groups).to_json())
    sheet = io.BytesIO()
    Image.new("RGBA", (200, 60), (200, 30, 30, 255)).save(sheet, "WEBP")
    (folder / "contact-sheet.webp").write_bytes(sheet.getvalue())
    value["artifacts"] = [
        {"kind": "prune-plan", "path": "prune-plan.json",
         "sha256": sha256(folder / "prune-plan.json")},
        {"kind": "calibration-table", "path": "calibration.json", "sha256": "0" * 64},
        {"kind": "engine", "path": "model.engine", "sha256": "0" * 64},
    ]  # fmt: skip
    run = Run(
        "check", "model.engine", when="2026-11-23T04:12:53Z", commit="abcdef0123456789",
        figures=(Figure("latency_p50", 1.08, "ms", "lower", 1.07, 1.09),),
        gates=(Gate("max-regression", "median latency", 5.0, 3.0, "%", "fail"),),
    )  # fmt: skip
    (folder / "check.json").write_text(json.dumps(run.to_json()))
    points = [
        {"batch": b, "streams": 1, "p99_ms": 1.0 + b, "throughput": 500.0 * b} for b in (1, 8, 32)
    ]
    sweep = {"schema": 1, "kind": "graphopt-latency-sweep", "points": points, "notes": []}
    (folder / "sweep.json").write_text(json.dumps(sweep))
    slow = {"name": "a", "op": "Conv", "median_ms": 2.0, "share": 0.67, "count": 10}
    fast = {"name": "b", "op": "Relu", "median_ms": 1.0, "share": 0.33, "count": 10}
    times = {"schema": 1, "kind": "graphopt-layer-times", "source": "trtexec", "note": "",
             "total_ms": 3.0, "layers": [slow, fast]}  # fmt: skip
    (folder / "layers.json").write_text(json.dumps(times))
    (folder / "report.json").write_text(json.dumps(value))
    return folder


@pytest.fixture
def whole() -> dict[str, Any]:
    """Return a report.json that holds every part."""
    return report()


@pytest.fixture
def build(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Return what writes a build's folder around a report."""
    return lambda value: write(tmp_path / "built", value)
