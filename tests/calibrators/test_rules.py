"""The calibrators: entropy against the lecture's own loop, percentile, minmax."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.calibrators import CALIBRATORS
from graphopt.calibrators.auto import Auto
from graphopt.calibrators.entropy import (
    LEVELS,
    Entropy,
    candidates,
    divergences,
    squared_errors,
    thresholds,
)
from graphopt.calibrators.histogram import BINS, Histogram, merge
from graphopt.calibrators.minmax import MinMax
from graphopt.calibrators.mse import MeanSquaredError
from graphopt.calibrators.percentile import Percentile
from graphopt.errors import UsageError

RULES = [
    MinMax(),
    Percentile(),
    Percentile(50),
    Percentile(100),
    Entropy(),
    Entropy(1),
    Entropy(1, bounded=False),
    MeanSquaredError(),
    Auto(),
    Auto(0.0),
    Auto(6.5),
]
ids = [repr(rule) for rule in RULES]


def literal_divergence(counts: np.ndarray, size: int) -> float:
    """S7310, slides 31 to 38, word for word, a bin at a time."""
    bins = [float(c) for c in counts]
    bins[0] = bins[1]
    p = bins[:size]
    p[-1] += sum(bins[size:])
    level_of = [j * LEVELS // size for j in range(size)]
    mass, filled = [0.0] * LEVELS, [0] * LEVELS
    for j in range(size):
        if bins[j]:
            mass[level_of[j]] += bins[j]
            filled[level_of[j]] += 1
    q = [mass[level_of[j]] / filled[level_of[j]] if bins[j] else 0.0 for j in range(size)]
    p_sum, q_sum = sum(p), sum(q)
    cost = 0.0
    for a, b in zip(p, q, strict=True):
        if a and not (b and q_sum):
            return math.inf
        if a:
            cost += a / p_sum * math.log((a / p_sum) / (b / q_sum))
    return cost


def histogram_of(counts: np.ndarray, exponent: int = 3) -> Histogram:
    """Counts as if of values at the middle of their bins."""
    last = int(np.flatnonzero(counts)[-1])
    return Histogram(counts, exponent, 0.0, math.ldexp(last + 0.5, exponent - 12))


def random_counts(seed: int, occupied: int, kind: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = np.zeros(BINS, np.int64)
    x = np.arange(occupied) / occupied
    if kind == "sparse":
        counts[rng.integers(0, occupied, 60)] = 1
    elif kind == "laplace":
        counts[:occupied] = rng.poisson(1e5 * np.exp(-12 * x))
    elif kind == "relu":
        counts[:occupied] = rng.poisson(300 * np.exp(-((4 * x) ** 2)))
        counts[0] = 10**9
    else:
        counts[:occupied] = rng.integers(0, 50, occupied)
    counts[occupied - 1] += 1
    return counts


@pytest.mark.parametrize("kind", ["sparse", "laplace", "relu", "uniform"])
@pytest.mark.parametrize("occupied", [129, 300, 777])
def test_the_closed_form_is_the_literal_loop(kind: str, occupied: int) -> None:
    histogram = histogram_of(random_counts(occupied, occupied, kind))
    sizes = candidates(histogram)
    costs = divergences(histogram, sizes)
    literal = np.array([literal_divergence(histogram.counts, int(i)) for i in sizes])
    assert np.array_equal(np.isinf(costs), np.isinf(literal))
    assert np.isfinite(costs[-1])
    solid = np.isfinite(literal)
    assert np.abs(costs[solid] - literal[solid]).max() < 1e-9
    # The same choice: no other candidate is better by more than the rounding of the sums.
    best = sizes.size - 1 - int(np.argmin(costs[::-1]))
    assert literal[best] <= literal.min() + 1e-12


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2049, BINS))
def test_the_closed_form_at_full_width(seed: int, occupied: int) -> None:
    histogram = histogram_of(random_counts(seed, occupied, "laplace"))
    sizes = np.array([LEVELS, 1000, occupied // 2, occupied - 1, occupied])
    literal = [literal_divergence(histogram.counts, int(i)) for i in sizes]
    np.testing.assert_allclose(divergences(histogram, sizes), literal, rtol=0, atol=1e-9)


def test_the_threshold_is_the_middle_of_the_bin_after_the_best() -> None:
    histogram = histogram_of(random_counts(5, 3000, "laplace"))
    sizes = candidates(histogram, 4)
    costs = [literal_divergence(histogram.counts, int(i)) for i in sizes]
    best = int(sizes[len(costs) - 1 - int(np.argmin(costs[::-1]))])
    assert best < histogram.occupied()
    assert Entropy(4, bounded=False)(histogram) == (best + 0.5) * histogram.width


def test_entropy_clips_a_lone_outlier() -> None:
    body = np.random.default_rng(0).normal(size=500_000).astype(np.float32)
    histogram = Histogram.of(body, np.array([30.0], np.float32))
    assert np.abs(body).max() * 0.7 < Entropy()(histogram) < 8


def test_the_error_is_that_of_quantizing() -> None:
    """Against values put through int8, at a threshold that clips and one that does not."""
    values = np.random.default_rng(8).laplace(size=200_000).astype(np.float32)
    histogram = Histogram.of(values)
    sizes = np.array([500, 1200, histogram.occupied()])
    found = squared_errors(histogram, sizes) * histogram.width**2
    for error, amax in zip(found, thresholds(histogram, sizes) * histogram.width, strict=True):
        scale = amax / 127
        back = np.clip(np.rint(values / scale), -127, 127) * scale
        assert error == pytest.approx(float(np.square(values - back).sum()), rel=0.01)


def test_entropy_does_not_clip_away_the_signal() -> None:
    """Few values carry the energy, as in a detector's head: the lecture's rule drops them."""
    values = np.random.default_rng(9).lognormal(0, 1.5, 200_000).astype(np.float32)
    histogram = Histogram.of(values)
    lecture, ours = Entropy(bounded=False)(histogram), Entropy()(histogram)

    def error(amax: float) -> float:
        back = np.clip(np.rint(values / amax * 127), -127, 127) * (amax / 127)
        return float(np.square(values - back).sum())

    assert error(lecture) > 4 * error(histogram.largest)
    assert error(ours) < 1.1 * error(histogram.largest)


def test_entropy_keeps_what_is_even() -> None:
    """Every magnitude is as common as the next: clipping could only lose."""
    histogram = Histogram.of(np.linspace(-3, 3, 100_001, dtype=np.float32))
    assert Entropy()(histogram) > 2.95


def test_entropy_on_few_samples_keeps_the_range() -> None:
    """Logits of a handful of images: bins of one count each say nothing against the maximum."""
    logits = np.random.default_rng(2).normal(size=(16, 10)).astype(np.float32)
    histogram = Histogram.of(logits)
    assert Entropy(1)(histogram) > 0.9 * histogram.largest


def test_entropy_does_not_count_the_zeros_of_a_relu() -> None:
    values = np.abs(np.random.default_rng(4).normal(size=50_000)).astype(np.float32)
    some = Histogram.of(values)
    most = merge(some, Histogram.of(np.zeros(5_000_000, np.float32)))
    assert Entropy()(most) == Entropy()(some)


def test_entropy_does_not_depend_on_the_unit() -> None:
    values = np.random.default_rng(6).laplace(size=20_000).astype(np.float32)
    amax = Entropy()(Histogram.of(values))
    assert Entropy()(Histogram.of(values * np.float32(1024))) == amax * 1024


def test_percentile_interpolates_inside_a_bin() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[[10, 20, 4000]] = 50, 40, 10
    histogram = histogram_of(counts, exponent=12)  # bins are 1 wide
    assert Percentile(25)(histogram) == 10.5
    assert Percentile(50)(histogram) == 11.0
    assert Percentile(70)(histogram) == 20.5
    assert Percentile(95)(histogram) == histogram.largest == 4000.5  # half way up the last bin
    assert Percentile(100)(histogram) == histogram.largest


@settings(max_examples=40)
@given(hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-50, 50, width=32)))
def test_percentile_is_within_a_bin_of_the_exact_one(values: np.ndarray) -> None:
    histogram = Histogram.of(values)
    for q in (50.0, 90.0, 99.9):
        exact = np.quantile(np.abs(values), q / 100, method="inverted_cdf")
        assert abs(Percentile(q)(histogram) - exact) <= histogram.width


def test_minmax_is_exact() -> None:
    assert MinMax()(Histogram.of(np.array([0.1, -0.3], np.float32))) == float(np.float32(0.3))


@pytest.mark.parametrize("rule", RULES, ids=ids)
@settings(max_examples=60)
@given(
    values=hnp.arrays(
        np.float32,
        st.integers(1, 60),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_amax_is_positive_and_within_the_range(rule, values: np.ndarray) -> None:
    histogram = Histogram.of(values)
    amax = rule(histogram)
    assert 0 <= amax <= histogram.largest
    assert (amax > 0) == bool(values.any())
    assert rule(Histogram.of(values[::-1], np.zeros(0, np.float32))) == amax


@pytest.mark.parametrize("rule", RULES, ids=ids)
@settings(max_examples=40)
@given(
    values=hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-9, 9, width=32)),
    doublings=st.integers(-30, 30),
    cut=st.integers(0, 200),
    seed=st.integers(0, 99),
)
def test_amax_is_that_of_the_values_in_any_order_split_and_unit(
    rule, values: np.ndarray, doublings: int, cut: int, seed: int
) -> None:
    amax = rule(Histogram.of(values))
    mixed = np.random.default_rng(seed).permutation(values)
    assert rule(merge(Histogram.of(mixed[:cut]), Histogram.of(mixed[cut:]))) == amax
    # Beyond 2**-100 every value is as good as zero: only there does the unit matter.
    if not np.any((values != 0) & (np.abs(values) < 1e-20)):
        scaled = values * np.float32(2.0**doublings)
        assert rule(Histogram.of(scaled)) == math.ldexp(amax, doublings)


@pytest.mark.parametrize("rule", [r for r in RULES if not isinstance(r, Percentile)], ids=repr)
@settings(max_examples=40)
@given(
    values=hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-9, 9, width=32)),
    zeros=st.integers(1, 5000),
)
def test_a_black_first_image_changes_nothing(rule, values: np.ndarray, zeros: int) -> None:
    histogram = Histogram.of(values)
    black = Histogram.of(np.zeros(zeros, np.float32), values)
    assert rule(black) == rule(histogram)
    later = Histogram.of(values, np.zeros(zeros, np.float32))
    assert later == black


@pytest.mark.parametrize("rule", RULES, ids=ids)
def test_constants_and_nothing(rule) -> None:
    assert rule(Histogram.of()) == 0.0
    assert rule(Histogram.of(np.zeros(100, np.float32))) == 0.0
    seven = rule(Histogram.of(np.full(100, 7.0, np.float32)))
    # Half a step above a threshold that rounds to 127 as well as 7.0 itself does.
    assert 7.0 * (1 - 0.6 / 127) <= seven <= 7.0


@pytest.mark.parametrize("q", [0, -1, 100.1, math.nan])
def test_a_percentile_has_bounds(q: float) -> None:
    with pytest.raises(UsageError, match="percentile"):
        Percentile(q)


def test_a_stride_has_bounds() -> None:
    with pytest.raises(UsageError, match="stride"):
        Entropy(0)


def test_every_registered_calibrator_follows_the_protocol() -> None:
    histogram = Histogram.of(np.random.default_rng(0).normal(size=4000).astype(np.float32))
    for name in CALIBRATORS.names():
        rule = CALIBRATORS.load(name)()
        assert 0 < rule(histogram) <= histogram.largest
        assert rule == CALIBRATORS.load(name)()  # a value: its options and nothing else
    assert CALIBRATORS.canonical("max") == "minmax"
    assert CALIBRATORS.canonical("kl") == "entropy"


def test_a_name_may_carry_an_option() -> None:
    assert CALIBRATORS.load("percentile:99.9")() == Percentile(99.9)
    assert CALIBRATORS.load("percentile")() == Percentile(99.99)
    for spelled in ("percentile:99.90", "percentile:9.99e1", "percentile: 99.9"):
        assert CALIBRATORS.canonical(spelled) == "percentile:99.9"
    assert CALIBRATORS.canonical("percentile:100") == "percentile:100"
    assert CALIBRATORS.canonical("percentile") == "percentile"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("percentile:", "'' is no percentile"),
        ("percentile:most", "'most' is no percentile"),
        ("percentile:0", "not 0.0"),
        ("percentile:nan", "not nan"),
        ("percentile:101", "not 101.0"),
        ("entropy:4", "'entropy' takes no option"),
        ("percentil:99", "did you mean 'percentile'"),
        ("all", "unknown calibrator"),
    ],
)
def test_a_wrong_name_or_option_is_told_in_one_line(name: str, told: str) -> None:
    for ask in (CALIBRATORS.canonical, CALIBRATORS.load):
        with pytest.raises(UsageError, match=told) as caught:
            ask(name)
        assert "\n" not in str(caught.value)
