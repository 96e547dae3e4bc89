"""Real models, both readers; what others' quantizers write."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from drawn import HOST, both, draw, needs_rtx
from helpers import SHARED, conv_net, image_samples, needs_shared

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.graph import in_graph_order
from graphopt.lint.run import lint
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify


@lru_cache
def quantized(name: str, dialect: str) -> Model:
    model = Model.load(SHARED / "models" / f"{name}.onnx")
    for step in (RaiseOpset(13), Simplify(), FoldBatchNorm()):
        model = step(model).model
    # Every tensor a range of its own, as calibration gives: scales agree only where made to.
    names = [t.name for t in in_graph_order(model.graph)]
    ranges = {n: TensorRange(1.0 + i / 64, -1.0, 1.0) for i, n in enumerate(names)}
    return InsertQDQ(dialect, CalibrationTable(ranges, "drawn", model.digest()))(model).model


@needs_shared
@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet56_cifar10"])
def test_nothing_stands_alone_on_the_resnets(name):
    made = lint(quantized(name, "tensorrt"), device=HOST)
    assert made.counts["alone"] == 0
    assert made.counts["boundary"] == 1  # the Q of the input
    assert made.counts["fused"] == len(made.accounts) - 1
    assert made.findings == ()
    assert made.lines() == [made.summary()]


@needs_shared
@needs_rtx
@pytest.mark.parametrize(
    "name", ["resnet20_cifar10", "resnet56_cifar10", "face_rfb320", "face_yunet_n"]
)
def test_the_file_and_the_parsed_network_agree(name):
    mine, theirs = both(quantized(name, "tensorrt"))
    assert theirs.source.startswith("tensorrt-rtx ")
    assert theirs.unread == ()

    def plain(made):
        return {
            (a.op, a.name): (a.verdict, frozenset(k.split("'")[1] for k in a.kernels if "'" in k))
            for a in made.accounts
        }

    assert plain(mine) == plain(theirs)
    assert [f for f in theirs.findings if f.rule == "parsed"] == []
    if "resnet" in name:
        assert theirs.alone == ()


@needs_shared
@pytest.mark.parametrize("name", ["resnet20_cifar10", "face_yunet_n"])
def test_the_other_dialect_is_told_once(name):
    made = lint(quantized(name, "onnxruntime"))
    assert made.dialect == "onnxruntime"
    assert len(made.findings) == 1
    assert made.accounts == ()


def test_a_model_without_qdq_has_nothing_to_say():
    made = lint(conv_net())
    assert (made.dialect, made.findings, made.accounts) == ("none", (), ())
    assert made.lines() == ["no Q/DQ: nothing is quantized"]
    assert made.to_json()["counts"]["q"] == 0


class Reader:
    """ORT's calibration data reader."""

    def __init__(self) -> None:
        self._rest = iter([{"image": image_samples(2)}])

    def get_next(self):
        return next(self._rest, None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("symmetric", [False, True])
def test_what_onnxruntime_writes_for_tensorrt(symmetric, tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    out = tmp_path / "q.onnx"
    int8 = quantization.QuantType.QInt8
    quantization.quantize_static(
        conv_net(batch=2).save(tmp_path / "m.onnx"),
        out,
        Reader(),
        activation_type=int8,
        weight_type=int8,
        per_channel=True,
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
    )
    made = lint(Model.load(out))
    assert made.dialect == "tensorrt"
    rules = {f.rule: f for f in made.findings}
    assert ("zero-point" in rules) == (not symmetric)
    assert rules["int32-bias"].severity == "error"
    assert "output" in rules  # the logits
    # Both branches of the Add are quantized: the Conv's output is no longer fused with it, but
    # each Q and DQ is accounted for.
    assert len(made.accounts) == made.counts["q"] + made.counts["dq"]
    assert len(made.findings) < 8


def test_json_holds_everything_and_lines_what_matters():
    lines = (
        "a = QDQ(x, 0.1)\ns = Softmax(a)\nb = QDQ(s, 0.2)\nw = WEIGHT(32, 32, 1, 1)\ny = Conv(b, w)"
    )
    made = lint(draw(lines))
    told = made.to_json()
    assert told["counts"] == {
        "q": 3, "dq": 3, "fused": 3, "cancelled": 0, "folded": 0, "boundary": 1, "alone": 2
    }  # fmt: skip
    assert len(told["accounts"]) == 6
    assert made.lines()[0] == (
        "3 Q and 3 DQ: 3 fuse, 1 at the boundary, 2 alone (by the ONNX file)"
    )
    assert len(made.lines(verbose=True)) == 1 + len(made.findings) + 6


def test_the_same_model_gives_the_same_lint():
    samples = [lint(conv_net()).to_json() for _ in range(2)]
    assert samples[0] == samples[1]
    assert np.array_equal(image_samples(1), image_samples(1))
