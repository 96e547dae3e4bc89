"""What every criterion owes, and each one against a plain reading of its paper."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.channels import analyze, make_plan
from graphopt.channels.importance import IMPORTANCES, default_importance, needs_data
from graphopt.channels.importance.lasso import closing_prices
from graphopt.channels.importance.readers import readers, too_wide
from graphopt.errors import DataError, UsageError
from graphopt.model import Model
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.statistics import Statistics, gram

CHAIN = """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[6] b, float[5,6,3,3] w9)
    => (float[N,5,6,4] y) { a = Conv(x, w1, b)  h = Relu(a)  y = Conv(h, w9) }"""
BATCHNORM = """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[6] s, float[6] b, float[6] m,
    float[6] var, float[5,6,3,3] w9) => (float[N,5,6,4] y) {
    a = Conv(x, w1)  n = BatchNormalization(a, s, b, m, var)  h = Relu(n)  y = Conv(h, w9) }"""
# A stream of 6 channels, an inner group, a Concat, a grouped convolution, Flatten before a Gemm.
MIXED = """g (float[N,3,4,4] x, float[6,3,1,1] w1, float[8,6,3,3] w2, float[6,8,1,1] w3,
    float[4,6,1,1] w4, float[10,5,3,3] w5, float[10] b5, float[7,160] w9)
    => (float[N,7] y) {
    s = Conv(x, w1)  r = Relu(s)
    a = Conv<pads=[1,1,1,1]>(r, w2)  ar = Relu(a)  b = Conv(ar, w3)  t = Add(r, b)
    tr = Relu(t)  c = Conv(tr, w4)  cr = Relu(c)
    j = Concat<axis=1>(tr, cr)
    d = Conv<group=2, pads=[1,1,1,1]>(j, w5, b5)  dr = Relu(d)
    f = Flatten(dr)  y = Gemm<transB=1>(f, w9) }"""
ATTENTION = """g (float[N,5,12] x, float[12,8] wq, float[12,8] wk, float[12,8] wv, float[8,6] wo)
    => (float[N,5,6] y) {
    shape = Constant<value_ints=[0, 5, 2, 4]>()  flat = Constant<value_ints=[0, 5, 8]>()
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    q4 = Reshape(q, shape)  k4 = Reshape(k, shape)  v4 = Reshape(v, shape)
    qt = Transpose<perm=[0,2,1,3]>(q4)  kt = Transpose<perm=[0,2,3,1]>(k4)
    vt = Transpose<perm=[0,2,1,3]>(v4)
    s = MatMul(qt, kt)  p = Softmax<axis=-1>(s)  o = MatMul(p, vt)
    ot = Transpose<perm=[0,2,1,3]>(o)  o3 = Reshape(ot, flat)  y = MatMul(o3, wo) }"""
ALL = list(IMPORTANCES.names())
SEEING = [name for name in ALL if needs_data(name)]
BLIND = [name for name in ALL if name not in SEEING]


def statistics(tools, model, unfolded=None, samples=5, **options):
    given = [tools.feeds(model, seed) for seed in range(samples)]
    return Statistics(model, lambda: given, unfolded=unfolded or model, **options)


def score(tools, model, name, unfolded=None, **options):
    groups = analyze(model).groups
    given = statistics(tools, model, unfolded, **options)
    found = IMPORTANCES.load(name)(model, groups, statistics=given)
    assert list(found) == [group.name for group in groups]
    for group in groups:
        assert found[group.name].shape == (group.width,)
        assert found[group.name].dtype == np.float64
        assert np.isfinite(found[group.name]).all()
    return found


def with_batchnorm(tools, text):
    """The model before and after folding."""
    before = tools.graph(text)
    return before, FoldBatchNorm()(before).model


def replaced(model, **values):
    other = model.clone()
    for name, array in values.items():
        other.graph.tensors()[name].values = np.asarray(array, dtype=np.float32)
    return other


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in ALL if n != "bn-gamma"])
@pytest.mark.parametrize("text", [CHAIN, MIXED, ATTENTION], ids=["chain", "mixed", "attention"])
def test_finite_deterministic_and_fit_for_a_plan(tools, text, name):
    model = tools.graph(text)
    if name == "apoz" and text is ATTENTION:
        with pytest.raises(UsageError, match="no channel is ever zero"):
            score(tools, model, name)
        return
    before = model.digest()
    first = score(tools, model, name)
    assert model.digest() == before
    again = score(tools, Model.from_onnx(model.to_onnx()), name)
    assert all(np.array_equal(first[group], again[group]) for group in first)
    plan = make_plan(analyze(model), first, 0.5, align=1, importance=name)
    assert plan.removed
    tools.prove(model, plan)


@pytest.mark.parametrize("name", ALL)
def test_models_with_nothing_to_prune(tools, name):
    model = tools.graph("g (float[N,3] x, float[3,4] w9) => (float[N,4] y) { y = MatMul(x, w9) }")
    assert score(tools, model, name) == {}


def test_what_each_needs(tools):
    assert SEEING == ["obs", "activation", "apoz", "lasso"]
    assert default_importance(has_data=True) == "obs"
    assert default_importance(has_data=False) == "l2"
    model = tools.graph(CHAIN)
    groups = analyze(model).groups
    for name in SEEING:
        for without in (None, Statistics(model, None)):
            with pytest.raises(DataError, match=f"'{name}' .* needs samples: give --data"):
                IMPORTANCES.load(name)(model, groups, statistics=without)
    for name in set(BLIND) - {"bn-gamma"}:
        IMPORTANCES.load(name)(model, groups)
    assert IMPORTANCES.load("obs").estimates
    assert not any(IMPORTANCES.load(name).estimates for name in ALL if name != "obs")


@pytest.mark.parametrize("name", ["l1", "l2", "activation", "apoz", "lasso", "obs"])
def test_a_factor_moved_from_a_filter_to_its_reader_changes_no_order(tools, name):
    """The network computes the same, so the choice must be the same."""
    model = tools.graph(CHAIN)
    w1, b, w9 = (model.graph.tensors()[n].values for n in ("w1", "b", "w9"))
    factor = np.array([1, 8, 0.25, 4, 1, 0.5], dtype=np.float32)
    column = factor[:, None, None, None]
    other = replaced(model, w1=w1 * column, b=b * factor, w9=w9 / factor[None, :, None, None])
    (one,), (two,) = (score(tools, m, name).values() for m in (model, other))
    # Norms are relative to their layer's mean, which moves.
    np.testing.assert_allclose(two / two.sum(), one / one.sum(), rtol=1e-3)


@pytest.mark.parametrize("name", ["activation", "apoz", "lasso", "obs"])
def test_samples_that_tell_nothing_apart_do_no_harm(tools, name):
    """Constant activations: there is no energy to share out."""
    model = tools.graph(CHAIN)
    dead = replaced(model, w1=np.zeros((6, 3, 1, 1)), b=-np.ones(6))
    score(tools, dead, name)
    constant = replaced(model, w1=np.zeros((6, 3, 1, 1)), b=np.arange(6) - 1.0)
    score(tools, constant, name)
    score(tools, replaced(model, w9=np.zeros((5, 6, 3, 3))), name)


@pytest.mark.parametrize("name", ["activation", "lasso", "obs"])
def test_dead_channels_go_first_whatever_their_weights(tools, name):
    model = tools.graph(CHAIN)
    w9 = model.graph.tensors()["w9"].values.copy()
    b = model.graph.tensors()["b"].values.copy()
    w9[:, 4] *= 100
    b[4] = -100
    (found,) = score(tools, replaced(model, w9=w9, b=b), name).values()
    assert np.argmin(found) == 4


@pytest.mark.parametrize("name", ["activation", "lasso", "obs"])
def test_layers_too_wide_for_a_gram_matrix(tools, name, monkeypatch):
    monkeypatch.setattr(gram, "MOST_FEATURES", 20)
    model = tools.graph(MIXED)
    found = readers(model, analyze(model).groups)
    layers = {r.layer.node: r.layer for mine in found.values() for r in mine}.values()
    assert sum(too_wide(layer) for layer in layers) == 1  # The Gemm: by its diagonal.
    assert sum(layer.features > 20 for layer in layers) == 3  # And two by channel.
    score(tools, model, name)


def test_a_tensor_read_along_two_axes(tools):
    model = tools.graph(
        """g (float[N,3,6,6] x, float[6,3,1,1] w1, float[6,3,1,1] w2, float[6,5] w3,
        float[4,6,1,1] w9) => (float[N,4,6,6] y, float[N,6,6,5] z) {
        a = Conv(x, w1)  h = Relu(a)  y = Conv(h, w9)  z = MatMul(h, w3) }"""
    )
    for name in ("activation", "obs", "lasso", "apoz"):
        score(tools, model, name)


# --- each against its definition ------------------------------------------------------------------


def hidden(tools, model, samples=5):
    """The activations behind the Relu of CHAIN, ``(channels, rows)``."""
    w1, b = (model.graph.tensors()[n].values.astype(np.float64) for n in ("w1", "b"))
    x = np.concatenate([tools.feeds(model, seed)["x"] for seed in range(samples)])
    made = np.einsum("oc,nchw->onhw", w1[:, :, 0, 0], x) + b[:, None, None, None]
    return np.maximum(made, 0).reshape(6, -1)


def test_activation(tools):
    model = tools.graph(CHAIN)
    (found,) = score(tools, model, "activation").values()
    w9 = model.graph.tensors()["w9"].values
    norms = np.sqrt(np.square(w9).sum(axis=(0, 2, 3)))
    wanted = hidden(tools, model).std(axis=1) * norms
    np.testing.assert_allclose(found / found[0], wanted / wanted[0], rtol=1e-4)
    assert np.square(found).sum() == pytest.approx(1)


def test_apoz(tools):
    model = tools.graph(CHAIN)
    (found,) = score(tools, model, "apoz").values()
    # Within a grid of rounding: an activation may be just above zero here and at zero there.
    np.testing.assert_allclose(found, (hidden(tools, model) > 0).mean(axis=1), atol=2e-3)


def test_apoz_falls_back_to_norms_where_nothing_is_zero(tools):
    model = tools.graph(
        """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[4,6,1,1] w2, float[4] b2,
        float[5,4,1,1] w9) => (float[N,5,8,6] y) {
        a = Conv(x, w1)  h = Relu(a)  c = Conv(h, w2, b2)  y = Conv(c, w9) }"""
    )
    found, norms = score(tools, model, "apoz"), score(tools, model, "l2")
    relu, linear = found
    assert (found[relu] < 1).all()
    assert (found[linear] >= 1).all()
    assert np.argsort(found[linear]).tolist() == np.argsort(norms[linear]).tolist()


def test_geometric_median(tools):
    model = tools.graph(CHAIN)
    (found,) = score(tools, model, "geometric-median").values()
    filters = model.graph.tensors()["w1"].values.reshape(6, -1).astype(np.float64)
    wanted = np.array([sum(np.linalg.norm(a - b) for b in filters) for a in filters])
    np.testing.assert_allclose(found, wanted / wanted.mean(), rtol=1e-6)


def test_geometric_median_takes_the_filter_in_the_middle_first(tools):
    model = tools.graph(CHAIN)
    w1 = model.graph.tensors()["w1"].values.copy()
    w1[3] = np.delete(w1, 3, axis=0).mean(axis=0)
    (found,) = score(tools, replaced(model, w1=w1), "geometric-median").values()
    assert np.argmin(found) == 3


def test_bn_gamma(tools):
    before, after = with_batchnorm(tools, BATCHNORM)
    assert not any(node.op == "BatchNormalization" for node in after.graph.nodes)
    (found,) = score(tools, after, "bn-gamma", unfolded=before).values()
    gamma = np.abs(before.graph.tensors()["s"].values.astype(np.float64))
    np.testing.assert_allclose(found, gamma / gamma.mean(), rtol=1e-6)


def test_bn_gamma_of_a_batchnorm_that_could_not_be_folded(tools):
    """Before the layer that reads, behind a Concat: half of the scales are each group's."""
    text = """g (float[N,3,8,6] x, float[6,3,1,1] w1, float[4,3,1,1] w2, float[10] s, float[10] b,
    float[10] m, float[10] var, float[5,10,1,1] w9) => (float[N,5,8,6] y) {
    a = Conv(x, w1)  c = Conv(x, w2)  j = Concat<axis=1>(a, c)
    n = BatchNormalization(j, s, b, m, var)  h = Relu(n)  y = Conv(h, w9) }"""
    before, after = with_batchnorm(tools, text)
    first, second = score(tools, after, "bn-gamma", unfolded=before).values()
    gamma = np.abs(before.graph.tensors()["s"].values)
    np.testing.assert_allclose(first, gamma[:6] / gamma[:6].mean(), rtol=1e-6)
    np.testing.assert_allclose(second, gamma[6:] / gamma[6:].mean(), rtol=1e-6)


