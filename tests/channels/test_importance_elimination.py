"""Backward elimination: wide groups, pooled scores, several readings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt.channels.importance.elimination as elimination
from graphopt.channels.importance.elimination import Reading, eliminate, scores_of
from graphopt.channels.importance.obs import inverse_of


def covariance(rng, width, rows, rank):
    """Channels that depend on each other, as those of a trained network do."""
    size = width * rows
    x = rng.standard_normal((4 * size, rank)) @ rng.standard_normal((rank, size))
    x += 0.1 * rng.standard_normal(x.shape)
    x *= rng.uniform(0.2, 2, size)
    return np.cov(x.T, bias=True)


def problem(seed, width=200, rows=1, outputs=16):
    rng = np.random.default_rng(seed)
    second = covariance(rng, width, rows, width * rows // 4)
    weights = rng.standard_normal((width * rows, outputs))
    features = np.arange(width * rows).reshape(width, rows)
    return second, weights, features


def error(second, weights, gone):
    """The error left when these features are gone and the others make up for them."""
    stay = np.setdiff1d(np.arange(len(weights)), gone)
    damped = second + np.diag(1e-3 * np.diag(second) + 1e-9 * np.diag(second).mean())
    lost = damped[np.ix_(gone, gone)] - damped[np.ix_(gone, stay)] @ np.linalg.solve(
        damped[np.ix_(stay, stay)], damped[np.ix_(stay, gone)]
    )
    return float(np.einsum("fo,fg,go->", weights[gone], lost, weights[gone]))


@pytest.mark.parametrize("rows", [1, 3])
def test_several_at_a_time_are_as_good_as_one_by_one(rows, monkeypatch):
    second, weights, features = problem(0, rows=rows)
    inverse = inverse_of(second)

    def run():
        return eliminate([Reading.of(inverse, weights, features)], np.zeros(200))

    order, costs = run()
    monkeypatch.setattr(elimination, "STEPS", 1000)
    single, exact = run()
    assert sorted(order) == sorted(single) == list(range(200))
    assert costs.sum() == pytest.approx(exact.sum(), rel=1e-6)
    for count in (40, 100, 160):
        gone, alone = features[order[:count]].reshape(-1), features[single[:count]].reshape(-1)
        reached = error(second, weights, gone)
        assert reached == pytest.approx(costs[:count].sum(), rel=1e-6)
        assert reached <= 1.02 * error(second, weights, alone)
        by_size = np.argsort((weights.reshape(200, -1) ** 2).sum(axis=1))[:count]
        assert reached < 0.9 * error(second, weights, features[by_size].reshape(-1))


def test_more_outputs_than_features_change_nothing():
    second, weights, features = problem(1, width=9, rows=2, outputs=50)
    inverse = inverse_of(second)
    short = Reading.of(inverse, weights, features)
    assert short.weights.shape == (18, 18)
    order, costs = eliminate([short], np.zeros(9))
    whole, exact = eliminate([Reading(inverse, weights, 9)], np.zeros(9))
    assert order.tolist() == whole.tolist()
    np.testing.assert_allclose(costs, exact, rtol=1e-8)


def test_the_rest_of_a_layer_is_taken_as_kept():
    """A group that has a part of the features: the others stay, and help."""
    second, weights, features = problem(2, width=12)
    mine = features[3:8]
    order, costs = eliminate([Reading.of(inverse_of(second), weights, mine)], np.zeros(5))
    for count in range(1, 6):
        gone = mine[order[:count]].reshape(-1)
        assert costs[:count].sum() == pytest.approx(error(second, weights, gone), rel=1e-8)


def test_readings_and_fixed_costs_add_up():
    rng = np.random.default_rng(3)
    parts = [problem(seed, width=6, rows=seed) for seed in (1, 2)]
    fixed = rng.uniform(0, 5, 6)
    readings = [Reading.of(inverse_of(s), w, f) for s, w, f in parts]
    order, costs = eliminate(readings, fixed)
    for count in range(1, 7):
        gone = order[:count]
        wanted = fixed[gone].sum() + sum(error(s, w, f[gone].reshape(-1)) for s, w, f in parts)
        assert costs[:count].sum() == pytest.approx(wanted, rel=1e-8)


def test_dead_and_doubled_channels_are_free():
    """One of two equal channels goes first, next to nothing lost; the other then stays long."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((500, 6))
    x[:, 4] = x[:, 1]
    x[:, 2] = 0
    weights = rng.standard_normal((6, 3))
    order, costs = eliminate(
        [Reading.of(inverse_of(np.cov(x.T, bias=True)), weights, np.arange(6)[:, None])],
        np.zeros(6),
    )
    assert {int(order[0]), int(order[1])} in ({2, 1}, {2, 4})
    assert costs[:2].sum() < 0.01 * costs.sum()


@pytest.mark.parametrize("scale", [0.0, 1e-200, 1e200])
def test_any_size_gives_finite_scores(scale):
    second, weights, features = problem(5, width=70)
    weights = np.zeros_like(weights) if scale == 0 else weights * scale**0.5
    for given_covariance in (second, np.zeros_like(second)):
        reading = Reading.of(inverse_of(given_covariance), weights, features)
        found = scores_of(*eliminate([reading], np.zeros(70)))
        assert np.isfinite(found).all()
        assert len(np.unique(found)) == 70


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_scores_sort_into_the_order_and_keep_the_sum(costs, random):
    order = list(range(len(costs)))
    random.shuffle(order)
    found = scores_of(np.array(order), np.array(costs))
    assert np.argsort(found).tolist() == order
    assert np.argsort(found, kind="stable").tolist() == order
    total = sum(costs)
    assert found.sum() == pytest.approx(total, rel=1e-6, abs=1e-100)
    # The running sum is the largest convex function below that of the costs.
    running = np.concatenate([[0], np.cumsum(found[order])])
    wanted = np.concatenate([[0], np.cumsum(costs)])
    assert (running <= wanted + 1e-6 * max(total, 1e-90)).all()
    again = scores_of(np.array(order), found[order])
    np.testing.assert_allclose(again, found, rtol=1e-6, atol=1e-6 * total)
