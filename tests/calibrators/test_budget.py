"""The budget decides how much is done at once, never what is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import onnx
import pytest

from graphopt.calibrators import budget
from graphopt.calibrators.budget import Plan, collect_within, footprint, plan
from graphopt.calibrators.collect import collect
from graphopt.errors import UsageError
from graphopt.model import Feeds, Model

SAMPLE = {"x": (1, 3, 12, 10)}
Reader = Callable[[int], Iterator[Feeds]]


@pytest.fixture
def read(images: np.ndarray) -> Reader:
    def batches(size: int) -> Iterator[Feeds]:
        for start in range(0, len(images), size):
            yield {"x": images[start : start + size]}

    return batches


@pytest.fixture(autouse=True)
def _small_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets of kilobytes: of the activations alone."""
    monkeypatch.setattr(budget, "resident_bytes", lambda: 0)
    monkeypatch.setattr(budget, "_SLACK", 0)


def test_what_is_alive_and_what_leaves(small: Model, inner: list[str]) -> None:
    found = footprint(small, inner, SAMPLE)
    maps = 4 * 12 * 10 * 4
    assert found.outputs == {"r1": maps, "c2": maps, "r2": maps, "f": 16, "y": 16}
    # x is held by the caller; s, c2 and r1 are alive where they are added.
    assert found.alive == 3 * maps + 3 * 12 * 10 * 4
    assert found.fixed == small.weight_bytes()
    assert found.peak(["r1"], 2) - found.peak([], 2) == 4 * maps


def test_a_dead_branch_and_a_long_skip_are_alive_as_long_as_they_are_needed() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,8] y) '
        "{ a = Relu(x)  dead = Neg(a)  b = Relu(a)  c = Relu(b)  y = Add(a, c) }"
    )
    found = footprint(Model.from_onnx(proto), ["a"], {"x": (1, 8)})
    assert found.alive == (3 + 1) * 8 * 4  # a, c, y or a, b, c; and x


def test_a_batch_the_model_fixes_is_divided_by(small: Model, inner: list[str]) -> None:
    one, four = (footprint(small, inner, {"x": (n, 3, 12, 10)}) for n in (1, 4))
    assert (one.alive, one.outputs) == (four.alive, four.outputs)


def test_without_a_limit_one_pass(small: Model, inner: list[str]) -> None:
    assert plan(small, inner, SAMPLE) == Plan(budget.MAX_BATCH, (tuple(inner),))
    assert plan(small, inner, {"x": (1, 3, 1200, 1000)}).batch == 1
    assert plan(small, inner, SAMPLE, fixed_batch=5).batch == 5


def test_less_memory_first_takes_a_smaller_batch_then_passes(
    small: Model, inner: list[str]
) -> None:
    found = footprint(small, inner, SAMPLE)
    for batch in (7, 2, 1):
        how = plan(small, inner, SAMPLE, memory=found.peak(inner, batch))
        assert how == Plan(batch, (tuple(inner),))
    seen = []
    for names in (["c2", "r2", "f", "y"], ["c2"]):
        how = plan(small, inner, SAMPLE, memory=found.peak(names, 1))
        assert how.batch == 1
        assert [n for part in how.passes for n in part] == inner
        assert all(found.peak(part, 1) <= found.peak(names, 1) for part in how.passes)
        seen.append(len(how.passes))
    assert 1 < seen[0] < seen[1]


def test_too_little_memory_is_told(small: Model, inner: list[str]) -> None:
    told = r"about \d+ KB of memory for one sample and one tensor at a time, and the limit is {}:"
    for memory, said in ((1, "1 byte"), (999, "999 bytes"), (1000, "1 KB")):
        with pytest.raises(UsageError, match=told.format(said)):
            plan(small, inner, SAMPLE, memory=memory)
    with pytest.raises(UsageError, match="for one batch and one tensor"):
        plan(small, inner, SAMPLE, memory=1000, fixed_batch=4)


@pytest.mark.parametrize("counts", [True, False])
def test_passes_find_what_one_pass_finds(
    small: Model, inner: list[str], read: Reader, counts: bool
) -> None:
    whole = collect(small, read(1), inner, counts=counts)
    steps: list[int] = []
    parts = collect_within(
        small,
        read,
        Plan(1, (("x",), ("r1", "c2"), ("r2", "f", "y"))),
        counts=counts,
        progress=steps.append,
    )
    assert list(parts.histograms) == inner
    assert parts == whole
    assert steps == [1] * 7


def test_a_pass_that_was_ended_early_is_repeated_as_far_as_it_went(
    small: Model, inner: list[str], read: Reader
) -> None:
    def until(batches: Iterable[Feeds]) -> Iterable[Feeds]:
        return islice(batches, 2)

    how = Plan(2, (("x", "r1"), ("c2", "r2", "f", "y")))
    found = collect_within(small, read, how, until=until)
    assert found.samples == 4
    assert found == collect(small, islice(read(2), 2), inner)
