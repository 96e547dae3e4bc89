"""What must not be broken: control flow, custom operators, shared constants, dtypes."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.channels import analyze, make_plan
from graphopt.model import Model

CHAIN = "a = Conv(x, w1, b)  h = Relu(a)  y = Conv(h, w9)"
INPUTS = "float[N,3,8,6] x, float[6,3,1,1] w1, float[6] b, float[5,6,1,1] w9"


def reasons(analysis):
    return [reason for frozen in analysis.frozen for reason in frozen.reasons]


def test_custom_operators_freeze_what_they_touch(tools):
    model = tools.graph(
        f"""g ({INPUTS}) => (float[N,5,8,6] y) {{
        a = Conv(x, w1, b)  h = com.acme.Swirl (a)  y = Conv(h, w9) }}""",
        domains=', "com.acme": 1',
    )
    model.graph.outputs[0].shape = None
    analysis = analyze(model)
    assert analysis.groups == ()
    name = next(n.name for n in model.graph.nodes if n.op == "Swirl")
    assert any(f"com.acme.Swirl '{name}" in r and "no rule" in r for r in reasons(analysis))


def test_standard_names_in_another_domain_get_no_rule(tools):
    model = tools.graph(
        f"g ({INPUTS}) => (float[N,5,8,6] y) {{ a = Conv(x, w1, b) "
        "h = com.acme.Relu (a)  y = Conv(h, w9) }",
        domains=', "com.acme": 1',
    )
    assert analyze(model).groups == ()


def conditional() -> Model:
    """A conv whose output, and a bias that another conv shares, are read inside an If."""

    def branch(name: str, op: str) -> onnx.GraphProto:
        nodes = [
            helper.make_node(op, ["a"], [f"{name}_1"]),
            helper.make_node("Add", [f"{name}_1", "bias4"], [f"{name}_2"]),
        ]
        out = helper.make_tensor_value_info(f"{name}_2", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [out])

    rng = np.random.default_rng(0)
    weights = {
        "w1": (8, 3, 1, 1),
        "w2": (8, 8, 1, 1),
        "w3": (4, 8, 1, 1),
        "bias": (8,),
        "bias4": (8, 1, 1),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "bias"], ["a"], "first"),
        helper.make_node(
            "If",
            ["flag"],
            ["c"],
            "if",
            then_branch=branch("t", "Relu"),
            else_branch=branch("e", "Neg"),
        ),
        helper.make_node("Conv", ["c", "w2", "bias"], ["d"], "second"),
        helper.make_node("Add", ["d", "bias4"], ["s"], "add"),
        helper.make_node("Conv", ["s", "w3"], ["y"], "third"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])],
        [
            numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
            for n, s in weights.items()
        ],
        value_info=[helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, 8, 4, 4])],
    )
    opsets = [helper.make_opsetid("", 17)]
    return Model.from_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def test_what_a_body_reads_keeps_its_shape(tools):
    """The bias that an If reads too is pruned where the group of "second" uses it: in a copy."""
    model = conditional()
    analysis = analyze(model)
    assert [(g.name, g.width) for g in analysis.groups] == [("second", 8)]
    assert any("the body of a control-flow node reads 'a'" in r for r in reasons(analysis))
    for seed in range(4):
        pruned = tools.prove(model, tools.random_plan(analysis, seed), seed=seed)
        shapes = {n: t.shape for n, t in pruned.graph.tensors().items()}
        assert tuple(shapes["bias"]) == (8,)
        assert tuple(shapes["bias_pruned"]) == (shapes["s"][1],)
    body = next(n for n in pruned.graph.nodes if n.op == "If").attrs["then_branch"]
    read = next(t for n in body.nodes for t in n.inputs if t.name == "bias4")
    assert tuple(read.shape) == (8, 1, 1)


def test_a_constant_read_by_a_pruned_and_an_unpruned_layer_is_copied(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[6] b, float[6,6,1,1] w9)
        => (float[N,6,8,6] y) { a = Conv(x, w1, b)  h = Relu(a)  y = Conv(h, w9, b) }"""
    )
    for seed in range(3):
        pruned = tools.prove(model, tools.random_plan(analyze(model), seed), seed=seed)
        shapes = {n: tuple(t.shape) for n, t in pruned.graph.tensors().items()}
        kept = shapes["w1"][0]
        assert kept < 6
        assert (shapes["b"], shapes["b_pruned"]) == ((6,), (kept,))


def test_a_constant_that_is_a_graph_output_keeps_its_shape(tools):
    model = tools.graph(f"g ({INPUTS}) => (float[N,5,8,6] y) {{ {CHAIN} }}")
    model.graph.outputs += [model.graph.tensors()["b"], model.graph.tensors()["w9"]]
    analysis = analyze(model)
    assert analysis.groups == ()
    assert any("graph output 'w9'" in r for r in reasons(analysis))
    model.graph.outputs.pop()
    analysis = analyze(model)
    assert [g.width for g in analysis.groups] == [6]
    pruned = tools.prune(model, tools.random_plan(analysis, 1, 0.5))
    assert [tuple(t.shape) for t in pruned.graph.outputs] == [("N", 5, 8, 6), (6,)]
    onnx.checker.check_model(pruned.to_onnx(), full_check=True)


