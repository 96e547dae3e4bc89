"""The benchmark itself: everybody gets the same tensors, and the table says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

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
def test_a_small_run_gives_a_table(tmp_path: Path) -> None:
    output = tmp_path / "calibration.md"
    command = [sys.executable, str(TOOL), "--rounds", "1", "--images", "4", "--batch", "2"]
    subprocess.run(
        [*command, "--size", "32", "--output", str(output)], check=True, capture_output=True
    )
    report = json.loads(output.with_suffix(".json").read_text())
    found = report["summary"]
    theirs = found["onnxruntime Entropy"]["tensors"]
    assert theirs == 50
    for name in ("graphopt entropy", "graphopt minmax", "graphopt percentile"):
        assert found[name]["tensors"] == theirs
    assert 0 < found["graphopt entropy, the tensors Q/DQ needs"]["tensors"] < theirs
    assert all(row["wall_s"] > 0 and row["peak_mb"] > 10 for row in found.values())
    text = output.read_text()
    assert all(name in text for name in found)
