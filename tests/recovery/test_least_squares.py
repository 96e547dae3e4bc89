"""One layer: against NumPy's least squares, on rows made for it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recovery_nets import linear, problem

from graphopt.graph import Array
from graphopt.recovery import least_squares as module
from graphopt.recovery.least_squares import least_squares, total, two_folds
from graphopt.recovery.problem import Problem, rectified
from graphopt.statistics import gram


def rows(
    groups: int, count: int, features: int, outputs: int, *, seed: int = 0, noise: float = 0.1
) -> tuple[Array, Array, Array]:
    """Features that vary together and have a mean, what they should give, and old weights."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(groups, features, features)) / np.sqrt(features)
    x = rng.normal(size=(groups, count, features)) @ mix + rng.normal(size=features)
    truth = rng.normal(size=(groups, features + 1, outputs))
    wanted = linear(x, truth) + noise * rng.normal(size=(groups, count, outputs))
    return x.astype("f4"), wanted.astype("f4"), truth + rng.normal(size=truth.shape)


def ridge_of(note: str) -> float:
    return float(note.split()[1])


def expected(p: Problem, x: Array, wanted: Array, ridge: float) -> Array:
    """By NumPy: the rows, and below them those of the ridge."""
    found = p.weights.copy()
    for g in range(len(found)):
        ones = np.concatenate([x[g], np.ones((len(x[g]), 1))], axis=1).astype("f8")
        features = ones.shape[1] - 1
        scale = np.sqrt(ridge * np.square(ones[:, :features]).sum() / features)
        left = wanted[g] - ones @ found[g]
        used = ones if p.bias else ones[:, :-1]
        stacked = np.concatenate([used, scale * np.eye(used.shape[1])])
        zeros = np.zeros((used.shape[1], left.shape[1]))
        update = np.linalg.lstsq(stacked, np.concatenate([left, zeros]), rcond=None)[0]
        found[g, : len(update)] += update
    return found


@given(
    groups=st.integers(1, 3),
    features=st.integers(1, 12),
    outputs=st.integers(1, 5),
    bias=st.booleans(),
    beside=st.booleans(),
    batches=st.integers(1, 5),
)
@settings(max_examples=40)
def test_it_is_ridge_regression_toward_the_old_weights(
    groups: int, features: int, outputs: int, bias: bool, beside: bool, batches: int
) -> None:
    x, wanted, old = rows(groups, 400, features, outputs)
    shortcut = np.random.default_rng(5).normal(size=wanted.shape).astype("f4") if beside else None
    p = problem(x, wanted, old, bias=bias, beside=shortcut, batches=batches)
    found = least_squares(p)
    assert found is not None
    target = wanted if shortcut is None else wanted - shortcut
    by_numpy = expected(p, x, target, ridge_of(found.note))
    np.testing.assert_allclose(found.weights, by_numpy, rtol=2e-3, atol=2e-3)
    if not bias:
        np.testing.assert_array_equal(found.weights[:, -1], old[:, -1])
    energy = np.square(target.astype("f8")).sum()
    for told, weights in ((found.before, old), (found.after, found.weights)):
        true = np.square(target - linear(x, weights)).sum() / energy
        assert told == pytest.approx(true, rel=1e-3, abs=1e-5)
    assert found.after < found.before
    np.testing.assert_array_equal(old, p.weights)


def test_without_ridge_it_is_lstsq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RIDGES", (1e-9,))
    x, wanted, old = rows(1, 500, 6, 3)
    found = least_squares(problem(x, wanted, old))
    assert found is not None
    ones = np.concatenate([x[0], np.ones((500, 1))], axis=1).astype("f8")
    by_numpy = np.linalg.lstsq(ones, wanted[0].astype("f8"), rcond=None)[0]
    np.testing.assert_allclose(found.weights[0], by_numpy, rtol=1e-4, atol=1e-4)


