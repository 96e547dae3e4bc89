"""Real models, both dialects: accuracy, integer coverage, acceptance."""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np
import onnx
import pytest
from helpers import ROOT, SHARED, needs_shared, rtx_refuses, sqnr
from PIL import Image

from graphopt.calibrators import CALIBRATORS
from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import collect
from graphopt.calibrators.entropy import Entropy
from graphopt.coverage import FLOAT_CONVOLUTIONS, INTEGER_OPS, optimized_ops
from graphopt.dialects import DIALECTS
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.runtime import open_session

DIALECT = pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@lru_cache
def prepared(name: str) -> Model:
    model = Model.load(SHARED / "models" / f"{name}.onnx")
    for step in (RaiseOpset(13), Simplify(), FoldBatchNorm()):
        model = step(model).model
    return model


@lru_cache
def cifar(split: str, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for label, folder in enumerate(sorted(p for p in (SHARED / "cifar10" / split).iterdir())):
        for path in sorted(folder.glob("*.png"))[::stride]:
            images.append((np.asarray(Image.open(path), np.float32) / 255 - MEAN) / STD)
            labels.append(label)
    return np.stack(images).transpose(0, 3, 1, 2).copy(), np.array(labels)


@lru_cache
def collected(name: str, source: str):
    model = prepared(name)
    wanted: dict[str, None] = {}
    for dialect in DIALECTS.names():
        wanted |= dict.fromkeys(DIALECTS.load(dialect)().wanted(model, frozenset()))
    if source == "cifar":
        images, _ = cifar("calib", 4)
        batches = [{"input": images[i : i + 50]} for i in range(0, len(images), 50)]
    else:
        batches = [{"input": image} for image in faces(name)[:12]]
    return collect(model, batches, list(wanted))


def quantized(name: str, source: str, dialect: str, method: str = "minmax"):
    model = prepared(name)
    rule = CALIBRATORS.load(method)()
    table = calibrate(collected(name, source), rule, method=method, model_digest="")
    result = InsertQDQ(dialect, table)(model)
    onnx.checker.check_model(result.model.to_onnx(), full_check=True)
    return result


@lru_cache
def faces(name: str) -> list[np.ndarray]:
    width, height = (320, 240) if "rfb" in name else (320, 256)
    found = []
    for path in sorted((SHARED / "faces").glob("*.jpg"), key=lambda p: int(p.stem)):
        picture = Image.open(path).convert("RGB").resize((width, height))
        pixels = np.asarray(picture, np.float32)
        pixels = (pixels - 127) / 128 if "rfb" in name else pixels[..., ::-1]
        found.append(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
    return found


@lru_cache
def right(name: str) -> np.ndarray:
    return _right(prepared(name), optimize=True)


def _right(model: Model, *, optimize: bool) -> np.ndarray:
    images, labels = cifar("test")
    with open_session(model, optimize=optimize) as session:
        scores = [
            session.run(None, {"input": images[i : i + 100]})[0] for i in range(0, len(images), 100)
        ]
    return np.concatenate(scores).argmax(1) == labels


@needs_shared
@pytest.mark.slow
@DIALECT
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet56_cifar10"])
def test_int8_costs_at_most_half_a_point(name, method, dialect, record_property):
    result = quantized(name, "cifar", dialect, method)
    before = right(name)
    # The tensorrt dialect as written: ONNX Runtime's optimizer would quantize more of it.
    after = _right(result.model, optimize=dialect == "onnxruntime")
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    counts = f"{before.sum()} -> {after.sum()} of {len(after)} right, {lost} lost, {won} won"
    record_property("paired", counts)
    assert lost - won <= 0.005 * len(after), counts
    if dialect == "tensorrt":
        assert rtx_refuses(result.model) is None
    else:
        counts = optimized_ops(result.model)
        assert not FLOAT_CONVOLUTIONS & set(counts)


# dB measured with minmax ranges from 12 photographs on the 11 others, less a margin of about 3.
SQNR = {
    ("face_rfb320", "tensorrt"): {"scores": 37, "boxes": 44},
    ("face_rfb320", "onnxruntime"): {"scores": 40, "boxes": 46},
    ("face_yunet_n", "tensorrt"): {"cls": 30, "obj": 14, "bbox": 20, "kps": 17},
    ("face_yunet_n", "onnxruntime"): {"cls": 30, "obj": 17, "bbox": 21, "kps": 19},
}


def face_sqnr(name: str, made: Model, *, optimize: bool) -> dict[str, float]:
    """Output -> dB against the float model, on the photographs not calibrated on."""
    names = [t.name for t in prepared(name).graph.outputs]
    found = []
    for model, optimized in ((prepared(name), True), (made, optimize)):
        with open_session(model, optimize=optimized) as session:
            runs = [session.run(None, {"input": image}) for image in faces(name)[12:]]
        found.append([np.concatenate([r[i].ravel() for r in runs]) for i in range(len(names))])
    return {n: sqnr(a, b) for n, a, b in zip(names, *found, strict=True)}


@needs_shared
@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet56_cifar10"])
def test_the_bound_of_entropy_leaves_classifiers_alone(name):
    """Decision 6: it changes 3 of their 126 thresholds."""
    histograms = collected(name, "cifar").histograms.values()
    changed = sum(Entropy()(h) != Entropy(bounded=False)(h) for h in histograms)
    assert changed <= 0.05 * len(histograms)


@needs_shared
def test_the_bound_of_entropy_keeps_the_signal_of_a_detector():
    """Decision 6: 34 dB with the lecture's rule, 40 with the bound, as with minmax."""
    found = {}
    for bounded in (False, True):
        rule = Entropy(bounded=bounded)
        table = calibrate(
            collected("face_rfb320", "faces"), rule, method=repr(rule), model_digest=""
        )
        made = InsertQDQ("tensorrt", table)(prepared("face_rfb320")).model
        found[bounded] = face_sqnr("face_rfb320", made, optimize=False)
    assert found[True]["scores"] > found[False]["scores"] + 4
    assert found[True]["boxes"] > found[False]["boxes"] + 3


@needs_shared
@DIALECT
@pytest.mark.parametrize("name", ["face_rfb320", "face_yunet_n"])
def test_detectors(name, dialect):
    result = quantized(name, "faces", dialect)
    found = face_sqnr(name, result.model, optimize=dialect == "onnxruntime")
    for output, decibels in found.items():
        assert decibels > SQNR[name, dialect][output.split("_")[0]], output
    if dialect == "tensorrt":
        assert rtx_refuses(result.model) is None
        return
    counts = optimized_ops(result.model)
    # YuNet's last layers are depthwise convolutions of 1 to 10 channels: left in float.
    floats = sum(counts.get(op, 0) for op in FLOAT_CONVOLUTIONS)
    assert (counts["QLinearConv"], floats) == ((52, 0) if "rfb" in name else (47, 12))


def test_resnet18_runs_on_integers_throughout():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from shapes import resnet18
    finally:
        sys.path.pop(0)
    model = Model.from_onnx(resnet18(size=64))
    images = np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32)
    dialect = DIALECTS.load("onnxruntime")()
    found = collect(model, [{"input": images}], dialect.wanted(model, frozenset()))
    table = calibrate(found, CALIBRATORS.load("minmax")(), method="minmax", model_digest="")
    counts = optimized_ops(InsertQDQ("onnxruntime", table)(model).model)
    float_ops = set(counts) - INTEGER_OPS - {"Flatten", "MaxPool", "NhwcMaxPool", "Transpose"}
    assert float_ops == {"QuantizeLinear", "SpaceToDepth"}
    assert counts["QuantizeLinear"] == 1  # of the input; QGemm writes the logits as float
    assert counts["QLinearConv"] == 20
    assert counts["QLinearAdd"] == 8
