"""What analyze says: names, widths, units, members, reasons."""

from __future__ import annotations

from graphopt.channels import analyze
from graphopt.channels.reasons import because, condense
from graphopt.channels.rules import TABLE, Rules


def test_members_have_roles_and_positions(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[4,3,1,1] w1, float[4] b, float[4,1,1] s, float[192,5] w2)
        => (float[N,5] y) {
        a = Conv(x, w1, b)  m = Mul(a, s)  f = Flatten(m)  y = MatMul(f, w2) }"""
    )
    (group,) = analyze(model).groups
    assert (group.name, group.width, group.unit) == ("Conv_a", 4, 1)
    members = {m.tensor: m for m in group.members}
    assert {t: (m.axis, m.role) for t, m in members.items()} == {
        "w1": (0, "producer"),
        "b": (0, "parameter"),
        "s": (0, "parameter"),
        "w2": (0, "consumer"),
    }
    assert members["w1"].positions == ((0,), (1,), (2,), (3,))
    assert members["w2"].positions[1] == tuple(range(48, 96))
    assert set(group.tensors) >= {"a", "m", "f", "w1", "w2"}


def test_units_count_tied_filters(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[24,3,1,1] w1, float[5,6,1,1] w9) => (float[N,5,p,q] y) {
        a = Conv(x, w1)  h = DepthToSpace<blocksize=2>(a)  y = Conv(h, w9) }"""
    )
    (group,) = analyze(model).groups
    assert (group.width, group.unit) == (6, 4)
    assert group.members[0].positions[0] == (0, 6, 12, 18)


def test_names_come_from_module_paths_or_nodes(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[4,3,1,1] w1, float[6,4,1,1] w2, float[6,6,1,1] w3,
        float[5,6,1,1] w9) => (float[N,5,8,6] y) {
        a = Conv(x, w1)  b = Conv(a, w2)  c = Conv(b, w3)  y = Conv(c, w9) }"""
    )
    tensors, nodes = model.graph.tensors(), model.graph.nodes
    tensors["w1"].name = "features.0.conv.weight"
    tensors["w2"].name = "onnx::Conv_12"
    nodes[1].name = "/layer/Conv"
    nodes[2].name = ""
    assert [g.name for g in analyze(model).groups] == ["features.0.conv", "/layer/Conv", "w3"]


def test_parts_of_one_layer_are_groups_with_numbered_names(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[10,3,1,1] w1, float[5,6,1,1] w9, float[5,4,1,1] w8)
        => (float[N,5,8,6] y) {
        a = Conv(x, w1)  s = Constant<value_ints=[4,6]>()  l, h = Split<axis=1>(a, s)
        p = Conv(h, w9)  q = Conv(l, w8)  y = Add(p, q) }"""
    )
    groups = analyze(model).groups
    assert [(g.name, g.width) for g in groups] == [("Conv_a", 4), ("Conv_a#2", 6)]
    assert groups[1].members[0].positions[0] == (4,)


def test_a_grouped_convolution_is_pruned_along_its_finer_side(tools):
    """Removing rows and columns at once would remove more than asked."""
    for groups, width, expected in ((8, 32, [8]), (2, 32, [16, 16])):
        model = tools.graph(
            f"""g (float[N,3,8,6] x, float[32,3,1,1] w1, float[32,{width // groups},1,1] w2,
            float[5,32,1,1] w9) => (float[N,5,8,6] y) {{
            a = Conv(x, w1)  h = Conv<group={groups}>(a, w2)  y = Conv(h, w9) }}"""
        )
        analysis = analyze(model)
        assert [g.width for g in analysis.groups] == expected
        assert len(analysis.frozen) == 1  # The head; the other side of the grid can still go.


