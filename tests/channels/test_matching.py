"""A plan found again from what it made: names scrambled, weights trained, structures refused."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.channels import PrunePlan, analyze, apply_plan
from graphopt.channels.matching import match, student
from graphopt.channels.matching.align import align, distances
from graphopt.errors import UsageError
from graphopt.graph import is_constant
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.simplify import Simplify

IMAGE = "float[N,3,8,6] x"
OUT = "=> (float[N,5,p,q] y)"
# text, how many groups can be pruned (so that nothing holds because nothing was removed)
GRAPHS = {
    "chain": (
        f"""g ({IMAGE}, float[8,3,3,3] w1, float[8] b1, float[6,8,1,1] w2, float[5,6,1,1] w9) {OUT}
        {{ a = Conv(x, w1, b1)  r = Relu(a)  c = Conv(r, w2)  s = Relu(c)  y = Conv(s, w9) }}""",
        2,
    ),
    "residual": (
        f"""g ({IMAGE}, float[8,3,3,3] w1, float[12,8,1,1] w2, float[8,12,1,1] w3, float[8] b3,
        float[8,8,1,1] w4, float[5,8,1,1] w9) {OUT} {{
        a = Conv(x, w1)  r = Relu(a)  c = Conv(r, w2)  s = Relu(c)  d = Conv(s, w3, b3)
        e = Add(d, r)  f = Conv(e, w4)  g = Add(e, f)  y = Conv(g, w9) }}""",
        2,
    ),
    "depthwise": (
        f"""g ({IMAGE}, float[6,3,1,1] w1, float[12,1,3,3] w2, float[12] b,
        float[5,12,1,1] w9) {OUT} {{
        a = Conv(x, w1)  d = Conv<group=6>(a, w2, b)  r = Relu(d)  y = Conv(r, w9) }}""",
        1,
    ),
    "grouped": (
        f"""g ({IMAGE}, float[12,3,1,1] w1, float[16,6,1,1] w2, float[5,16,1,1] w9) {OUT} {{
        a = Conv(x, w1)  d = Conv<group=2>(a, w2)  r = Relu(d)  y = Conv(r, w9) }}""",
        2,
    ),
    "U-Net": (
        f"""g ({IMAGE}, float[6,3,3,3] w1, float[10,6,2,2] w2, float[10,6,2,2] u, float[6] ub,
        float[8,12,3,3] w3, float[5,8,1,1] w9) {OUT} {{
        a = Conv<pads=[1,1,1,1]>(x, w1)  e = Relu(a)  b = Conv<strides=[2,2]>(e, w2)
        m = Relu(b)  t = ConvTranspose<strides=[2,2]>(m, u, ub)  k = Concat<axis=1>(e, t)
        d = Conv<pads=[1,1,1,1]>(k, w3)  r = Relu(d)  y = Conv(r, w9) }}""",
        4,
    ),
    "option-A": (
        f"""g ({IMAGE}, float[6,3,3,3] w1, float[10,6,3,3] w2, float[10,10,3,3] w3,
        float[5,10,1,1] w9) {OUT} {{
        a = Conv<pads=[1,1,1,1]>(x, w1)  b = Conv<pads=[1,1,1,1]>(a, w2)
        p = Constant<value_ints=[0,2,0,0,0,2,0,0]>()  s = Pad(a, p)  c = Add(b, s)
        r = Relu(c)  d = Conv<pads=[1,1,1,1]>(r, w3)  e = Add(d, r)  y = Conv(e, w9) }}""",
        2,
    ),
    "gated by chunk": (
        f"""g ({IMAGE}, float[12,3,3,3] w1, float[12] b1, float[5,6,1,1] w9) {OUT} {{
        a = Conv(x, w1, b1)  z = Constant<value_ints=[6,6]>()  l, r = Split<axis=1>(a, z)
        s = Sigmoid(r)  h = Mul(l, s)  y = Conv(h, w9) }}""",
        1,
    ),
    "parts of a Split": (
        f"""g ({IMAGE}, float[12,3,3,3] w1, float[5,5,1,1] w8, float[5,7,1,1] w9) {OUT} {{
        a = Conv(x, w1)  z = Constant<value_ints=[5,7]>()  l, r = Split<axis=1>(a, z)
        p = Conv(l, w8)  q = Conv(r, w9)  y = Add(p, q) }}""",
        2,
    ),
    "alternating channels": (
        f"""g ({IMAGE}, float[12,3,3,3] w1, float[12] b1, float[5,6,1,1] w8, float[5,6,1,1] w9)
        {OUT} {{
        a = Conv(x, w1, b1)  one = Constant<value_ints=[1]>()  two = Constant<value_ints=[2]>()
        zero = Constant<value_ints=[0]>()  end = Constant<value_ints=[99]>()
        l = Slice(a, zero, end, one, two)  r = Slice(a, one, end, one, two)
        p = Conv(l, w8)  q = Conv(r, w9)  y = Add(p, q) }}""",
        2,
    ),
    "channel shuffle": (
        f"""g ({IMAGE}, float[12,3,1,1] w1, float[12,1,3,3] w2, float[5,12,1,1] w9) {OUT} {{
        a = Conv(x, w1)  s = Constant<value_ints=[0,3,4,8,6]>()  b = Reshape(a, s)
        t = Transpose<perm=[0,2,1,3,4]>(b)  z = Constant<value_ints=[0,12,8,6]>()
        c = Reshape(t, z)  d = Conv<group=12>(c, w2)  y = Conv(d, w9) }}""",
        1,
    ),
    "flatten": (
        """g (float[N,3,4,4] x, float[8,3,3,3] w1, float[8] b1, float[32,10] w2, float[10] b2,
        float[10,5] w3) => (float[N,5] y) {
        a = Conv(x, w1, b1)  r = Relu(a)  f = Flatten(r)  m = Gemm(f, w2, b2)  s = Relu(m)
        y = MatMul(s, w3) }""",
        2,
    ),
    "attention": (
        """g (float[N,6,16] x, float[16,16] wq, float[16,16] wk, float[16,16] wv, float[16,16] wo,
        float[16,40] w1, float[40] b1, float[40,16] w2) => (float[N,6,16] y) {
        q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        s = Constant<value_ints=[0,6,4,4]>()
        qh = Reshape(q, s)  kh = Reshape(k, s)  vh = Reshape(v, s)
        qt = Transpose<perm=[0,2,1,3]>(qh)  kt = Transpose<perm=[0,2,3,1]>(kh)
        vt = Transpose<perm=[0,2,1,3]>(vh)
        l = MatMul(qt, kt)  p = Softmax<axis=-1>(l)  o = MatMul(p, vt)
        ot = Transpose<perm=[0,2,1,3]>(o)  z = Constant<value_ints=[0,6,-1]>()
        of = Reshape(ot, z)  a = MatMul(of, wo)  h = Add(a, x)
        m = MatMul(h, w1)  n = Add(m, b1)  e = Erf(n)  d = MatMul(e, w2)  y = Add(d, h) }""",
        3,
    ),
}


def exact(plan: PrunePlan) -> list[tuple]:
    return [(g.name, g.before, g.after, g.removed, g.members) for g in plan.groups]


def cut(model: Model, plan: PrunePlan) -> Model:
    pruned = model.clone()
    apply_plan(pruned, plan)
    return pruned


def scrambled(model: Model, shift: int = 0) -> Model:
    """Exported again: no name is what it was."""
    proto = model.to_onnx()
    names: dict[str, str] = {"": ""}

    def new(name: str) -> str:
        return names.setdefault(name, f"v{(len(names) * 7919 + shift) % 100_003}")

    graph = proto.graph
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.name = new(value.name)
    for i, node in enumerate(graph.node):
        node.name = f"node{i}"
        node.input[:] = [new(n) for n in node.input]
        node.output[:] = [new(n) for n in node.output]
    return Model.from_onnx(proto)


def weights_of(model: Model) -> list:
    """The constants of layers, each once."""
    layers = [n for n in model.graph.nodes if n.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    found = {t.name: t for n in layers for t in n.inputs if is_constant(t)}
    return list(found.values())


def trained(model: Model, noise: float, seed: int = 0) -> Model:
    """A model whose weights moved by this share of their spread."""
    rng = np.random.default_rng(seed)
    out = model.clone()
    for tensor in weights_of(out):
        old = tensor.values
        step = noise * old.std() * rng.standard_normal(old.shape)
        tensor.values = (old + step).astype(old.dtype)
    return out


def same_function(tools, original: Model, found, pruned: Model) -> None:
    """The student, in the original's names, computes what the pruned model does."""
    given = tools.feeds(original)
    again = dict(zip(pruned.inputs(), given.values(), strict=True))
    ours, theirs = tools.run(student(original, found), given), tools.run(pruned, again)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_plan_is_found_again(tools, name):
    text, groups = GRAPHS[name]
    model = tools.graph(text)
    before = model.digest()
    analysis = analyze(model)
    assert len(analysis.groups) == groups
    for seed, ratio in enumerate((0.3, 0.3, 0.5, 0.5, 0.8)):
        plan = tools.random_plan(analysis, seed, ratio)
        assert plan.removed
        pruned = Simplify()(scrambled(cut(model, plan), seed)).model
        found = match(model, pruned)
        assert exact(found.plan) == exact(plan)
        assert not found.weights
        assert not found.own
        assert found.confidence == pytest.approx(1)
        same_function(tools, model, found, pruned)
    assert found.plan.importance == "matched"
    assert PrunePlan.from_json(found.plan.to_json()).groups == found.plan.groups
    assert model.digest() == before


