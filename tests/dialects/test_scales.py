from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.calibrators import TensorRange
from graphopt.dialects.scales import (
    Groups,
    affine,
    channel_scales,
    quantize_weight,
    require_ranges,
    scales_for_bias,
    symmetric_scale,
)
from graphopt.errors import UsageError

bounds = st.floats(-1e6, 1e6, allow_nan=False)


@given(bounds, bounds)
def test_affine_holds_zero_exactly_and_the_range_to_one_step(a, b):
    low, high = min(a, b), max(a, b)
    scale, zero_point = affine(low, high)
    assert scale > 0
    assert np.isfinite(scale)
    least, most = (0 - int(zero_point)) * float(scale), (255 - int(zero_point)) * float(scale)
    assert least <= 0 <= most
    assert least <= low + float(scale) * 0.51 + 1e-6 * abs(low)
    assert most >= high - float(scale) * 0.51 - 1e-6 * abs(high)
    if low >= 0:
        assert zero_point == 0
    if low >= 0 and high > 1e-9:
        assert scale * np.float32(255) <= np.float32(high)


@given(st.floats(0, 1e300))
def test_symmetric_scale_is_positive_and_finite(amax):
    scale = symmetric_scale(amax)
    assert 0 < scale < np.inf
    assert scale.dtype == np.float32
    if 1e-15 < amax < 1e18:
        assert scale == np.float32(amax / 127)


def test_the_scale_of_a_dead_tensor_is_that_of_plus_minus_one():
    assert symmetric_scale(0.0) == np.float32(1 / 127)
    assert affine(0.0, 0.0) == (np.float32(1 / 255), 0)


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_round_to_half_a_step(axis):
    weight = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    scales = channel_scales(weight, axis)
    assert scales.shape == (weight.shape[axis],)
    integers = quantize_weight(weight, scales, axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    error = np.abs(integers * scales.reshape(shape) - weight)
    assert (error <= scales.reshape(shape) * 0.5001).all()
    assert (np.abs(integers.astype(int)).max(axis=tuple({0, 1, 2} - {axis})) == 127).all()


def test_bias_scale_keeps_int32():
    scales = np.array([1e-3, 1e-15, 1e-3], np.float32)
    bias = np.array([1.0, 5.0, 0.0], np.float32)
    raised = scales_for_bias(scales, bias, np.float32(1e-2))
    assert raised[0] == scales[0]
    assert raised[2] == scales[2]
    assert abs(bias[1] / (raised[1] * 1e-2)) <= 2**30 * 1.001


def test_groups_are_transitive_and_keep_the_first_name():
    groups = Groups()
    groups.union("c", "a")
    groups.union("c", "b")
    groups.union("d", "c")
    assert {groups.find(name) for name in "abcd"} == {"d"}
    assert groups.find("e") == "e"
    assert groups.members(["a", "e", "b"]) == {"d": ["a", "b"], "e": ["e"]}


def test_a_missing_range_is_named_once():
    table = {"a": TensorRange(1.0, -1.0, 1.0)}
    require_ranges(table, ["a"])
    with pytest.raises(UsageError, match="tensor 'b' and 1 more: it belongs to another model"):
        require_ranges(table, ["a", "b", "c"])


@pytest.mark.parametrize("amax", [np.nan, np.inf, -1.0])
def test_no_scale_is_made_of_what_is_no_range(amax):
    with pytest.raises(ValueError, match="no scale"):
        symmetric_scale(amax)
    with pytest.raises(ValueError, match="range"):
        TensorRange(amax, -1.0, 1.0)


def test_channels_that_are_always_zero_get_a_scale_that_divides():
    weight = np.zeros((4, 3), np.float32)
    weight[2] = [1e-44, 0.0, 0.0]  # denormal: the scale of its own would be 0 in float32
    scales = channel_scales(weight, 0)
    assert (scales > 0).all()
    assert np.isfinite(scales).all()
    assert not quantize_weight(weight, scales, 0).any()
