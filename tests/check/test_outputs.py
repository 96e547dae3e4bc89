"""Answers compared: alike at all, near enough, right often enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphopt.check.outputs import Answers, answers, difference, output_gates
from graphopt.data import Dataset, synthetic
from graphopt.errors import UnsupportedModelError
from graphopt.recipe import Gate as Limits

INPUTS = {"x": (np.dtype("f4"), (None, 4))}


def data(count: int = 32) -> Dataset:
    return synthetic(INPUTS, count, seed=1)


def identity(feeds: Mapping[str, Any]) -> dict[str, Any]:
    return {"y": feeds["x"]}


def compared(base: Any, cand: Any, **options: Any) -> Answers:
    return answers(base, cand, data(), batch=8, **options)


def gates(found: Answers, **limits: Any) -> dict[str, str]:
    told: list[str] = []
    made = output_gates(found, Limits.model_validate(limits), told.append)
    return {gate.name: gate.status for gate in made}


def test_the_same_answers_pass() -> None:
    found = compared(identity, identity)
    assert gates(found) == {"outputs": "pass", "min-sqnr": "pass"}
    assert found.worst == ("y", np.inf)


def test_noise_is_held_to_a_floor() -> None:
    rng = np.random.default_rng(0)

    def noisy(sigma: float) -> Any:
        return lambda f: {"y": (f["x"] + sigma * rng.normal(size=f["x"].shape)).astype("f4")}

    assert gates(compared(identity, noisy(0.1)))["min-sqnr"] == "pass"  # 20 dB
    assert gates(compared(identity, noisy(0.6)))["min-sqnr"] == "fail"  # 4 dB
    assert gates(compared(identity, noisy(0.6)), min_sqnr=3)["min-sqnr"] == "pass"
    assert gates(compared(identity, noisy(0.1)), min_sqnr=30)["min-sqnr"] == "fail"


def test_the_worst_output_counts_not_the_loudest() -> None:
    def base(feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"loud": 1000 * feeds["x"], "quiet": feeds["x"]}

    def cand(feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"loud": 1000 * feeds["x"], "quiet": -feeds["x"]}

    found = compared(base, cand)
    assert found.fidelity is not None
    assert found.fidelity.sqnr_db > 40  # all outputs together hide it
    assert found.worst is not None
    assert found.worst[0] == "quiet"
    assert gates(found)["min-sqnr"] == "fail"


@pytest.mark.parametrize(
    ("cand", "word"),
    [
        (lambda f: {"z": f["x"]}, "'y' is in the baseline only"),
        (lambda f: {"y": f["x"], "z": f["x"]}, "'z' is in the candidate only"),
        (lambda f: {"y": f["x"].astype("f2")}, "float32 in the baseline and float16"),
        (lambda f: {"y": f["x"][:, :2]}, "8x4 in the baseline and 8x2 in the candidate"),
    ],
)
def test_other_names_types_and_shapes_fail_and_are_told(cand: Any, word: str) -> None:
    found = compared(identity, cand)
    (gate,) = output_gates(found, Limits(), lambda _: None)
    assert (gate.status, found.fidelity) == ("fail", None)
    assert word in gate.note


def test_types_do_not_count_where_values_come_as_text() -> None:
    found = compared(identity, lambda f: {"y": f["x"].astype("f8")}, types=False)
    assert gates(found)["outputs"] == "pass"


def test_nan_in_one_of_the_two_fails_and_in_both_does_not() -> None:
    def broken(feeds: Mapping[str, Any]) -> dict[str, Any]:
        y = feeds["x"].copy()
        y[0, 0] = np.nan
        return {"y": y}

    found = compared(identity, broken)
    assert gates(found)["outputs"] == "fail"
    assert gates(compared(broken, broken))["outputs"] == "pass"


def test_integers_must_mostly_be_the_same() -> None:
    def classes(shift: int) -> Any:
        def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
            found = feeds["x"].argmax(axis=1)
            return {"class": np.where(np.arange(len(found)) < shift, 9, found)}

        return run

    assert gates(compared(classes(0), classes(1))) == {"outputs": "pass"}  # 7 of 8
    assert gates(compared(classes(0), classes(4))) == {"outputs": "fail"}
    assert compared(classes(0), classes(4)).equal == {"class": 0.5}


def test_outputs_that_are_no_numbers_say_how_to_go_on() -> None:
    with pytest.raises(UnsupportedModelError, match="no array of numbers") as problem:
        compared(lambda _: {"y": ["a"]}, lambda _: {"y": ["a"]})
    assert "--no-outputs" in problem.value.hint


def test_labels_outweigh_the_floor_that_nobody_asked_for() -> None:
    (feeds,) = list(data().batches(32))
    labels = feeds["x"].argmax(axis=1)
    source = SimpleNamespace(labels=labels, read=data().source.read, classes=())
    right = replace(data(), source=source)

    def halved(feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"y": feeds["x"] * 0.01}

    def turned(feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"y": -feeds["x"]}

    kept = answers(identity, halved, right, batch=8)
    assert gates(kept, max_drop=1) == {"outputs": "pass", "max-drop": "pass"}
    assert gates(kept)["min-sqnr"] == "fail"
    assert gates(kept, max_drop=1, min_sqnr=10)["min-sqnr"] == "fail"
    assert gates(answers(identity, turned, right, batch=8), max_drop=1)["max-drop"] == "fail"


def test_difference_of_nothing() -> None:
    assert difference({}, {}, types=True) == ""