def test_bn_gamma_gives_norms_to_groups_without_and_refuses_models_without(tools):
    text = BATCHNORM.replace("float[5,6,3,3] w9", "float[4,6,1,1] w2, float[5,4,3,3] w9").replace(
        "y = Conv(h, w9)", "c = Conv(h, w2)  d = Relu(c)  y = Conv(d, w9)"
    )
    before, after = with_batchnorm(tools, text)
    _, second = score(tools, after, "bn-gamma", unfolded=before).values()
    np.testing.assert_array_equal(second, list(score(tools, after, "l2").values())[1])
    model = tools.graph(CHAIN)
    with pytest.raises(UsageError, match="no channel that can be removed has one"):
        score(tools, model, "bn-gamma")
    with pytest.raises(UsageError, match="before BatchNorm was folded"):
        IMPORTANCES.load("bn-gamma")(model, analyze(model).groups)
    before, after = with_batchnorm(tools, BATCHNORM)
    pruned = tools.prune(after, tools.random_plan(analyze(after), 0, 0.5))
    with pytest.raises(UsageError, match=r"has 3 channels, and had 6 .* pruned already"):
        score(tools, pruned, "bn-gamma", unfolded=before)


def test_random_is_a_function_of_seed_and_name(tools):
    model = tools.graph(MIXED)
    first, other = (score(tools, model, "random", seed=seed) for seed in (0, 1))
    for name, values in first.items():
        assert ((values >= 0) & (values < 1)).all()
        assert len(set(values)) == len(values)
        assert not np.array_equal(values, other[name])
    chain = score(tools, tools.graph(CHAIN), "random")
    shared = set(chain) & set(first)
    assert all(np.array_equal(chain[n][:3], first[n][:3]) for n in shared)
    values = np.concatenate(
        [next(iter(score(tools, model, "random", seed=s).values())) for s in range(2, 60)]
    )
    assert abs(values.mean() - 0.5) < 0.06


