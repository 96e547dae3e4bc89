"""The algebra of dimensions, against brute force over positions."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graphopt.channels.dims import Dim, Space
from graphopt.channels.reshape import blocks

HISTORY = ("repeat", "tile", "concat", "grid", "take")
FACTORS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def alive(space: Space, dim: Dim, dead: frozenset[int]) -> np.ndarray:
    mask = space.kept(dim, dead)
    return np.ones(dim.size, dtype=bool) if mask is None else mask


def deaths(space: Space, dims: list[Dim], draw) -> frozenset[int]:
    roots = sorted({r for d in dims for p in space.positions(d) for r in p})
    return frozenset(draw(st.lists(st.sampled_from(roots), max_size=4)) if roots else ())


@st.composite
def dims_made(draw):
    """A dimension with a history: plain, repeated, concatenated, split and merged again."""
    space = Space()
    dim = space.fresh(draw(st.integers(2, 12)))
    for step in draw(st.lists(st.sampled_from(HISTORY), max_size=3)):
        n = dim.size
        if step == "repeat" and n <= 12:
            dim = space.repeat(dim, draw(st.integers(1, 3)))
        elif step == "tile" and n <= 12:
            dim = Dim(n * 2, dim.slots)
        elif step == "concat" and n <= 12:
            dim = space.concat([dim, space.fresh(draw(st.integers(1, 6)))], "test")
        elif step == "grid":
            b = draw(st.sampled_from([b for b in range(1, n + 1) if n % b == 0]))
            rows, columns = space.split(dim, [n // b, b], "test")
            dim = space.merge([columns, rows], "test")
        elif step == "take":
            dim = space.take(dim, draw(st.permutations(range(n))), "test")
    return space, dim


@given(data=st.data())
def test_kept_is_what_positions_say(data):
    space, dim = data.draw(dims_made())
    dead = deaths(space, [dim], data.draw)
    expected = [dead.isdisjoint(p) for p in space.positions(dim)]
    assert alive(space, dim, dead).tolist() == expected


@given(data=st.data())
def test_a_split_dimension_dies_as_a_grid(data):
    space, dim = data.draw(dims_made())
    sizes, n = [], dim.size
    while n > 1 and data.draw(st.booleans()):
        f = data.draw(st.sampled_from([f for f in range(1, n + 1) if n % f == 0]))
        sizes.append(f)
        n //= f
    sizes.append(n)
    parts = space.split(dim, sizes, "test")
    assert [p.size for p in parts] == sizes
    again = space.merge(parts, "test")
    free = lambda roots: {r for r in roots if not space.atoms.reasons(r)}  # noqa: E731
    for one, two in zip(space.positions(dim), space.positions(again), strict=True):
        assert free(one) == free(two)
    dead = frozenset(r for r in deaths(space, parts, data.draw) if not space.atoms.reasons(r))
    grid = np.ones((1,), dtype=bool)
    for part in parts:
        grid = np.outer(grid, alive(space, part, dead)).reshape(-1)
    assert (grid == alive(space, dim, dead)).all()


@given(data=st.data())
def test_unified_dimensions_lose_the_same(data):
    space, dim = data.draw(dims_made())
    other = space.fresh(dim.size)
    sizes = data.draw(
        st.sampled_from([[a, dim.size // a] for a in range(1, dim.size + 1) if dim.size % a == 0])
    )
    if data.draw(st.booleans()):
        space.split(other, sizes, "test")
    space.unify(other, dim, "test")
    dead = frozenset(
        r for r in deaths(space, [dim, other], data.draw) if not space.atoms.reasons(r)
    )
    assert (alive(space, dim, dead) == alive(space, other, dead)).all()


@given(sizes=FACTORS, cuts=st.data())
def test_blocks_describe_the_reshape(sizes, cuts):
    """Within a known block, data stays in the block: checked on an array that holds its index."""
    other = cuts.draw(st.permutations(sizes))
    target, i = [], 0
    while i < len(other):
        take = cuts.draw(st.integers(1, len(other) - i))
        target.append(prod(other[i : i + take]))
        i += take
    hidden = [cuts.draw(st.booleans()) for _ in sizes]
    source = [None if h else n for n, h in zip(sizes, hidden, strict=True)]
    aimed = [None if cuts.draw(st.booleans()) else n for n in target]
    found = blocks(source, aimed)
    assert [b.source[0] for b in found] == [0, *[b.source[1] for b in found[:-1]]]
    assert [b.target[0] for b in found] == [0, *[b.target[1] for b in found[:-1]]]
    assert found[-1].source[1] == len(sizes)
    assert found[-1].target[1] == len(target)
    if sum(n is None for n in source) > 1 or sum(n is None for n in aimed) > 1:
        return
    for block in found:
        if block.known:
            assert prod(sizes[slice(*block.source)]) == prod(target[slice(*block.target)])


def test_equal_names_match_and_unknowns_do_not():
    assert [b.known for b in blocks(["N", 6, None, None], ["N", 2, 3, None])] == [True, True, False]
    assert [b.known for b in blocks([None, None], [None, None])] == [False]
    assert [b.known for b in blocks([None, 4, 3], [None, 12])] == [True, True]
    assert [b.known for b in blocks([1, 1], [1])] == [True, True]


def test_incompatible_grids_freeze_instead_of_guessing():
    space = Space()
    dim = space.fresh(12)
    space.split(dim, [3, 4], "first")
    space.split(dim, [4, 3], "second")
    reasons = {why for p in space.positions(dim) for r in p for why in space.atoms.reasons(r)}
    assert any("second" in why for why in reasons)


def test_nested_grids_refine():
    space = Space()
    dim = space.fresh(12)
    space.split(dim, [3, 4], "first")
    a, b = space.split(dim, [6, 2], "second")
    assert (a.size, b.size) == (6, 2)
    assert all(len(p) == 3 for p in space.positions(dim))
    assert not any(space.atoms.reasons(r) for p in space.positions(dim) for r in p)
    assert len({r for p in product(*space.positions(dim)[:1]) for r in p}) == 3
