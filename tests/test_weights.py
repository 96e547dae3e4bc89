"""Zeros and factors among weights, as the pipeline makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import conv_net, image_samples

from graphopt.console import Console
from graphopt.errors import DataError, UsageError
from graphopt.graph import constant
from graphopt.model import Model
from graphopt.pipeline import build
from graphopt.plan import Request
from graphopt.recipe import Recipe
from graphopt.report import Report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("weights")
    conv_net(32).save(where / "net.onnx")
    np.savez(where / "data.npz", image=image_samples(48))
    return where


def made(
    folder: Path, out: Path, parts: dict[str, Any], *, data: bool = True
) -> tuple[Report, Model]:
    source = {"data": {"calibration": str(folder / "data.npz")}} if data else {}
    recipe = Recipe.from_dict({**source, **parts})
    request = Request(folder / "net.onnx", recipe, out, build_engine=False)
    return build(request, Console(verbosity=-1)), Model.load(out / "model.onnx")


def weight(model: Model, node: str) -> np.ndarray:
    found = next(n for n in model.graph.nodes if n.name == node)
    return np.asarray(constant(found.inputs[1]))


@pytest.mark.parametrize("data", [True, False])
def test_two_of_four_input_channels_are_zero(folder: Path, tmp_path: Path, data: bool) -> None:
    parts = {"weights": {"sparsity": "2:4"}}
    report, model = made(folder, tmp_path / "out", parts, data=data)
    values = weight(model, "conv1")  # (64, 32, 3, 3)
    fours = values.reshape(64, 8, 4, 3, 3)
    assert (np.count_nonzero(fours, axis=2) <= 2).all()
    stage = next(s for s in report.stages if s.name == "sparsify")
    assert {c["where"] for c in stage.changes} == {"conv1", "conv2"}
    assert "stem" in {s["where"] for s in stage.skipped}


def test_a_share_of_weights_is_zero_and_the_compressed_size_is_told(
    folder: Path, tmp_path: Path
) -> None:
    report, model = made(folder, tmp_path / "out", {"weights": {"sparsity": 0.7}})
    assert abs(float((weight(model, "conv1") == 0).mean()) - 0.7) < 0.01
    facts = next(s for s in report.stages if s.name == "sparsify").facts
    assert facts["zlib_bytes"] < 0.6 * model.weight_bytes()


def test_factors_leave_the_share_of_macs(folder: Path, tmp_path: Path) -> None:
    report, _ = made(folder, tmp_path / "out", {"weights": {"low_rank": 0.6}})
    macs = report.metric("MACs")
    assert macs is not None
    assert 0.4 < macs.values["fp32"] / macs.values["before"] <= 0.6


def test_pruning_factors_and_zeros_go_together(folder: Path, tmp_path: Path) -> None:
    parts = {
        "prune": {"ratio": 0.25, "align": 8, "allocation": "uniform", "steps": 1},
        "weights": {"low_rank": 0.8, "sparsity": "0.5"},
        "quantize": {"int8": True},
        "engine": {"name": "onnxruntime"},
    }
    report, model = made(folder, tmp_path / "out", parts)
    names = [s.name for s in report.stages]
    assert names.index("recover") < names.index("low-rank") < names.index("sparsify")
    assert names.index("sparsify") < names.index("calibrate")
    assert weight(model, "conv1").shape[0] == 48
    sqnr = report.metric("SQNR")
    assert sqnr is not None
    assert sqnr.values["int8"] > 3


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"weights": {"sparsity": "1:4"}}, "2:4"),
        ({"weights": {"sparsity": "1.5"}}, "between 0 and 1"),
        ({"weights": {"sparsity_by": "obs"}}, "--sparsity, which is not given"),
        ({"weights": {"sparsity": "2:4", "sparsity_by": "obz"}}, "did you mean 'obs'"),
        ({"weights": {"sparsity": "2:4"}, "engine": {"device": "t4"}}, "NVIDIA T4 is 7.5"),
        (
            {"weights": {"sparsity": "2:4"}, "engine": {"device": "jetson-agx-xavier"}},
            "Xavier is 7.2",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    folder: Path, tmp_path: Path, parts: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        made(folder, tmp_path / "out", parts)
    assert not (tmp_path / "out").exists()


def test_second_order_needs_samples(folder: Path, tmp_path: Path) -> None:
    parts = {"weights": {"sparsity": "2:4", "sparsity_by": "obs"}}
    with pytest.raises(DataError, match="--data"):
        made(folder, tmp_path / "out", parts, data=False)
