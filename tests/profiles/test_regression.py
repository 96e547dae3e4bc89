from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.profiles._bootstrap import percentiles
from graphopt.profiles._student import t_cdf, t_quantile
from graphopt.profiles.regression import (
    Round,
    judge,
    judge_percentile,
    judge_stored,
)

FEW = settings(settings.get_profile("repeatable"), max_examples=25)


def rounds_of(logs, *, base=2.0, per=2):
    """Rounds of one run each side, with these log ratios, ``per`` to an opening."""
    return [Round((base,), (base * math.exp(log),), opening=k // per) for k, log in enumerate(logs)]


def noisy(change, spread, openings=12, seed=0, per=2):
    rng = np.random.default_rng(seed)
    offsets = np.repeat(spread * rng.standard_normal(openings), per)
    return rounds_of(math.log1p(change) + offsets, per=per)


def swapped(rounds):
    return [Round(r.cand_samples, r.base_samples, r.opening) for r in rounds]


# Tables of Student's t, Fisher & Yates.
@pytest.mark.parametrize(
    ("p", "dof", "t"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.3027),
        (0.975, 5, 2.5706),
        (0.995, 7, 3.4995),
        (0.995, 12, 3.0545),
        (0.9995, 30, 3.6460),
        (0.975, 999, 1.9623),
        (0.975, 5000, 1.95996),
        (0.5, 4, 0.0),
    ],
)
def test_quantiles_of_t_are_those_of_the_tables(p, dof, t):
    assert t_quantile(p, dof) == pytest.approx(t, rel=1e-4, abs=1e-9)


@FEW
@given(st.floats(-50, 50), st.integers(1, 60))
def test_t_is_symmetric_and_grows(t, dof):
    assert t_cdf(t, dof) + t_cdf(-t, dof) == pytest.approx(1)
    assert t_cdf(t, dof) <= t_cdf(t + 0.1, dof) + 1e-12


@pytest.mark.parametrize(("p", "dof"), [(0.4, 3), (1.0, 3), (0.9, 0)])
def test_there_is_no_such_quantile(p, dof):
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(p, dof)


@pytest.mark.parametrize(
    ("change", "status"),
    [(0.0, "pass"), (-0.2, "pass"), (0.05, "fail"), (0.1, "fail"), (9.0, "fail")],
)
def test_clear_cases_are_decided(change, status):
    found = judge(noisy(change, 0.003), 0.02)
    assert found.status == status
    assert found.low <= change <= found.high
    assert found.change == pytest.approx(change, abs=0.01)
    assert (found.rounds, found.openings) == (24, 12)


def test_the_limit_within_the_interval_is_inconclusive():
    found = judge(noisy(0.02, 0.02), 0.02)
    assert found.status == "inconclusive"
    assert found.low < 0.02 < found.high
    assert "the limit lies within" in found.why


def test_exactly_the_limit_passes_and_the_next_step_fails():
    assert judge(rounds_of([math.log(1.03)] * 20), 0.03).status == "pass"
    assert judge(rounds_of([math.log(1.031)] * 20), 0.03).status == "fail"


def test_rounds_of_one_opening_do_not_count_as_many():
    # The same 24 log ratios: from 12 openings, or from 5 with the offset of each repeated.
    many = judge(noisy(0.0, 0.01, openings=60, per=1), 0.02)
    few = judge(noisy(0.0, 0.01, openings=5, per=12), 0.02)
    assert few.rounds == many.rounds
    assert few.high - few.low > 2.5 * (many.high - many.low)


@pytest.mark.parametrize("openings", [1, 2, 4])
def test_too_few_openings_decide_nothing_however_clear(openings):
    found = judge(rounds_of([0.5] * openings, per=1), 0.02)
    assert found.status == "inconclusive"
    assert "at least 5 openings" in found.why
    assert math.isfinite(found.low) and math.isfinite(found.high)


def test_openings_with_unlike_numbers_of_rounds_weigh_the_same():
    logs = [0.0] * 6 + [0.1] * 30
    rounds = [Round((1.0,), (math.exp(v),), opening=k if k < 6 else 6) for k, v in enumerate(logs)]
    assert judge(rounds, 0.02).change == pytest.approx(0.0, abs=1e-12)


def test_wild_rounds_do_not_move_it():
    calm = noisy(0.0, 0.002)
    wild = [replace(r, cand_samples=(1e9,)) if r.opening == 3 else r for r in calm]
    found = judge(wild, 0.02)
    assert found.status == "pass"
    assert found.change == pytest.approx(0.0, abs=0.003)


def test_ratios_beyond_all_bounds_stay_finite():
    found = judge([Round((1e-300,), (1e300,), k) for k in range(8)], 0.02)
    assert found.status == "fail"
    assert math.isfinite(found.high)


def test_more_looks_and_more_confidence_ask_for_more():
    rounds = noisy(0.0, 0.01)
    widths = [
        v.high - v.low
        for v in (
            judge(rounds, 0.02, confidence=0.9),
            judge(rounds, 0.02),
            judge(rounds, 0.02, looks=6),
            judge(rounds, 0.02, looks=6, confidence=0.99),
        )
    ]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] / 1.5