def test_dead_features_keep_their_weights() -> None:
    x, wanted, old = rows(1, 300, 6, 3)
    x[..., 2] = 0
    found = least_squares(problem(x, wanted, old))
    assert found is not None
    np.testing.assert_allclose(found.weights[0, 2], old[0, 2])
    everything = least_squares(problem(np.zeros_like(x), wanted, old))
    assert everything is not None  # the bias still can be told
    np.testing.assert_array_equal(everything.weights[0, :-1], old[0, :-1])


def test_what_is_right_is_left_alone() -> None:
    x, _, old = rows(1, 300, 6, 3)
    rng = np.random.default_rng(1)
    # Noise that no answer explains, in fewer rows than features would need.
    wanted = (linear(x, old) + rng.normal(size=(1, 300, 3))).astype("f4")
    few = problem(x[:, :8], wanted[:, :8], old, batches=2)
    assert least_squares(few) is None


def test_one_row_proves_nothing() -> None:
    x, wanted, old = rows(1, 1, 6, 3)
    assert least_squares(problem(x, wanted, old, batches=1)) is None
    assert least_squares(problem(x[:, :0], wanted[:, :0], old, batches=1)) is None


def test_a_single_batch_is_two_folds() -> None:
    x, wanted, old = rows(2, 101, 4, 3)
    a, b = two_folds(problem(x, wanted, old, batches=1))
    assert (a.rows, b.rows) == (50, 51)
    whole = total((a, b))
    assert (whole.rows, a.rows) == (101, 50)
    np.testing.assert_allclose(whole.xx, a.xx + b.xx)


def cut_off(p: Problem, x: Array, wanted: Array, beside: Array | float, weights: Array) -> float:
    """What least squares is asked for where a Relu follows: below zero nothing is wrong."""
    now = linear(x, weights)
    return float(np.square(rectified(wanted, beside, now) - now).sum())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("beside", [True, False])
def test_rectified_rounds_never_add_error(
    beside: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, wanted, old = rows(2, 600, 8, 4, seed=seed, noise=2.0)
    wanted -= wanted.mean()
    shortcut = np.random.default_rng(5).normal(size=wanted.shape).astype("f4") if beside else None
    p = problem(x, wanted, old, beside=shortcut, rectified=True)
    monkeypatch.setattr(module, "RIDGES", (1e-3,))
    penalties, errors = [], []
    for rounds in range(5):
        monkeypatch.setattr(module, "ROUNDS", rounds)
        found = least_squares(p)
        assert found is not None
        error = cut_off(p, x, wanted, 0.0 if shortcut is None else shortcut, found.weights)
        scale = 1e-3 * np.square(x.astype("f8")).sum(axis=(1, 2)) / 8
        moved = np.square(found.weights - old).sum(axis=(1, 2))
        penalties.append(error + float((scale * moved).sum()))
        errors.append(error)
    # What is minimized falls round by round: the error and the ridge together.
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(penalties))
    assert errors[-1] < 0.97 * errors[0]


def test_few_matrices_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, wanted, old = rows(2, 400, 6, 7)
    shortcut = np.random.default_rng(5).normal(size=wanted.shape).astype("f4")
    monkeypatch.setattr(module, "RIDGES", (1e-3,))  # each part chooses its own
    for beside in (None, shortcut):
        p = replace(problem(x, wanted, old, beside=beside), rectified=True)
        whole = least_squares(p)
        with monkeypatch.context() as patch:
            # The matrices G just fit; R does for three outputs at a time.
            patch.setattr(gram, "MOST_ENTRIES", 2 * 7 * 7)
            patch.setattr(module, "widest", lambda *_: 3)
            parts = least_squares(p)
        assert whole is not None
        assert parts is not None
        np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-3, atol=1e-3)
        assert parts.before == pytest.approx(whole.before, rel=1e-4)
        assert parts.after == pytest.approx(whole.after, rel=1e-3)


def test_too_large_goes_to_the_dual(monkeypatch: pytest.MonkeyPatch) -> None:
    x, wanted, old = rows(1, 200, 6, 3)
    p = problem(x, wanted, old)
    monkeypatch.setattr(gram, "MOST_FEATURES", 5)
    found = least_squares(p)
    assert found is not None
    assert "in the dual on 200 rows" in found.note