def test_a_tensor_that_is_also_a_graph_output_is_frozen(tools):
    model = tools.graph(f"g ({INPUTS}) => (float[N,5,8,6] y, float[N,6,8,6] h) {{ {CHAIN} }}")
    analysis = analyze(model)
    assert analysis.groups == ()
    assert "graph output 'h'" in reasons(analysis)


def test_unknown_ranks_freeze(tools):
    """Behind a custom operator nothing is known of the tensor, not even how many axes it has."""
    model = tools.graph(
        f"""g ({INPUTS}, float[5,6,1,1] w8) => (float[N,5,8,6] y) {{
        a = Conv(x, w1, b)  u = com.acme.Any (x)  h = Add(a, u)  y = Conv(h, w9) }}""",
        domains=', "com.acme": 1',
    )
    assert model.graph.tensors()["u"].shape is None
    analysis = analyze(model)
    assert analysis.groups == ()
    assert any("the rank of 'u' is unknown" in r for r in reasons(analysis))


def test_nodes_in_any_order(tools):
    model = tools.graph(f"g ({INPUTS}) => (float[N,5,8,6] y) {{ {CHAIN} }}")
    straight = analyze(model)
    model.graph.nodes.reverse()
    assert [g.atoms for g in analyze(model).groups] == [g.atoms for g in straight.groups]
    assert [g.name for g in straight.groups] == ["Conv_a"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_other_float_types(tools, dtype):
    name = np.dtype(dtype).name.replace("32", "")
    text = f"g ({INPUTS}) => (float[N,5,8,6] y) {{ {CHAIN} }}".replace("float[", f"{name}[")
    model = tools.graph(text)
    pruned = tools.prove(
        model,
        tools.random_plan(analyze(model), 0, 0.5),
        tolerance=2e-3 if dtype == np.float16 else 1e-5,
    )
    assert {t.dtype for t in pruned.graph.tensors().values() if isinstance(t, gs.Constant)} == {
        np.dtype(dtype)
    }


def test_squeeze_without_axes_survives_a_width_of_one(tools):
    for opset in (11, 17):
        model = tools.graph(
            """g (float[2,3,8,6] x, float[4,3,1,1] w1, float[4,5] w2) => (float[2,5] y) {
            a = Conv(x, w1)  p = GlobalMaxPool(a)  s = Squeeze(p)  y = MatMul(s, w2) }""",
            opset,
        )
        analysis = analyze(model)
        scores = {g.name: np.arange(g.width) for g in analysis.groups}
        plan = make_plan(analysis, scores, 0.99, align=1, floor=1)
        assert [g.after for g in plan.groups] == [1]
        tools.prove(model, plan)


def test_axes_of_zero_size_and_scalars_do_no_harm(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[5,6,1,1] w9, float k) =>
        (float[N,5,8,6] y, int64[e] z) {
        a = Conv(x, w1)  m = Mul(a, k)  n = Add(m, m)  y = Conv(n, w9)
        e = Constant<value = int64[0] {}>()  z = Identity(e) }"""
    )
    analysis = tools.prove_many(model, 3)
    assert [g.width for g in analysis.groups] == [6]


def test_layers_that_make_one_channel_carry_no_atoms(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[1,3,1,1] w1, float[4,1,1,1] w2, float[5,4,1,1] w9) =>
        (float[N,5,8,6] y) { a = Conv(x, w1)  h = Conv(a, w2)  y = Conv(h, w9) }"""
    )
    assert [(g.name, g.width) for g in tools.prove_many(model, 3).groups] == [("Conv_h", 4)]


def test_graph_inputs_keep_their_channels(tools):
    """A depthwise first layer works on the input's channels, and so do its neighbours."""
    model = tools.graph(
        """g (float[N,6,8,6] x, float[6,1,3,3] w1, float[5,6,1,1] w9) => (float[N,5,6,4] y) {
        h = Conv<group=6>(x, w1)  y = Conv(h, w9) }"""
    )
    analysis = analyze(model)
    assert analysis.groups == ()
    assert any("graph input 'x'" in r for r in reasons(analysis))


def test_rules_of_other_distributions(tools, monkeypatch):
    """An entry point teaches graphopt an operator it does not know."""

    def points(group):
        value = "graphopt.channels.rules_elementwise:unary"
        return [EntryPoint("com.acme::Swirl", value, group)] if "channel-rule" in group else []

    text = f"g ({INPUTS}) => (float[N,5,8,6] y) {{ {CHAIN} }}".replace(
        "Relu(a)", "com.acme.Swirl (a)"
    )
    model = tools.graph(text, domains=', "com.acme": 1')
    assert analyze(model).groups == ()
    monkeypatch.setattr("graphopt.registry.entry_points", points)
    assert [g.width for g in analyze(model).groups] == [6]
