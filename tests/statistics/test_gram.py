"""Sums over rows, against the same in one double-precision product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_nets import values

from graphopt.statistics import Gram
from graphopt.statistics import gram as module
from graphopt.statistics.gram import MOST_ENTRIES, MOST_FEATURES, fits, widest


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(0, 300), st.data())
@settings(max_examples=40)
def test_sums(groups: int, features: int, outputs: int, rows: int, data: st.DataObject) -> None:
    x, y = values(groups, rows, features), values(groups, rows, outputs, seed=1)
    gram = Gram(groups, features, outputs)
    cut = data.draw(st.integers(0, rows))
    gram.add(x[:, :cut], y[:, :cut])
    gram.add(x[:, cut:], y[:, cut:])
    ones = np.concatenate([x, np.ones((groups, rows, 1))], axis=2).astype("f8")
    turned = ones.transpose(0, 2, 1)
    assert gram.rows == rows
    np.testing.assert_allclose(gram.xx, turned @ ones, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(gram.xy, turned @ y, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(gram.yy, np.square(y.astype("f8")).sum(axis=1), rtol=1e-6)
    weights = values(groups, features + 1, outputs, seed=2, dtype="f8")
    error = np.square(ones @ weights - y).sum(axis=1)
    np.testing.assert_allclose(gram.error(weights), error, rtol=1e-5, atol=1e-3)


def test_many_rows_lose_no_digits() -> None:
    # Single precision would be off in the fourth digit: it stops counting ones at 2^24.
    gram = Gram(1, 1)
    block = np.ones((1, 1 << 20, 1), "f4")
    for _ in range(18):
        gram.add(block)
    assert gram.xx[0, 0, 0] == 18 * (1 << 20)


def test_half_precision_rows_do_not_overflow() -> None:
    x = np.full((1, 1000, 2), 300, "f2")
    gram = Gram(1, 2, 1)
    gram.add(x, x[..., :1])
    assert gram.xx[0, 0, 1] == 90_000 * 1000
    assert gram.yy[0, 0] == 90_000 * 1000


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = values(2, 1000, 5), values(2, 1000, 3)
    whole = Gram(2, 5, 3)
    whole.add(x, y)
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 2 * 9 * 7)
    pieces = Gram(2, 5, 3)
    pieces.add(x, y)
    np.testing.assert_allclose(pieces.xx, whole.xx, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(pieces.xy, whole.xy, rtol=1e-6, atol=1e-4)


def test_merge() -> None:
    x, y = values(2, 100, 5), values(2, 100, 3)
    whole, a, b = Gram(2, 5, 3), Gram(2, 5, 3), Gram(2, 5, 3)
    whole.add(x, y)
    a.add(x[:, :30], y[:, :30])
    b.add(x[:, 30:], y[:, 30:])
    a.merge(b)
    assert a.rows == whole.rows
    for name in ("xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(a, name), getattr(whole, name), rtol=1e-5, atol=1e-4)


@given(st.integers(1, 4096), st.integers(1, 40_000))
def test_what_fits_is_within_the_bound(groups: int, features: int) -> None:
    if fits(groups, features):
        assert groups * (features + 1) ** 2 <= MOST_ENTRIES
        outputs = widest(groups, features)
        assert groups * (features + 1) * outputs <= MOST_ENTRIES
        assert outputs >= features
    else:
        assert features > MOST_FEATURES or groups * (features + 1) ** 2 > MOST_ENTRIES


def test_what_is_common_fits() -> None:
    assert fits(1, 512 * 9)
    assert fits(2048, 9)
    assert fits(32, 64 * 9)
    assert not fits(1, 2048 * 9)
    assert not fits(2, 512 * 9)
