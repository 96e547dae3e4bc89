"""The registry: lazy, with aliases and suggestions."""

from __future__ import annotations

import sys

import pytest

from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.registry import Registry, did_you_mean

TABLE = Registry(
    "fruit", {"apple": "decimal:Decimal", "pear": "fractions:Fraction"}, {"pomme": "apple"}
)


def test_loads_what_a_name_stands_for() -> None:
    from decimal import Decimal

    assert TABLE.load("apple") is Decimal


def test_aliases_resolve_to_the_registered_name() -> None:
    assert TABLE.canonical("pomme") == "apple"


def test_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"unknown fruit 'appel' \(did you mean 'apple'\?\); known: apple, pear"
    ):
        TABLE.load("appel")


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    table = Registry("fruit", {"fig": "wave:open"})
    sys.modules.pop("wave", None)
    assert table.names() == ["fig"]
    assert "wave" not in sys.modules


def test_names_from_entry_points_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value = "kiwi", "decimal:Decimal"

    monkeypatch.setattr(
        "graphopt.registry.entry_points",
        lambda group: [Point()] if group == "graphopt.fruits" else [],
    )
    assert TABLE.names() == ["apple", "pear", "kiwi"]
    assert TABLE.load("kiwi").__name__ == "Decimal"


@pytest.mark.parametrize("target", ["no_such_module:x", "decimal:no_such_name"])
def test_what_cannot_be_imported_is_told(target: str) -> None:
    with pytest.raises(EnvironmentProblem, match=f"fruit 'fig' .{target}. cannot be imported"):
        Registry("fruit", {"fig": target}).load("fig")


def test_no_suggestion_for_something_far_off() -> None:
    assert did_you_mean("zzz", ["apple"]) == ""
