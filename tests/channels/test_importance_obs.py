"""OBS against its definition: channels taken out one by one, the rest solved by least squares."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphopt.channels.importance.obs as module
from graphopt.channels import analyze
from graphopt.channels.importance.elimination import scores_of
from graphopt.channels.importance.obs import DAMPING, LEAST, obs
from graphopt.channels.importance.readers import readers
from graphopt.statistics import Statistics

SAMPLES = 6  # batches


def batches(tools, model):
    return [tools.feeds(model, seed) for seed in range(SAMPLES)]


def scores(tools, model):
    given = batches(tools, model)
    found = obs(model, analyze(model).groups, statistics=Statistics(model, lambda: given))
    assert all(np.isfinite(v).all() and v.dtype == np.float64 for v in found.values())
    return found


# --- the definition -------------------------------------------------------------------------------


def activation(tools, model, name):
    """Run the model for one inner tensor, all samples."""
    proto = model.to_onnx()
    del proto.graph.output[:]
    proto.graph.output.append(onnx.ValueInfoProto(name=name))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([name], f)[0] for f in batches(tools, model)])


def design(node, x):
    """Rows and features of a layer, from ONNX Runtime: its node with one output per feature."""
    weight = node.inputs[1].values
    if node.op in ("Gemm", "MatMul"):
        return x.reshape(-1, x.shape[-1]).astype(np.float64)
    channels, kernel = x.shape[1], weight.shape[2:]
    features = channels * int(np.prod(kernel))
    one = np.eye(features, dtype=np.float32).reshape(features, channels, *kernel)
    if node.op == "ConvTranspose":
        one = one.swapaxes(0, 1)
    attrs = {k: v for k, v in node.attrs.items() if k != "group"}
    made = onnx.helper.make_node(node.op, ["x", "w"], ["y"], **attrs)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [made],
        "probe",
        [info("x", 1, x.shape), info("w", 1, one.shape)],
        [info("y", 1, [None] * x.ndim)],
    )
    proto = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": x, "w": np.ascontiguousarray(one)})[0]
    return np.moveaxis(y, 1, -1).reshape(-1, features).astype(np.float64)


def matrix(node):
    """The weight as (features, outputs) per group of the convolution."""
    weight = node.inputs[1].values.astype(np.float64)
    groups = int(node.attrs.get("group", 1))
    if node.op == "Conv":
        return [part.reshape(len(part), -1).T for part in np.split(weight, groups)]
    if node.op == "ConvTranspose":
        return [
            np.moveaxis(part, 1, -1).reshape(-1, part.shape[1]) for part in np.split(weight, groups)
        ]
    return [weight.T if node.attrs.get("transB") else weight]


class Problem:
    """Rows, weights, and the features of each channel of one group of one reader."""

    def __init__(self, x, weights, features):
        self.x = (x - x.mean(axis=0)) / np.sqrt(len(x))
        self.weights, self.features = weights, features
        self.damping = np.sqrt(damping_of((self.x**2).sum(axis=0)))

    @property
    def energy(self):
        return float(((self.x @ self.weights) ** 2).sum())

    def error(self, gone):
        """The least that the output, and the damping, must suffer without these channels."""
        out = np.zeros(len(self.weights), dtype=bool)
        for channel in gone:
            out[self.features[channel]] = True
        rows = np.vstack([self.x, np.diag(self.damping)])
        lost = rows[:, out] @ self.weights[out]
        change = np.linalg.lstsq(rows[:, ~out], lost, rcond=None)[0]
        return float(((lost - rows[:, ~out] @ change) ** 2).sum())


def damping_of(diagonal):
    return DAMPING * diagonal + LEAST * diagonal.mean()


def problems(tools, model, group, members):
    """(node, {group of the convolution: features of each channel}) -> problems, with weights."""
    found = []
    for name, places in members.items():
        node = next(n for n in model.graph.nodes if n.name == name)
        x = activation(tools, model, node.inputs[0].name)
        weights = matrix(node)
        axis = 1 if node.op.startswith("Conv") else -1
        taps = int(np.prod(node.inputs[1].shape[2:])) if axis == 1 else 1
        parts = [
            Problem(
                design(node, part),
                weights[g],
                [[p * taps + t for p in ps for t in range(taps)] for ps in places],
            )
            for g, part in enumerate(np.split(x, len(weights), axis=axis))
        ]
        whole = sum(part.energy for part in parts)
        found += [(part, 1 / whole) for part in parts]
    return found


def exhaustive(found, width):
    """Greedy by definition: every candidate solved from scratch at every step."""

    def total(gone):
        return sum(scale * part.error(gone) for part, scale in found)

    order, costs, before = [], [], 0.0
    while len(order) < width:
        tried = {c: total([*order, c]) for c in range(width) if c not in order}
        best = min(tried, key=tried.__getitem__)
        order.append(best)
        costs.append(tried[best] - before)
        before = tried[best]
    return np.array(order), np.array(costs)


CONV = """g (float[N,3,8,6] x, float[6,3,3,3] w1, float[6] b, float[5,6,3,3] w9)
    => (float[N,5,4,3] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b)  h = Relu(a)
    [last] y = Conv<strides=[2,2], pads=[1,1,1,1]>(h, w9) }"""
WIDE_OUT = CONV.replace("[5,6,3,3]", "[80,6,3,3]").replace("[N,5,4,3]", "[N,80,4,3]")
TRANSPOSED = """g (float[N,3,4,3] x, float[6,3,1,1] w1, float[6,4,2,3] w9)
    => (float[N,4,M,K] y) {
    a = Conv(x, w1)  h = Relu(a)
    [last] y = ConvTranspose<strides=[2,1], pads=[0,1,1,0], output_padding=[1,0]>(h, w9) }"""
GROUPED = """g (float[N,3,8,6] x, float[12,3,1,1] w1, float[8,6,3,3] w2, float[5,8,1,1] w9)
    => (float[N,5,8,6] y) {
    a = Conv(x, w1)  h = Relu(a)
    [mid] c = Conv<group=2, pads=[1,1,1,1]>(h, w2)  d = Relu(c)
    [last] y = Conv(d, w9) }"""
FLATTENED = """g (float[N,3,3,2] x, float[5,3,1,1] w1, float[7,30] w9) => (float[N,7] y) {
    a = Conv(x, w1)  h = Relu(a)  f = Flatten(h)
    [last] y = Gemm<transB=1, alpha=0.5>(f, w9) }"""
STREAM = """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[4,6,3,3] w2, float[6,4,1,1] w3,
    float[5,6,1,1] w9) => (float[N,5,8,6] y) {
    s = Conv(x, w1)
    [one] a = Conv<pads=[1,1,1,1]>(s, w2)  r = Relu(a)  b = Conv(r, w3)  t = Add(s, b)
    [two] y = Conv(t, w9) }"""
SHARED_WEIGHT = """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[5,6,1,1] w9)
    => (float[N,5,8,6] y, float[N,5,4,3] z) {
    a = Conv(x, w1)  h = Relu(a)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)
    [one] y = Conv(h, w9)  [two] z = Conv(p, w9) }"""
DEPTHWISE = """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[12,1,3,3] w2, float[5,12,1,1] w9)
    => (float[N,5,8,6] y) {
    a = Conv(x, w1)  h = Relu(a)
    d = Conv<group=6, pads=[1,1,1,1]>(h, w2)
    [last] y = Conv(d, w9) }"""
ROWS = [(i,) for i in range(6)]


@pytest.mark.parametrize(
    ("text", "members"),
    [
        (CONV, {"last": ROWS}),
        (WIDE_OUT, {"last": ROWS}),
        (TRANSPOSED, {"last": ROWS}),
        (GROUPED, {"mid": ROWS}),
        (FLATTENED, {"last": [tuple(range(6 * c, 6 * c + 6)) for c in range(5)]}),
        (STREAM, {"one": ROWS, "two": ROWS}),
        (SHARED_WEIGHT, {"one": ROWS, "two": ROWS}),
        (DEPTHWISE, {"last": [(2 * c, 2 * c + 1) for c in range(6)]}),
    ],
    ids=["conv", "wide", "transposed", "grouped", "flattened", "stream", "shared", "depthwise"],
)
def test_scores_are_those_of_exhaustive_elimination(tools, text, members):
    model = tools.graph(text)
    group = analyze(model).groups[0]
    found = problems(tools, model, group, members)
    order, costs = exhaustive(found, group.width)
    assert len({round(c, 9) for c in costs}) == group.width  # No ties to be told apart.
    got = scores(tools, model)[group.name]
    assert np.argsort(got).tolist() == order.tolist()
    np.testing.assert_allclose(got, scores_of(order, costs), rtol=1e-3, atol=1e-6)


# --- several groups, bounds, fall-backs -----------------------------------------------------------


CONCAT = """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[4,3,3,3] w2, float[5,10,3,3] w9)
    => (float[N,5,8,6] y) {
    a = Conv(x, w1)  h = Relu(a)  b = Conv<pads=[1,1,1,1]>(x, w2)  k = Relu(b)
    c = Concat<axis=1>(h, k)
    [last] y = Conv<pads=[1,1,1,1]>(c, w9) }"""


def test_other_groups_of_a_layer_are_kept_and_help(tools):
    model = tools.graph(CONCAT)
    groups = analyze(model).groups
    got = scores(tools, model)
    for group, first in zip(groups, (0, 6), strict=True):
        members = {"last": [(first + c,) for c in range(group.width)]}
        order, costs = exhaustive(problems(tools, model, group, members), group.width)
        np.testing.assert_allclose(got[group.name], scores_of(order, costs), rtol=1e-3, atol=1e-6)


def test_a_group_that_is_all_a_layer_reads_costs_all_of_its_output(tools):
    (found,) = scores(tools, tools.graph(CONV)).values()
    assert found.sum() == pytest.approx(1, rel=0.01)
    stream = next(iter(scores(tools, tools.graph(STREAM)).values()))
    assert stream.sum() == pytest.approx(2, rel=0.01)


def test_beyond_the_bound_costs_are_taken_once(tools, monkeypatch):
    model = tools.graph(STREAM)
    group = analyze(model).groups[0]
    found = problems(tools, model, group, {"one": ROWS, "two": ROWS})
    alone = np.array([sum(scale * part.error([c]) for part, scale in found) for c in range(6)])
    monkeypatch.setattr(module, "MEMORY", 0)
    got = scores(tools, model)[group.name]
    np.testing.assert_allclose(got, alone, rtol=1e-3)


def test_what_is_held_is_let_go_of(tools, monkeypatch):
    """A bound that all groups together exceed, and no one alone, changes nothing."""
    model = tools.graph(
        """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[6,6,1,1] w2, float[6,6,1,1] w3,
        float[5,6,1,1] w9) => (float[N,5,8,6] y) {
        a = Conv(x, w1)  h = Relu(a)  b = Conv(h, w2)  k = Relu(b)  c = Conv(k, w3)  l = Relu(c)
        y = Conv(l, w9) }"""
    )
    wanted = scores(tools, model)
    monkeypatch.setattr(module, "MEMORY", 6 * (6 + 6) * 8)
    assert all(np.array_equal(v, wanted[n]) for n, v in scores(tools, model).items())


def test_a_layer_by_channel_is_close(tools, monkeypatch):
    """Taps as alike and unrelated: another number, the same kind, and still in [0, 1]."""
    model = tools.graph(CONV)
    (whole,) = scores(tools, model).values()
    monkeypatch.setattr("graphopt.statistics.gram.MOST_FEATURES", 20)
    (found,) = scores(tools, model).values()
    assert not np.allclose(found, whole, rtol=1e-3)
    assert found.sum() == pytest.approx(1, rel=0.01)


def test_outputs_that_go_with_their_inputs_are_no_error(tools):
    """Rows of a grouped transposed convolution: in and out."""
    model = tools.graph(
        """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[6,2,2,2] w2, float[5,12,1,1] w9)
        => (float[N,5,16,12] y) {
        a = Conv(x, w1)  h = Relu(a)
        [up] u = ConvTranspose<group=6, strides=[2,2]>(h, w2)  [last] y = Conv(u, w9) }"""
    )
    (group,) = analyze(model).groups
    found = readers(model, [group])[group.name]
    assert [reader.layer.node for reader in found] == ["last"]
    places = [(2 * c, 2 * c + 1) for c in range(6)]
    order, costs = exhaustive(problems(tools, model, group, {"last": places}), 6)
    got = scores(tools, model)[group.name]
    np.testing.assert_allclose(got, scores_of(order, costs), rtol=1e-3, atol=1e-6)


def test_columns_of_a_grouped_transposed_convolution(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[12,3,1,1] w1, float[12,3,2,2] w2, float[5,6,1,1] w9)
        => (float[N,5,16,12] y) {
        a = Conv(x, w1)  h = Relu(a)
        [up] u = ConvTranspose<group=2, strides=[2,2]>(h, w2)  r = Relu(u)
        [last] y = Conv(r, w9) }"""
    )
    group = next(g for g in analyze(model).groups if g.width == 6)
    order, costs = exhaustive(problems(tools, model, group, {"up": ROWS}), 6)
    got = scores(tools, model)[group.name]
    np.testing.assert_allclose(got, scores_of(order, costs), rtol=1e-3, atol=1e-6)


