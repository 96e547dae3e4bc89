"""Limits and verdicts: pure, nothing is run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from fakes import rounds
from hypothesis import given
from hypothesis import strategies as st

from graphopt.check.gates import (
    MAX_REGRESSION,
    drop_gate,
    growth_gate,
    latency_gate,
    outputs_gate,
    sqnr_gate,
    time_gate,
    time_gates,
)
from graphopt.check.timing import decide, verdict_on
from graphopt.check.words import advice, reasons
from graphopt.percent import parse_percent, spell_percent
from graphopt.profiles.regression import Round
from graphopt.profiles.run import Gate
from graphopt.recipe import Gate as Limits


def limits(**given: object) -> Limits:
    return Limits.model_validate(given)


def test_the_median_is_always_judged_and_the_others_where_asked() -> None:
    (only,) = time_gates(limits())
    assert (only.name, only.asked) == ("max-regression", MAX_REGRESSION)
    asked = time_gates(limits(max_regression="3%", max_p99=10, max_throughput_drop="20%"))
    assert [(g.name, g.kind, g.asked) for g in asked] == [
        ("max-regression", "p50", 3.0),
        ("max-p99", "p99", 10.0),
        ("max-throughput-drop", "mean", 20.0),
    ]
    # A fifth less throughput is a quarter more time.
    assert asked[2].limit == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("ratio", "limit", "status"),
    [(1.0, "3%", "pass"), (1.05, "3%", "fail"), (1.03, "3%", "inconclusive"), (0.5, 0, "pass")],
)
def test_verdicts_on_rounds(ratio: float, limit: object, status: str) -> None:
    made = rounds(ratio, noise=0.02, runs=20)
    for gate in time_gates(limits(max_regression=limit)):
        found = time_gate(gate, verdict_on(gate, made, seed=0, looks=5))
        assert found.status == status
        assert found.value == pytest.approx(100 * (ratio - 1), abs=1.0)
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high
        assert bool(found.note) == (status != "pass")


def test_throughput_is_told_turned_round() -> None:
    (_, gate) = time_gates(limits(max_throughput_drop="10%"))
    slower = time_gate(gate, verdict_on(gate, rounds(1.25), seed=0, looks=5))
    assert slower.status == "fail"
    assert slower.value == pytest.approx(-20, abs=0.5)
    assert slower.low is not None
    assert slower.high is not None
    assert slower.low < slower.value < slower.high < -10
    assert time_gate(gate, verdict_on(gate, rounds(1.05), seed=0, looks=5)).status == "pass"


def test_throughput_counts_outliers_that_a_median_does_not() -> None:
    made = tuple(
        replace(r, cand_samples=(*r.cand_samples, 100.0)) for r in rounds(1.0, noise=0.001)
    )
    median, throughput = time_gates(limits(max_throughput_drop="10%"))
    assert verdict_on(median, made, seed=0, looks=5).status == "pass"
    assert verdict_on(throughput, made, seed=0, looks=5).status == "fail"


def test_a_tail_fails_on_its_own_gate_alone() -> None:
    made = tuple(
        replace(r, cand_samples=tuple(3.0 if i % 20 == 0 else s for i, s in enumerate(
            r.cand_samples)))
        for r in rounds(1.0, noise=0.001)
    )  # fmt: skip
    median, tail = time_gates(limits(max_p99="50%"))
    assert verdict_on(median, made, seed=0, looks=5).status == "pass"
    assert verdict_on(tail, made, seed=0, looks=5).status == "fail"
    assert decide((median, tail), made, seed=0, looks=5).status == "fail"


def test_rounds_are_added_until_every_gate_is_decided() -> None:
    median, tail = time_gates(limits(max_p99="10%"))
    few = rounds(1.0, openings=8, runs=5)  # p99 needs 500 runs
    assert verdict_on(median, few, seed=0, looks=5).status == "pass"
    assert decide((median, tail), few, seed=0, looks=5).status == "inconclusive"
    assert decide((median, tail), rounds(1.0), seed=0, looks=5).status == "pass"


def test_few_openings_never_decide() -> None:
    (gate,) = time_gates(limits())
    found = time_gate(gate, verdict_on(gate, rounds(3.0, openings=1), seed=0, looks=5))
    assert found.status == "inconclusive"
    assert found.value == pytest.approx(200, abs=5)


def test_the_same_rounds_and_seed_give_the_same_verdict() -> None:
    (gate,) = time_gates(limits())
    one, other = (verdict_on(gate, rounds(1.01), seed=7, looks=3) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(("limit", "status"), [(2.0, "pass"), (0.5, "fail"), (1.0, "inconclusive")])
def test_latency_by_itself(limit: float, status: str) -> None:
    medians = [1 + 0.01 * ((i * 7) % 11 - 5) for i in range(11)]
    found = latency_gate(limit, medians, confidence=0.95)
    assert found.status == status
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1 < found.high


def test_latency_by_itself_needs_openings() -> None:
    found = latency_gate(100.0, [1.0] * 5, confidence=0.95)
    assert (found.status, found.low) == ("inconclusive", None)
    assert latency_gate(100.0, [1.0] * 6, confidence=0.95).status == "pass"


@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=60))
def test_the_interval_of_a_median_holds_it(values: list[float]) -> None:
    found = latency_gate(1.0, values, confidence=0.95)
    assert found.low is not None
    assert found.high is not None
    assert found.value is not None
    assert min(values) <= found.low <= found.value <= found.high <= max(values)


@pytest.mark.parametrize(
    ("base", "cand", "value", "status"),
    [
        (100.0, 105.0, 5.0, "pass"),
        (100.0, 105.1, 5.1, "fail"),
        (100.0, 20.0, -80.0, "pass"),
        (0.0, 0.0, 0.0, "pass"),
        (0.0, 1.0, None, "fail"),
        (None, 1.0, None, "inconclusive"),
    ],
)
def test_growth(base: float | None, cand: float, value: float | None, status: str) -> None:
    found = growth_gate("max-size", "size", 5.0, base, cand).gate
    assert found.status == status
    assert found.value == (None if value is None else pytest.approx(value))


def test_answers() -> None:
    assert drop_gate(1.0, 1.0, labels=True).status == "pass"
    assert drop_gate(1.0, 1.01, labels=True).status == "fail"
    assert drop_gate(0.0, -3.0, labels=False).status == "pass"
    assert drop_gate(1.0, None, labels=False).status == "inconclusive"
    assert sqnr_gate(10.0, "y", 10.0).status == "pass"
    assert sqnr_gate(10.0, "y", 9.9).status == "fail"
    identical, zero = sqnr_gate(10.0, "y", math.inf), sqnr_gate(10.0, "y", -math.inf)
    assert (identical.status, identical.value, identical.note) == ("pass", None, "identical")
    assert (zero.status, zero.value) == ("fail", None)
    assert outputs_gate("", 0).status == "pass"
    assert "in one of the two only: 2 elements" in outputs_gate("", 2).note


def test_reasons_tell_figures_and_limits_and_advice_what_to_do() -> None:
    gates = [outputs_gate("other names", 0), sqnr_gate(10, "y", 1), sqnr_gate(10, "y", 20)]
    (asked,) = time_gates(limits(max_regression="3%"))
    gates.append(time_gate(asked, verdict_on(asked, rounds(1.1), seed=0, looks=5)))
    told = reasons(gates, "fail").split("; ")
    assert told[0] == "outputs: other names"
    assert told[1] == "min-sqnr: SQNR of 'y' 1.00 dB, limit at least 10 dB"
    assert told[2].startswith("max-regression: median latency +9.9")
    assert told[2].endswith(", limit 3 %")
    assert "graphopt profile --layers" in advice(gates, "fail")
    assert all("+9.9" not in gate.note for gate in gates), "figures are told once"
    assert reasons(gates, "inconclusive") == advice(gates, "inconclusive") == ""


def test_one_opening_has_no_interval() -> None:
    (asked,) = time_gates(limits())
    gate = time_gate(asked, verdict_on(asked, rounds(1.0, openings=1), seed=0, looks=6))
    assert (gate.status, gate.low, gate.high) == ("inconclusive", None, None)
    assert gate.note == "at least 5 openings are needed, and there are 1"


def test_a_latency_limit_adds_rounds_until_it_is_decided() -> None:
    asked = time_gates(limits())
    made = rounds(1.0, openings=12)
    for limit, status in ((2.0, "pass"), (0.5, "fail"), (1.0, "inconclusive")):
        assert decide(asked, made, seed=0, looks=6, max_latency=limit).status == status
    # Eight openings, the first look, can tell: even where the error is shared by six looks.
    assert decide(asked, made[:16], seed=0, looks=6, max_latency=2.0).status == "pass"


def test_what_was_not_compared_does_not_pass() -> None:
    gate = outputs_gate("", 0, ("y",))
    assert (gate.status, "--data" in gate.note) == ("inconclusive", True)
    assert outputs_gate("", 1, ("y",)).status == "fail"


def test_a_gate_is_plain_values() -> None:
    gate = time_gate(
        time_gates(limits())[0],
        verdict_on(time_gates(limits())[0], [Round((1.0,), (1.0,))], seed=0, looks=1),
    )
    assert isinstance(gate, Gate)
    assert all(v is None or math.isfinite(v) for v in (gate.low, gate.high))


@pytest.mark.parametrize(
    ("text", "value"),
    [("3%", 3), ("3", 3), (" 3.5 % ", 3.5), ("0.5%", 0.5), ("0", 0), (".5%", 0.5), (7, 7)],
)  # fmt: skip
def test_percentages(text: str | float, value: float) -> None:
    assert parse_percent(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "%",
        "three",
        "-1%",
        "3%%",
        "nan",
        "inf",
        "1e3",
        "0.03",
        0.03,
        True,
        "3 4",
        "99999%",
        "٣%",
    ],
)
def test_what_is_no_percentage_is_told_in_one_line(text: str | float) -> None:
    with pytest.raises(ValueError, match=r".") as problem:
        parse_percent(text)
    assert "\n" not in str(problem.value)


@given(st.floats(0, 9999))
def test_percentages_come_back(value: float) -> None:
    assert parse_percent(spell_percent(value)) == pytest.approx(value, abs=1e-10)
