"""Random graphs: whatever the operators are put together to, pruned equals masked."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.channels import PrunePlan, analyze, apply_plan
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

    STEPS = (
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


@settings(max_examples=60)
@given(model=nets(integer=False), seed=st.integers(0, 9))
def test_pruned_equals_masked(tools, model, seed):
    tools.prove(model, tools.random_plan(analyze(model), seed), seed=seed, tolerance=3e-5)


@settings(max_examples=60)
@given(model=nets(integer=True), seed=st.integers(0, 9))
def test_bit_for_bit_with_small_integers(tools, model, seed):
    tools.prove(model, tools.random_plan(analyze(model), seed), seed=seed, integer=True)


@settings(max_examples=25)
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
