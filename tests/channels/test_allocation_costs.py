"""The cost of a plan, before it is carried out, is the cost of the model that comes of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.channels import analyze, apply_plan, make_plan
from graphopt.channels.allocation import CostModel, Target
from graphopt.channels.allocation.tally import Extent, Ledger, Product, Tally
from graphopt.cost import cost
from graphopt.errors import UsageError
from graphopt.model import Model
from graphopt.passes.prune_channels import PruneChannels
from graphopt.profiles import DeviceProfile, load_device
from graphopt.profiles.roofline import Rates, estimate
from graphopt.profiles.roofline.anchors import fit

# Grouped, depthwise and transposed convolution, both axes of a Gemm, Concat, a residual, a Split.
NET = """g (float[N,3,H,W] x, float[12,3,3,3] w1, float[12] b1, float[12,6,3,3] w2,
            float[24,1,3,3] w3, float[24,5,2,2] w4, float[12,12,1,1] w5, float[9,17,1,1] w6,
            float[9,8] w7, float[7,8] w8, float[7] b8) => (float[N,7] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1, b1)  b = Relu(a)
    c = Conv <group=2, pads=[1,1,1,1], strides=[2,2]> (b, w2)
    d = Conv <group=12, pads=[1,1,1,1]> (c, w3)
    e = ConvTranspose <strides=[2,2]> (d, w4)
    f = Conv (b, w5)  h = Add(f, b)
    i = Concat <axis=1> (h, e)
    j = Conv (i, w6)  k = GlobalAveragePool(j)  l = Flatten(k)
    m = MatMul(l, w7)
    y = Gemm <transB=1> (m, w8, b8) }"""


def random_ratios(analysis, rng):
    return {g.name: float(rng.uniform(0, 0.95)) for g in analysis.groups}


def check(model, shapes, seed, *, heads=False, shared=False):
    """Compare with the cost of the pruned model, for a few random plans.

    Layers that share a constant and happen to lose the same indices of it go on sharing it, which
    widths alone cannot tell: the count is then too high, never too low.
    """
    analysis = analyze(model, heads=heads)
    costs, whole = CostModel.of(analysis, shapes), cost(model, shapes)
    assert (costs.macs.of_model(), costs.params.of_model()) == (whole.macs, whole.parameters)
    assert costs.unknown == whole.unknown
    rng = np.random.default_rng(seed)
    for _ in range(3):
        scores = {g.name: rng.random(g.width) for g in analysis.groups}
        plan = make_plan(analysis, scores, align=1, floor=1, ratios=random_ratios(analysis, rng))
        kept = [g.after for g in plan.groups]
        pruned = model.clone()
        apply_plan(pruned, plan)
        real = cost(pruned, shapes)
        assert costs.macs.at(kept) == real.macs
        assert costs.params.at(kept) >= real.parameters
        assert shared or costs.params.at(kept) == real.parameters
        assert costs.remains("macs", kept) == real.macs / whole.macs
    return analysis


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), n=st.integers(1, 3), side=st.sampled_from([4, 6, 10]))
def test_every_kind_of_layer(tools, seed, n, side):
    analysis = check(tools.graph(NET), {"x": (n, 3, side, side)}, seed)
    assert len(analysis.groups) == 5


@st.composite
def chains(draw):
    """Random stacks of convolutions, with groups, skips, concats and constants shared by layers."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    nodes, weights, values, shared = [], {}, [("x", 4)], draw(st.booleans())

    def weight(*shape):
        name = f"w{len(weights)}"
        weights[name] = rng.standard_normal(shape).astype(np.float32)
        return name

    def node(op, *inputs, **attrs):
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], f"n{len(nodes)}", **attrs))
        return nodes[-1].output[0]

    for _ in range(draw(st.integers(2, 9))):
        x, c = values[-1 - draw(st.integers(0, min(2, len(values) - 1)))]
        kind = draw(st.sampled_from(["conv", "conv", "grouped", "transposed", "concat", "add"]))
        out = draw(st.sampled_from([4, 6, 8]))
        if kind in ("conv", "grouped"):
            groups = draw(st.sampled_from([2, c])) if kind == "grouped" else 1
            out = c * 2 if kind == "grouped" else out
            # Exporters keep equal constants once: here all biases of one width.
            bias = f"b{out}" if shared else f"b{len(nodes)}"
            weights.setdefault(bias, np.arange(out, dtype=np.float32))
            y = node("Conv", x, weight(out, c // groups, 1, 1), bias, group=groups)
        elif kind == "transposed":
            y = node("ConvTranspose", x, weight(c, out, 1, 1))
        elif kind == "concat":
            other = values[draw(st.integers(0, len(values) - 1))]
            y, out = node("Concat", x, other[0], axis=1), c + other[1]
        else:
            other = next(v for v in values if v[1] == c)
            y, out = node("Add", x, other[0]), c
        if out <= 64:
            values.append((y, out))
    y = node("Conv", values[-1][0], weight(5, values[-1][1], 1, 1))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [info("x", TensorProto.FLOAT, ["N", 4, 3, 3])],
        [info(y, TensorProto.FLOAT, ["N", 5, 3, 3])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return Model.from_onnx(helper.make_model(graph, opset_imports=opset, ir_version=8)), shared


@settings(max_examples=60, deadline=None)
@given(chain=chains(), seed=st.integers(0, 99))
def test_random_chains(chain, seed):
    check(chain[0], {"x": (2, 4, 3, 3)}, seed, shared=chain[1])


@pytest.mark.parametrize(
    "name", ["resnet20_cifar10", "resnet56_cifar10", "face_rfb320", "face_yunet_n"]
)
def test_real_models(real_model, name):
    model = real_model(name)
    shapes = {
        name: tuple(d if isinstance(d, int) else (2 if i == 0 else 160) for i, d in enumerate(s))
        for name, (_, s) in model.inputs().items()
    }
    check(model, shapes, 0)


def test_attention_by_heads_and_by_columns(tools):
    text = """g (float[1,10,16] x, float[16,16] wq, float[16,16] wk, float[16,16] wv,
        float[16,16] wo, int64[4] s, int64[3] t) => (float[1,10,16] y)
        <int64[4] s = {0,0,4,4}, int64[3] t = {0,0,16}> {
        q = MatMul(x, wq)  q1 = Reshape(q, s)  q2 = Transpose<perm=[0,2,1,3]>(q1)
        k = MatMul(x, wk)  k1 = Reshape(k, s)  k2 = Transpose<perm=[0,2,3,1]>(k1)
        v = MatMul(x, wv)  v1 = Reshape(v, s)  v2 = Transpose<perm=[0,2,1,3]>(v1)
        qk = MatMul(q2, k2)  p = Softmax(qk)
        o = MatMul(p, v2)  o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, t)
        y = MatMul(o2, wo) }"""
    model = tools.graph(text.replace(", int64[4] s, int64[3] t)", ")"))
    for heads in (False, True):
        analysis = check(model, {}, 1, heads=heads)
        assert analysis.groups
        assert any(g.kind == "heads" for g in analysis.groups) is heads


def test_open_dimensions_count_as_one(tools):
    analysis = analyze(tools.graph(NET.replace("H,W", "12,12")))
    whole = {"x": (1, 3, 12, 12)}
    assert CostModel.of(analysis).macs.of_model() == CostModel.of(analysis, whole).macs.of_model()


def test_a_constant_that_layers_share_is_copied_once_they_differ(tools):
    text = """g (float[N,3,4,4] x, float[8,3,1,1] w1, float[8,8,1,1] w2, float[5,8,1,1] w9,
        float[8] b) => (float[N,5,4,4] y) {
        a = Conv(x, w1, b)  c = Conv(a, w2, b)  y = Conv(c, w9) }"""
    model = tools.graph(text)
    params = CostModel.of(analyze(model)).params
    weights = [params.at(kept) - 3 * a - a * c - 5 * c for kept in ((8, 8), (4, 8), (4, 6))
               for a, c in [kept]]  # fmt: skip
    assert weights == [8, 4 + 8, 4 + 6]


def test_constants_in_constant_nodes_count_as_after_the_pass():
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
        w1 = Constant <value = float[4,3,1,1] {1,2,3,4,5,6,7,8,9,1,2,3}> ()
        b1 = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
        w2 = Constant <value = float[2,4,1,1] {1,2,3,4,5,6,7,8}> ()
        a = Conv(x, w1, b1)  y = Conv(a, w2) }"""
    model = Model.from_onnx(onnx.parser.parse_model(text))
    costs = CostModel.of(analyze(model))
    assert costs.params.of_model() == cost(model).parameters
    pruned = PruneChannels(0.5, align=1)(model).model
    assert costs.params.at([2]) == cost(pruned).parameters
    assert costs.macs.at([2]) == cost(pruned).macs


def test_unknown_shapes_are_told_and_macs_refused():
    text = """<ir_version: 8, opset_import: ["" : 17, "com.acme" : 1]>
        g (float[N,3,4,4] x) => (float[N,M,H,W] y) {
        w = Constant <value = float[2,3,1,1] {1,2,3,4,5,6}> ()
        a = com.acme.Mystery(x)  y = Conv(a, w) }"""
    costs = CostModel.of(analyze(Model.from_onnx(onnx.parser.parse_model(text))))
    assert len(costs.unknown) == 1
    with pytest.raises(UsageError, match="known shapes"):
        costs.tally("macs")
    with pytest.raises(UsageError, match="no cost"):
        costs.tally("beauty")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9), moves=st.lists(st.integers(0, 10**6), max_size=12))
def test_a_ledger_keeps_up_with_the_tally(tools, seed, moves):
    costs = CostModel.of(
        analyze(tools.graph(NET)),
        {"x": (1, 3, 8, 8)},
        device=load_device("t4"),
        precision="int8",
    )
    for kind in ("macs", "params", "latency"):
        tally = costs.tally(kind)
        ledger = Ledger(tally, tally.widths)
        for move in moves:
            group = move % len(tally.widths)
            width = 1 + move // 7 % tally.widths[group]
            saved, before = ledger.saved(group, width), ledger.cost
            ledger.give(group, width)
            assert before - saved == ledger.cost == tally.at(ledger.kept)
            assert ledger.kept[group] == width


def test_a_tally_is_what_it_says():
    extents = (Extent(10, ((0, 2), (1, 1))), Extent(3))
    tally = Tally((4, 2), extents, (Product(5, (0, 1)), Product(1, (0, 0))), fixed=7)
    assert tally.of_model() == 7 + 5 * 10 * 3 + 100
    assert tally.at((3, 1)) == 7 + 5 * 7 * 3 + 49


# Latency.


def one_conv(tools, channels):
    text = f"""g (float[1,32,64,64] x, float[{channels},32,3,3] w1, float[32,{channels},3,3] w2)
        => (float[1,32,64,64] y) {{ a = Conv <pads=[1,1,1,1]> (x, w1)
        y = Conv <pads=[1,1,1,1]> (a, w2) }}"""
    return analyze(tools.graph(text))


FAST = DeviceProfile(
    "fast", peaks={"int8": 100.0}, bandwidth_gbs=1e6, channel_multiple={"int8": 32}
)
SLOW = DeviceProfile(
    "slow", peaks={"int8": 1e6}, bandwidth_gbs=100.0, channel_multiple={"int8": 32}
)


def test_a_layer_takes_the_longer_of_computing_and_moving(tools):
    analysis, known = one_conv(tools, 128), fit().constants
    computing = CostModel.of(analysis, device=FAST, precision="int8").tally("latency")
    launch, macs = Rates.of(FAST).launch, 64 * 64 * 9 * 32 * 128
    assert computing.of_model() == 2 * (launch + round(macs / (50 * known.compute)))
    moving = CostModel.of(analysis, device=SLOW, precision="int8").tally("latency")
    moved = 64 * 64 * (32 + 128) + 9 * 32 * 128
    assert moving.of_model() == 2 * (launch + round(moved / (0.1 * known.bandwidth)))


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
@pytest.mark.parametrize("text", [NET])
def test_with_every_channel_there_it_is_the_estimate(tools, precision, text):
    """One model of time: the pruner's, at full width, and that of graphopt estimate."""
    model, device, shapes = tools.graph(text), load_device("t4"), {"x": (2, 3, 8, 8)}
    costs = CostModel.of(analyze(model), shapes, device=device, precision=precision)
    told = estimate(model, device, precision=precision, shapes=shapes)
    assert costs.tally("latency").of_model() == round(told.ms * 1e9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_of_a_plan_it_is_the_estimate_of_the_pruned_model(tools, seed):
    model, device, shapes = tools.graph(NET), load_device("t4"), {"x": (1, 3, 8, 8)}
    analysis, rng = analyze(model), np.random.default_rng(seed)
    costs = CostModel.of(analysis, shapes, device=device, precision="int8")
    scores = {g.name: rng.random(g.width) for g in analysis.groups}
    plan = make_plan(analysis, scores, align=1, floor=1, ratios=random_ratios(analysis, rng))
    pruned = model.clone()
    apply_plan(pruned, plan)
    told = estimate(pruned, device, precision="int8", shapes=shapes)
    planned = costs.tally("latency").at([g.after for g in plan.groups])
    # What changes its kind is computed in another way: a grouped convolution whose groups are one
    # channel wide, or that has one group left.
    before, after = [
        {n.name: (n.attrs["group"] > 1, n.inputs[1].shape[1] > 1) for n in m.graph.nodes
         if "group" in n.attrs} for m in (model, pruned)
    ]  # fmt: skip
    assume(before == after)
    assert planned == round(told.ms * 1e9)


def test_padding_makes_widths_between_multiples_worthless(tools):
    tally = CostModel.of(one_conv(tools, 128), device=FAST, precision="int8").tally("latency")
    assert tally.at([97]) == tally.at([128]) > tally.at([96]) == tally.at([65])


def test_latency_is_refused_where_nothing_is_known_of_the_device(tools):
    analysis = one_conv(tools, 64)
    for device, word in (
        (None, "--device"),
        (DeviceProfile("host"), "no peak for int8"),
        (DeviceProfile("x", peaks={"int8": 1.0}), "no bandwidth"),
    ):
        costs = CostModel.of(analysis, device=device, precision="int8")
        with pytest.raises(UsageError, match=word):
            costs.tally("latency")
        with pytest.raises(UsageError, match=word):
            make_plan(analysis, {}, target=Target("latency", 0.5), costs=costs)


def test_widths_without_speed_are_told(tools):
    analysis = one_conv(tools, 64)
    scores = {g.name: np.arange(g.width, dtype=float) for g in analysis.groups}
    costs = CostModel.of(analysis, device=load_device("t4"), precision="int8")
    plan = make_plan(analysis, scores, 0.3, align=1, costs=costs)
    assert plan.groups[0].after == 45
    assert plan.groups[0].note == (
        "45 channels cost what 64 do on t4 in int8: --align 32, or keep 64"
    )
    assert make_plan(analysis, scores, 0.5, align=32, costs=costs).groups[0].note == ""
    assert make_plan(analysis, scores, 0.3, align=1).groups[0].note == ""


def test_what_counts_is_the_dimension_a_group_is_part_of(tools):
    """Neither branch is a multiple of 32 by itself; only the reader of both pads."""
    text = """g (float[1,3,8,8] x, float[40,3,1,1] w1, float[24,3,1,1] w2, float[5,64,1,1] w3)
        => (float[1,5,8,8] y) { a = Conv(x, w1)  b = Conv(x, w2)
        c = Concat <axis=1> (a, b)  y = Conv(c, w3) }"""
    costs = CostModel.of(analyze(tools.graph(text)), device=load_device("t4"), precision="int8")
    one, two = costs.speed_notes([33, 24])
    # 57 of a padded 64 leave room for 7, its own convolution pads 33 to 64: 7 more are free.
    assert one.startswith("33 channels cost what 40 do")
    assert two == ""  # It keeps all it has.
    assert costs.speed_notes([32, 24])[0] == ""
