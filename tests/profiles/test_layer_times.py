from __future__ import annotations

import json

import pytest

from graphopt.profiles.layer_times import LayerTimes, of_runs, shared


def test_medians_over_runs_and_their_shares():
    named = {"a": ("conv", "Conv"), "b": ("", "Relu")}
    layers = of_runs([{"a": 1.0, "b": 3.0}, {"a": 3.0}, {"a": 2.0, "b": 2.0}], named)
    assert [(e.name, e.op, e.median_ms, e.count) for e in layers] == [
        ("conv", "Conv", 2.0, 3),
        ("", "Relu", 2.0, 3),
    ]
    assert [e.share for e in layers] == [0.5, 0.5]
    assert of_runs([], named) == ()


def test_the_slowest_come_first_and_all_is_written():
    times = LayerTimes(
        shared([("a", "X", 1.0, 9), ("b", "", 3.0, 9), ("c", "X", 3.0, 9)]), "s", "n"
    )
    assert [e.name for e in times.slowest(2)] == ["b", "c"]
    assert times.total_ms == 7
    value = json.loads(json.dumps(times.to_json()))
    assert value["layers"][0] == {
        "name": "a",
        "op": "X",
        "median_ms": 1.0,
        "share": pytest.approx(1 / 7),
        "count": 9,
    }
    assert shared([("a", "", 0.0, 1)])[0].share == 0