@pytest.mark.parametrize("noise", [0.01, 0.1])
@pytest.mark.parametrize("name", GRAPHS)
def test_trained_since(tools, name, noise):
    model = tools.graph(GRAPHS[name][0])
    analysis = analyze(model)
    for seed in range(3):
        plan = tools.random_plan(analysis, seed, 0.4)
        pruned = scrambled(trained(cut(model, plan), noise, seed))
        found = match(model, pruned)
        assert exact(found.plan) == exact(plan)
        assert 0.95 < found.confidence < 1
        assert len(found.weights) == len(weights_of(pruned))
        same_function(tools, model, found, pruned)


def folded(model: Model) -> Model:
    return FoldBatchNorm()(Simplify()(model).model).model


@pytest.mark.parametrize("name", ["resnet20_cifar10", "face_rfb320", "face_yunet_n"])
def test_real_models(tools, real_model, name):
    model = folded(real_model(name))
    analysis = analyze(model)
    for seed, noise in enumerate((0.0, 0.01, 0.1)):
        plan = tools.random_plan(analysis, seed, 0.5)
        pruned = scrambled(trained(cut(model, plan), noise, seed) if noise else cut(model, plan))
        found = match(model, folded(pruned))
        assert exact(found.plan) == exact(plan)
    same_function(tools, model, found, pruned)


