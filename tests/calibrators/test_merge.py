"""Merged tables are those of one pass; what cannot be merged is told."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from calibration_tables import rows, seen_of, table_of
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibrators import CALIBRATORS
from graphopt.calibrators.choose import choose_again
from graphopt.calibrators.merge import merge_tables
from graphopt.errors import UsageError


@settings(max_examples=15)
@given(
    st.integers(0, 99),
    st.lists(st.integers(0, 12), min_size=1, max_size=3),
    st.sampled_from(CALIBRATORS.names()),
)
def test_any_split_of_the_samples_merges_to_the_table_of_all(
    seed: int, cuts: list[int], method: str
) -> None:
    data = rows(seed)
    whole = table_of(data, method)
    order = np.random.default_rng(seed).permutation(12)
    edges = [0, *sorted(cuts), 12]
    parts = [
        table_of({name: v[order[a:b]] for name, v in data.items()}, method)
        for a, b in pairwise(edges)
        if a < b
    ]
    assert len(seen_of(data["a"])) == 12
    merged = merge_tables([(f"part {i}", part) for i, part in enumerate(parts)])
    assert merged == whole
    assert merged.to_json() == whole.to_json()


A, B = table_of(rows(1)), table_of(rows(2))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (replace(B, model_digest="n"), r"A and B belong to different models \(m and n\)"),
        (replace(B, counts=None), "B has ranges only"),
        (replace(B, counts=replace(B.counts, seen=())), "B does not say which samples"),
        (replace(B, counts=replace(B.counts, preprocess="q")), "different preprocessing"),
        (replace(B, counts=replace(B.counts, positions=7)), r"\(all and 7\)"),
        (replace(B, method="mse"), r"different calibrators \(auto, mse\)"),
        (table_of({n: v for n, v in rows(2).items() if n != "a"}), "'a', which A has and B has n"),
        (table_of({**rows(2), "z": rows(2)["a"]}), "'z', which B has and A has not"),
        (A, "A and B share 12 samples"),
    ],
)
def test_what_cannot_be_merged(other, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        merge_tables([("A", A), ("B", other)])
    assert "\n" not in str(caught.value)


def test_a_calibrator_may_be_named_for_the_whole() -> None:
    merged = merge_tables([("A", A), ("B", replace(B, method="mse"))], "max")
    assert merged.method == "minmax"
    assert merged.ranges["blur"].amax == max(
        t.counts.histograms["blur"].largest for t in (A, B) if t.counts
    )


def test_nothing_to_merge() -> None:
    with pytest.raises(UsageError, match="nothing to merge"):
        merge_tables([])


def test_another_calibrator_chooses_from_the_same_counts() -> None:
    for name in CALIBRATORS.names():
        again = choose_again(A, name)
        assert again == table_of(rows(1), name)
        assert choose_again(again, "auto") == A
    with pytest.raises(UsageError, match=r"t\.json has no histograms.*'auto' chose: 'mse' needs"):
        choose_again(replace(A, counts=None), "mse", "t.json")
