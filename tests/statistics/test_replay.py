"""Piece by piece gives what the whole model gives, on graphs that make it hard."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import conv_net, image_samples, parse
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_nets import run_all, values

from graphopt.errors import DataError, UnsupportedModelError
from graphopt.graph import Array
from graphopt.model import Feeds, Model
from graphopt.statistics import Replay, Spill

WEIGHTS = "float[4,4] w = {1,2,3,4,5,6,7,8,-9,10,-11,12,13,-14,15,16}, float[4] b = {1,-2,3,-4}"

GRAPHS = {
    "constants of nodes": """
    g (float[N,4] x) => (float[N,4] y) {
      c = Constant<value = float[4] {1,2,3,4}>()
      s = Add(x, c)  t = Relu(s)  y = Mul(t, c)
    }""",
    "several outputs, one unused": """
    g (float[N,4] x) => (float[N,2] y) {
      a, b = Split<axis=1>(x)
      v, i = TopK<axis=1>(x, top)
      p = Mul(a, b)  y = Add(p, v)
    } """,
    "optional inputs left out": """
    g (float[N,4] x) => (float[N,4] y) {
      low = Clip(x, , most)  high = Clip(x, least)  s = Add(low, high)
      y = Clip(s)
    }""",
    "tensors read twice": """
    g (float[N,4] x) => (float[N,4] y) {
      a = Mul(x, x)  b = Add(a, x)  c = Mul(a, a)  d = Add(c, b)  y = Concat<axis=1>(d)
    }""",
    "inputs that are outputs": """
    g (float[N,4] x, float[N,4] other) => (float[N,4] x, float[N,4] y) { y = Sub(x, other) }""",
    "a body that reads outer tensors and constants": f"""
    g (float[N,4] x, bool c) => (float[N,4] y) <{WEIGHTS}> {{
      h = MatMul(x, w)
      r = Relu(h)
      i = If (c) <
        then_branch = t () => (float[N,4] o1) {{ a = Add(h, b)  o1 = MatMul(a, w) }},
        else_branch = e () => (float[N,4] o2) {{ k = Mul(r, b)  o2 = Sub(k, x) }}
      >
      s = MatMul(i, w)
      y = Add(s, b)
    }}""",
    "a body within a body": """
    g (float[N,4] x, bool c) => (float[N,4] y) {
      h = Relu(x)
      n = Not(c)
      i = If (c) <
        then_branch = t () => (float[N,4] o1) {
          o1 = If (n) <
            then_branch = tt () => (float[N,4] p1) { p1 = Neg(h) },
            else_branch = te () => (float[N,4] p2) { p2 = Abs(x) }
          >
        },
        else_branch = e () => (float[N,4] o2) { o2 = Neg(h) }
      >
      y = Add(i, x)
    }""",
    "a loop": f"""
    g (float[N,4] x) => (float[N,4] y, float[M,N,4] all) <{WEIGHTS}> {{
      h = Relu(x)
      z = Mul(x, b)
      l, all = Loop (count, , z) <body = f (int64 n, bool on, float[N,4] p)
        => (bool go, float[N,4] q, float[N,4] scan) {{
          go = Identity(on)  m = MatMul(p, w)  d = Add(m, h)  q = Clip(d, least, most)
          scan = Identity(q)
      }}>
      y = Add(l, h)
    }}""",
    "sequences": """
    g (float[N,4] x) => (float[N,4] y) {
      h = Relu(x)
      s = SplitToSequence<axis=1, keepdims=1>(h)
      u = SequenceErase(s, first)
      a = SequenceAt(u, first)
      t = Mul(a, x)
      r = Concat<axis=1>(t, a)
      j = ConcatFromSequence<axis=1>(u)
      v = SequenceInsert(u, a)
      k = ConcatFromSequence<axis=1>(v)
      y = Add(k, t)
    }""",
    "shapes that are computed": """
    g (float[N,4] x) => (float[N,4] y) {
      s = Shape(x)  n = Gather(s, first)  r = Unsqueeze(n, zero)  m = Concat<axis=0>(r, minus)
      f = Reshape(x, m)  z = ConstantOfShape(s)  y = Add(f, z)
    }""",
    "nothing in it": """
    g (float[N,4] x) => (float[N,A] y) {
      e = Slice(x, zero, zero, one)  r = Relu(e)  y = Concat<axis=1>(r, x)
    }""",
}
CONSTANTS = {
    "top": np.array([2]),
    "first": np.array(0),
    "zero": np.array([0]),
    "one": np.array([1]),
    "minus": np.array([-1]),
    "count": np.array(3),
    "most": np.array(50, "f4"),
    "least": np.array(-1, "f4"),
}


def model_of(name: str) -> Model:
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    proto = onnx.parser.parse_model(f"{header}\n{GRAPHS[name]}")
    for key, value in CONSTANTS.items():
        if re.search(rf"\b{key}\b", GRAPHS[name]):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(value, key))
    return Model.from_onnx(proto)


def samples(model: Model, sizes: Iterable[int] = (3, 1, 4)) -> list[Feeds]:
    found = []
    for i, size in enumerate(sizes):
        feeds: dict[str, Array] = {}
        for j, name in enumerate(sorted(model.inputs())):
            feeds[name] = np.array(i % 2 == 0) if name == "c" else values(size, 4, seed=10 * i + j)
        found.append(feeds)
    return found


def check(model: Model, batches: list[Feeds], order: list[str], budget: int) -> None:
    """Ask for tensors one by one, each kept by nobody else, and compare with one run of all."""
    wanted = [{**feeds, **run_all(model, feeds)} for feeds in batches]
    with Spill(budget) as spill:
        replay = Replay(model, iter(batches), order, spill)
        for name in order:
            replay.pin(name)
            replay.compute(name)
            assert replay.ready(name)
            for batch, tensors in enumerate(wanted):
                found = replay.get(name, batch)
                assert found.dtype == tensors[name].dtype
                np.testing.assert_allclose(found, tensors[name], rtol=1e-5, atol=1e-5)
            replay.unpin(name)
        # Nobody waits for anything any more.
        assert not any(replay.ready(name) for name in order if name not in model.inputs())
        assert not any((("", n, b) in spill) for n in order for b in range(len(batches)))
        found = wanted = None
        assert not mapped()


def mapped() -> list[str]:
    """Return the mappings of temporary files that this process holds."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    return [line for line in lines if "/graphopt-" in line]


