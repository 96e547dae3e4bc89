"""The affine match: mean and standard deviation as they were."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import conv_net, image_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from recovery_nets import batched, linear, problem
from test_least_squares import rows
from test_recover import pruned

from graphopt.recovery import recover
from graphopt.recovery.affine import LEAST, MOST, affine
from graphopt.statistics import Statistics


@given(st.integers(1, 3), st.integers(2, 10), st.integers(1, 5), st.booleans(), st.integers(1, 5))
@settings(max_examples=40)
def test_mean_and_deviation_are_as_wanted(
    groups: int, features: int, outputs: int, beside: bool, batches: int
) -> None:
    x, wanted, old = rows(groups, 300, features, outputs)
    shortcut = np.random.default_rng(5).normal(size=wanted.shape).astype("f4") if beside else None
    found = affine(problem(x, wanted, old, beside=shortcut, batches=batches))
    assert found is not None
    target = (wanted if shortcut is None else wanted - shortcut).astype("f8")
    now, before = linear(x, found.weights), linear(x, old)
    np.testing.assert_allclose(now.mean(axis=1), target.mean(axis=1), atol=1e-4)
    factor = target.std(axis=1) / before.std(axis=1)
    usual = (factor > LEAST) & (factor < MOST)
    assert usual.any()
    np.testing.assert_allclose(now.std(axis=1)[usual], target.std(axis=1)[usual], rtol=1e-4)
    # One factor a channel, and a bias.
    scaled = old[:, :-1] * np.clip(factor, LEAST, MOST)[:, None]
    np.testing.assert_allclose(found.weights[:, :-1], scaled, rtol=1e-3, atol=1e-6)
    energy = np.square(target).sum()
    for told, given_back in ((found.before, before), (found.after, now)):
        assert told == pytest.approx(np.square(target - given_back).sum() / energy, rel=1e-3)


def test_a_channel_that_died_gets_its_mean() -> None:
    x, wanted, old = rows(1, 300, 6, 3)
    old[0, :, 1] = 0
    found = affine(problem(x, wanted, old))
    assert found is not None
    assert not found.weights[0, :-1, 1].any()
    assert found.weights[0, -1, 1] == pytest.approx(wanted[0, :, 1].mean(), rel=1e-4)
    assert np.isfinite(found.weights).all()


def test_without_a_bias_nothing_is_done() -> None:
    x, wanted, old = rows(1, 300, 6, 3)
    assert affine(problem(x, wanted, old, bias=False)) is None


def test_on_a_model_each_layer_matches() -> None:
    model = conv_net(16)
    cut, kept = pruned(model, 0.4)
    batches = batched(image_samples(32), 8, "image")
    told = recover(model, cut, kept, batches, affine)
    asked = {"c1": 1, "scores": 1}
    old, new = (Statistics(m, batches).moments(asked) for m in (model, cut))
    assert {s.node for s in told} >= {"conv1", "fc"}
    for name in asked:
        masks = kept[name]
        mask = slice(None) if masks[1] is None else masks[1]
        np.testing.assert_allclose(new[name].mean, old[name].mean[mask], atol=1e-4)
        np.testing.assert_allclose(new[name].std, old[name].std[mask], rtol=1e-3)
