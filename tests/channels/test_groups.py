"""What analyze says: names, widths, units, members, reasons."""

from __future__ import annotations

from graphopt.channels import analyze
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