def test_the_analysis_leaves_the_model_alone_and_repeats(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[5,6,1,1] w9) => (float[N,5,8,6] y) {
        a = Conv(x, w1)  y = Conv(a, w9) }"""
    )
    before = model.digest()
    first, second = analyze(model), analyze(model)
    assert (first.groups, first.frozen) == (second.groups, second.frozen)
    assert model.digest() == before


def test_every_rule_in_the_table_can_be_loaded():
    rules = Rules()

    class Fake:
        domain = ""

    for op in TABLE:
        node = Fake()
        node.op = op
        assert callable(rules.of(node))


def test_layers_that_share_a_constant_are_not_nodes_of_each_others_groups(tools):
    """``--keep`` of one must not keep the other."""
    model = tools.graph(
        """g (float[N,3,8,6] x, float[4,3,1,1] w1, float[4,4,1,1] w2, float[4] b,
        float[5,4,1,1] w9) => (float[N,5,8,6] y) {
        a = Conv(x, w1, b)  r = Relu(a)  c = Conv(r, w2, b)  y = Conv(c, w9) }"""
    )
    first, second = analyze(model).groups
    assert first.nodes == ("Conv_a", "Relu_r", "Conv_c")
    assert second.nodes == ("Conv_c", "Conv_y")
    assert [(m.tensor, m.role) for m in second.members][:2] == [
        ("w2", "producer"),
        ("b", "parameter"),
    ]


def test_a_weight_that_makes_a_grid_along_two_axes_is_pruned_along_one(tools):
    """``[C, 4, 6]`` of an Einsum: a ratio of both axes would be more than that ratio."""
    model = tools.graph(
        """g (float[N,7,3] x, float[3,4,6] w, float[4,6,5] w9) => (float[N,7,5] y) {
        a = Einsum<equation="ntc,cij->ntij">(x, w)  r = Relu(a)
        y = Einsum<equation="ntij,ijo->nto">(r, w9) }"""
    )
    analysis = analyze(model)
    assert [(g.width, g.kind) for g in analysis.groups] == [(6, "channels")]
    for seed in range(4):
        tools.prove(model, tools.random_plan(analysis, seed), seed=seed)


def test_frozen_says_the_same_of_many_nodes_once(tools):
    blocks = "".join(
        f"n{i} = LayerNormalization<axis=-1>(s{i}, g)  m{i} = MatMul(n{i}, w)  "
        f"s{i + 1} = Add(s{i}, m{i})  "
        for i in range(5)
    )
    model = tools.graph(
        f"""g (float[N,7,3] x, float[3,4] w1, float[4,4] w, float[4] g, float[4,5] w9)
        => (float[N,7,5] y) {{ s0 = MatMul(x, w1)  {blocks} y = MatMul(s5, w9) }}"""
    )
    analysis = analyze(model)
    assert not analysis.groups
    norms = "LayerNormalization 'LayerNormalization_n0' and 4 more: normalizes over it"
    assert [(f.name, f.width, f.reasons) for f in analysis.frozen] == [
        ("MatMul_s0", 4, (norms,)),
        ("MatMul_y", 5, ("graph output 'y'",)),
    ]


def test_an_uneven_split_is_named_and_what_follows_from_it_is_not(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[12,3,1,1] w1, float[12,4,1,1] w2, float[12,4,1,1] w3,
        float[5,12,1,1] w9) => (float[N,5,8,6] y) {
        a = Conv(x, w1)  b = Conv<group=3>(a, w2)
        s = Constant<value_ints=[0,3,4,8,6]>()  t = Constant<value_ints=[0,12,8,6]>()
        c = Reshape(b, s)  d = Transpose<perm=[0,2,1,3,4]>(c)  e = Reshape(d, t)
        f = Conv<group=3>(e, w3)  y = Conv(f, w9) }"""
    )
    frozen = {f.name: f.reasons for f in analyze(model).frozen}
    assert frozen["Conv_b"] == ("Conv 'Conv_f': 3 groups: splits its channels unevenly",)


def test_an_outer_product_is_told_with_its_tensor(tools):
    model = tools.graph(
        """g (float[N,4] x, float[4,3] w1, float[9,5] w9) => (float[N,5] y) {
        a = MatMul(x, w1)  p = Constant<value_ints=[1]>()  q = Constant<value_ints=[2]>()
        l = Unsqueeze(a, p)  r = Unsqueeze(a, q)  o = Mul(l, r)  f = Flatten(o)
        y = MatMul(f, w9) }"""
    )
    analysis = analyze(model)
    assert not analysis.groups
    assert analysis.frozen[0].reasons == (
        "tensor 'f': two channels share a position (an outer product)",
    )


def test_condensed_reasons_are_few_and_keep_their_order():
    reasons = [
        "Conv 'c'",
        "Conv 'c': 4 groups: splits its channels unevenly",
        "Add 'a': joins channels that are split differently elsewhere",
        "graph output 'y'",
        "graph output 'z'",
        "Softmax 's': normalizes over it",
        "Softmax 't': normalizes over it",
        "Softmax 's': normalizes over it",
    ]
    assert condense(reasons) == (
        "Conv 'c': 4 groups: splits its channels unevenly",
        "graph output 'y' and 1 more",
        "Softmax 's' and 1 more: normalizes over it",
    )
    assert condense(reasons[2:3]) == (reasons[2],)
    many = condense(f"Op{i} 'n': stops" for i in range(9))
    assert len(many) == 4
    assert many[-1] == "and 6 more reasons"


def test_a_reason_is_not_said_twice_in_one_line():
    assert because("Add 'a'", "") == "Add 'a'"
    assert because("Add 'a'", "graph input 'x'") == "Add 'a': graph input 'x'"
    assert because("Conv 'c'", "Conv 'c': 4 groups") == "Conv 'c': 4 groups"
