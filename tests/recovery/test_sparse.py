"""Weights chosen by second order, and solved for with the zeros kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from recovery_nets import linear, problem

from graphopt.passes.sparsity import Sparsity, least_masked
from graphopt.recovery import sparse, surgeon
from graphopt.recovery.least_squares import least_squares
from graphopt.recovery.sparse import Sparsifier, on_support
from graphopt.recovery.surgeon import least_costly
from graphopt.statistics.layers import Layer

STRUCTURED, HALF = Sparsity(0.5, structured=True), Sparsity(0.5)


def layer_of(channels: int, taps: int, outputs: int) -> Layer:
    return Layer("n", "Conv", "w", "x", "y", ("n", 2), 1, channels, taps, outputs, 1)


def case(
    channels: int = 8, taps: int = 3, outputs: int = 5, seed: int = 0
) -> tuple[Layer, np.ndarray, np.ndarray, np.ndarray]:
    """A layer, rows that are far from independent, their Hessian, and weights with a bias."""
    rng = np.random.default_rng(seed)
    layer = layer_of(channels, taps, outputs)
    mixed = rng.normal(size=(layer.features, layer.features)) * np.geomspace(2, 0.1, layer.features)
    x = rng.normal(size=(1, 900, layer.features)) @ mixed + 0.3
    ones = np.concatenate([x[0], np.ones((900, 1))], axis=1)
    hessian = ones.T @ ones + 1e-3 * np.eye(layer.features + 1)
    return layer, x.astype("f4"), hessian, rng.normal(size=(layer.features + 1, outputs))


def best_error(hessian: np.ndarray, weights: np.ndarray, mask: np.ndarray) -> float:
    """The error that is left once the weights that stay have made up for the others."""
    total = 0.0
    for j in range(weights.shape[1]):
        s = np.append(np.flatnonzero(mask[:, j]), len(hessian) - 1)
        found = np.zeros(len(hessian))
        found[s] = np.linalg.solve(hessian[np.ix_(s, s)], (hessian @ weights[:, j])[s])
        left = weights[:, j] - found
        total += float(left @ hessian @ left)
    return total


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("sparsity", [STRUCTURED, HALF, Sparsity(0.7)])
def test_second_order_leaves_less_error_than_magnitude(
    sparsity: Sparsity, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exact:
        monkeypatch.setattr(surgeon, "MOST_EXACT", 0)
    errors: list[list[float]] = []
    for seed in range(8):
        layer, _, hessian, weights = case(seed=seed)
        mask = least_costly(weights, hessian, layer, sparsity)
        plain = least_masked(np.abs(weights[None, :-1]), layer, sparsity)[0]
        assert mask.sum() == plain.sum() == mask.size - round(sparsity.share * mask.size)
        errors.append([best_error(hessian, weights, m) for m in (mask, plain)])
        if sparsity.structured:
            fours = mask.reshape(layer.channels // 4, 4, layer.taps, layer.outputs)
            assert (fours.sum(axis=1) == 2).all()
    ours, plainly = np.array(errors).T
    assert ours.sum() < 0.8 * plainly.sum()
    if exact:
        assert (ours < 0.95 * plainly).all()


@pytest.mark.parametrize(("exact", "least"), [(True, 40), (False, 50)])
def test_of_a_single_four_the_best_pair_goes(
    exact: bool, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One at a time is not always the best pair; the sweep looks at pairs.
    if not exact:
        monkeypatch.setattr(surgeon, "MOST_EXACT", 0)
    hits, rng = 0, np.random.default_rng(0)
    layer = layer_of(4, 1, 1)
    for _ in range(60):
        x = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4))
        hessian, weights = x.T @ x + 1e-3 * np.eye(4), rng.normal(size=(4, 1))
        mask = least_costly(weights, hessian, layer, STRUCTURED)

        def error(kept: tuple[int, ...], h: np.ndarray = hessian, w: np.ndarray = weights) -> float:
            s = list(kept)
            left = w.copy()
            left[s] -= np.linalg.solve(h[np.ix_(s, s)], (h @ w)[s])
            return float((left.T @ h @ left)[0, 0])

        errors = {kept: error(kept) for kept in itertools.combinations(range(4), 2)}
        chosen = errors[tuple(np.flatnonzero(mask[:, 0]))]
        hits += chosen <= min(errors.values()) * (1 + 1e-6)
    assert hits >= least


def test_independent_inputs_make_it_magnitude_times_their_energy() -> None:
    layer, _, _, weights = case()
    hessian = np.diag(np.geomspace(5, 0.2, layer.features + 1))
    for sparsity in (STRUCTURED, HALF):
        mask = least_costly(weights, hessian, layer, sparsity)
        scores = weights[None, :-1] ** 2 * np.diag(hessian)[None, :-1, None]
        assert np.array_equal(mask, least_masked(scores, layer, sparsity)[0])


def masked_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    layer, x, _, truth = case(outputs=6)
    mask = np.random.default_rng(3).random((layer.features, 6)) < 0.6
    truth[:-1][~mask] = 0
    rng = np.random.default_rng(4)
    start = truth * rng.uniform(0.7, 1.3, size=truth.shape)
    return x, truth[None], start[None]


@pytest.mark.parametrize("direct", [True, False])
def test_zeros_stay_and_the_others_are_found(direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, truth, start = masked_case()
    if not direct:
        monkeypatch.setattr(sparse, "MOST_DIRECT", 0)
        monkeypatch.setattr(sparse, "ITERATIONS", 200)
        monkeypatch.setattr(sparse, "DAMPING_OF_MANY", 1e-4)
    found = on_support(problem(x, linear(x, truth), start))
    assert found is not None
    assert np.array_equal(found.weights == 0, start == 0)
    assert found.after < 1e-4 < found.before
    np.testing.assert_allclose(found.weights, truth, atol=0.15)


def test_both_ways_of_solving_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x, truth, start = masked_case()
    noisy = linear(x, truth) + np.random.default_rng(5).normal(size=(1, x.shape[1], 6))
    monkeypatch.setattr(sparse, "RIDGES", (1e-2,))
    exact = on_support(problem(x, noisy, start))
    monkeypatch.setattr(sparse, "MOST_DIRECT", 0)
    monkeypatch.setattr(sparse, "ITERATIONS", 300)
    stepped = on_support(problem(x, noisy, start))
    assert exact is not None
    assert stepped is not None
    np.testing.assert_allclose(stepped.weights, exact.weights, rtol=1e-4, atol=1e-6)


def test_a_layer_without_zeros_is_plain_least_squares() -> None:
    _, x, _, truth = case()
    start = truth[None] * 0.8
    one = problem(x, linear(x, truth[None]), start)
    found, plain = on_support(one), least_squares(one)
    assert found is not None
    assert plain is not None
    assert np.array_equal(found.weights, plain.weights)


def test_weights_that_are_right_are_left() -> None:
    x, truth, _ = masked_case()
    assert on_support(problem(x, linear(x, truth), truth)) is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sparsity", [STRUCTURED, HALF])
def test_a_sparsified_layer_makes_up_for_its_zeros(sparsity: Sparsity, bias: bool) -> None:
    _, x, _, weights = case(taps=1, channels=24)
    weights[-1] *= bias
    one = problem(x, linear(x, weights[None]), weights[None], bias=bias)
    cut = Sparsifier(sparsity, {"n"}, update=False)(one)
    full = Sparsifier(sparsity, {"n"})(one)
    assert cut is not None
    assert full is not None
    for found in (cut, full):
        assert np.count_nonzero(found.weights[0, :-1] == 0) == weights[:-1].size // 2
        assert found.before < 1e-6
    assert np.array_equal(cut.weights[0, -1], weights[-1])
    assert full.after < 0.7 * cut.after
    if not bias:
        assert not full.weights[0, -1].any()


def test_a_layer_not_named_is_recovered_or_left() -> None:
    _, x, _, truth = case()
    one = problem(x, linear(x, truth[None]), truth[None] * 0.8)
    assert Sparsifier(HALF, set(), update=False)(one) is None
    found = Sparsifier(HALF, set())(one)
    assert found is not None
    assert np.count_nonzero(found.weights == 0) == 0


def test_where_a_relu_follows_only_what_is_above_zero_counts() -> None:
    _, x, _, weights = case(taps=1, channels=24)
    weights[-1] -= 1
    wanted = linear(x, weights[None])

    def behind(found: np.ndarray) -> float:
        return float(np.square(np.maximum(linear(x, found), 0) - np.maximum(wanted, 0)).sum())

    errors = []
    for rectified in (False, True):
        one = problem(x, wanted, weights[None], rectified=rectified)
        found = Sparsifier(HALF, {"n"})(one)
        assert found is not None
        errors.append(behind(found.weights))
    assert errors[1] < errors[0]


def test_too_wide_a_layer_is_cut_by_magnitude(monkeypatch: pytest.MonkeyPatch) -> None:
    _, x, _, weights = case(taps=1, channels=24)
    no: Callable[[int, int], bool] = lambda groups, features: False  # noqa: E731
    monkeypatch.setattr(sparse, "fits", no)
    one = problem(x, linear(x, weights[None]), weights[None])
    found = Sparsifier(STRUCTURED, {"n"})(one)
    assert found is not None
    assert "too many" in found.note
    mask = least_masked(np.abs(weights[None, :-1]), one.layer, STRUCTURED)
    assert np.array_equal(found.weights[:, :-1] != 0, mask)
    assert found.before < 1e-6 < found.after
    assert on_support(problem(x, linear(x, weights[None]), found.weights)) is None


@pytest.mark.filterwarnings("ignore:invalid value")
def test_activations_that_are_not_finite_leave_magnitude() -> None:
    _, x, _, weights = case(taps=1, channels=24)
    wanted = linear(x, weights[None])
    x[0, 5, 3] = np.inf
    found = Sparsifier(STRUCTURED, {"n"})(problem(x, wanted, weights[None]))
    assert found is not None
    assert "not all finite" in found.note
    assert np.count_nonzero(found.weights[0, :-1] == 0) == weights[:-1].size // 2


def test_grouped_layers_have_a_support_each() -> None:
    parts = [case(seed=s, channels=8, taps=1, outputs=8) for s in (0, 1)]
    x = np.concatenate([p[1] for p in parts])
    weights = np.stack([p[3] for p in parts])
    found = Sparsifier(HALF, {"n"})(problem(x, linear(x, weights), weights))
    assert found is not None
    for group in range(2):
        assert np.count_nonzero(found.weights[group, :-1] == 0) == 32