def test_pruned_before_batch_norm_was_folded(tools, real_model):
    """ResNet-56 comes with 55 of them; filters that are all zero may be taken for each other."""
    raw = Simplify()(real_model("resnet56_cifar10")).model
    plan = tools.random_plan(analyze(raw), 0, 0.4)
    pruned = folded(scrambled(cut(raw, plan)))
    model = folded(raw)
    found = match(model, pruned)
    assert [g.removed for g in found.plan.groups] == [g.removed for g in plan.groups]
    same_function(tools, model, found, pruned)


def test_whole_heads(tools):
    model = tools.graph(GRAPHS["attention"][0])
    heads = analyze(model, heads=True)
    assert any(g.kind == "heads" for g in heads.groups)
    plan = tools.random_plan(heads, 1, 0.5)
    pruned = scrambled(cut(model, plan))
    found = match(model, pruned)
    assert exact(found.plan) == exact(plan)
    same_function(tools, model, found, pruned)


def test_the_order_of_operands_and_ways_to_reshape_do_not_count(tools):
    text = GRAPHS["residual"][0]
    model = tools.graph(text)
    other = text.replace("Add(d, r)", "Add(r, d)").replace("Add(e, f)", "Add(f, e)")
    plan = tools.random_plan(analyze(model), 3, 0.5)
    pruned = cut(tools.graph(other), plan)  # Other weights: seeded by the text.
    values = {t.name: t.values for t in weights_of(cut(model, plan))}
    for tensor in weights_of(pruned):
        tensor.values = values[tensor.name]
    assert exact(match(model, scrambled(pruned)).plan) == exact(plan)
    flat = tools.graph(GRAPHS["flatten"][0])
    plan = tools.random_plan(analyze(flat), 0, 0.5)
    pruned = cut(flat, plan)
    node = next(n for n in pruned.graph.nodes if n.op == "Flatten")
    node.op, node.attrs = "Reshape", {}
    node.inputs.append(gs.Constant("sizes", np.array([0, -1])))
    assert exact(match(flat, pruned).plan) == exact(plan)


