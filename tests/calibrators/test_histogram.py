"""Histograms: exact bins, and the same counts for any order, split and grouping."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphopt.calibrators.histogram import (
    BINS,
    MIN_EXPONENT,
    Accumulator,
    Histogram,
    Scratch,
    merge,
    stride_of,
    widen,
)
from graphopt.errors import DataError

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(np.float32, st.integers(0, 40), elements=finite)
FLT_MAX = float(np.finfo(np.float32).max)
DENORMAL = float(np.finfo(np.float32).smallest_subnormal)


def expected(values: np.ndarray) -> Histogram:
    """The definition, in exact arithmetic, one value at a time."""
    numbers = [float(v) for v in values.reshape(-1)]
    if not numbers:
        return Histogram(np.zeros(BINS, np.int64))
    largest = max(abs(v) for v in numbers)
    exponent = MIN_EXPONENT
    while largest >= 2.0**exponent if exponent < 1024 else False:
        exponent += 1
    counts = np.zeros(BINS, np.int64)
    for v in numbers:
        numerator, denominator = abs(v).as_integer_ratio()
        shift = 12 - exponent
        up, down = (1 << max(shift, 0)), (1 << max(-shift, 0))
        counts[numerator * up // (denominator * down)] += 1
    return Histogram(counts, exponent, min(numbers) + 0.0, max(numbers) + 0.0)


@given(arrays)
def test_counts_are_those_of_exact_arithmetic(values: np.ndarray) -> None:
    assert Histogram.of(values) == expected(values)


@pytest.mark.parametrize(
    "numbers",
    [
        [0.0, -0.0, 0.0],
        [1.0],
        [-1.0, 1.0],
        [2.0**-12, 1.0, math.nextafter(1.0, 0.0)],
        [FLT_MAX, -FLT_MAX, 1.0],
        [DENORMAL, -DENORMAL],
        [2.0**-126, 2.0**-100, 2.0**-101],
        [5.0] * 100,
    ],
)
def test_edges(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    assert Histogram.of(values) == expected(values)


def test_a_power_of_two_lies_in_the_lower_half_of_its_range() -> None:
    histogram = Histogram.of(np.array([4.0], np.float32))
    assert histogram.exponent == 3
    assert histogram.counts[BINS // 2] == 1


@given(st.lists(arrays, max_size=5), st.randoms(use_true_random=False))
def test_any_order_and_split_gives_the_same_histogram(parts, random) -> None:
    whole = np.concatenate([np.zeros(0, np.float32), *parts])
    shuffled = whole.copy()
    random.shuffle(shuffled)
    reference = Histogram.of(whole)
    assert Histogram.of(*parts) == reference
    assert Histogram.of(*reversed(parts)) == reference
    assert Histogram.of(shuffled) == reference
    assert merge(*[Histogram.of(part) for part in parts]) == reference


@given(arrays, arrays, arrays)
def test_merge_is_commutative_and_associative(a, b, c) -> None:
    x, y, z = Histogram.of(a), Histogram.of(b), Histogram.of(c)
    assert merge(x, y) == merge(y, x)
    assert merge(merge(x, y), z) == merge(x, merge(y, z))
    assert merge(x, merge()) == x


def test_long_arrays_are_split_without_a_trace() -> None:
    rng = np.random.default_rng(0)
    # Grows across chunks, and has long runs of zeros, as activations after a Relu do.
    values = np.maximum(rng.normal(size=200_001) * np.linspace(0.01, 40, 200_001), 0).astype("f4")
    reference = np.bincount(
        np.floor(values.astype(np.float64) * BINS / 256).astype(np.int64), minlength=BINS
    )
    histogram = Histogram.of(values)
    assert histogram.exponent == math.frexp(values.max())[1]
    assert 128 <= values.max() < 256
    assert np.array_equal(histogram.counts, reference)
    assert Histogram.of(values[::-1]) == histogram
    assert Histogram.of(values.reshape(3, -1).T) == histogram


@given(hnp.arrays(np.float32, 20, elements=st.floats(-100, 100, width=32)), st.integers(-60, 60))
def test_scaling_by_a_power_of_two_moves_the_range_alone(values, power) -> None:
    values[np.abs(values) < 2.0**-12] = 0.5  # above the least range whatever the power
    a = Histogram.of(values)
    b = Histogram.of(np.ldexp(values, power))
    assert np.array_equal(a.counts, b.counts)
    assert b.exponent == a.exponent + power
    assert b.largest == math.ldexp(a.largest, power)


@given(arrays.filter(len), st.integers(1, 50))
def test_zeros_change_the_first_bin_alone(values: np.ndarray, zeros: int) -> None:
    before = Histogram.of(values)
    after = merge(before, Histogram.of(np.zeros(zeros, np.float32)))
    assert after.counts[0] == before.counts[0] + zeros
    assert np.array_equal(after.counts[1:], before.counts[1:])
    assert after.exponent == before.exponent
    assert after.largest == before.largest


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_points_count_alike(dtype: type) -> None:
    values = np.random.default_rng(1).normal(size=70_000).astype(np.float16)
    assert Histogram.of(values.astype(dtype)) == Histogram.of(values.astype(np.float32))


def test_float64_beyond_float32() -> None:
    values = np.array([1e300, -1e-300, 0.0])
    assert Histogram.of(values) == expected(values)


def test_no_range_is_above_the_widest_double() -> None:
    histogram = Histogram.of(np.array([np.finfo(np.float64).max]))
    assert histogram.exponent == 1024
    assert math.isfinite(histogram.width)


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infin"), (-np.inf, "infin")])
@pytest.mark.parametrize("size", [3, 100_000])
def test_what_is_not_finite_is_refused_by_name(bad: float, word: str, size: int) -> None:
    values = np.ones(size, np.float32)
    values[size // 2] = bad
    with pytest.raises(DataError, match=f"tensor 'conv3'.*{word}"):
        Accumulator("conv3").add(values)


def test_integers_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="'ids' holds int64"):
        Accumulator("ids").add(np.arange(4))


def test_no_values_and_zeros_have_no_magnitude() -> None:
    nothing, zeros = Histogram.of(), Histogram.of(np.zeros((2, 3), np.float32))
    assert (nothing.count, nothing.largest, nothing.occupied()) == (0, 0.0, 0)
    assert (zeros.count, zeros.largest, zeros.occupied()) == (6, 0.0, 1)
    assert math.copysign(1.0, Histogram.of(np.array([-0.0], np.float32)).low) == 1.0


def test_a_histogram_is_a_value() -> None:
    accumulator = Accumulator()
    accumulator.add(np.ones(3, np.float32))
    early = accumulator.histogram()
    accumulator.add(np.full(3, 9.0, np.float32))
    assert early == Histogram.of(np.ones(3, np.float32))
    assert accumulator.histogram() != early
    with pytest.raises(ValueError, match="read-only"):
        early.counts[0] = 1
    with pytest.raises(TypeError):
        hash(early)
    assert early != "a histogram"


@pytest.mark.parametrize("counts", [np.zeros(7), np.full(BINS, -1)])
def test_counts_are_checked(counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match="counts must be"):
        Histogram(counts)


def test_widening_adds_neighbours() -> None:
    counts = np.arange(BINS)
    assert widen(counts, 1)[:3].tolist() == [1, 5, 9]
    assert widen(counts, 1)[BINS // 2 :].sum() == 0
    assert widen(widen(counts, 2), 3).tolist() == widen(counts, 5).tolist()
    for doublings in (12, 13, 500):
        assert widen(counts, doublings)[0] == counts.sum()


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 60)), elements=finite),
    st.integers(1, 40),
)
def test_a_sample_counts_fixed_positions_and_bounds_all(values: np.ndarray, positions: int) -> None:
    accumulator = Accumulator()
    accumulator.add(values, positions)
    found = accumulator.histogram()
    step = stride_of(values.shape[1], positions)
    picked = values[:, step // 2 :: step]
    assert found.count == picked.size >= min(positions, values.shape[1]) * len(values)
    assert (found.low, found.high) == (values.min(), values.max())
    assert found.exponent == Histogram.of(values).exponent
    shift = found.exponent - Histogram.of(picked).exponent
    assert np.array_equal(found.counts, widen(Histogram.of(picked).counts, shift))


@pytest.mark.parametrize("shape", [(3, 64, 56, 56), (40, 50_000), (2, 3, 224, 224)])
def test_large_samples_split_and_ordered_in_any_way(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[-1] *= 9  # the range grows on the way, and shrinks on the way back
    one, other = Accumulator(), Accumulator()
    one.add(values, 8192)
    for sample in values[::-1]:
        other.add(sample[None], 8192)
    assert one.histogram() == other.histogram()
    assert one.histogram().count < values.size / 2


@pytest.mark.parametrize("size", [1, 2, 7, 8192, 16384, 200_704, 802_816, 150_528, 99_991])
def test_a_stride_meets_every_row_and_column(size: int) -> None:
    step = stride_of(size, 8192)
    assert math.gcd(step, size) == 1
    assert step == 1 or size // step >= 8192


def test_a_floor_that_was_met_spares_a_look_and_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    parts = [np.maximum(rng.normal(size=50_000), bound).astype("f4") for bound in (0.5, 0, 0.2, 0)]
    known, plain = Accumulator(floor=0.0), Accumulator()
    for part in parts:
        known.add(part)
        plain.add(part)
        assert known.histogram() == plain.histogram()
    with pytest.raises(DataError, match="NaN"):
        known.add(np.array([1, np.nan], np.float32))


def test_extremes_alone() -> None:
    accumulator = Accumulator()
    accumulator.add(np.array([[-3.0, 1.0], [0.5, 2.0]], np.float32), 0)
    found = accumulator.histogram()
    assert (found.low, found.high, found.largest, found.count) == (-3.0, 2.0, 3.0, 0)
    with pytest.raises(DataError, match="infinite"):
        accumulator.add(np.array([[np.inf]], np.float32), 0)


def test_values_of_a_relu_in_every_lane() -> None:
    values = np.maximum(np.random.default_rng(0).normal(size=100_001), 0).astype(np.float32)
    accumulator = Accumulator()
    accumulator.add(values)
    accumulator.add(-values)  # and without lanes
    found = accumulator.histogram()
    assert found.count == 2 * values.size
    assert found.counts[0] >= 2 * np.count_nonzero(values == 0)
    assert np.array_equal(found.counts, expected(np.concatenate([values, -values])).counts)


def test_a_refused_array_leaves_no_counts_behind_in_shared_buffers() -> None:
    scratch = Scratch()
    bad = np.zeros(100_000, np.float32)
    bad[-1] = np.inf
    with pytest.raises(DataError):
        Accumulator("a", scratch).add(bad)
    other = Accumulator("b", scratch)
    other.add(np.ones(50_000, np.float32))
    assert other.histogram() == Histogram.of(np.ones(50_000, np.float32))
