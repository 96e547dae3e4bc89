"""The benchmark itself: everybody gets the same tensors, and the table says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from graphopt.calibrators import CALIBRATORS

TOOL = ROOT / "tools" / "bench_calibration.py"


def test_the_shape_is_a_resnet18(tmp_path: Path) -> None:
    sys.path.insert(0, str(TOOL.parent))
    try:
        from shapes import resnet18
    finally:
        sys.path.remove(str(TOOL.parent))
    proto = resnet18(size=32)
    weights = {t.name: int(np.prod(t.dims)) for t in proto.graph.initializer}
    # torchvision's resnet18: 11,689,512 with 9,600 BatchNorm parameters, half folded into biases.
    assert sum(weights.values()) == 11_689_512 - 4_800
    assert [node.op_type for node in proto.graph.node].count("Conv") == 20
    assert resnet18(size=32).SerializeToString() == proto.SerializeToString()
    assert resnet18(size=32, batch=1).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


@pytest.mark.slow
def test_a_small_run_gives_tables_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    output, state = tmp_path / "calibration.md", tmp_path / "state.jsonl"
    command = [sys.executable, str(TOOL), "--models", "resnet18", "--rounds", "1", "--size", "32"]
    command += ["--images", "4", "--batch", "2", "--state", str(state), "--output", str(output)]
    for _ in range(2):
        told = subprocess.run(command, check=True, capture_output=True, text=True)
    assert told.stdout.strip() == output.read_text().strip()
    report = json.loads(output.with_suffix(".json").read_text())
    found = report["cases"]["resnet18, 4 images, batch 2"]["summary"]
    assert len(state.read_text().splitlines()) == len(found)
    theirs = found["onnxruntime Entropy"]["tensors"]
    assert theirs == 50
    for name in ("entropy", "minmax"):
        assert found[f"graphopt {name} every tensor"]["tensors"] == theirs
    for name in (*CALIBRATORS.names(), "all", "extremes"):
        assert 0 < found[f"graphopt {name}"]["tensors"] < theirs
    assert all(row["wall_s"] > 0 and row["peak_mb"] > 10 for row in found.values())
    assert found["inference, optimized"]["to_inference"] == 1
    assert all(name in output.read_text() for name in found)


def test_what_would_not_fit_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOL.parent))
    import bench_calibration as bench

    subject = bench.Subject("resnet18", Path("m.onnx"), Path("s.npy"))
    subject.__dict__["facts"] = ("input", 4, 31_000_000)
    case = bench.Case(subject, 256, 4)
    monkeypatch.setattr(bench, "available_bytes", lambda: 8e9)
    reason = bench.too_large("onnxruntime Entropy", case)
    assert reason == "keeps every activation: about 17 GB of 8 GB free"
    assert bench.too_large("onnxruntime MinMax", case) is None
    monkeypatch.setattr(bench, "available_bytes", lambda: 20e9)
    assert bench.too_large("onnxruntime Entropy", case) is None
    rows = {bench.BARE: [{"wall_s": 1.0, "cpu_s": 1.0, "peak_mb": 1.0, "tensors": 0}],
            "onnxruntime Entropy": [{"failed": reason}]}  # fmt: skip
    assert f"not run: {reason}" in "\n".join(bench.table("t", bench.summary(rows)))