def test_biases_that_come_and_go(tools):
    model = tools.graph(GRAPHS["chain"][0])
    plan = tools.random_plan(analyze(model), 0, 0.5)
    pruned = cut(model, plan)
    first, second = (
        n for n in pruned.graph.nodes if n.op == "Conv" and n.name.endswith(("a", "c"))
    )
    del first.inputs[2]
    bias = np.arange(second.inputs[1].shape[0], dtype=np.float32)
    second.inputs.append(gs.Constant("late", bias))
    found = match(model, pruned)
    assert exact(found.plan) == exact(plan)
    assert not found.weights["b1"].any()
    assert list(found.own) == [(second.name, 2)]
    same_function(tools, model, found, pruned)


def test_a_constant_that_layers_shared_and_no_longer_do(tools):
    """Exporters store equal biases once; trained, they are two."""
    model = tools.graph(
        f"""g ({IMAGE}, float[8,3,1,1] w1, float[8] b, float[8,8,1,1] w2,
        float[5,8,1,1] w9) {OUT} {{
        a = Conv(x, w1, b)  r = Relu(a)  c = Conv(r, w2, b)  s = Relu(c)  y = Conv(s, w9) }}"""
    )
    analysis = analyze(model)
    for seed, ratio in ((0, 0.5), (1, 0.01)):
        plan = tools.random_plan(analysis, seed, ratio)
        pruned = cut(model, plan)
        for i, node in enumerate(n for n in pruned.graph.nodes if len(n.inputs) == 3):
            old = node.inputs[2].values
            node.inputs[2] = gs.Constant(f"own{i}", old + np.float32(0.01 * i))
        found = match(model, pruned)
        assert [g.removed for g in found.plan.groups] == [g.removed for g in plan.groups]
        same_function(tools, model, found, pruned)


def test_a_mean_over_channels(tools):
    """graphopt scales the mean of what is left; who prunes elsewhere may not."""
    model = tools.graph(
        f"""g ({IMAGE}, float[8,3,1,1] w1, float[5,1,1,1] w8, float[5,8,1,1] w9) {OUT} {{
        a = Conv(x, w1)  r = Relu(a)  m = ReduceMean<axes=[1]>(r)
        p = Conv(m, w8)  q = Conv(r, w9)  y = Add(p, q) }}"""
    )
    analysis = analyze(model)
    assert [g.width for g in analysis.groups] == [8]
    plan = tools.random_plan(analysis, 0, 0.5)
    with_scale = cut(model, plan)
    without = with_scale.clone()
    mean = next(n for n in without.graph.nodes if n.op == "ReduceMean")
    scale = mean.outputs[0].outputs[0]
    assert scale.op == "Mul"
    reader = scale.outputs[0].outputs[0]
    reader.inputs[0] = mean.outputs[0]
    scale.outputs.clear()
    without.graph.cleanup()
    for pruned in (with_scale, without):
        found = match(model, scrambled(pruned))
        assert exact(found.plan) == exact(plan)
        same_function(tools, model, found, pruned)
    assert found.weights


def refused(original: Model, pruned: Model) -> str:
    with pytest.raises(UsageError) as caught:
        match(original, pruned)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_structures_are_refused(tools):
    text = GRAPHS["chain"][0]
    model = tools.graph(text)
    other = tools.graph(text.replace("s = Relu(c)", "s = Sigmoid(c)"))
    assert "Relu 'Relu_s' of the original has no counterpart" in refused(model, other)
    assert "Sigmoid" in refused(model, other)
    strided = tools.graph(text.replace("Conv(x", "Conv<strides=[2,2]>(x"))
    assert "Conv 'Conv_a'" in refused(model, strided)
    kernel = tools.graph(text.replace("float[8,3,3,3] w1", "float[8,3,5,5] w1"))
    assert "Conv 'Conv_a'" in refused(model, kernel)
    deeper = tools.graph(GRAPHS["residual"][0])
    assert "has no counterpart" in refused(model, deeper)
    two = tools.graph(text.replace("=> (float[N,5,p,q] y)", "=> (float[N,5,p,q] y, float s)"))
    assert "2 outputs, and the original 1" in refused(model, two)


