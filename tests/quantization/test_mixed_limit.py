"""Limits, and what is said of how sure a drop is."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.fidelity import Error, Fidelity, Top1
from graphopt.quantization.search_limit import Limit, Verdict, exact_mcnemar


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial(lost: int, gained: int) -> None:
    n = lost + gained
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(min(lost, gained) + 1))
    expected = 1.0 if lost == gained else float(min(Fraction(1), 2 * tail))
    assert exact_mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)
    assert exact_mcnemar(gained, lost) == exact_mcnemar(lost, gained)


def test_mcnemar_of_many() -> None:
    assert exact_mcnemar(5_200, 4_800) == pytest.approx(6.5e-5, rel=0.05)


def test_the_standard_error_is_that_of_the_mean_difference() -> None:
    verdict = Verdict(200, 20.0, True, 9, 5)
    differences = [1] * 9 + [-1] * 5 + [0] * 186
    mean = sum(differences) / 200
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / 200 / 200)
    assert verdict.drop == pytest.approx(100 * mean)
    assert verdict.standard_error == pytest.approx(100 * spread)


def fidelity(top1: Top1 | None, sqnr: float = 20.0, mismatched: int = 0) -> Fidelity:
    return Fidelity(50, {}, Error(50, 1.0, 0.1, sqnr, 1.0, mismatched=mismatched), top1)


def test_a_verdict_says_what_the_gate_says() -> None:
    for top1 in (Top1("y", 50, 48, 40, 3, 1, 6), Top1("y", 50, 48), None):
        found = fidelity(top1)
        assert Verdict.of(found).drop == found.drop_points()
    assert Verdict.of(fidelity(None, mismatched=1)).sqnr_db == -math.inf
    assert "p 0.62" in str(Verdict.of(fidelity(Top1("y", 50, 48, 40, 3, 1, 6))))
    assert Verdict.of(fidelity(Top1("y", 50, 48))).p_value is None


def test_a_drop_of_exactly_the_limit_passes() -> None:
    verdict = Verdict(1000, 20.0, True, 7, 4)
    assert Limit(0.3).met(verdict)
    assert not Limit(0.29).met(verdict)
    assert Limit(0.3, 20.0).met(verdict)
    assert not Limit(0.3, 20.1).met(verdict)
    assert Limit(min_sqnr=20.0).met(Verdict(5, 20.0))
    assert not Limit(-0.1).met(Verdict(1000, 20.0, True, 4, 4))


def test_without_class_scores_a_drop_cannot_be_limited() -> None:
    with pytest.raises(UsageError, match="--min-sqnr"):
        Limit(0.5).met(Verdict(10, 20.0))


@pytest.mark.parametrize("wrong", [(None, None), (math.nan, None), (0.5, math.inf)])
def test_a_limit_is_a_number(wrong: tuple[float | None, float | None]) -> None:
    with pytest.raises(UsageError, match="finite number"):
        Limit(*wrong)


def test_the_better_ranks_higher() -> None:
    limit = Limit(0.5, 20.0)
    worst_to_best = [
        Verdict(1000, 25.0, True, 20, 0),
        Verdict(1000, 15.0, True, 10, 0),
        Verdict(1000, 19.0, True, 4, 0),
        Verdict(1000, 21.0, True, 4, 0),
        Verdict(1000, 21.0, True, 1, 0),
    ]
    ranks = [limit.rank(verdict) for verdict in worst_to_best]
    assert ranks == sorted(ranks)
