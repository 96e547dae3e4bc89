"""Figures as values: rounding, JSON and back, the order to follow, ratios as people write them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.fidelity import Error, Fidelity, Top1
from graphopt.files import dump_json
from graphopt.sensitivity import Item, LeftOut, Loss, Sensitivity, Subject, parse_ratios

SUBJECT = Subject(
    "m" * 64, "c" * 64, "d" * 64, 16, True, ("prune", "int8"), (0.1, 0.3), "obs", 1, "tensorrt",
    "entropy", 0, {"graphopt": "1", "onnxruntime": "2"},
)  # fmt: skip


def loss(db: float, **more: object) -> Loss:
    return replace(Loss(16, db, {"y": db}, 0.5), **more)


def prune(name: str, ratio: float, macs: int, db: float) -> Item:
    return Item("prune", name, ratio, "", 16, 8, macs, loss(db))


def int8(name: str, macs: int, db: float) -> Item:
    return Item("int8", name, None, "Conv", 0, 0, macs, loss(db))


def test_a_loss_is_what_a_comparison_found() -> None:
    error = Error(10, 0.123456789, 0.01, 20.123456789, 0.9)
    top = Top1("y", 16, 14, both=10, only_a=3, only_b=1, neither=2)
    found = Loss.of(Fidelity(16, {"y": error}, error, top))
    assert found == Loss(16, 20.1235, {"y": 20.1235}, 0.123457, 0, 14, 13, 11, 3, 1)
    assert found.drop_points == pytest.approx(12.5)
    assert found.noise == pytest.approx(10**-2.01235)


def test_without_labels_agreement_counts_and_without_classes_nothing() -> None:
    assert loss(20, agree=12).drop_points == 25
    assert loss(20).drop_points is None


def test_noise_is_nothing_where_all_is_identical_and_endless_where_a_value_broke() -> None:
    assert loss(math.inf).noise == 0
    assert loss(-math.inf).noise == math.inf
    assert loss(50, broken=1).noise == math.inf
    assert int8("a", 5, math.inf).macs_per_noise == math.inf


dbs = st.one_of(st.sampled_from([math.inf, -math.inf]), st.floats(-50, 150))
counts = st.one_of(st.none(), st.integers(0, 16))
loss_values = st.builds(Loss, st.integers(1, 99), dbs, st.dictionaries(st.text(), dbs, max_size=2),
                        st.floats(0, 1e6), st.integers(0, 3), counts, counts, counts, counts,
                        counts)  # fmt: skip
items = st.one_of(
    st.builds(lambda n, r, m, x: Item("prune", n, r, "", 16, 8, m, x),
              st.text(max_size=4), st.sampled_from([0.1, 0.3]), st.integers(-5, 99), loss_values),
    st.builds(lambda n, m, x: Item("int8", n, None, "Conv", 0, 0, m, x),
              st.text(max_size=4), st.integers(0, 99), loss_values),
)  # fmt: skip


@settings(max_examples=40)
@given(st.lists(items, max_size=5), st.booleans())
def test_json_and_back(found: list[Item], complete: bool) -> None:
    out = (LeftOut("prune", "g", "frozen: no reason", 0.1), LeftOut("int8", "n", "too thin"))
    value = Sensitivity(SUBJECT, 1000, tuple(found), out, complete)
    text = dump_json(value.to_json())
    again = Sensitivity.from_json(json.loads(text))
    assert again == value
    assert dump_json(again.to_json()) == text


def test_channels_are_ordered_by_noise_for_each_mac_and_layers_by_noise() -> None:
    value = Sensitivity(
        SUBJECT,
        items=(
            prune("dear", 0.1, 10, 20),
            prune("dear", 0.3, 20, 10),
            prune("cheap", 0.1, 10, 60),
            prune("cheap", 0.3, 1000, 59),
            prune("free", 0.1, 0, math.inf),
            int8("small", 1, 30),
            int8("large", 1000, 20),
            int8("broken", 1000, -math.inf),
            int8("fine", 0, 40),
        ),
    )
    assert [(i.name, i.ratio) for i in value.order("prune")] == [
        ("free", 0.1), ("cheap", 0.1), ("cheap", 0.3), ("dear", 0.1), ("dear", 0.3),
    ]  # fmt: skip
    assert [i.name for i in value.order("int8")] == ["fine", "small", "large", "broken"]


def test_a_smaller_ratio_of_a_group_comes_before_a_larger_one_that_looks_better() -> None:
    value = Sensitivity(SUBJECT, items=(prune("a", 0.1, 10, 20), prune("a", 0.3, 10, 50)))
    assert [i.ratio for i in value.order("prune")] == [0.1, 0.3]


def test_without_macs_noise_alone_decides() -> None:
    value = Sensitivity(SUBJECT, items=(prune("a", 0.1, 0, 20), prune("b", 0.1, 0, 50)))
    assert [i.name for i in value.order("prune")] == ["b", "a"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "x"}, "another model"),
        ({"calibration": "x"}, "other --data"),
        ({"measured": "x"}, "other samples"),
        ({"ratios": (0.2,)}, "ratios 0.2 in place of 0.1,0.3"),
        ({"kinds": ("int8",)}, "kinds int8 in place of prune,int8"),
        ({"versions": {"onnxruntime": "3"}}, "versions onnxruntime 3"),
        ({}, ""),
    ],
)
def test_two_subjects_are_told_apart_in_words(change: dict, told: str) -> None:
    words = SUBJECT.differs(replace(SUBJECT, **change))
    assert words.startswith(told)
    assert bool(words) == bool(change)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"kind": "graphopt-calibration-table", "schema": 1},
        {"kind": "graphopt-sensitivity", "schema": 99},
        {"kind": "graphopt-sensitivity", "schema": 1},
        {"kind": "graphopt-sensitivity", "schema": 1, "subject": {}, "items": 3},
    ],
)
def test_what_holds_no_figures_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"^here "):
        Sensitivity.from_json(value, where="here")


def test_ratios() -> None:
    assert parse_ratios("0.5, 0.1,.3") == (0.1, 0.3, 0.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is no number between 0 and 1"),
        ("0.1,", "'' is no number"),
        ("0.1;0.3", "'0.1;0.3' is no number"),
        ("30", "'30' is no number"),
        ("0", "'0' is no number"),
        ("1", "'1' is no number"),
        ("-0.1", "'-0.1' is no number"),
        ("nan", "'nan' is no number"),
        ("1e-400", "'1e-400' is no number"),
        ("0.1_5", "'0.1_5' is no number"),
        ("0.3,0.30", "0.30 is there twice"),
    ],
)
def test_other_ratios_are_refused_in_one_line(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ratios(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
