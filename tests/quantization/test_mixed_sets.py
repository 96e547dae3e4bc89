"""The search itself, on evaluations that are made up."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.quantization.search_sets import Candidate, Search, Spent, predicted_length

noises = st.lists(st.integers(0, 60), min_size=2, max_size=7)


def layers(values: list[int], macs: list[int] | None = None) -> list[Candidate]:
    macs = macs or [0] * len(values)
    return [
        Candidate(f"n{i}", float(v), m) for i, (v, m) in enumerate(zip(values, macs, strict=True))
    ]


def left(order: list[Candidate], names: frozenset[str]) -> float:
    return sum(c.noise for c in order if c.name not in names)


@given(noises, st.integers(0, 200), st.booleans())
def test_additive_noise_gives_the_fewest(values: list[int], limit: int, additive: bool) -> None:
    order = layers(values)
    start = predicted_length(order, sum(values), limit)
    search = Search(order, lambda names: left(order, names) <= limit, start, additive)
    found, minimal = search.run()
    sizes = [
        size
        for size in range(len(values))  # all in float is none
        if any(left(order, frozenset(s)) <= limit
               for s in combinations([c.name for c in order], size))
    ]  # fmt: skip
    if not sizes:
        assert found is None
        assert not minimal
    else:
        assert found is not None
        assert len(found) == sizes[0]
        assert minimal
        assert left(order, found) <= limit


@given(
    st.lists(st.integers(0, 50), min_size=2, max_size=6),
    st.randoms(use_true_random=False),
    st.booleans(),
)
@settings(max_examples=200)
def test_any_monotone_evaluation_gives_a_minimal_set(values, random, additive) -> None:
    """The noise beforehand may be quite wrong; what is returned passes, and is minimal."""
    order = layers(values)
    names = [c.name for c in order]
    needed = [frozenset(random.sample(names, random.randint(1, len(names)))) for _ in range(3)]
    passes = lambda chosen: any(need <= chosen for need in needed)  # noqa: E731
    search = Search(order, passes, 1, additive)
    found, minimal = search.run()
    if found is None:
        # Only with all but the least noisy one in float still failing, or none passing at all.
        assert not passes(search._prefix(len(names) - 1))
        return
    assert minimal
    assert passes(found)
    assert len(found) < len(names)
    assert not any(passes(found - {name}) for name in found)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_evaluations_that_are_not_monotone_are_not_trusted(values, random) -> None:
    order = layers(values)
    verdicts: dict[frozenset[str], bool] = {}

    def passes(names: frozenset[str]) -> bool:
        assert names not in verdicts, "evaluated twice"
        verdicts[names] = random.random() < 0.4
        return verdicts[names]

    found, minimal = Search(order, passes).run()
    if found is not None:
        assert verdicts[found]
        assert minimal
        assert not any(verdicts[found - {name}] for name in found)


def test_few_evaluations_find_one_bad_layer_of_many() -> None:
    order = layers([1] * 100 + [10_000] + [1] * 100)
    asked = []

    def passes(names: frozenset[str]) -> bool:
        asked.append(names)
        return "n100" in names

    assert Search(order, passes).run() == (frozenset({"n100"}), True)
    assert len(asked) == 3


def test_many_bad_layers_take_a_logarithm() -> None:
    order = layers([*range(200)])
    asked = []

    def passes(names: frozenset[str]) -> bool:
        asked.append(names)
        if len(asked) > 20:
            raise Spent
        return {f"n{i}" for i in range(150, 200)} <= names

    found, minimal = Search(order, passes).run()
    assert found == frozenset(f"n{i}" for i in range(150, 200))
    assert not minimal  # that takes one evaluation for each of the 50


def test_when_evaluations_run_out_the_best_so_far_is_kept() -> None:
    order = layers([5, 4, 3, 2, 1])

    def until(most: int):
        asked: list[frozenset[str]] = []

        def passes(names: frozenset[str]) -> bool:
            if len(asked) == most:
                raise Spent
            asked.append(names)
            return len(names) >= 3

        return Search(order, passes).run()

    assert until(4) == (None, False)
    assert until(5) == (frozenset({"n0", "n1", "n2", "n3"}), False)
    assert until(6) == (frozenset({"n0", "n1", "n2"}), False)
    assert until(20) == (frozenset({"n0", "n1", "n2"}), True)


def test_of_equals_the_one_with_fewer_macs_stays_in_float() -> None:
    order = layers([7, 7, 7, 1], [900, 100, 500, 1])
    found, _ = Search(order, lambda names: left(order, names) <= 15).run()
    assert found == {"n1"}


def test_a_layer_is_exchanged_for_one_with_half_the_macs() -> None:
    order = layers([9, 8, 7, 1], [1000, 501, 400, 1])
    search = Search(order, lambda names: left(order, names) <= 18)
    assert search.run() == (frozenset({"n2"}), True)
    assert frozenset({"n1"}) not in search.known  # would save less than half


@pytest.mark.parametrize("count", [0, 1])
def test_a_model_with_nothing_left_in_int8_is_no_answer(count: int) -> None:
    order = layers([5] * count)
    assert Search(order, lambda names: len(names) == 1).run() == (None, False)
    assert Search(order, lambda _: True).run() == (frozenset(), True)


def test_prediction() -> None:
    order = layers([60, 30, 9, 1])
    assert predicted_length(order, 100.0, 45.0) == 1
    assert predicted_length(order, 100.0, 39.0) == 2
    assert predicted_length(order, 200.0, 39.0) == 2  # noise that is twice what adds up
    assert predicted_length(order, 200.0, 1.0) == 4
    assert predicted_length(layers([0, 0]), 1.0, 0.1) == 1
    assert predicted_length([Candidate("a", float("inf"))], 1.0, 0.1) == 1
