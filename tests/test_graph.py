from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from helpers import conv_net, parse

from graphopt import graph as g
from graphopt.model import Model


def tensor(model: Model, name: str) -> g.Tensor:
    return model.graph.tensors()[name]


def node(model: Model, name: str) -> g.Node:
    return next(n for n in model.graph.nodes if n.name == name)


def branching() -> Model:
    return parse(
        """g (bool c, float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}> {
            a = Add (x, w) b = Relu (x) d = Neg (x)
            y = If (c) <then_branch = t () => (float[2] o) { o = Mul (a, w) },
                        else_branch = e () => (float[2] p) { p = Sub (a, b) }>
            z = Abs (w)
        }"""
    )


def test_constants_are_initializers_and_constant_nodes() -> None:
    model = parse(
        """g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            i = Constant <value_int = 3> () j = Constant <value_ints = [1, 2]> ()
            f = Constant <value_float = 0.5> () k = Constant <value = int8[1] {7}> ()
            s = Constant <value_string = "no"> () r = Relu (x) y = Add (r, w)
        }"""
    )
    values = {name: g.constant(t) for name, t in model.graph.tensors().items()}
    kinds = {k: (v.dtype.name, v.tolist()) for k, v in values.items() if v is not None}
    assert kinds == {
        "w": ("float32", [1, 2]),
        "i": ("int64", 3),
        "j": ("int64", [1, 2]),
        "f": ("float32", 0.5),
        "k": ("int8", [7]),
    }
    assert g.is_constant(tensor(model, "w")) and not g.is_constant(tensor(model, "i"))


def test_standard_and_custom_operators() -> None:
    relu = gs.Node("Relu")
    assert g.is_standard(relu) and g.is_op(relu, "Relu", "Neg") and not g.is_op(relu, "Neg")
    custom = gs.Node("Relu", domain="com.example")
    assert not g.is_standard(custom) and not g.is_op(custom, "Relu")


def test_producers_consumers_and_uses() -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Relu (x) y = Mul (a, a) }")
    a = tensor(model, "a")
    assert g.producer(a) is node(model, "Relu_a") and g.producer(tensor(model, "x")) is None
    assert [n.name for n in g.consumers(a)] == ["Mul_y"] and g.uses(a) == 2
    assert g.is_graph_input(model.graph, tensor(model, "x"))
    assert g.is_graph_output(model.graph, tensor(model, "y"))
    assert not g.is_graph_output(model.graph, a)


def test_readers_in_bodies_count() -> None:
    model = branching()
    assert g.feeds_subgraph(model.graph, tensor(model, "a"))
    assert not g.feeds_subgraph(model.graph, tensor(model, "d"))
    assert g.uses(tensor(model, "a")) == 2
    assert g.subgraph_outer_names(model.graph) == {"a", "b", "w"}
    assert {n.op for n in g.walk(model.graph)} == {"Add", "Relu", "Neg", "If", "Abs", "Mul", "Sub"}
    assert {t.name for t in g.captured(node(model, "If_y"))} == {"a", "w", "b", "o", "p"}


def test_replace_uses_reaches_bodies_and_outputs() -> None:
    model = branching()
    g.replace_uses(model.graph, tensor(model, "a"), tensor(model, "b"))
    then, other = model.graph.subgraphs()
    assert then.nodes[0].inputs[0] is tensor(model, "b")
    assert [t.name for t in other.nodes[0].inputs] == ["b", "b"]
    z = tensor(model, "z")
    g.replace_uses(model.graph, z, tensor(model, "b"))
    assert [t.name for t in model.graph.outputs] == ["y", "b"]


def test_dead_nodes_go_and_those_bodies_read_stay() -> None:
    model = branching()
    assert [n.name for n in g.remove_dead(model.graph)] == ["Neg_d"]
    assert [n.op for n in model.graph.nodes] == ["Add", "Relu", "If", "Abs"]
    assert g.remove_dead(model.graph) == []
    # The If goes, and with it what only its bodies read.
    model.graph.outputs = [model.graph.outputs[1]]
    assert [n.name for n in g.remove_dead(model.graph)] == ["Add_a", "Relu_b", "If_y"]
    assert g.uses(tensor(model, "w")) == 1