def askable(model: Model, feeds: Feeds) -> list[str]:
    return [*sorted(feeds), *run_all(model, feeds)]


@pytest.mark.parametrize("budget", [0, 1 << 30])
@pytest.mark.parametrize("name", GRAPHS)
def test_in_graph_order(name: str, budget: int) -> None:
    model = model_of(name)
    batches = samples(model)
    check(model, batches, askable(model, batches[0]), budget)


@pytest.mark.parametrize("name", GRAPHS)
def test_from_the_end(name: str) -> None:
    model = model_of(name)
    batches = samples(model)
    check(model, batches, askable(model, batches[0])[::-1], 0)


@given(st.sampled_from(sorted(GRAPHS)), st.data())
@settings(max_examples=30)
def test_any_tensors_in_any_order(name: str, data: st.DataObject) -> None:
    model = model_of(name)
    batches = samples(model, (2, 1))
    names = askable(model, batches[0])
    order = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    check(model, batches, order, 100)


def test_every_node_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.statistics import replay as module

    ran: list[str] = []
    part = module._part

    def spy(model: Model, nodes: list[object], *rest: object) -> Model:
        ran.extend(n.name for n in nodes)  # type: ignore[attr-defined]
        return part(model, nodes, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_part", spy)
    model = conv_net(8)
    check(model, [{"image": image_samples(2)}], ["c0", "c1", "r0", "c2", "g", "scores"], 0)
    assert sorted(ran) == sorted(n.name for n in model.graph.nodes)


def test_nodes_no_target_needs_never_run() -> None:
    model = parse("""
    g (float[N,4] x, float[N,4] unused) => (float[N,4] y, float[N,4] z)
    { y = Relu(x)  z = Neg(unused) }""")
    with Spill(1 << 20) as spill:
        replay = Replay(model, [{"x": values(2, 4)}], ["y"], spill)
        replay.compute("y")
        assert replay.pending("z")
        assert not replay.pending("y")
        assert replay.get("y", 0).min() >= 0


def test_later_weights_may_change_and_history_stays() -> None:
    model = conv_net(8)
    image = image_samples(2)
    before = run_all(model, {"image": image})
    with Spill(0) as spill:
        replay = Replay(model, [{"image": image}], ["c1", "c2"], spill)
        replay.pin("c1")
        replay.compute("c1")
        node = next(n for n in model.graph.nodes if n.name == "conv2")
        node.inputs[1].values = node.inputs[1].values * 2
        stem = next(n for n in model.graph.nodes if n.name == "stem")
        stem.inputs[1].values = stem.inputs[1].values * 3  # too late
        replay.pin("c2")
        replay.compute("c2")
        bias = np.asarray(node.inputs[2].values)[:, None, None]
        np.testing.assert_allclose(replay.get("c1", 0), before["c1"], atol=1e-4)
        np.testing.assert_allclose(
            replay.get("c2", 0) - bias, 2 * (before["c2"] - bias), rtol=1e-4, atol=1e-4
        )


def test_a_weight_that_was_a_constant_node() -> None:
    model = parse("""
    g (float[N,4] x) => (float[N,4] y) {
      c = Constant<value = float[4] {1,2,3,4}>()
      h = Mul(x, c)
      [last] y = Mul(h, c)
    }""")
    with Spill(0) as spill:
        replay = Replay(model, [{"x": np.ones((1, 4), "f4")}], ["h", "y"], spill)
        replay.compute("h")
        import onnx_graphsurgeon as gs

        model.graph.nodes[-1].inputs[1] = gs.Constant("other", np.full(4, 5, "f4"))
        replay.compute("y")
        np.testing.assert_array_equal(replay.get("y", 0), [[5, 10, 15, 20]])


def test_batches_of_other_sizes() -> None:
    model = parse("""
    g (float[N,2,H,W] x) => (float[N,2,A,B] y) <float[2,2,1,1] w = {1,2,3,4}> {
      a = Conv(x, w)  p = MaxPool<kernel_shape=[2,2]>(a)  y = Relu(p)
    }""")
    batches = [{"x": values(2, 2, 5, 7)}, {"x": values(1, 2, 9, 3)}, {"x": values(0, 2, 4, 4)}]
    check(model, batches, ["a", "p", "y"], 0)


def test_half_precision_and_whole_numbers() -> None:
    model = parse("""
    g (float16[N,4] x, int64[N] i) => (float16[N,4] y, double[N] d) {
      a = Relu(x)  y = Mul(a, a)  d = Cast<to=11>(i)
    }""")
    check(model, [{"x": values(2, 4, dtype="f2"), "i": np.array([3, 4])}], ["a", "d", "y"], 0)


def test_words() -> None:
    model = parse("""
    g (float[N,4] x) => (string[N,4] y) { y = Cast<to=8>(x) }""")
    with Spill(0) as spill:
        replay = Replay(model, [{"x": np.ones((1, 4), "f4")}], ["y"], spill)
        replay.compute("y")
        assert list(replay.get("y", 0)[0]) == ["1"] * 4


def test_large_constants_that_bodies_share() -> None:
    weight = onnx.numpy_helper.from_array(values(40, 40), "w")
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,40] x, bool c) => (float[N,40] y) {
      h = MatMul(x, w)
      i = If (c) <
        then_branch = t () => (float[N,40] o1) { o1 = MatMul(h, w) },
        else_branch = e () => (float[N,40] o2) { a = MatMul(x, w)  o2 = Neg(a) }
      >
      y = MatMul(i, w)
    }""")
    proto.graph.initializer.append(weight)
    model = Model.from_onnx(proto)
    batches = [{"x": values(2, 40), "c": np.array(c)} for c in (True, False)]
    for order in (["h", "i", "y"], ["y", "i", "h", "x"]):
        check(model, batches, order, 0)


def test_types_that_nobody_wrote_down() -> None:
    model = model_of("tensors read twice")
    for node in model.graph.nodes:
        for tensor in node.outputs:
            tensor.dtype = tensor.shape = None
    batches = samples(model)
    wanted = run_all(model_of("tensors read twice"), batches[0])
    with Spill(0) as spill:
        replay = Replay(model, batches, ["b", "y"], spill)
        for name in ("b", "y"):
            replay.compute(name)
            np.testing.assert_allclose(replay.get(name, 0), wanted[name], rtol=1e-5)


def test_a_constant_that_is_an_output() -> None:
    model = parse("""
    g (float[N,4] x) => (float[N,4] y, float[4] w) <float[4] w = {1,2,3,4}> {
      h = Mul(x, w)  y = Add(h, w)
    }""")
    with Spill(0) as spill:
        replay = Replay(model, [{"x": np.ones((1, 4), "f4")}], ["h", "y"], spill)
        replay.compute("h")
        replay.compute("y")
        np.testing.assert_array_equal(replay.get("y", 0), [[2, 4, 6, 8]])


def test_a_target_is_kept_though_others_needed_it_first() -> None:
    model = parse("g (float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Neg(a) y = Abs(b) }")
    with Spill(1 << 20) as spill:
        replay = Replay(model, [{"x": values(1, 4)}], ["x", "a", "a", "y"], spill)
        replay.pin("y")
        replay.compute("y")
        for _ in range(2):
            replay.pin("a")
            replay.compute("a")
            assert replay.get("a", 0).min() >= 0
            replay.unpin("a")
        assert not replay.ready("a")
        assert replay.ready("x")
        replay.waive("x")
        assert not replay.ready("x")
        with pytest.raises(ValueError, match="announce"):
            replay.compute("a")
    with Spill(1 << 20) as spill:
        replay = Replay(model, [{"x": values(1, 4)}], ["y"], spill)
        with pytest.raises(ValueError, match="'nonsense' is not known"):
            replay.compute("nonsense")


def test_wrong_samples_are_told() -> None:
    model = parse(
        "g (float[N,4] x) => (float[N,4] y) <float[4,1] w = {1,1,1,1}> { y = MatMul(x, w) }"
    )
    with Spill(0) as spill:
        with pytest.raises(DataError, match="no samples"):
            Replay(model, [], ["y"], spill)
        with pytest.raises(DataError, match="lack the model's input 'x'"):
            Replay(model, [{"z": values(1, 4)}], ["y"], spill)
        replay = Replay(model, [{"x": values(1, 3)}], ["y"], spill)
        with pytest.raises(DataError, match="cannot run on the samples") as caught:
            replay.compute("y")
        assert "\n" not in str(caught.value)


def test_what_the_runtime_refuses_is_told() -> None:
    model = parse("""<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
    g (float[N,4] x) => (float[N,4] y) { a = mine.Odd(x)  y = Relu(a) }""")
    with Spill(0) as spill:
        replay = Replay(model, [{"x": values(1, 4)}], ["y"], spill)
        with pytest.raises(UnsupportedModelError, match="ONNX Runtime refuses"):
            replay.compute("y")


def test_a_sequence_as_target_is_refused() -> None:
    model = model_of("sequences")
    with Spill(0) as spill:
        replay = Replay(model, samples(model), ["s"], spill)
        with pytest.raises(UnsupportedModelError, match="'s' is no tensor"):
            replay.compute("s")
