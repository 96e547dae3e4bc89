"""Integer codes by second order, on plain matrices."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.quantization.second_order import by_block, cost, round_second_order


def problem(seed: int, features: int, outputs: int, rows: int = 0):
    """Weights, and the Gram matrix of inputs that go along with each other."""
    rng = np.random.default_rng(seed)
    rows = rows or 4 * features
    x = rng.normal(size=(rows, max(features // 3, 1)))
    x = x @ rng.normal(size=(x.shape[1], features)) + 0.2 * rng.normal(size=(rows, features)) + 0.5
    return rng.normal(size=(features, outputs)), x.T @ x, x


def steps_of(weight: np.ndarray, levels: int) -> np.ndarray:
    return np.abs(weight).max(axis=-2) / levels


def damped(gram: np.ndarray, damping: float = 0.01) -> np.ndarray:
    return gram + damping * np.diag(gram).mean() * np.eye(len(gram))


def nearest(weight: np.ndarray, steps: np.ndarray, levels: int) -> np.ndarray:
    return np.clip(np.rint(weight / steps), -levels, levels)


def gptq(weight: np.ndarray, gram: np.ndarray, steps: np.ndarray, levels: int) -> np.ndarray:
    """GPTQ as its paper writes it: the inverse, one feature after another, much energy first."""
    order = np.argsort(np.diag(gram), kind="stable")[::-1]
    upper = np.linalg.cholesky(np.linalg.inv(gram[np.ix_(order, order)])).T
    w = weight[order].copy()
    codes = np.zeros_like(w)
    for i in range(len(w)):
        codes[i] = np.clip(np.rint(w[i] / steps), -levels, levels)
        error = (w[i] - codes[i] * steps) / upper[i, i]
        w[i:] -= np.outer(upper[i, i:], error)
    found = np.zeros_like(codes)
    found[order] = codes
    return found


@given(
    seed=st.integers(0, 10_000),
    features=st.integers(1, 90),
    outputs=st.integers(1, 5),
    levels=st.sampled_from([1, 7, 127]),
    rows=st.integers(0, 60),
)
@settings(max_examples=60)
def test_never_worse_than_nearest_and_in_range(seed, features, outputs, levels, rows) -> None:
    w, gram, _ = problem(seed, features, outputs, rows)  # few rows: not of full rank
    steps = steps_of(w, levels)
    codes = round_second_order(w, gram, steps, -levels, levels)
    assert codes.dtype == np.int64
    assert np.abs(codes).max() <= levels
    errors = [cost(w - q * steps, damped(gram)) for q in (codes, nearest(w, steps, levels))]
    assert (errors[0] <= errors[1] * (1 + 1e-9) + 1e-12).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_close_to_the_best_there_is(seed) -> None:
    w, gram, _ = problem(seed, 4, 1)
    steps = steps_of(w, 3)
    every = np.array(list(product(range(-3, 4), repeat=4)), dtype=float).T
    best = cost(w - every * steps, damped(gram)).min()
    found = cost(w - round_second_order(w, gram, steps, -3, 3) * steps, damped(gram))[0]
    plain = cost(w - nearest(w, steps, 3) * steps, damped(gram))[0]
    assert best * (1 - 1e-9) <= found <= plain * (1 + 1e-9)


def test_brute_force_is_mostly_met() -> None:
    met = 0
    for seed in range(40):
        w, gram, _ = problem(seed, 4, 1)
        steps = steps_of(w, 3)
        every = np.array(list(product(range(-3, 4), repeat=4)), dtype=float).T
        best = cost(w - every * steps, damped(gram)).min()
        met += cost(w - round_second_order(w, gram, steps, -3, 3) * steps, damped(gram))[0] <= (
            best * (1 + 1e-9)
        )
    assert met >= 30


@pytest.mark.parametrize("features", [3, 63, 64, 65, 200])
def test_without_descent_it_is_gptq(features) -> None:
    w, gram, _ = problem(5, features, 6)
    steps = steps_of(w, 7)
    codes = round_second_order(w, gram, steps, -7, 7, sweeps=0)
    expected, plain = gptq(w, damped(gram), steps, 7), nearest(w, steps, 7)
    worse = cost(w - expected * steps, damped(gram)) > cost(w - plain * steps, damped(gram))
    np.testing.assert_array_equal(codes, np.where(worse, plain, expected))


def test_it_helps_by_much_where_inputs_go_together() -> None:
    w, gram, x = problem(1, 144, 16)
    steps = steps_of(w, 127)
    codes = round_second_order(w, gram, steps)
    before = np.square(x @ (w - nearest(w, steps, 127) * steps)).sum()
    after = np.square(x @ (w - codes * steps)).sum()
    assert after < before / 5  # 7 dB


def test_unrelated_inputs_give_nearest() -> None:
    w = np.random.default_rng(0).normal(size=(20, 3))
    steps = steps_of(w, 127)
    codes = round_second_order(w, np.diag(np.arange(20) + 1.0), steps)
    np.testing.assert_array_equal(codes, nearest(w, steps, 127))


@pytest.mark.parametrize("gram", [np.zeros((6, 6)), np.full((6, 6), np.nan)])
def test_a_matrix_that_says_nothing_gives_nearest(gram) -> None:
    w = np.random.default_rng(0).normal(size=(6, 3))
    steps = steps_of(w, 127)
    np.testing.assert_array_equal(round_second_order(w, gram, steps), nearest(w, steps, 127))


def test_leading_axes_are_problems_of_their_own() -> None:
    apart = [problem(seed, 9, 2) for seed in range(5)]
    w, gram = np.stack([p[0] for p in apart]), np.stack([p[1] for p in apart])
    gram[3] = 0  # a group whose inputs were always zero
    together = round_second_order(w, gram, steps_of(w, 127)[:, None, :])
    for i, (one, own, _) in enumerate(apart):
        own = own * (i != 3)
        expected = round_second_order(one, own, steps_of(one, 127))
        np.testing.assert_array_equal(together[i], expected)


def test_scales_of_blocks_and_zero_points() -> None:
    w, gram, _ = problem(2, 10, 3)
    scales = np.abs(np.random.default_rng(0).normal(size=(3, 3))) + 0.1
    steps = by_block(scales, 10, 4)
    assert steps.shape == (10, 3)
    np.testing.assert_array_equal(steps[4:8], np.broadcast_to(scales[1], (4, 3)))
    zero = np.array([3, 0, -2])
    codes = round_second_order(w, gram, steps, -8 - zero, 7 - zero)
    assert (codes + zero >= -8).all()
    assert (codes + zero <= 7).all()


def test_nothing_is_written_into() -> None:
    w, gram, _ = problem(0, 8, 2)
    kept = w.copy(), gram.copy()
    round_second_order(w, gram, steps_of(w, 127))
    np.testing.assert_array_equal(w, kept[0])
    np.testing.assert_array_equal(gram, kept[1])
