"""The linter as the pipeline asks it: over TensorRT's own network where there is one."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import conv_net, image_samples

from graphopt import linting
from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.console import Console
from graphopt.engines import BuildOptions, ShapeRange
from graphopt.engines.network import reader
from graphopt.errors import UnsupportedModelError
from graphopt.lint.finding import ERROR, NOTE, WARNING, Finding
from graphopt.lint.run import Lint
from graphopt.linting import lint_model, say_lint
from graphopt.model import Model
from graphopt.passes.simplify import Simplify
from graphopt.profiles import load_device
from graphopt.quantize import activations, qdq_pass

SHAPE = ShapeRange((1, 3, 16, 16), (1, 3, 16, 16), (4, 3, 16, 16))
OPTIONS = BuildOptions(device=load_device("l4"), shapes={"image": SHAPE}, precision="int8")


@pytest.fixture(scope="module")
def quantized() -> Model:
    net = Simplify()(conv_net(32)).model
    amax = float(np.abs(image_samples(4)).max())
    ranges = {name: TensorRange(amax, -amax, amax) for name in activations(net)}
    return qdq_pass("tensorrt", CalibrationTable(ranges, "minmax", net.digest()), ())(net).model


def refuse(*_: object) -> None:
    raise UnsupportedModelError("TensorRT-RTX refuses it: node 'stem' (Conv): no")


def test_every_q_and_dq_is_accounted_for_without_tensorrt(
    quantized: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linting, "reader", lambda: None)
    found = lint_model(quantized, OPTIONS)
    ops = [n.op for n in quantized.graph.nodes]
    assert found.source == "the ONNX file"
    assert found.counts["q"] == ops.count("QuantizeLinear")
    assert found.counts["dq"] == ops.count("DequantizeLinear")
    assert len(found.accounts) == found.counts["q"] + found.counts["dq"]
    assert not found.alone


def test_where_tensorrt_is_here_its_own_network_is_walked(quantized: Model) -> None:
    name = reader()
    if name is None:
        pytest.skip("no TensorRT is installed")
    found = lint_model(quantized, OPTIONS)
    assert found.source.startswith(f"{name} ")
    ops = [n.op for n in quantized.graph.nodes]
    assert (found.counts["q"], found.counts["dq"]) == (
        ops.count("QuantizeLinear"),
        ops.count("DequantizeLinear"),
    )


def test_what_its_parser_refuses_is_said_and_the_file_walked(
    quantized: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(linting, "reader", lambda: "tensorrt-rtx")
    monkeypatch.setattr(linting, "read_network", refuse)
    found = lint_model(quantized, OPTIONS)
    assert found.source == "the ONNX file"
    assert found.accounts
    assert found.to_json()["unread"][-1].startswith("TensorRT's own network: ")
    say_lint(found, Console())
    assert "not looked at: TensorRT's own network: TensorRT-RTX refuses it: node 'stem'" in (
        capsys.readouterr().err
    )


def test_the_device_decides_what_is_too_new(
    quantized: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linting, "reader", lambda: None)
    model = quantized.clone()
    model.graph.opset = 21
    xavier = BuildOptions(device=load_device("xavier"), shapes={"image": SHAPE}, precision="int8")
    rules = {f.rule for f in lint_model(model, xavier).findings}
    assert rules - {f.rule for f in lint_model(model, OPTIONS).findings} == {"opset"}


def test_a_float_model_has_nothing_to_account_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linting, "reader", lambda: None)
    found = lint_model(conv_net(16), OPTIONS)
    assert found.accounts == ()
    assert found.findings == ()


FINDINGS = (
    Finding("scale-value", ERROR, ("a",), "a scale is 0", "calibrate again"),
    Finding("thin", WARNING, ("b",), "too thin"),
    Finding("island", NOTE, ("c",), "good to know"),
)


@pytest.mark.parametrize("verbosity", [-1, 0, 1])
def test_what_must_change_is_a_warning_and_what_is_worth_knowing_a_detail(
    verbosity: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ui = Console(verbosity=verbosity)
    say_lint(Lint("tensorrt", "the ONNX file", FINDINGS), ui)
    # Warnings are told without their severity twice, and whatever the verbosity.
    assert ui.warnings == [
        "a scale is 0 ('a'); calibrate again [scale-value]",
        "too thin ('b') [thin]",
    ]
    printed = capsys.readouterr().err
    assert printed.count("a scale is 0") == 1
    assert ("good to know" in printed) == (verbosity == 1)
    assert ("lint: " in printed) == (verbosity >= 0)


def test_each_q_and_dq_is_listed_where_more_is_asked_for(
    quantized: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(linting, "reader", lambda: None)
    found = lint_model(quantized, OPTIONS)
    say_lint(found, Console(verbosity=1))
    printed = capsys.readouterr().err
    for account in found.accounts:
        assert account.line() in printed