# --- lasso ----------------------------------------------------------------------------------------


def plain_lasso(gram, price, steps=20_000):
    """The gates that minimize, by proximal gradient descent."""
    gates, wanted = np.zeros(len(gram)), gram.sum(axis=1)
    rate = 1 / np.linalg.eigvalsh(gram)[-1]
    momentum, before, t = gates, gates, 1.0
    for _ in range(steps):
        moved = momentum + rate * (wanted - gram @ momentum)
        gates = np.sign(moved) * np.maximum(np.abs(moved) - rate * price, 0)
        after = (1 + np.sqrt(1 + 4 * t * t)) / 2
        momentum = gates + (t - 1) / after * (gates - before)
        before, t = gates, after
    return gates


@pytest.mark.parametrize("seed", range(3))
def test_gates_close_as_in_a_plain_lasso(seed):
    rng = np.random.default_rng(seed)
    width = 14
    x = rng.standard_normal((200, 6)) @ rng.standard_normal((6, width))
    x += 0.3 * rng.standard_normal(x.shape)
    weights = rng.standard_normal((width, 4)) * rng.uniform(0.1, 2, (width, 1))
    gram = (x.T @ x / 200) * (weights @ weights.T)
    prices = closing_prices(gram)
    assert len(np.unique(prices)) == width
    top = np.abs(gram.sum(axis=1)).max()
    for price in top * np.geomspace(0.9, 0.01, 9):
        open_now = np.abs(plain_lasso(gram, price)) > 1e-9
        # Open at this price, so it closes no lower; the grid of prices is 15 % wide.
        assert (prices[open_now] >= price * 0.99).all()
        never = prices < price / 1.16
        assert not (open_now & never).any()
    # Just under its price a gate opens.
    for c in np.argsort(prices)[-6:]:
        assert abs(plain_lasso(gram, prices[c] / 1.16)[c]) > 0


