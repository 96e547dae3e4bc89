"""Level shifts: found where they began, not found where there are none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.profiles.history.shifts import LEAST, shifts

NOISE = 0.005


def series(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Make logarithms of figures as benchmarks have them."""
    noise = rng.normal(size=n)
    if kind == "heavy":
        noise = rng.standard_t(3, size=n)
    elif kind == "spikes":
        noise = np.where(rng.random(n) < 0.05, noise + rng.exponential(20, n), noise)
    elif kind == "rounded":
        noise = np.round(noise)
    elif kind == "drift":
        for i in range(1, n):
            noise[i] = 0.3 * noise[i - 1] + noise[i] * np.sqrt(1 - 0.3**2)
    return NOISE * noise


@pytest.mark.parametrize(
    ("kind", "most"),
    [("normal", 0.025), ("heavy", 0.025), ("spikes", 0.025), ("rounded", 0.025), ("drift", 0.09)],
)
@pytest.mark.parametrize("n", [20, 60])
def test_series_without_a_shift_have_none(kind: str, most: float, n: int) -> None:
    # The level is 1 %; of 200 series 5 are 2.5 %. What resembles its neighbours is harder.
    rng = np.random.default_rng(1)
    found = sum(bool(shifts(np.exp(series(kind, n, rng)))) for _ in range(200))
    assert found <= most * 200


@pytest.mark.parametrize("kind", ["normal", "heavy", "spikes", "rounded"])
@pytest.mark.parametrize(("n", "after"), [(40, 5), (60, 30)])
def test_three_percent_are_found_where_they_began(kind: str, n: int, after: int) -> None:
    rng = np.random.default_rng(2)
    found = near = between = right = 0
    for _ in range(50):
        x = series(kind, n, rng)
        x[n - after :] += np.log(1.03)
        for shift in shifts(np.exp(x)):
            found += 1
            near += abs(shift.index - (n - after)) <= 1
            between += shift.first <= n - after <= shift.last
            right += shift.low <= 0.03 <= shift.high
    assert 45 <= found <= 53
    assert near >= 0.85 * found
    assert between >= 0.8 * found
    assert right >= 0.75 * found


def test_up_and_down_again_are_two() -> None:
    rng = np.random.default_rng(3)
    x = series("normal", 90, rng)
    x[30:60] += np.log(1.05)
    up, down = shifts(np.exp(x))
    assert abs(up.index - 30) <= 1
    assert abs(down.index - 60) <= 1
    assert up.change == pytest.approx(0.05, abs=0.01)
    assert down.change == pytest.approx(1 / 1.05 - 1, abs=0.01)
    assert up.p <= 0.01


def test_a_spike_is_no_level() -> None:
    rng = np.random.default_rng(4)
    for at in (0, 20, 39):
        x = series("normal", 40, rng)
        x[at] += 2
        assert shifts(np.exp(x)) == []


def test_figures_without_noise_shift_exactly() -> None:
    (shift,) = shifts([4.0] * 12 + [3.0] * 6)
    assert (shift.index, shift.first, shift.last) == (12, 12, 12)
    assert (shift.change, shift.low, shift.high) == pytest.approx((-0.25, -0.25, -0.25))
    assert shifts([4.0] * 30) == []


def test_values_of_any_sign_shift_by_differences() -> None:
    (shift,) = shifts([-1.0, -1.1, -0.9] * 5 + [2.0, 2.1, 1.9] * 5, relative=False)
    assert shift.index == 15
    assert shift.change == pytest.approx(3.0)
    with pytest.raises(ValueError, match="positive"):
        shifts([1.0, 0.0])
    with pytest.raises(ValueError, match="finite"):
        shifts([1.0, float("nan")], relative=False)


@given(st.lists(st.floats(1e-6, 1e6), max_size=40))
@settings(max_examples=60)
def test_any_series_has_shifts_in_order_and_the_same_again(values: list[float]) -> None:
    found = shifts(values)
    assert found == shifts(values)
    edges = [0, *(s.index for s in found), len(values)]
    if found:
        assert min(b - a for a, b in pairwise(edges)) >= LEAST
    for shift in found:
        assert shift.first <= shift.index <= shift.last
        assert shift.low <= shift.change <= shift.high
        assert 0 < shift.p <= 0.01
