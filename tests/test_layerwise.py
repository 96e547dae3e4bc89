"""What every layer's output lost, against the outputs themselves."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import conv_net

from graphopt.calibrators import CalibrationTable, TensorRange
from graphopt.data import Dataset, synthetic
from graphopt.dialects import DIALECTS
from graphopt.layerwise import layer_losses
from graphopt.model import Model
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.runtime import open_session


def quantized(model: Model, dialect: str = "tensorrt") -> Model:
    names = DIALECTS.load(dialect)().wanted(model, frozenset())
    table = CalibrationTable(dict.fromkeys(names, TensorRange(6.0, -6.0, 6.0)), "unit", "")
    return InsertQDQ(dialect, table)(model).model


def samples(model: Model, count: int = 6) -> Dataset:
    return synthetic(model.inputs(), count, seed=3)


def read(model: Model, names: list[str], data: Dataset) -> list[np.ndarray]:
    (feeds,) = list(data.batches(len(data)))
    with open_session(model, extra_outputs=names, only=True, optimize=False) as session:
        return [np.asarray(v, np.float64) for v in session.run(names, feeds)]


@pytest.mark.parametrize("dialect", ["tensorrt", "onnxruntime"])
def test_it_is_the_signal_over_the_noise_of_each_output(dialect: str) -> None:
    model = conv_net()
    fewer, data = quantized(model, dialect), samples(model)
    losses = layer_losses(model, fewer, data)
    names = [loss.tensor for loss in losses]
    assert [loss.name for loss in losses] == ["stem", "conv1", "conv2", "fc"]
    assert [loss.op for loss in losses] == ["Conv", "Conv", "Conv", "Gemm"]
    assert [loss.macs for loss in losses] == [221184, 4718592, 4718592, 320]
    for loss, a, b in zip(losses, read(model, names, data), read(fewer, names, data), strict=True):
        assert not loss.identical
        assert loss.sqnr_db == pytest.approx(
            10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), abs=0.01
        )


def test_a_model_against_itself_lost_nothing() -> None:
    model = conv_net()
    losses = layer_losses(model, model.clone(), samples(model), exact=False)
    assert [(loss.identical, loss.sqnr_db) for loss in losses] == [(True, None)] * 4


def test_only_some_samples_are_used_and_they_are_told_of() -> None:
    model, seen = conv_net(), []
    layer_losses(model, quantized(model), samples(model, 50), samples=8, progress=seen.append)
    assert sum(seen) == 8


def test_layers_that_one_of_them_lacks_are_left_out() -> None:
    model = conv_net()
    other = conv_net()
    for node in other.graph.nodes:
        if node.name == "conv2":
            node.outputs[0].name = "renamed"
    assert [loss.name for loss in layer_losses(model, other, samples(model))] == [
        "stem",
        "conv1",
        "fc",
    ]


def test_a_fixed_batch_is_filled() -> None:
    model = conv_net(batch=4)  # type: ignore[arg-type]  # a number is a fixed one
    losses = layer_losses(model, quantized(model), samples(model, 12), samples=6)
    assert len(losses) == 4
    assert all(loss.sqnr_db is not None for loss in losses)