def test_a_tensor_that_a_body_only_returns_is_alive() -> None:
    model = branching()
    then, _ = model.graph.subgraphs()
    then.nodes[0].inputs.clear()
    then.nodes, then.outputs = [], [tensor(model, "d")]
    assert g.remove_dead(model.graph) == []
    assert "Neg" in [n.op for n in model.graph.nodes]


def test_sort_keeps_the_order_there_is() -> None:
    model = conv_net(8)
    before = [n.name for n in model.graph.nodes]
    g.sort(model.graph)
    assert [n.name for n in model.graph.nodes] == before
    model.graph.nodes.reverse()
    g.sort(model.graph)
    after = [n.name for n in model.graph.nodes]
    assert after == before
    model = branching()
    model.graph.nodes.reverse()
    g.sort(model.graph)
    names = [n.name for n in model.graph.nodes]
    assert names.index("If_y") > max(names.index("Add_a"), names.index("Relu_b"))


def test_sort_refuses_a_cycle() -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Relu (x) y = Neg (a) }")
    node(model, "Relu_a").inputs[0] = tensor(model, "y")
    with pytest.raises(ValueError, match="cycle"):
        g.sort(model.graph)


def test_names_are_fresh_and_repeatable() -> None:
    model = branching()
    for _ in range(2):
        names = g.Names(model.graph)
        assert [names.fresh(n) for n in ("w", "w", "new", "new", "o", "Add_a")] == [
            "w_1",
            "w_2",
            "new",
            "new_1",
            "o_1",
            "Add_a_1",
        ]


def test_shapes() -> None:
    model = parse("g (float[N,3] x, float[2,3] z) => (float[] y) { a = Relu (x) y = Neg (z) }")
    x, z = tensor(model, "x"), tensor(model, "z")
    assert g.static_shape(x) is None and g.static_shape(z) == (2, 3)
    assert [g.dim(x, axis) for axis in (0, 1, -1, 2, -3)] == [None, 3, 3, None, None]
    assert g.rank(x) == 2 and g.rank(gs.Variable("unknown")) is None
    assert g.dim(gs.Variable("unknown"), 0) is None and g.static_shape(gs.Variable("u")) is None
    assert g.is_float(x) and not g.is_float(gs.Variable("i", np.int64))
    assert g.same(x, x) and not g.same(x, gs.Variable("x")) and not g.contains([z], x)


def test_replacing_an_input_and_disconnecting_go_by_identity() -> None:
    """Two equal nodes read one constant: only the one that is meant lets go of it."""
    model = parse(
        """g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}> {
            y = Add (x, w) z = Add (x, w)
        }"""
    )
    first, second = model.graph.nodes
    second.name = first.name
    second.outputs[0].name = first.outputs[0].name
    assert first == second
    w, new = first.inputs[1], gs.Constant("new", np.ones(2, dtype=np.float32))
    g.replace_input(second, 1, new)
    assert [reader is first for reader in w.outputs] == [True]
    assert [reader is second for reader in new.outputs] == [True]
    assert second.inputs[1] is new
    x, out = second.inputs[0], second.outputs[0]
    g.disconnect(second)
    assert [reader is first for reader in x.outputs] == [True]
    assert not out.inputs
    assert not new.outputs
    assert not second.inputs
    assert not second.outputs


def test_an_input_read_twice_is_replaced_once() -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Relu (x) y = Add (a, a) }")
    add = model.graph.nodes[1]
    a, b = add.inputs[0], gs.Variable("b")
    g.replace_input(add, 0, b)
    assert [t.name for t in add.inputs] == ["b", "a"]
    assert len(a.outputs) == len(b.outputs) == 1
    g.disconnect(add)
    assert not a.outputs


def test_names_count_on_from_where_they_were() -> None:
    model = parse("g (float[2] x) => (float[2] y) { a = Relu (x) a_2 = Relu (a) y = Neg (a_2) }")
    names = g.Names(model.graph)
    assert [names.fresh("a") for _ in range(3)] == ["a_1", "a_3", "a_4"]
    assert [names.fresh(""), names.fresh("")] == ["_1", "_2"]
    assert names.fresh("new") == "new"
    assert names.fresh("new") == "new_1"
