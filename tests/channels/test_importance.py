"""L1 and L2: the values, their scale, and what they are blind to."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.channels import analyze
from graphopt.channels.importance import IMPORTANCES
from graphopt.errors import UsageError

TEXT = """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[6] b, float[5,6,1,1] w9)
    => (float[N,5,8,6] y) { a = Conv(x, w1, b)  h = Relu(a)  y = Conv(h, w9) }"""


@pytest.fixture
def model(tools):
    return tools.graph(TEXT)


def scores(model, name):
    (values,) = IMPORTANCES.load(name)(model, analyze(model).groups).values()
    return values


@pytest.mark.parametrize(("name", "order"), [("l1", 1), ("l2", 2)])
def test_the_product_of_relative_norms(model, name, order):
    w1, w9 = (model.graph.tensors()[n].values for n in ("w1", "w9"))
    made = np.linalg.norm(w1.reshape(6, 3), ord=order, axis=1)
    read = np.linalg.norm(w9.reshape(5, 6), ord=order, axis=0)
    expected = made / made.mean() * read / read.mean()
    np.testing.assert_allclose(scores(model, name), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_scaling_a_filter_and_its_readers_changes_no_order(model, name):
    """The network computes the same, so the choice must be the same."""
    before = scores(model, name)
    factor = np.array([1, 100, 0.01, 7, 1, 0.3], dtype=np.float32)
    tensors = model.graph.tensors()
    tensors["w1"].values = tensors["w1"].values * factor[:, None, None, None]
    tensors["w9"].values = tensors["w9"].values / factor[None, :, None, None]
    # Not the same numbers (the layers' means move), but the same numbers up to one factor.
    ratio = scores(model, name) / before
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_dead_filters_go_first_and_zero_layers_are_no_trouble(model, name):
    tensors = model.graph.tensors()
    w1 = tensors["w1"].values.copy()
    w1[4] = 0
    tensors["w1"].values = w1
    assert np.argmin(scores(model, name)) == 4
    tensors["w9"].values = np.zeros_like(tensors["w9"].values)
    assert np.isfinite(scores(model, name)).all()


def test_layers_of_a_residual_stream_count_alike(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[6,3,1,1] w2, float[5,6,1,1] w9)
        => (float[N,5,8,6] y) {
        a = Conv(x, w1)  b = Conv(x, w2)  s = Add(a, b)  y = Conv(s, w9) }"""
    )
    before = scores(model, "l2")
    tensors = model.graph.tensors()
    tensors["w1"].values = tensors["w1"].values * np.float32(1000)
    np.testing.assert_allclose(scores(model, "l2"), before, rtol=1e-5)


def test_unknown_importance():
    with pytest.raises(UsageError, match="did you mean 'l1'"):
        IMPORTANCES.load("l11")
