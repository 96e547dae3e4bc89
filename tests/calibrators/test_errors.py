"""Expected errors against values that are put through int8, and the thresholds they lead to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibrators.auto import COHERENCE, Auto
from graphopt.calibrators.errors import Moments, expected_sqnr, least_error
from graphopt.calibrators.histogram import Histogram
from graphopt.calibrators.minmax import MinMax
from graphopt.calibrators.mse import MeanSquaredError


def through_int8(values: np.ndarray, amax: float) -> np.ndarray:
    return np.clip(np.rint(values / amax * 127), -127, 127) * (amax / 127)


def draw(kind: str, seed: int, size: int = 40_000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = {
        "laplace": rng.laplace(size=size),
        "normal": rng.normal(size=size),
        "relu": np.maximum(rng.normal(-0.5, 1, size), 0),
        "lognormal": rng.lognormal(0, 1, size),
        "uniform": rng.uniform(-3, 3, size),
    }
    return made[kind].astype(np.float32)


@settings(max_examples=25)
@given(
    st.sampled_from(["laplace", "normal", "relu", "lognormal", "uniform"]),
    st.integers(0, 99),
    st.floats(0.1, 1.0),
)
def test_rounding_and_clipping_are_those_of_int8(kind: str, seed: int, share: float) -> None:
    values = draw(kind, seed)
    histogram = Histogram.of(values)
    amax = share * histogram.largest
    errors = Moments(histogram).errors(np.array([amax / histogram.width]))
    error = np.square(values.astype(np.float64) - through_int8(values, amax))
    beyond = np.abs(values) > amax
    unit = histogram.width**2
    assert errors.rounding[0] * unit == pytest.approx(error[~beyond].sum(), rel=0.02)
    scale = np.square(values.astype(np.float64)).sum()
    assert errors.clipping[0] * unit == pytest.approx(
        error[beyond].sum(), rel=0.02, abs=1e-6 * scale
    )
    sqnr = 10 * np.log10(scale / error.sum())
    assert expected_sqnr(histogram, amax) == pytest.approx(sqnr, abs=0.1)


@settings(max_examples=10)
@given(st.sampled_from(["laplace", "normal", "relu", "lognormal"]), st.integers(0, 99))
def test_mse_finds_the_least_error_there_is(kind: str, seed: int) -> None:
    values = draw(kind, seed)
    amax = MeanSquaredError()(Histogram.of(values))

    def error(at: float) -> float:
        return float(np.square(values - through_int8(values, at)).sum())

    tried = [error(f * float(np.abs(values).max())) for f in np.linspace(0.05, 1, 191)]
    assert error(amax) <= 1.02 * min(tried)


def test_few_levels_are_summed_one_by_one() -> None:
    """All values on int8's own levels: no error at the full range, and mse sees that."""
    values = np.repeat(np.arange(-127, 128, dtype=np.float32) / 32, 50)
    histogram = Histogram.of(values)
    assert expected_sqnr(histogram, histogram.largest) > 55  # step**2 / 12 would say 47
    assert MeanSquaredError()(histogram) == pytest.approx(127 / 32, rel=2e-3)


def test_an_outlier_is_clipped_when_it_is_rare() -> None:
    body = np.random.default_rng(0).normal(size=500_000).astype(np.float32)
    histogram = Histogram.of(body, np.array([30.0], np.float32))
    assert MeanSquaredError()(histogram) < 20
    assert least_error(histogram, 100.0) > 25


def test_what_a_clipped_value_counts_widens_the_range() -> None:
    histogram = Histogram.of(draw("laplace", 3))
    gains = (0.0, 0.5, 1.0, 2.0, 4.0, 9.0)
    found = [Auto().for_reader(gain)(histogram) for gain in gains]
    assert found == sorted(found)
    assert found[0] < found[2] < found[-1]
    assert found[2] == MeanSquaredError()(histogram) == Auto()(histogram)
    assert found[-1] <= MinMax()(histogram)


def test_auto_has_the_least_error_behind_a_kernel_that_blurs() -> None:
    """Large activations come in patches, and a 3x3 mean is behind: auto beats mse at its output."""
    rng = np.random.default_rng(5)
    maps = np.abs(rng.laplace(size=(200, 24, 24)))
    for one in maps:
        for y, x in rng.integers(0, 22, (3, 2)):
            one[y : y + 3, x : x + 3] += rng.exponential(2.0)
    maps = maps.astype(np.float32)
    histogram = Histogram.of(maps)

    def error(amax: float) -> float:
        off = through_int8(maps, amax).astype(np.float64) - maps
        views = np.lib.stride_tricks.sliding_window_view(off, (3, 3), axis=(1, 2))
        return float(np.square(views.mean(axis=(3, 4))).sum())

    auto, mse = Auto(9.0)(histogram), MeanSquaredError()(histogram)
    assert mse < auto < histogram.largest
    assert error(auto) < 0.95 * error(mse)
    assert error(auto) < error(histogram.largest)
    assert 0 < COHERENCE <= 1


def test_a_dead_tensor_has_no_sqnr() -> None:
    assert expected_sqnr(Histogram.of(np.zeros(9, np.float32)), 1.0) is None
    assert expected_sqnr(Histogram.of(np.ones(9, np.float32)), 0.0) is None


def test_a_range_wider_than_the_histogram_clips_nothing() -> None:
    values = draw("normal", 3)
    histogram = Histogram.of(values)
    for amax in (1.5 * histogram.largest, 40 * histogram.largest):
        error = np.square(values.astype(np.float64) - through_int8(values, amax)).sum()
        sqnr = 10 * np.log10(np.square(values.astype(np.float64)).sum() / error)
        assert expected_sqnr(histogram, amax) == pytest.approx(sqnr, abs=0.1)
    sqnr = expected_sqnr(histogram, 3e38)
    assert sqnr is not None
    assert sqnr == pytest.approx(0, abs=1e-6)
