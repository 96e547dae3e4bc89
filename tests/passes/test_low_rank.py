"""Two layers for one: equal at full rank, fewer operations, the best choice of ranks."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from helpers import SHARED, conv_net, image_samples, needs_shared, parse, rtx_refuses, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from graphopt.cost import cost
from graphopt.errors import DataError, UnsupportedModelError, UsageError
from graphopt.graph import Names, constant
from graphopt.model import Model
from graphopt.passes import low_rank as module
from graphopt.passes.factors import factors_of
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.low_rank import LowRank, factorable, kernel_of
from graphopt.passes.ranks import Choice, allocate
from graphopt.passes.simplify import Simplify
from graphopt.statistics import Gram
from graphopt.statistics.layers import layer_of

CONVS = [
    ("kernel_shape = [3, 3], pads = [1, 1, 1, 1]", (12, 8, 3, 3), (2, 8, 9, 10)),
    ("pads = [2, 0, 1, 3], strides = [2, 1]", (12, 8, 3, 5), (2, 8, 9, 10)),
    ("strides = [2, 3], dilations = [2, 1]", (12, 8, 3, 3), (2, 8, 9, 10)),
    ('auto_pad = "SAME_UPPER", strides = [2, 2]', (12, 8, 3, 3), (2, 8, 9, 10)),
    ('auto_pad = "SAME_LOWER", strides = [2, 2]', (12, 8, 4, 4), (2, 8, 9, 10)),
    ('auto_pad = "VALID"', (12, 8, 3, 2), (2, 8, 9, 10)),
    ("pads = [1, 1]", (12, 8, 3), (2, 8, 9)),
    ("pads = [1, 0, 1, 1, 0, 1]", (12, 8, 3, 2, 3), (2, 8, 5, 6, 7)),
    ("kernel_shape = [1, 1]", (12, 8, 1, 1), (2, 8, 9, 10)),
]


def conv(attributes: str, shape: tuple[int, ...], x: tuple[int, ...], seed: int = 0) -> Model:
    rng = np.random.default_rng(seed)
    sizes = ", ".join(map(str, x))
    y = ", ".join("abcde"[: len(x) - 2])
    k = shape[0]
    given_to = f"(float[{sizes}] x, float{list(shape)} w, float[{k}] b)"
    body = f"{{ y = Conv <{attributes}> (x, w, b) }}"
    model = parse(f"g {given_to} => (float[{x[0]}, {k}, {y}] y) {body}")
    return with_weights(
        model, w=rng.normal(size=shape).astype("f4"), b=rng.normal(size=shape[0]).astype("f4")
    )


def with_weights(model: Model, **weights: np.ndarray) -> Model:
    proto = model.to_onnx()
    for name, array in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
        proto.graph.input.remove(next(i for i in proto.graph.input if i.name == name))
    return Model.from_onnx(proto)


def split(model: Model, form: str, rank: int | None = None, gram: Gram | None = None) -> Model:
    """Factorize the only layer of a model, at full rank by default."""
    clone = model.clone()
    nodes = {n.name: n for n in clone.graph.nodes}
    (layer,), _ = factorable(clone)
    node = nodes[layer.node]
    matrix = layer.matrix(np.asarray(constant(node.inputs[1])), node)[0]
    (found,) = [f for f in factors_of(layer, matrix, kernel_of(node), gram) if f.form == form]
    choice = Choice(0, 0.0, len(found.second) if rank is None else rank, found)
    module._split(clone, layer, choice, nodes, Names(clone.graph))
    clone.infer_shapes()
    onnx.checker.check_model(clone.to_onnx(), full_check=True)
    return clone


@pytest.mark.parametrize(("attributes", "shape", "x"), CONVS)
@pytest.mark.parametrize("form", ["outputs", "separable"])
def test_at_full_rank_nothing_changes(
    attributes: str, shape: tuple[int, ...], x: tuple[int, ...], form: str
) -> None:
    if form == "separable" and (len(shape) != 4 or min(shape[2:]) == 1):
        pytest.skip("of two kernel dimensions only")
    model = conv(attributes, shape, x)
    feeds = {"x": np.random.default_rng(1).normal(size=x).astype("f4")}
    found = split(model, form)
    assert [n.name for n in found.graph.nodes][1] == model.graph.nodes[0].name
    np.testing.assert_allclose(run(found, feeds)[0], run(model, feeds)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "y = Gemm (x, w, b)",
        "y = Gemm <alpha = 0.5, transB = 1> (x, w, b)",
        "p = MatMul (x, w) y = Add (p, b)",
        "p = MatMul (x, w) y = Relu (p)",
    ],
)
def test_products_at_full_rank(text: str) -> None:
    rng = np.random.default_rng(0)
    shape = (8, 12) if "transB" in text else (12, 8)
    extra = ", float[8] b" if "b)" in text else ""
    model = parse(
        f"g (float[N, 12] x, float{list(shape)} w{extra}) => (float[N, 8] y) {{ {text} }}"
    )
    given_weights = {"w": rng.normal(size=shape).astype("f4")}
    if extra:
        given_weights["b"] = rng.normal(size=8).astype("f4")
    model = with_weights(model, **given_weights)
    feeds = {"x": rng.normal(size=(5, 12)).astype("f4")}
    np.testing.assert_allclose(
        run(split(model, "outputs"), feeds)[0], run(model, feeds)[0], rtol=1e-4, atol=1e-5
    )


def test_with_samples_the_error_is_what_was_said_and_no_other_product_has_less() -> None:
    rng = np.random.default_rng(3)
    model = parse("g (float[N, 24] x, float[24, 16] w, float[16] b) => (float[N, 16] y) "
                  "{ y = Gemm (x, w, b) }")  # fmt: skip
    w, b = rng.normal(size=(24, 16)).astype("f4"), rng.normal(size=16).astype("f4")
    model = with_weights(model, w=w, b=b)
    x = (rng.normal(size=(4000, 24)) * np.geomspace(3, 0.01, 24) + 2).astype("f4")
    gram = Gram(1, 24)
    gram.add(x[None])
    layer = layer_of(model.graph, model.graph.nodes[0])
    assert layer is not None
    (factors,) = factors_of(layer, w.astype("f8"), (), gram)
    y = run(model, {"x": x})[0].astype("f8")
    spread = ((y - y.mean(axis=0)) ** 2).sum()
    for rank in (2, 5, 9):
        now = run(split(model, "outputs", rank, gram), {"x": x})[0]
        error = ((now - y) ** 2).sum() / spread
        assert error == pytest.approx(factors.left[rank], rel=0.02, abs=1e-6)
        plain = run(split(model, "outputs", rank), {"x": x})[0]
        assert error < ((plain - y) ** 2).sum() / spread
        left, singular, right = np.linalg.svd(y - y.mean(axis=0), full_matrices=False)
        best = (left[:, :rank] * singular[:rank]) @ right[:rank] + y.mean(axis=0)
        assert error == pytest.approx(((best - y) ** 2).sum() / spread, rel=0.02, abs=1e-6)


def test_what_has_no_size_is_refused_in_words() -> None:
    model = conv("pads = [1, 1, 1, 1]", (12, 8, 3, 3), (2, 8, 9, 10))
    layer = layer_of(model.graph, model.graph.nodes[0])
    assert layer is not None
    weight = np.ones((72, 12))
    gram = Gram(1, 72)
    gram.add(np.full((1, 4, 72), np.inf, np.float32))
    with pytest.raises(DataError, match="squares are infinite, on some sample"):
        list(factors_of(layer, weight, (3, 3), gram))
    weight[3, 2] = np.nan
    with pytest.raises(UnsupportedModelError, match="holds NaN or infinity"):
        list(factors_of(layer, weight, (3, 3)))


def test_operations_fall_to_the_share_and_names_stay() -> None:
    model = conv_net(32)
    shapes = {"image": (1, 3, 16, 16)}
    before = cost(model, shapes)
    for share in (0.8, 0.5):
        found = LowRank(share, shapes=shapes)(model)
        after = cost(found.model, shapes)
        assert 0.9 * share < after.macs / before.macs <= share
        assert {n.name for n in model.graph.nodes} <= {n.name for n in found.model.graph.nodes}
        assert found.changes
        feeds = {"image": image_samples(2)}
        assert run(found.model, feeds)[0].shape == run(model, feeds)[0].shape
        onnx.checker.check_model(found.model.to_onnx(), full_check=True)
        assert rtx_refuses(found.model) is None
        for change in found.changes:
            first = after.by_node[f"{change.where}_rank"]
            assert first + after.by_node[change.where] < before.by_node[change.where]
    assert LowRank(0.8)(model).model.digest() == LowRank(0.8)(model).model.digest()


def test_what_is_not_factorized_says_why() -> None:
    text = """g (float[N, 16, 8, 8] x, float[16, 4, 3, 3] g4, float[16, 16, 2, 2] t,
               float[16, 16, 3, 3] w) => (float[N, 16, 16, 16] y) {
        a = Conv <group = 4, pads = [1, 1, 1, 1]> (x, g4)
        b = Conv <pads = [1, 1, 1, 1]> (a, w)
        c = Conv <pads = [1, 1, 1, 1]> (b, w)
        y = ConvTranspose <strides = [2, 2]> (c, t)
    }"""
    rng = np.random.default_rng(2)
    sizes = {"g4": (16, 4, 3, 3), "t": (16, 16, 2, 2), "w": (16, 16, 3, 3)}
    model = with_weights(
        parse(text), **{k: rng.normal(size=v).astype("f4") for k, v in sizes.items()}
    )
    with pytest.raises(UsageError, match="out of reach"):
        LowRank(0.5)(model)
    assert [len(s.reason) > 20 for s in factorable(model)[1]] == [True] * 4


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_shares_out_of_range_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        LowRank(share)(conv_net(16))


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 3)), max_size=3),
        min_size=1,
        max_size=4,
    ),
    st.floats(0.1, 1),
)
@settings(max_examples=60)
def test_the_budget_is_kept_and_the_loss_is_near_the_least(
    given_choices: list[list[tuple[int, float]]], share: float
) -> None:
    layers = [[Choice(41, 0.0), *(Choice(m, x, 1) for m, x in each)] for each in given_choices]
    budget = int(share * 41 * len(layers))
    ways = [w for w in itertools.product(*layers) if sum(c.macs for c in w) <= budget]
    picked = allocate(layers, budget)
    if not ways:
        assert picked is None
        return
    assert picked is not None
    assert sum(c.macs for c in picked) <= budget
    best = min(sum(c.loss for c in way) for way in ways)
    # A price finds the best but for one layer, whose next step does not fit.
    widest = max(max(c.loss for c in each) for each in layers)
    assert sum(c.loss for c in picked) <= best + widest + 1e-9


@needs_shared
def test_a_real_model_keeps_its_names_and_parses() -> None:
    model = Model.load(SHARED / "models/resnet20_cifar10.onnx")
    for step in (Simplify(), FoldBatchNorm()):
        model = step(model).model
    found = LowRank(0.75)(model)
    assert 0.7 < cost(found.model).macs / cost(model).macs <= 0.75
    assert rtx_refuses(found.model) is None
    assert found.model.inputs() == model.inputs()