def test_lasso_of_unrelated_channels_is_their_energy():
    energy = np.array([3.0, 1.0, 2.0, 0.5, 0.0])
    prices = closing_prices(np.diag(energy))
    assert np.argsort(prices).tolist() == np.argsort(energy).tolist()
    np.testing.assert_allclose(prices[:4], energy[:4], rtol=0.16)


def test_lasso_of_rounding_alone_ends():
    """Samples that are all alike leave a matrix that is anything but positive semidefinite."""
    gram = np.full((12, 12), -1e-3)
    gram[:6, :6] = 1e-1
    np.fill_diagonal(gram, np.linspace(1e-4, 1e-2, 12))
    prices = closing_prices(gram)
    assert np.isfinite(prices).all()
    assert (prices >= 0).all()


def test_lasso_in_a_graph(tools):
    """Q from the samples themselves: what each channel adds to the output."""
    model = tools.graph(CHAIN)
    (found,) = score(tools, model, "lasso").values()
    h = hidden(tools, model).reshape(6, -1, 8, 6)
    w9 = model.graph.tensors()["w9"].values.astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(h, (3, 3), axis=(2, 3))
    z = np.einsum("cnhwij,ocij->conhw", windows, w9).reshape(6, 5, -1)
    z -= z.mean(axis=2, keepdims=True)
    gram = np.einsum("cor,dor->cd", z, z)
    np.testing.assert_allclose(found, closing_prices(gram / gram.sum()), rtol=1e-3)