def test_queries_and_keys_go_by_their_product(tools):
    """No constant reads them: the head dimensions that add least to the scores go first."""
    model = tools.graph(
        """g (float[N,5,12] x, float[12,6] wq, float[12,6] wk, float[12,8] wv, float[8,6] wo)
        => (float[N,5,6] y) {
        q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        kt = Transpose<perm=[0,2,1]>(k)  s = MatMul(q, kt)  p = Softmax<axis=-1>(s)
        o = MatMul(p, v)  y = MatMul(o, wo) }"""
    )
    group = next(g for g in analyze(model).groups if g.width == 6)
    assert readers(model, [group]) == {group.name: ()}
    std = [activation(tools, model, name).reshape(-1, 6).std(axis=0) for name in ("q", "k")]
    product = (std[0] * std[1]) ** 2
    np.testing.assert_allclose(scores(tools, model)[group.name], product / product.sum(), rtol=1e-4)


def test_recurrent_layers_fall_back_to_norms(tools):
    model = tools.graph(
        """g (float[7,2,3] x, float[3,6] w1, float[1,20,6] w, float[1,20,5] r)
        => (float[7,1,2,5] y) {
        h = MatMul(x, w1)  k = Relu(h)  y = LSTM<hidden_size=5>(k, w, r) }"""
    )
    groups = analyze(model).groups
    assert groups
    for values in scores(tools, model).values():
        assert values.sum() == pytest.approx(1)
