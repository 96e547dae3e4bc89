"""What stays of every tensor: the masks fit the pruned model's shapes and weights."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.channels import analyze, apply_plan, masked, read_survivors, survivors
from graphopt.errors import UsageError
from graphopt.graph import constant

GRAPHS = {
    "residual": """g (float[N,3,8,6] x, float[8,3,1,1] w1, float[8] b1, float[8,8,1,1] w2,
        float[5,8,1,1] w9) => (float[N,5,8,6] y) {
        a = Conv(x, w1, b1)  r = Relu(a)  c = Conv(r, w2)  s = Add(c, a)  y = Conv(s, w9) }""",
    "flatten": """g (float[N,3,8,6] x, float[4,3,1,1] w1, float[192,5] w2) => (float[N,5] y) {
        a = Conv(x, w1)  f = Flatten(a)  y = MatMul(f, w2) }""",
    "concat and split": """g (float[N,3,8,6] x, float[4,3,1,1] w1, float[6,3,1,1] w2,
        float[5,5,1,1] w8, float[5,5,1,1] w9) => (float[N,5,8,6] y) {
        a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, b)
        s = Constant<value_ints=[5,5]>()  l, h = Split<axis=1>(c, s)
        p = Conv(l, w8)  q = Conv(h, w9)  y = Add(p, q) }""",
    "shuffled": """g (float[N,3,8,6] x, float[12,3,1,1] w1, float[5,12,1,1] w9)
        => (float[N,5,8,6] y) { a = Conv(x, w1)  s = Constant<value_ints=[0,3,4,8,6]>()
        r = Reshape(a, s)  t = Transpose<perm=[0,2,1,3,4]>(r)  z = Constant<value_ints=[0,12,8,6]>()
        m = Reshape(t, z)  y = Conv(m, w9) }""",
}


def shape_of(masks, old):
    return [n if m is None else int(m.sum()) for m, n in zip(masks, old, strict=True)]


@pytest.mark.parametrize("name", GRAPHS)
def test_masks_are_what_the_pruned_model_keeps(tools, name):
    model = tools.graph(GRAPHS[name])
    analysis = analyze(model)
    for seed in range(4):
        plan = tools.random_plan(analysis, seed, 0.5)
        assert plan.removed
        kept, reads = survivors(analysis, plan), read_survivors(analysis, plan)
        pruned = tools.prune(model, plan)
        before, after = model.graph.tensors(), pruned.graph.tensors()
        variables = {n for n, t in before.items() if constant(t) is None}
        assert set(kept) == variables
        assert variables <= set(after)
        for tensor, masks in kept.items():
            assert list(after[tensor].shape) == shape_of(masks, before[tensor].shape)
        assert any(m is not None for masks in kept.values() for m in masks)
        nodes = {node.name: node for node in pruned.graph.nodes}
        old = {node.name: node for node in model.graph.nodes}
        for (node, index), masks in reads.items():
            values = constant(old[node].inputs[index])
            for axis, mask in enumerate(masks):
                values = values if mask is None else np.compress(mask, values, axis=axis)
            np.testing.assert_array_equal(values, constant(nodes[node].inputs[index]))


def test_values_of_the_student_are_the_survivors_of_the_masked_teacher(tools):
    model = tools.graph(GRAPHS["residual"])
    analysis = analyze(model)
    plan = tools.random_plan(analysis, 1, 0.5)
    teacher, student = masked(model, plan), tools.prune(model, plan)
    for one in (teacher, student):
        one.graph.outputs = [one.graph.tensors()["s"]]
    given = tools.feeds(model)
    (whole,), (part,) = tools.run(teacher, given), tools.run(student, given)
    (_, mask, *_) = survivors(analysis, plan)["s"]
    np.testing.assert_allclose(np.compress(mask, whole, axis=1), part, rtol=1e-5, atol=1e-5)


def test_one_constant_read_in_two_ways_has_two_answers(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[4,3,1,1] w1, float[4,3,1,1] w2, float[4] b,
        float[5,4,1,1] w8, float[5,4,1,1] w9) => (float[N,5,8,6] y) {
        a = Conv(x, w1, b)  c = Conv(x, w2, b)  p = Conv(a, w8)  q = Conv(c, w9)  y = Add(p, q) }"""
    )
    analysis = analyze(model)
    plan = tools.random_plan(analysis, 3, 0.5)
    reads = read_survivors(analysis, plan)
    one, two = reads["Conv_a", 2][0], reads["Conv_c", 2][0]
    assert one.sum() == two.sum() == 2
    assert (one == reads["Conv_p", 1][1]).all()
    assert (two == reads["Conv_q", 1][1]).all()
    assert not (one == two).all()


def test_nothing_removed_leaves_no_mask(tools):
    model = tools.graph(GRAPHS["flatten"])
    analysis = analyze(model)
    plan = tools.random_plan(analysis, 0, 0.0)
    masks = [*survivors(analysis, plan).values(), *read_survivors(analysis, plan).values()]
    assert all(m is None for axes in masks for m in axes)


def test_still_answered_after_the_plan_was_carried_out_in_place(tools):
    model = tools.graph(GRAPHS["residual"])
    analysis = analyze(model)
    plan = tools.random_plan(analysis, 2, 0.5)
    before = survivors(analysis, plan), read_survivors(analysis, plan)
    apply_plan(model, plan, analysis)
    after = survivors(analysis, plan), read_survivors(analysis, plan)
    for one, two in zip(before, after, strict=True):
        assert set(one) == set(two)
        for key in one:
            for a, b in zip(one[key], two[key], strict=True):
                assert (a is None and b is None) or (a == b).all()


def test_a_plan_of_another_model_is_refused(tools):
    analysis = analyze(tools.graph(GRAPHS["residual"]))
    other = analyze(tools.graph(GRAPHS["shuffled"]))
    plan = tools.random_plan(other, 0, 0.5)
    with pytest.raises(UsageError, match="another model"):
        survivors(analysis, plan)