@FEW
@given(st.lists(st.floats(-0.3, 0.3), min_size=10, max_size=40), st.integers(0, 9))
def test_swapping_the_two_mirrors_the_interval(logs, seed):
    rounds = rounds_of(logs)
    one, other = judge(rounds, 0.02, seed=seed), judge(swapped(rounds), 0.02, seed=seed)
    for a, b in ((one.change, other.change), (one.low, other.high), (one.high, other.low)):
        assert math.log1p(a) == pytest.approx(-math.log1p(b), abs=1e-9)


@FEW
@given(st.lists(st.floats(-0.3, 0.3), min_size=10, max_size=40), st.floats(1e-3, 1e3))
def test_the_unit_of_time_changes_nothing(logs, factor):
    rounds = rounds_of(logs)
    scaled = rounds_of(logs, base=2.0 * factor)
    one, other = judge(rounds, 0.05), judge(scaled, 0.05)
    assert one.low == pytest.approx(other.low, abs=1e-9)
    assert one.high == pytest.approx(other.high, abs=1e-9)


@FEW
@given(st.floats(-0.1, 0.2), st.lists(st.floats(0, 0.1), min_size=4, max_size=12))
def test_more_noise_about_the_same_middle_never_turns_fail_to_pass(change, half):
    # Symmetric noise, so that the middle stays.
    verdicts = []
    for factor in (1.0, 2.0, 5.0):
        logs = [math.log1p(change) + factor * s * h for h in half for s in (-1, 1)]
        verdicts.append(judge(rounds_of(logs, per=1), 0.02))
    for calm, loud in pairwise(verdicts):
        if loud.status != "inconclusive":
            assert loud.status == calm.status
        assert loud.high - loud.low >= calm.high - calm.low - 1e-12


@FEW
@given(st.lists(st.floats(-0.1, 0.1), min_size=10, max_size=30), st.floats(0, 0.1))
def test_a_slower_candidate_is_never_judged_better(logs, by):
    order = {"pass": 0, "inconclusive": 1, "fail": 2}
    one = judge(rounds_of(logs), 0.02)
    other = judge(rounds_of([v + by for v in logs]), 0.02)
    assert order[other.status] >= order[one.status]
    assert other.change >= one.change - 1e-12


@FEW
@given(st.integers(0, 1000))
def test_the_same_seed_gives_the_same_verdict(seed):
    rounds = noisy(0.01, 0.01, seed=seed)
    assert judge(rounds, 0.02, seed=seed) == judge(rounds, 0.02, seed=seed)
    assert judge_percentile(rounds, 0.1, seed=seed) == judge_percentile(rounds, 0.1, seed=seed)


@pytest.mark.parametrize(
    "samples", [(), (0.0,), (math.nan,), (math.inf, 1.0), (-1.0, 2.0), (0.0, 0.0, 5.0)]
)
def test_a_round_needs_times(samples):
    for pair in ((samples, (1.0,)), ((1.0,), samples)):
        with pytest.raises(ValueError, match=r"baseline|candidate"):
            Round(*pair)


@pytest.mark.parametrize(
    ("rounds", "wrong"),
    [
        ([], {}),
        ([Round((1.0,), (1.0,))], {"limit": math.nan}),
        ([Round((1.0,), (1.0,))], {"limit": -1.0}),
        ([Round((1.0,), (1.0,))], {"confidence": 1.0}),
        ([Round((1.0,), (1.0,))], {"looks": 0}),
    ],
)
def test_nonsense_is_refused(rounds, wrong):
    with pytest.raises(ValueError, match=r"nothing|limit|confidence"):
        judge(rounds, **{"limit": 0.02, **wrong})


def tails(slow, openings=12, runs=100, seed=0, share=0.03):
    """Rounds whose medians agree; a share of the candidate's runs is slower by a factor."""
    rng = np.random.default_rng(seed)

    def side(factor):
        times = 1.0 + 0.01 * rng.random(runs)
        times[rng.random(runs) < share] *= factor
        return tuple(times.tolist())

    return [Round(side(1.3), side(1.3 * slow), k) for k in range(openings)]


def test_a_longer_tail_is_seen_by_the_percentile_and_not_by_the_median():
    rounds = tails(1.5)
    assert judge(rounds, 0.02).status == "pass"
    found = judge_percentile(rounds, 0.1)
    assert found.status == "fail"
    assert found.change == pytest.approx(0.5, abs=0.03)
    assert "p99" in found.why
    assert judge_percentile(tails(1.0), 0.1).status == "pass"


