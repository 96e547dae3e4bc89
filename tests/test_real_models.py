"""The main job on real models, with TensorRT-RTX's own parser and builder in the loop."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import onnx
import pytest
from helpers import SHARED, needs_shared

from graphopt import Recipe, Request, build
from graphopt.console import Console
from graphopt.runtime import open_session

pytestmark = [
    pytest.mark.slow,
    needs_shared,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
    ),
]

FACES = {
    "face_rfb320": 'size = [240, 320]\ncolor = "rgb"\nscale = 1\nmean = 127\nstd = 128\n',
    "face_yunet_n": 'size = [320, 320]\ncolor = "bgr"\nscale = 1\n',
}


def job(model: str, folder: Path, prune: float | None = None) -> dict[str, object]:
    """Build with INT8 for TensorRT-RTX; return the report."""
    if model in FACES:
        (folder / "preprocess.toml").write_text(FACES[model])
        data = {"calibration": str(SHARED / "faces"), "preprocess": str(folder / "preprocess.toml")}
    else:
        data = {
            "calibration": str(SHARED / "cifar10" / "calib"),
            "evaluation": str(SHARED / "cifar10" / "test"),
            "preprocess": "cifar",
        }
    recipe = Recipe.from_dict(
        {
            "quantize": {"int8": True},
            "prune": {"ratio": prune},
            "engine": {"name": "tensorrt-rtx"},
            "data": {**data, "samples": 256},
        }
    )
    out = folder / "out"
    build(Request(SHARED / "models" / f"{model}.onnx", recipe, out), Console(verbosity=-1))
    report: dict[str, object] = json.loads((out / "report.json").read_text())
    return report


def accepted(folder: Path) -> None:
    """The checker, ONNX Runtime and the builder took it."""
    int8 = folder / "out" / "model.int8.onnx"
    onnx.checker.check_model(str(int8), full_check=True)
    with open_session(int8):
        assert (folder / "out" / "model.engine").read_bytes()[:4] == b"vtrt"


@pytest.mark.parametrize("model", ["resnet20_cifar10", "resnet56_cifar10"])
def test_int8_costs_a_classifier_at_most_half_a_point(model: str, tmp_path: Path) -> None:
    report = job(model, tmp_path)
    accepted(tmp_path)
    counts = report["fidelity"]["int8"]["top1"]["accuracy"]  # type: ignore[index]
    assert counts["right_a"] - counts["right_b"] <= 4, counts  # of 932: 0.43 points


@pytest.mark.parametrize(("model", "floor"), [("face_rfb320", 35), ("face_yunet_n", 20)])
def test_int8_keeps_the_signal_of_a_detector(model: str, floor: float, tmp_path: Path) -> None:
    report = job(model, tmp_path)
    accepted(tmp_path)
    assert report["fidelity"]["int8"]["total"]["sqnr_db"] > floor  # type: ignore[index]


@pytest.mark.parametrize("model", ["resnet56_cifar10", "face_rfb320", "face_yunet_n"])
def test_pruned_and_quantized_is_accepted_too(model: str, tmp_path: Path) -> None:
    report = job(model, tmp_path, prune=0.3)
    accepted(tmp_path)
    metrics = {m["name"]: m["values"] for m in report["metrics"]}  # type: ignore[attr-defined,index]
    # A ratio names a size: the MACs that removing 30 % of every group saves at --align 8.
    assert metrics["MACs"]["fp32"] < 0.85 * metrics["MACs"]["before"]
    # Against the masked model: tests/channels/test_real.py.
    assert metrics["SQNR"]["fp32"] > 5
