"""Attention: whole heads, or the columns of all heads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphopt.channels import PrunePlan, analyze, apply_plan, read_survivors
from graphopt.channels.apply import analysis_for

# (T, heads, size of a head); x is [N, T, C].
SEPARATE = """g (float[N,5,6] x, float[6,32] wq, float[32] bq, float[6,32] wk, float[6,32] wv,
    float[32,6] wo) => (float[N,5,6] y) {
    s = Constant<value_ints=[0,5,4,8]>()  m = Constant<value_ints=[0,5,32]>()
    q0 = MatMul(x, wq)  q1 = Add(q0, bq)  q2 = Reshape(q1, s)  q = Transpose<perm=[0,2,1,3]>(q2)
    k1 = MatMul(x, wk)  k2 = Reshape(k1, s)  k = Transpose<perm=[0,2,3,1]>(k2)
    v1 = MatMul(x, wv)  v2 = Reshape(v1, s)  v = Transpose<perm=[0,2,1,3]>(v2)
    a0 = MatMul(q, k)  d = Constant<value_float=2.8>()  a1 = Div(a0, d)  a = Softmax<axis=-1>(a1)
    o1 = MatMul(a, v)  o2 = Transpose<perm=[0,2,1,3]>(o1)  o = Reshape(o2, m)
    y = MatMul(o, wo) }"""
# One weight for all three, cut after the split into heads (ViT) ...
FUSED = """g (float[N,5,6] x, float[6,96] w, float[96] b, float[32,6] wo) => (float[N,5,6] y) {
    s = Constant<value_ints=[0,5,3,4,8]>()  m = Constant<value_ints=[0,5,32]>()
    p0 = MatMul(x, w)  p1 = Add(p0, b)  p2 = Reshape(p1, s)  p = Transpose<perm=[2,0,3,1,4]>(p2)
    i0 = Constant<value_int=0>()  i1 = Constant<value_int=1>()  i2 = Constant<value_int=2>()
    q = Gather<axis=0>(p, i0)  k0 = Gather<axis=0>(p, i1)  v = Gather<axis=0>(p, i2)
    k = Transpose<perm=[0,1,3,2]>(k0)
    a0 = MatMul(q, k)  a = Softmax<axis=-1>(a0)
    o1 = MatMul(a, v)  o2 = Transpose<perm=[0,2,1,3]>(o1)  o = Reshape(o2, m)
    y = MatMul(o, wo) }"""
# ... or before (GPT-2).
SPLIT = """g (float[N,5,6] x, float[6,96] w, float[96] b, float[32,6] wo) => (float[N,5,6] y) {
    s = Constant<value_ints=[0,5,4,8]>()  m = Constant<value_ints=[0,5,32]>()
    p0 = MatMul(x, w)  p = Add(p0, b)  n = Constant<value_ints=[32,32,32]>()
    q1, k1, v1 = Split<axis=2>(p, n)
    q2 = Reshape(q1, s)  q = Transpose<perm=[0,2,1,3]>(q2)
    k2 = Reshape(k1, s)  k = Transpose<perm=[0,2,3,1]>(k2)
    v2 = Reshape(v1, s)  v = Transpose<perm=[0,2,1,3]>(v2)
    a0 = MatMul(q, k)  a = Softmax<axis=-1>(a0)
    o1 = MatMul(a, v)  o2 = Transpose<perm=[0,2,1,3]>(o1)  o = Reshape(o2, m)
    y = MatMul(o, wo) }"""
# 8 query heads of 4 read 4 heads of keys and values, repeated by Unsqueeze, Expand, Reshape.
GROUPED = """g (float[N,5,6] x, float[6,32] wq, float[6,16] wk, float[6,16] wv, float[32,6] wo)
    => (float[N,5,6] y) {
    sq = Constant<value_ints=[0,5,8,4]>()  sk = Constant<value_ints=[0,5,4,4]>()
    two = Constant<value_ints=[1,1,2,1,1]>()  back = Constant<value_ints=[-1,8,5,4]>()
    ax = Constant<value_ints=[2]>()  m = Constant<value_ints=[0,5,32]>()
    q1 = MatMul(x, wq)  q2 = Reshape(q1, sq)  q = Transpose<perm=[0,2,1,3]>(q2)
    k1 = MatMul(x, wk)  k2 = Reshape(k1, sk)  k3 = Transpose<perm=[0,2,1,3]>(k2)
    k4 = Unsqueeze(k3, ax)  k5 = Expand(k4, two)  k6 = Reshape(k5, back)
    k = Transpose<perm=[0,1,3,2]>(k6)
    v1 = MatMul(x, wv)  v2 = Reshape(v1, sk)  v3 = Transpose<perm=[0,2,1,3]>(v2)
    v4 = Unsqueeze(v3, ax)  v5 = Expand(v4, two)  v = Reshape(v5, back)
    a0 = MatMul(q, k)  a = Softmax<axis=-1>(a0)
    o1 = MatMul(a, v)  o2 = Transpose<perm=[0,2,1,3]>(o1)  o = Reshape(o2, m)
    y = MatMul(o, wo) }"""
# The same by a Gather, as repeat_interleave is exported.
GATHERED = """g (float[N,5,6] x, float[6,32] wq, float[6,16] wk, float[6,16] wv, float[32,6] wo)
    => (float[N,5,6] y) {
    sq = Constant<value_ints=[0,5,8,4]>()  sk = Constant<value_ints=[0,5,4,4]>()
    m = Constant<value_ints=[0,5,32]>()  i = Constant<value_ints=[0,0,1,1,2,2,3,3]>()
    q1 = MatMul(x, wq)  q2 = Reshape(q1, sq)  q = Transpose<perm=[0,2,1,3]>(q2)
    k1 = MatMul(x, wk)  k2 = Reshape(k1, sk)  k3 = Transpose<perm=[0,2,3,1]>(k2)
    k = Gather<axis=1>(k3, i)
    v1 = MatMul(x, wv)  v2 = Reshape(v1, sk)  v3 = Transpose<perm=[0,2,1,3]>(v2)
    v = Gather<axis=1>(v3, i)
    a0 = MatMul(q, k)  a = Softmax<axis=-1>(a0)
    o1 = MatMul(a, v)  o2 = Transpose<perm=[0,2,1,3]>(o1)  o = Reshape(o2, m)
    y = MatMul(o, wo) }"""
# Heads folded into the batch, as torch.nn.MultiheadAttention has it: x is [T, 2, C].
FOLDED = """g (float[5,2,6] x, float[6,32] wq, float[6,32] wk, float[6,32] wv, float[32,6] wo)
    => (float[5,2,6] y) {
    s = Constant<value_ints=[5,8,8]>()  m = Constant<value_ints=[5,2,32]>()
    q1 = MatMul(x, wq)  q2 = Reshape(q1, s)  q = Transpose<perm=[1,0,2]>(q2)
    k1 = MatMul(x, wk)  k2 = Reshape(k1, s)  k = Transpose<perm=[1,2,0]>(k2)
    v1 = MatMul(x, wv)  v2 = Reshape(v1, s)  v = Transpose<perm=[1,0,2]>(v2)
    a0 = MatMul(q, k)  a = Softmax<axis=-1>(a0)
    o1 = MatMul(a, v)  o2 = Transpose<perm=[1,0,2]>(o1)  o = Reshape(o2, m)
    y = MatMul(o, wo) }"""
EINSUM = """g (float[N,5,6] x, float[6,4,8] wq, float[6,4,8] wk, float[6,4,8] wv, float[4,8,6] wo)
    => (float[N,5,6] y) {
    q = Einsum<equation="ntc,chd->nthd">(x, wq)  k = Einsum<equation="ntc,chd->nthd">(x, wk)
    v = Einsum<equation="ntc,chd->nthd">(x, wv)
    a0 = Einsum<equation="nthd,nshd->nhts">(q, k)  a = Softmax<axis=-1>(a0)
    o = Einsum<equation="nhts,nshd->nthd">(a, v)  y = Einsum<equation="nthd,hdc->ntc">(o, wo) }"""
# name: (text, widths of the groups of columns, heads, indices of the first weight a head)
KINDS = {
    "separate": (SEPARATE, [8, 8], 4, 8),
    "fused": (FUSED, [8], 4, 24),
    "split": (SPLIT, [8, 8], 4, 24),
    "grouped": (GROUPED, [4, 4], 4, 8),
    "gathered": (GATHERED, [4, 4], 4, 8),
    "folded": (FOLDED, [8, 8], 4, 8),
    "einsum": (EINSUM, [8, 8], 4, 1),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("heads", [False, True])
def test_pruned_equals_masked(tools, name, heads):
    text, columns, count, unit = KINDS[name]
    model = tools.graph(text)
    analysis = analyze(model, heads=heads)
    sides = analysis.groups, analysis.alternatives
    by_columns, by_heads = sides[::-1] if heads else sides
    assert [(g.width, g.kind) for g in by_columns] == [(n, "channels") for n in columns]
    assert [(g.width, g.unit, g.kind) for g in by_heads] == [(count, unit, "heads")]
    assert by_heads[0].name == f"{by_columns[0].name}:heads"
    for seed in range(4):
        tools.prove(model, tools.random_plan(analysis, seed), seed=seed)
    model = tools.graph(text, integer=True)
    plan = tools.random_plan(analyze(model, heads=heads), 9, 0.5)
    assert plan.removed
    tools.prove(model, plan)


def test_a_plan_is_replayed_whatever_side_the_analysis_offers(tools):
    model = tools.graph(GROUPED)
    for heads in (False, True):
        offered = analyze(model, heads=heads)
        plan = PrunePlan.from_json(tools.random_plan(offered, 1, 0.5).to_json())
        results = []
        for other in (False, True):
            pruned = model.clone()
            apply_plan(pruned, plan, analyze(pruned, heads=other))
            results.append(pruned.digest())
            assert read_survivors(analyze(model, heads=other), plan)
        assert results[0] == results[1]
        assert analysis_for(model, plan).groups == offered.groups
        tools.prove(model, plan)


def test_columns_and_heads_may_go_together(tools):
    """Nobody plans it, since it is more than either ratio; a plan made by hand may."""
    model = tools.graph(SEPARATE)
    analysis = analyze(model)
    everything = replace(analysis, groups=(*analysis.groups, *analysis.alternatives))
    for seed in range(4):
        plan = tools.random_plan(everything, seed, 0.5)
        assert {item.name for item in plan.groups} == {g.name for g in everything.groups}
        assert tools.prove(model, plan, seed=seed).parameters() < model.parameters()


def test_a_head_of_keys_takes_its_query_heads_along(tools):
    model = tools.graph(GROUPED)
    (group,) = analyze(model, heads=True).groups
    first = {m.tensor: m.positions[0] for m in group.members}
    assert first == {
        "wq": tuple(range(8)),
        "wk": tuple(range(4)),
        "wv": tuple(range(4)),
        "wo": tuple(range(8)),
    }


# Queries normalized over the head: only whole heads can go from queries and keys ...
NORMED = SEPARATE.replace("q2 = Reshape(q1, s)", "q3 = Reshape(q1, s)  q2 = Norm").replace(
    "Norm", "LayerNormalization<axis=-1>(q3, g)"
)
NORMED = NORMED.replace("float[6,32] wk", "float[8] g, float[6,32] wk")


def test_where_columns_are_not_safe_heads_are_offered(tools):
    model = tools.graph(NORMED)
    for heads in (False, True):
        analysis = analyze(model, heads=heads)
        assert [(g.width, g.kind) for g in analysis.groups] == [(4, "heads")]
        # ... and the columns of the values are the other side.
        assert [(g.width, g.kind) for g in analysis.alternatives] == [(8, "channels")]
        for seed in range(4):
            tools.prove(model, tools.random_plan(analysis, seed), seed=seed)


def test_a_gate_of_one_number_a_head_goes_with_it(tools):
    text = SEPARATE.replace("float[32,6] wo)", "float[6,4] wg, float[32,6] wo)").replace(
        "o1 = MatMul(a, v)",
        """g1 = MatMul(x, wg)  g2 = Transpose<perm=[0,2,1]>(g1)  ax = Constant<value_ints=[3]>()
        g3 = Unsqueeze(g2, ax)  o0 = MatMul(a, v)  o1 = Mul(o0, g3)""",
    )
    model = tools.graph(text)
    assert [g.kind for g in analyze(model).groups] == ["channels", "channels"]
    (group,) = analyze(model, heads=True).groups
    assert {m.tensor: m.positions[3] for m in group.members}["wg"] == (3,)
    for heads in (False, True):
        analysis = analyze(model, heads=heads)
        for seed in range(4):
            tools.prove(model, tools.random_plan(analysis, seed), seed=seed)


def test_a_size_of_head_that_scales_the_scores_keeps_it(tools):
    """1 / sqrt(d) worked out from the shape would change: columns of q and k must stay."""
    text = SEPARATE.replace(
        "d = Constant<value_float=2.8>()",
        """h = Shape<start=3>(q)  e = Cast<to=1>(h)  d = Sqrt(e)""",
    )
    model = tools.graph(text)
    (group,) = analyze(model).groups
    assert (group.width, group.kind) == (4, "heads")
    tools.prove(model, tools.random_plan(analyze(model), 0, 0.5))


def test_plain_channels_in_a_batched_product_are_no_heads(tools):
    """A Gram matrix a channel (a style, a covariance): channels are batched over, and are plain."""
    model = tools.graph(
        """g (float[N,3,8,6] x, float[8,3,1,1] w1, float[5,8,1,1] w9) => (float[N,5,8,8] y) {
        a = Conv(x, w1)  b = Transpose<perm=[0,1,3,2]>(a)  c = MatMul(a, b)  y = Conv(c, w9) }"""
    )
    analysis = analyze(model, heads=True)
    assert [(g.name, g.width, g.kind) for g in analysis.groups] == [("Conv_a", 8, "channels")]
    tools.prove(model, tools.random_plan(analysis, 0, 0.5))


def test_grouped_convolutions_are_not_attention(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[32,3,1,1] w1, float[32,4,1,1] w2, float[5,32,1,1] w9)
        => (float[N,5,8,6] y) { a = Conv(x, w1)  h = Conv<group=8>(a, w2)  y = Conv(h, w9) }"""
    )
    assert analyze(model, heads=True).groups == analyze(model).groups
    assert analyze(model, heads=True).alternatives == ()
