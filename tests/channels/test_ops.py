"""One graph per operator: what can be pruned in it, and pruned equals masked.

Each case: text, the widths of its prunable groups (so that no proof holds because nothing was
removed), and whether small integers make it exact.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from op_cases import CASES, model_of
from op_cases_modern import MODERN

from graphopt.channels import analyze

ALL = {**CASES, **MODERN}

FROZEN = {
    "softmax": ("s = Softmax<axis=1>(a)", "Softmax"),
    "mean that is subtracted": ("m = ReduceMean<axes=[1]>(a) s = Sub(a, m)", "ReduceMean"),
    "random numbers": ("r = RandomNormalLike(a) z = Mul(r, k0) s = Add(a, z)", "no rule"),
    "layer norm": (
        "t = Transpose<perm=[0,2,3,1]>(a) l = LayerNormalization(t, g6) "
        "s = Transpose<perm=[0,3,1,2]>(l)",
        "LayerNormalization",
    ),
    "reduce max": ("m = ReduceMax<axes=[1]>(a) s = Sub(a, m)", "ReduceMax"),
    "argmax": ("m = ArgMax<axis=1>(a) f = Cast<to=1>(m) s = Add(a, f)", "ArgMax"),
    "topk": ("k = Constant<value_ints=[6]>() s, i = TopK<axis=1>(a, k)", "TopK"),
    "cumsum": ("k = Constant<value_int=1>() s = CumSum(a, k)", "CumSum"),
    "joined with the input": ("c = Conv(x, w3) d = Add(c, x) s = Mul(a, a)", "graph input 'x'"),
    "channel count used as a number": (
        "i = Shape(a) o = Constant<value_int=1>() c = Gather(i, o) f = Cast<to=1>(c) s = Div(a, f)",
        "reads its size",
    ),
    "max pool indices": (
        "m, i = MaxPool<kernel_shape=[1,1]>(a) f = Cast<to=1>(i) s = Add(m, f)",
        "indices count over all channels",
    ),
    "computed gather": (
        "z = ArgMax<axis=0, keepdims=0>(k6) u = Constant<value_ints=[6]>() r = Expand(z, u) "
        "s = Gather<axis=1>(a, r)",
        "computed indices",
    ),
    "as many pixels as channels": (
        "i = Shape(a) o = Constant<value_ints=[1]>() c = Gather<axis=0>(i, o) k = Mul(c, o) "
        "z = Constant<value_ints=[0,1]>() nc = Gather(i, z) t = Concat<axis=0>(nc, k, k) "
        "s = Resize(a, , , t)",
        "': reads its size",
    ),
    "frozen, then split": (
        "n = Softmax<axis=1>(a) e = Conv<group=2>(a, w63) s = Add(e, n)",
        "Softmax",
    ),
    "einsum of a diagonal": (
        "u = Transpose<perm=[0,1,3,2]>(a) q = MatMul(a, u) "
        't = Einsum<equation="nchh->nch">(q) k = Constant<value_ints=[3]>() '
        "v = Unsqueeze(t, k) s = Mul(a, v)",
        "a diagonal",
    ),
    "sequence of tensors": (
        "q = SequenceConstruct(a) o = Constant<value_int=0>() s = SequenceAt(q, o)",
        "no rule",
    ),
}


@pytest.mark.parametrize("name", ALL)
def test_pruned_equals_masked(tools, name):
    case = ALL[name]
    model = model_of(tools, case)
    analysis = tools.prove_many(model, 4)
    assert sorted(g.width for g in analysis.groups) == sorted(case.widths)


@pytest.mark.parametrize("name", [name for name, case in ALL.items() if case.exact])
def test_bit_for_bit_with_small_integers(tools, name):
    case = ALL[name]
    tools.prove_many(model_of(tools, case, integer=True), 3, integer=True)


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_with_a_reason(tools, name):
    nodes, word = FROZEN[name]
    model = tools.graph(
        f"""g (float[N,3,8,6] x, float[6,3,1,1] w1, float[3,3,1,1] w3, float[6] g6,
        float[7] k6, float k0, float[6,3,1,1] w63,
        float[4,6,1,1] w2, float[5,4,1,1] w9) => (float[N,5,p,q] y) {{
        a = Conv(x, w1)  {nodes}  b = Conv(s, w2)  h = Relu(b)  y = Conv(h, w9) }}"""
    )
    analysis = tools.prove_many(model, 3)
    assert 4 in [g.width for g in analysis.groups]  # What comes after is not affected.
    assert any(word in reason for f in analysis.frozen for reason in f.reasons), analysis.frozen


def test_channels_read_through_shape_are_not_frozen_by_batch_and_space(tools):
    case = CASES["view through shapes"]
    analysis = analyze(tools.graph(case.text, case.opset))
    assert [f.reasons for f in analysis.frozen] == [("graph output 'y'",)]


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("attention")])
def test_whole_heads_instead_of_columns(tools, name):
    model = model_of(tools, ALL[name])
    analysis = analyze(model)
    heads = replace(analysis, groups=analysis.alternatives)
    assert [g.kind for g in heads.groups] == ["heads"]
    for seed in range(3):
        plan = tools.random_plan(heads, seed, 0.5)
        assert plan.removed
        tools.prove(model, plan, seed=seed)