def test_more_channels_than_there_were(tools):
    model = tools.graph(GRAPHS["chain"][0])
    pruned = cut(model, tools.random_plan(analyze(model), 0, 0.5))
    assert "are the two files swapped" in refused(pruned, model)


def test_widths_graphopt_cannot_prune_to(tools):
    model = tools.graph(GRAPHS["chain"][0])
    fewer = tools.graph(GRAPHS["chain"][0].replace("[5,6,1,1]", "[4,6,1,1]").replace("N,5", "N,4"))
    assert "cannot remove any there: graph output 'y'" in refused(model, fewer)
    gated = tools.graph(GRAPHS["gated by chunk"][0])
    text = GRAPHS["gated by chunk"][0].replace("[12,3,3,3]", "[11,3,3,3]")
    text = text.replace("[12] b1", "[11] b1").replace("[6,6]", "[6,5]")
    assert "has 11 entries" in refused(gated, tools.graph(text))


def test_other_weights_are_refused(tools):
    model = tools.graph(GRAPHS["residual"][0])
    pruned = cut(model, tools.random_plan(analyze(model), 0, 0.5))
    rng = np.random.default_rng(0)
    for tensor in weights_of(pruned):
        tensor.values = rng.standard_normal(tensor.values.shape).astype(np.float32)
    assert "trained from scratch" in refused(model, pruned)


def test_exchanged_layers_are_refused(tools):
    convs = "  ".join(f"c{i} = Conv(r{i}, w{i})  r{i + 1} = Relu(c{i})" for i in range(8))
    weights = ", ".join(f"float[16,16,1,1] w{i}" for i in range(8))
    model = tools.graph(
        f"""g ({IMAGE}, float[16,3,3,3] wa, {weights}, float[5,16,1,1] w9) {OUT} {{
        a = Conv(x, wa)  r0 = Relu(a)  {convs}  y = Conv(r8, w9) }}"""
    )
    pruned = cut(model, tools.random_plan(analyze(model), 0, 0.25))
    two, six = (next(t for t in weights_of(pruned) if t.name == n) for n in ("w2", "w6"))
    two.values, six.values = six.values, two.values
    assert "was the layer exchanged with another" in refused(model, pruned)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_another_order_is_refused(tools, noise):
    model = tools.graph(GRAPHS["residual"][0])
    pruned = cut(model, tools.random_plan(analyze(model), 0, 0.3))
    tensors = {t.name: t for t in weights_of(pruned)}
    order = np.random.default_rng(1).permutation(len(tensors["w2"].values))
    tensors["w2"].values = tensors["w2"].values[order]
    tensors["w3"].values = tensors["w3"].values[:, order]
    pruned = trained(pruned, noise)
    assert "stand in another order" in refused(model, pruned)


def test_another_precision_is_refused(tools):
    model = tools.graph(GRAPHS["chain"][0])
    half = model.clone()
    for tensor in weights_of(half):
        tensor.values = tensor.values.astype(np.float16)
    assert "is float16 in the pruned model" in refused(model, half)


def test_nothing_removed_is_an_empty_plan(tools):
    model = tools.graph(GRAPHS["residual"][0])
    found = match(model, scrambled(trained(model, 0.05)))
    assert found.plan.removed == 0
    assert len(found.plan.groups) == 2
    assert found.weights


