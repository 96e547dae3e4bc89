"""Random graphs: whatever the operators are put together to, pruned equals masked."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.channels import GroupPlan, PrunePlan, analyze, apply_plan
from graphopt.graph import constant
from graphopt.model import Model


class Net:
    """Builds a graph step by step; ``values`` are (name, C, H, W), the newest last."""

    def __init__(self, draw, integer: bool) -> None:
        self.draw, self.integer = draw, integer
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.nodes, self.weights = [], []
        self.values = [("x", 4, 8, 8)]

    def pick(self):
        recent = self.values[-4:]
        return recent[self.draw(st.integers(0, len(recent) - 1))]

    def weight(self, *shape, positive=False):
        name = f"w{len(self.weights)}"
        if self.integer:
            values = self.rng.integers(1 if positive else -1, 2, shape)
        elif positive:
            values = self.rng.uniform(0.5, 1.5, shape)
        else:
            values = self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) + 1)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def ints(self, *values):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def node(self, op, inputs, outputs=1, **attrs):
        names = [f"t{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{len(self.nodes)}", **attrs))
        return names if outputs > 1 else names[0]

    def add(self, name, c, h, w, clip=False):
        if clip and self.integer:  # Keeps float32 exact.
            name = self.node("Clip", [name, self.scalar(-8), self.scalar(8)])
        self.values.append((name, c, h, w))

    def scalar(self, value):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))
        return name

    def conv(self):
        x, c, h, w = self.pick()
        out = self.draw(st.sampled_from([4, 6, 8, 12]))
        k = self.draw(st.sampled_from([1, 3]))
        inputs = [x, self.weight(out, c, k, k)]
        if self.draw(st.booleans()):
            inputs.append(self.weight(out))
        self.add(self.node("Conv", inputs, pads=[k // 2] * 4), out, h, w, clip=True)

    def grouped(self):
        x, c, h, w = self.pick()
        groups = self.draw(st.sampled_from([g for g in (2, 3, 4, c) if c % g == 0]))
        out = groups * self.draw(st.sampled_from([1, 2, 3]))
        inputs = [x, self.weight(out, c // groups, 1, 1), self.weight(out)]
        self.add(self.node("Conv", inputs, group=groups), out, h, w, clip=True)

    def transposed(self):
        x, c, h, w = self.pick()
        groups = self.draw(st.sampled_from([1, 2, c])) if c % 2 == 0 else 1
        per = self.draw(st.sampled_from([1, 2, 4]))
        y = self.node("ConvTranspose", [x, self.weight(c, per, 1, 1)], group=groups)
        self.add(y, groups * per, h, w, clip=True)

    def unary(self):
        x, c, h, w = self.pick()
        op = self.draw(st.sampled_from(["Relu", "Neg", "Abs", "LeakyRelu", "Identity"]))
        self.add(self.node(op, [x], **({"alpha": 0.5} if op == "LeakyRelu" else {})), c, h, w)

    def scale(self):
        x, c, h, w = self.pick()
        op = self.draw(st.sampled_from(["Mul", "Add", "Sub", "Max", "PRelu"]))
        self.add(self.node(op, [x, self.weight(c, 1, 1)]), c, h, w, clip=True)

    def batch_norm(self):
        x, c, h, w = self.pick()
        one = [self.weight(c, positive=True), self.weight(c), self.weight(c)]
        if self.integer:
            return self.unary()
        y = self.node("BatchNormalization", [x, *one, self.weight(c, positive=True)])
        return self.add(y, c, h, w)

    def join(self):
        x, *shape = self.pick()
        same = [v[0] for v in self.values if list(v[1:]) == shape]
        other = same[self.draw(st.integers(0, len(same) - 1))]
        op = self.draw(st.sampled_from(["Add", "Mul", "Sub", "Min"]))
        self.add(self.node(op, [x, other]), *shape, clip=True)

    def excite(self):
        x, c, h, w = self.pick()
        p = self.node("GlobalMaxPool", [x])
        q = self.node("Conv", [p, self.weight(4, c, 1, 1)])
        r = self.node("Conv", [q, self.weight(c, 4, 1, 1)])
        self.add(self.node("Mul", [x, r]), c, h, w, clip=True)

    def concat(self):
        x, c, h, w = self.pick()
        same = [v for v in self.values if v[2:] == (h, w)]
        other = same[self.draw(st.integers(0, len(same) - 1))]
        if c + other[1] <= 40:
            self.add(self.node("Concat", [x, other[0]], axis=1), c + other[1], h, w)

    def split(self):
        x, c, h, w = self.pick()
        if c < 3:
            return
        at = self.draw(st.integers(1, c - 1))
        a, b = self.node("Split", [x, self.ints(at, c - at)], 2, axis=1)
        self.add(a, at, h, w)
        self.add(b, c - at, h, w)

    def slice(self):
        x, c, h, w = self.pick()
        step = self.draw(st.sampled_from([1, 1, 2, -1]))
        start = self.draw(st.integers(0, c - 1))
        picked = range(c)[start::step]
        inputs = [x, self.ints(start), self.ints(99 if step > 0 else -99)]
        inputs += [self.ints(1), self.ints(step)]
        self.add(self.node("Slice", inputs), len(picked), h, w)

    def gather(self):
        x, c, h, w = self.pick()
        picked = self.draw(st.lists(st.integers(-c, c - 1), min_size=1, max_size=12))
        self.add(self.node("Gather", [x, self.ints(*picked)], axis=1), len(picked), h, w)

    def pad(self):
        x, c, h, w = self.pick()
        a, b = self.draw(st.integers(0, 3)), self.draw(st.integers(0, 3))
        self.add(self.node("Pad", [x, self.ints(0, a, 0, 0, 0, b, 0, 0)]), c + a + b, h, w)

    def shuffle(self):
        x, c, h, w = self.pick()
        g = self.draw(st.sampled_from([g for g in (1, 2, 3, 4) if c % g == 0]))
        y = self.node("Reshape", [x, self.ints(0, g, c // g, h, w)])
        y = self.node("Transpose", [y], perm=[0, 2, 1, 3, 4])
        self.add(self.node("Reshape", [y, self.ints(-1, c, h, w)]), c, h, w)

    def depth_to_space(self):
        x, c, h, w = self.pick()
        if c % 4 == 0 and h <= 8:
            mode = self.draw(st.sampled_from(["DCR", "CRD"]))
            y = self.node("DepthToSpace", [x], blocksize=2, mode=mode)
            self.add(y, c // 4, 2 * h, 2 * w)

    def space_to_depth(self):
        x, c, h, w = self.pick()
        if h % 2 == 0 and c <= 8:
            self.add(self.node("SpaceToDepth", [x], blocksize=2), c * 4, h // 2, w // 2)

    def channel_sum(self):
        x, c, h, w = self.pick()
        y = self.node("ReduceSum", [x, self.ints(1)])
        self.add(self.node("Sub", [x, y]), c, h, w, clip=True)

    def softmax(self):
        x, c, h, w = self.pick()
        op = "ReduceMax" if self.integer else "Softmax"
        y = self.node(op, [x], **({"axes": [1]} if self.integer else {"axis": 1}))
        self.add(self.node("Add", [x, y]), c, h, w, clip=True)

    # Tokens: [N, H W, C] and back.

    def tokens(self, x, c, h, w):
        """Literal, with a copied batch, or computed from the shape of the input."""
        how = self.draw(st.sampled_from(["copy", "rest", "computed"]))
        if how == "computed":
            batch = self.node("Shape", [x], start=0, end=1)
            target = self.node("Concat", [batch, self.ints(c), self.ints(h * w)], axis=0)
        else:
            target = self.ints(0 if how == "copy" else -1, c, h * w)
        return self.node("Transpose", [self.node("Reshape", [x, target])], perm=[0, 2, 1])

    def image(self, y, c, h, w):
        y = self.node("Transpose", [y], perm=[0, 2, 1])
        self.add(self.node("Reshape", [y, self.ints(0, c, h, w)]), c, h, w, clip=True)

    def linear(self, y, c, out):
        y = self.node("MatMul", [y, self.weight(c, out)])
        y = self.node("Add", [y, self.weight(out)]) if self.draw(st.booleans()) else y
        if self.integer:
            y = self.node("Clip", [y, self.scalar(-4), self.scalar(4)])
        return y

    def mlp(self):
        x, c, h, w = self.pick()
        inner = self.draw(st.sampled_from([4, 6, 8]))
        y = self.tokens(x, c, h, w)
        if self.draw(st.booleans()):
            y = self.norm(y, c)
        kind = self.draw(st.sampled_from(["relu", "split", "slice"]))
        y = self.linear(y, c, inner if kind == "relu" else 2 * inner)
        if kind == "relu":
            y = self.node("Relu", [y])
        elif kind == "split":
            y = self.node("Mul", self.node("Split", [y, self.ints(inner, inner)], 2, axis=-1))
        else:
            ends = (0, inner), (inner, 2 * inner)
            cuts = [[y, self.ints(a), self.ints(b), self.ints(-1)] for a, b in ends]
            y = self.node("Mul", [self.node("Slice", cut) for cut in cuts])
        self.image(self.linear(y, inner, c), c, h, w)

    def norm(self, y, c):
        if self.integer:
            return self.node("Add", [y, self.node("ReduceMax", [y], axes=[-1])])
        kind = self.draw(st.sampled_from(["layer", "rms", "softmax", "unit"]))
        if kind == "layer":
            scale = [self.weight(c, positive=True), self.weight(c)]
            return self.node("LayerNormalization", [y, *scale])
        if kind == "softmax":
            return self.node("Softmax", [y], axis=-1)
        if kind == "unit":
            size = self.node("ReduceL2", [y], axes=[-1], keepdims=1)
            return self.node("Div", [y, self.node("Add", [size, self.scalar(0.5)])])
        mean = self.node("ReduceMean", [self.node("Mul", [y, y])], axes=[2])
        size = self.node("Sqrt", [self.node("Add", [mean, self.scalar(0.5)])])
        return self.node("Mul", [self.node("Div", [y, size]), self.weight(c, positive=True)])

    def heads(self, y, n, size, t, fused):
        y = self.node("Reshape", [y, self.ints(0, t, *fused, n, size)])
        return self.node("Transpose", [y], perm=[2, 0, 3, 1, 4] if fused else [0, 2, 1, 3])

    def attention(self):
        x, c, h, w = self.pick()
        if h * w > 64:
            return
        n, size = self.draw(st.sampled_from([1, 2, 4])), self.draw(st.sampled_from([1, 2, 3]))
        few = self.draw(st.sampled_from([k for k in (1, 2, 4) if n % k == 0]))
        t, width = h * w, n * size
        y = self.tokens(x, c, h, w)
        y = self.norm(y, c) if self.draw(st.booleans()) else y
        how = self.draw(st.sampled_from(["separate", "stacked", "split"])) if few == n else "few"
        if how == "stacked":
            y = self.heads(self.linear(y, c, 3 * width), n, size, t, [3])
            q, k, v = (self.node("Gather", [y, self.index(i)], axis=0) for i in range(3))
        elif how == "split":
            y = self.linear(y, c, 3 * width)
            parts = self.node("Split", [y, self.ints(width, width, width)], 3, axis=2)
            q, k, v = (self.heads(part, n, size, t, []) for part in parts)
        else:
            q = self.heads(self.linear(y, c, width), n, size, t, [])
            k = self.repeated(self.linear(y, c, few * size), few, n, size, t)
            v = self.repeated(self.linear(y, c, few * size), few, n, size, t)
        if self.draw(st.booleans()):
            q, k = self.turned(q, size), self.turned(k, size)
        if self.draw(st.booleans()):
            y = self.node("Einsum", [q, k], equation="bhqd,bhkd->bhqk")
        else:
            y = self.node("MatMul", [q, self.node("Transpose", [k], perm=[0, 1, 3, 2])])
        if self.integer:
            y = self.node("Clip", [y, self.scalar(-1), self.scalar(1)])
        else:
            y = self.node("Softmax", [y], axis=-1)
        if self.draw(st.booleans()):
            y = self.node("Mul", [y, self.weight(n, 1, 1)])  # One number a head.
        y = self.node("Transpose", [self.node("MatMul", [y, v])], perm=[0, 2, 1, 3])
        y = self.node("Reshape", [y, self.ints(0, t, width)])
        if self.integer:
            y = self.node("Clip", [y, self.scalar(-4), self.scalar(4)])
        self.image(self.linear(y, width, c), c, h, w)

    def index(self, value):
        self.ints(value)
        tensor = self.weights[-1]
        del tensor.dims[:]
        return tensor.name

    def repeated(self, y, few, n, size, t):
        """Each head of keys for several of queries: Unsqueeze, Expand, Reshape."""
        y = self.heads(y, few, size, t, [])
        y = self.node("Unsqueeze", [y, self.ints(2)])
        y = self.node("Expand", [y, self.ints(1, few, n // few, t, size)])
        return self.node("Reshape", [y, self.ints(0, n, t, size)])

    def turned(self, y, size):
        """Half of a head exchanged with the other, as rotary embedding does."""
        if size % 2:
            return self.node("Mul", [y, self.weight(size)])
        half = size // 2
        low, high = self.node("Split", [y, self.ints(half, half)], 2, axis=3)
        other = self.node("Concat", [self.node("Neg", [high]), low], axis=3)
        return self.node("Add", [y, self.node("Mul", [other, self.weight(size)])])

    def group_norm(self):
        x, c, h, w = self.pick()
        g = self.draw(st.sampled_from([g for g in (1, 2, 3, 4) if c % g == 0]))
        y = self.node("Reshape", [x, self.ints(0, g, -1)])
        y = self.node("Sub", [y, self.node("ReduceMax", [y], axes=[2])])
        self.add(self.node("Reshape", [y, self.ints(0, c, h, w)]), c, h, w, clip=True)

    def choose(self):
        x, c, h, w = self.pick()
        flags = self.rng.integers(0, 2, (c, 1, 1)).astype(bool)
        self.weights.append(numpy_helper.from_array(flags, f"w{len(self.weights)}"))
        inputs = [self.weights[-1].name, x, self.weight(c, 1, 1)]
        self.add(self.node("Where", inputs), c, h, w)

    def tile(self):
        x, c, h, w = self.pick()
        if c <= 12:
            self.add(self.node("Tile", [x, self.ints(1, 2, 1, 1)]), 2 * c, h, w)

    def spread(self):
        x, c, h, w = self.pick()
        y = self.node("Expand", [self.node("GlobalMaxPool", [x]), self.ints(1, c, h, w)])
        self.add(self.node("Max", [x, y]), c, h, w)

    def resize(self):
        x, c, h, w = self.pick()
        if h <= 4:
            name = f"w{len(self.weights)}"
            scale = np.array([1, 1, 2, 2], dtype=np.float32)
            self.weights.append(numpy_helper.from_array(scale, name))
            self.add(self.node("Resize", [x, "", name], mode="nearest"), c, 2 * h, 2 * w)

    def neighbours(self):
        x, c, h, w = self.pick()
        if self.integer:
            return self.unary()
        return self.add(self.node("LRN", [x], size=3, alpha=0.5), c, h, w)

    def largest(self):
        """What is never negative: its maximum over channels can lose some."""
        x, c, h, w = self.pick()
        y = self.node("Abs", [x])
        self.add(self.node("Sub", [y, self.node("ReduceMax", [y], axes=[1])]), c, h, w, clip=True)

    def recurrent(self):
        x, c, h, w = self.pick()
        if self.integer or h * w > 64:
            return self.unary()
        hidden, t = self.draw(st.sampled_from([2, 3, 4])), h * w
        y = self.node("Transpose", [self.tokens(x, c, h, w)], perm=[1, 0, 2])
        op, gates = self.draw(st.sampled_from([("LSTM", 4), ("GRU", 3), ("RNN", 1)]))
        both = self.draw(st.booleans())
        d = 2 if both else 1
        weights = [self.weight(d, gates * hidden, c), self.weight(d, gates * hidden, hidden)]
        attrs = {"hidden_size": hidden, "direction": "bidirectional" if both else "forward"}
        y = self.node(op, [y, *weights, self.weight(d, 2 * gates * hidden)], **attrs)
        y = self.node("Transpose", [y], perm=[2, 0, 1, 3])
        y = self.node("Reshape", [y, self.ints(0, t, d * hidden)])
        return self.image(self.linear(y, d * hidden, c), c, h, w)

    STEPS = (
        *("mlp", "mlp", "attention", "attention", "attention", "group_norm", "choose", "tile"),
        *("spread", "resize", "neighbours", "largest", "recurrent"),
        *("conv", "conv", "conv", "conv", "grouped", "transposed", "unary", "scale", "batch_norm"),
        *("join", "join", "excite", "concat", "split", "slice", "gather", "pad", "shuffle"),
        *("depth_to_space", "space_to_depth", "channel_sum", "softmax"),
    )

    def finish(self) -> Model:
        outputs = []
        for k in range(self.draw(st.integers(1, 2))):
            x, c, h, w = self.values[-1 - k] if k < len(self.values) else self.values[-1]
            if self.draw(st.booleans()):
                y = self.node("Flatten", [x])
                size = c * h * w
            else:
                y = self.node("Flatten", [self.node("GlobalMaxPool", [x])])
                size = c
            inputs = [y, self.weight(5, size), self.weight(5)]
            y = self.node("Gemm", inputs, transB=1)
            outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 5]))
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 8, 8])],
            outputs,
            self.weights,
        )
        opset = [helper.make_opsetid("", 17)]
        proto = helper.make_model(graph, opset_imports=opset, ir_version=8)
        onnx.checker.check_model(proto, full_check=True)
        return Model.from_onnx(proto)


def net(draw, integer: bool) -> Model:
    out = Net(draw, integer)
    out.conv()
    for step in draw(st.lists(st.sampled_from(Net.STEPS), min_size=3, max_size=14)):
        getattr(out, step)()
    return out.finish()


nets = st.composite(net)


def steps_of(model, seed, tools):
    """Two plans, the second made on what the first left, and one that removes both at once."""
    analysis = analyze(model)
    first = tools.random_plan(analysis, seed, 0.3)
    half = tools.prune(model, first)
    second = tools.random_plan(analyze(half), seed + 1, 0.3)
    gone: dict[tuple[str, int], set[int]] = {}
    for item in first.groups:
        for m in item.members:
            gone.setdefault((m.tensor, m.axis), set()).update(m.removed)
    sizes = {n: t.shape for n, t in model.graph.tensors().items()}
    later: set[tuple[str, int, int]] = set()
    for item in second.groups:
        for m in item.members:
            before = gone.get((m.tensor, m.axis), set())
            if m.tensor not in sizes:
                return None  # A copy of a constant that was shared: known by another name.
            kept = [k for k in range(sizes[m.tensor][m.axis]) if k not in before]
            later |= {(m.tensor, m.axis, kept[k]) for k in m.removed}
    removed = {item.name: set(item.removed) for item in first.groups}
    expected = set()
    for group in analysis.groups:
        for c in range(group.width):
            at = {(m.tensor, m.axis, k) for m in group.members for k in m.positions[c]}
            if at & later:
                expected |= at
                removed.setdefault(group.name, set()).add(c)
    if later != {(t, axis, k) for t, axis, k in expected if k not in gone.get((t, axis), ())}:
        return None  # With fewer channels a finer cut is possible than before.
    items = [
        GroupPlan(g.name, g.width, g.width, g.width - len(removed[g.name]), tuple(sorted(dead)))
        for g in analysis.groups
        if (dead := removed.get(g.name)) and len(dead) < g.width
    ]
    return half, second, PrunePlan(0.3, 1, "random", tuple(items))


def one_plan(tools, model, seed, *, integer):
    tools.prove(
        model, tools.random_plan(analyze(model), seed), seed=seed, integer=integer, tolerance=3e-5
    )


def weights(model):
    """Count weights; bounds of slices and the like may differ."""
    constants = [constant(t) for t in model.graph.tensors().values()]
    return sum(c.size for c in constants if c is not None and c.dtype == np.float32)


def two_plans(tools, model, seed):
    model = tools.prune(model, PrunePlan(0.0, 1, ""))  # Without what no output depends on.
    found = steps_of(model, seed, tools)
    if found is None:
        return False
    half, second, both = found
    given = tools.feeds(model, seed, integer=True)
    twice, once = tools.prune(half, second), tools.prune(model, both)
    assert weights(twice) == weights(once)
    for a, b in zip(tools.run(twice, given), tools.run(once, given), strict=True):
        np.testing.assert_array_equal(a, b)
    return True


@settings(max_examples=40)
@given(model=nets(integer=False), seed=st.integers(0, 9))
def test_pruned_equals_masked(tools, model, seed):
    one_plan(tools, model, seed, integer=False)


@settings(max_examples=40)
@given(model=nets(integer=True), seed=st.integers(0, 9))
def test_bit_for_bit_with_small_integers(tools, model, seed):
    one_plan(tools, model, seed, integer=True)


@settings(max_examples=25)
@given(model=nets(integer=True), seed=st.integers(0, 9))
def test_two_plans_one_after_the_other_are_one_plan(tools, model, seed):
    assume(two_plans(tools, model, seed))


@pytest.mark.slow
@settings(max_examples=600)
@given(model=nets(integer=False), seed=st.integers(0, 999))
def test_many_times(tools, model, seed):
    one_plan(tools, model, seed, integer=False)


@pytest.mark.slow
@settings(max_examples=600)
@given(model=nets(integer=True), seed=st.integers(0, 999))
def test_many_times_with_small_integers(tools, model, seed):
    one_plan(tools, model, seed, integer=True)
    two_plans(tools, model, seed)


@settings(max_examples=15)
@given(model=nets(integer=True), seed=st.integers(0, 9))
def test_plans_replay_from_json_and_the_empty_plan_changes_nothing(tools, model, seed):
    analysis = analyze(model)
    again = analyze(model.clone())
    assert (again.groups, again.frozen) == (analysis.groups, analysis.frozen)
    plan = tools.random_plan(analysis, seed)
    read = PrunePlan.from_json(plan.to_json())
    assert read.to_json() == plan.to_json()
    assert tools.prune(model, read).digest() == tools.prune(model, plan).digest()
    same = model.clone()
    apply_plan(same, tools.random_plan(analysis, seed, ratio=0.0))
    assert same.digest() == model.digest()
