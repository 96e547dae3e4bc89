"""The benchmark of INT8 on the CPU: its arithmetic, and its variants of a small model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import conv_net

from graphopt.coverage import INTEGER_OPS, count, optimized_ops

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of tools/ by name."""
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module


def test_a_ratio_is_the_median_of_rounds(tool: Any) -> None:
    ratio = tool("bench_int8_cpu").ratio
    slow, fast = [[4.0, 4.0, 9.0], [8.0, 8.0, 8.0], [2.0]], [[2.0], [2.0], [1.0]]
    middle, low, high = ratio(slow, fast)
    assert middle == pytest.approx(2)
    assert low == pytest.approx(2)
    assert high == pytest.approx(4)


def test_variants_run_and_failures_are_told(tool: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [{"image": rng.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(3)]
    maker = tool("int8_variants").Variants(conv_net(), samples, tmp_path, onnxsim="no-such-python")
    made = dict(maker.all())
    assert {"fp32", "graphopt INT8", "graphopt pruned 50 %, INT8", "ORT U8S8"} <= set(made)
    assert list(maker.failed) == ["onnxsim INT8"]
    noise = tool("bench_int8_cpu").noise(made, samples)
    assert all(db > 25 for name, db in noise.items() if "pruned" not in name)
    ours = count(optimized_ops(made["graphopt INT8"]), INTEGER_OPS)
    assert ours >= count(optimized_ops(made["ORT U8S8"]), INTEGER_OPS)
    assert made["graphopt pruned 50 %, INT8"].parameters() < made["graphopt INT8"].parameters()