@settings(max_examples=60)
@given(
    costs=st.integers(1, 6).flatmap(
        lambda n: st.integers(1, n).flatmap(
            lambda m: st.lists(
                st.lists(st.integers(0, 9), min_size=m, max_size=m), min_size=n, max_size=n
            )
        )
    ),
    keep=st.lists(st.sampled_from([None, None, None, True, False]), min_size=6, max_size=6),
)
def test_alignment_is_the_best_there_is(costs, keep):
    table = np.array(costs, dtype=np.float64)
    n, m = table.shape
    allowed = [
        rows
        for rows in combinations(range(n), m)
        if all(k is None or k == (i in rows) for i, k in enumerate(keep[:n]))
    ]
    if not allowed:
        with pytest.raises(ValueError, match="no alignment"):
            align(table, keep[:n])
        return
    rows = align(table, keep[:n])
    best = min(table[list(r), range(m)].sum() for r in allowed)
    assert tuple(rows) in allowed
    assert table[rows, range(m)].sum() == best


def test_distances():
    a = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    found = distances(a, np.array([[1.0, 0.0], [0.0, 1e-3], [-1.0, 0.0]]))
    assert found[0, 0] == 0
    assert found[1, 1] < 1e-5  # Both next to nothing.
    assert found[0, 2] > 1
    assert (found <= 2).all()


class Net:
    """A random network: every step reads the newest value, or joins it with an older one."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights = [], []
        self.values = [("x", 3)]

    def constant(self, values) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, *shape) -> str:
        return self.constant((self.rng.standard_normal(shape) / 3).astype(np.float32))

    def node(self, op, *inputs, outputs=1, **attrs):
        names = [f"t{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{len(self.nodes)}", **attrs))
        return names if outputs > 1 else names[0]

    def conv(self, width=8, kernel=3):
        x, c = self.values[-1]
        inputs = (x, self.weight(width, c, kernel, kernel), self.weight(width))
        y = self.node("Relu", self.node("Conv", *inputs, pads=[kernel // 2] * 4))
        self.values.append((y, width))

    def pointwise(self):
        self.conv(int(self.rng.choice([4, 6, 8, 12])), 1)

    def depthwise(self):
        x, c = self.values[-1]
        w = self.weight(c, 1, 3, 3)
        self.values.append((self.node("Conv", x, w, group=c, pads=[1] * 4), c))

    def join(self):
        x, c = self.values[-1]
        same = [v for v, n in self.values[:-1] if n == c] or [x]
        self.values.append((self.node("Add", str(self.rng.choice(same)), x), c))

    def concat(self):
        (x, c), (y, d) = self.values[-1], self.values[int(self.rng.integers(len(self.values)))]
        if c + d <= 32:
            self.values.append((self.node("Concat", y, x, axis=1), c + d))

    def split(self):
        x, c = self.values[-1]
        if c == 1:
            return
        at = int(self.rng.integers(1, c))
        sizes = self.constant(np.array([at, c - at]))
        a, b = self.node("Split", x, sizes, outputs=2, axis=1)
        self.values += [(a, at), (b, c - at)]

    def stride(self):
        x, c = self.values[-1]
        start = int(self.rng.integers(0, 2))
        if c > 3:
            bounds = [self.constant(np.array([v])) for v in (start, 99, 1, 2)]
            self.values.append((self.node("Slice", x, *bounds), len(range(c)[start::2])))

    def pad(self):
        x, c = self.values[-1]
        pads = self.constant(np.array([0, 1, 0, 0, 0, 2, 0, 0]))
        self.values.append((self.node("Pad", x, pads), c + 3))

    def finish(self) -> Model:
        (x, c), (y, d) = self.values[-1], self.values[len(self.values) // 2]
        z = self.node("Conv", self.node("Concat", x, y, axis=1), self.weight(5, c + d, 1, 1))
        shape = ["N", 5, 8, 8]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info(z, TensorProto.FLOAT, shape)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 17)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(proto, full_check=True)
        return Simplify()(Model.from_onnx(proto)).model


STEPS = ("conv", "conv", "pointwise", "depthwise", "join", "concat", "split", "stride", "pad")


@settings(max_examples=40)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=2, max_size=12), seed=st.integers(0, 2**16))
def test_any_plan_of_any_net(tools, steps, seed):
    net = Net(seed)
    net.conv()
    for step in steps:
        getattr(net, step)()
    model = net.finish()
    plan = tools.random_plan(analyze(model), seed)
    pruned = Simplify()(scrambled(cut(model, plan))).model
    found = match(model, pruned)
    assert exact(found.plan) == exact(plan)
    same_function(tools, model, found, pruned)