def test_a_percentile_of_few_runs_is_inconclusive():
    found = judge_percentile(tails(2.0, runs=20), 0.1)
    assert found.status == "inconclusive"
    assert "p99 needs 500 runs of each, and there are 240" in found.why


def test_the_point_is_the_percentile_of_all_runs():
    rounds = tails(1.2, seed=3)
    base, cand = ([s for r in rounds for s in side(r)] for side in SIDES)
    for q in (50, 90, 99):
        ratio = [np.percentile(x, q, method="inverted_cdf") for x in (cand, base)]
        found = judge_percentile(rounds, 0.1, q=q)
        assert found.change == pytest.approx(ratio[0] / ratio[1] - 1)
        assert found.low <= found.change <= found.high


SIDES = (lambda r: r.base_samples, lambda r: r.cand_samples)


@FEW
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=6),
    st.floats(0.5, 99.5),
    st.randoms(use_true_random=False),
)
def test_percentiles_are_those_of_samples_repeated(parts, q, random):
    often = [random.randint(0, 3) for _ in parts]
    often[0] = max(often[0], 1)
    found = percentiles([np.array(p, float) for p in parts], q, np.array([often], float))
    pooled = [s for part, times in zip(parts, often, strict=True) for s in part * times]
    assert found[0] == np.percentile(pooled, q, method="inverted_cdf")


def test_no_percentile_is_refused():
    for q in (0.0, 100.0):
        with pytest.raises(ValueError, match="percentile"):
            judge_percentile(tails(1.0), 0.1, q=q)


def run(centre, seed, runs=200):
    return (centre * (1 + 0.01 * np.random.default_rng(seed).standard_normal(runs))).tolist()


def test_a_stored_run_is_judged_with_a_wider_interval():
    found = judge_stored([run(1.0, 1)], run(1.0, 2), 0.03)
    assert found.status == "pass"
    assert found.high - found.low == pytest.approx(0.04, abs=0.005)
    assert "runs of different times may differ by 2.0%" in found.why
    assert judge_stored([run(1.0, 1)], run(1.0, 2), 0.01).status == "inconclusive"
    assert judge_stored([run(1.0, 1)], run(1.1, 2), 0.03).status == "fail"
    assert judge_stored([run(1.0, 1)], run(1.04, 2), 0.03).status == "inconclusive"


def test_several_stored_runs_tell_how_far_runs_are_apart():
    near = [run(1.0 + 0.001 * k, k) for k in range(6)]
    far = [run(1.0 + 0.05 * k, k) for k in range(6)]
    one = judge_stored(near, run(1.0, 9), 0.03)
    other = judge_stored(far, run(1.1, 9), 0.03)
    assert one.status == "pass"
    assert one.high - one.low < 0.03
    assert other.status == "inconclusive"
    assert other.high - other.low > 0.2
    assert "6 stored runs" in one.why


def test_neighbouring_samples_that_are_alike_tell_less():
    rng = np.random.default_rng(0)
    slow = np.repeat(rng.standard_normal(20), 50)
    mixed = rng.permutation(slow)
    widths = [
        judge_stored([np.exp(0.05 * v).tolist()], [1.0] * 100, 0.03, offset=0.0)
        for v in (slow, mixed)
    ]
    assert widths[0].high - widths[0].low > 3 * (widths[1].high - widths[1].low)


@FEW
@given(st.integers(0, 99), st.floats(0.5, 2), st.floats(1e-3, 1e3))
def test_stored_runs_in_another_unit_are_the_same(seed, ratio, factor):
    base, cand = run(1.0, seed), run(ratio, seed + 1)
    one = judge_stored([base], cand, 0.03)
    other = judge_stored([[factor * s for s in base]], [factor * s for s in cand], 0.03)
    assume(one.status == other.status)
    assert one.low == pytest.approx(other.low, abs=1e-6)


@pytest.mark.parametrize(
    ("base", "cand", "wrong"),
    [
        ([], [1.0], {}),
        ([[]], [1.0], {}),
        ([[1.0]], [], {}),
        ([[0.0]], [1.0], {}),
        ([[1.0]], [math.nan], {}),
        ([[1.0]], [1.0], {"offset": -0.1}),
        ([[1.0]], [1.0], {"q": 100.0}),
    ],
)
def test_nonsense_is_refused_of_stored_runs_too(base, cand, wrong):
    with pytest.raises(ValueError, match=r"nothing|samples|percentile"):
        judge_stored(base, cand, 0.03, **wrong)


def test_verdicts_are_plain_values():
    found = judge(noisy(0.0, 0.003), 0.02).to_json()
    assert found["status"] == "pass"
    assert set(found) >= {"change", "low", "high", "confidence", "limit", "rounds", "openings"}
