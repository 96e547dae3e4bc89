"""Transformers in the tensorrt dialect: drawn blocks, then a whole ViT as torch exports it."""

from __future__ import annotations

import re
import sys

import numpy as np
import onnx
import pytest
from helpers import ROOT, rtx_refuses, run, sqnr

from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import collect
from graphopt.calibrators.minmax import MinMax
from graphopt.dialects.attention import find_attention, refusal
from graphopt.dialects.tensorrt import TensorRT
from graphopt.graph import producer, sort
from graphopt.model import Model
from graphopt.passes.base import Change, Skip

TOKENS = "float[2,24,64]"


def quantized(model: Model, feeds, *, attention=False, exclude=frozenset()):
    """The model that the dialect makes, what it quantized, and what it did not."""
    dialect = TensorRT(attention=attention)
    found = collect(model, feeds, dialect.wanted(model, exclude))
    table = calibrate(found, MinMax(), method="minmax", model_digest="")
    made = model.clone()
    outcome = list(dialect.insert(made, table, exclude, {}))
    sort(made.graph)
    onnx.checker.check_model(made.to_onnx(), full_check=True)
    assert rtx_refuses(made) is None
    before = np.concatenate([run(model, feed)[0].ravel() for feed in feeds])
    after = np.concatenate([run(made, feed)[0].ravel() for feed in feeds])
    changes = [item for item in outcome if isinstance(item, Change)]
    skips = {item.where: item.reason for item in outcome if isinstance(item, Skip)}
    return made, changes, skips, sqnr(before, after)


def edges(made: Model) -> set[str]:
    """``node:input`` of every activation behind a DequantizeLinear."""
    found = set()
    for node in made.graph.nodes:
        for index, tensor in enumerate(node.inputs):
            source = producer(tensor)
            if source is not None and source.op == "DequantizeLinear":
                quantize = source.inputs[0].inputs[0]
                if producer(quantize.inputs[0]) is not None or not hasattr(
                    quantize.inputs[0], "values"
                ):
                    found.add(f"{node.name}:{index}")
    return found


def pairs_on(made: Model, tensor: str) -> int:
    return sum(
        node.op == "QuantizeLinear" and node.inputs[0].name == tensor for node in made.graph.nodes
    )


PARAMETERS = {
    "gain": (64,), "beta": (64,), "wq": (64, 64), "wk": (64, 64), "wv": (64, 64), "wo": (64, 64),
    "bq": (64,), "bk": (64,), "bv": (64,), "bo": (64,), "w1": (64, 128), "b1": (128,),
    "w2": (128, 64), "b2": (64,), "wqkv": (64, 192), "bqkv": (192,),
}  # fmt: skip

SEPARATE = """
    qm = MatMul(n, wq)
    qa = Add(qm, bq)
    qr = Reshape(qa, to)
    q = Transpose<perm=[0,2,1,3]>(qr)
    km = MatMul(n, wk)
    ka = Add(bk, km)
    kr = Reshape(ka, to)
    k = Transpose<perm=[0,2,3,1]>(kr)
    vm = MatMul(n, wv)
    va = Add(vm, bv)
    vr = Reshape(va, to)
    v = Transpose<perm=[0,2,1,3]>(vr)
"""
FUSED = """
    jm = MatMul(n, wqkv)
    ja = Add(bqkv, jm)
    qa, ka, va = Split<axis=2>(ja, thirds)
    qr = Reshape(qa, to)
    q = Transpose<perm=[0,2,1,3]>(qr)
    kr = Reshape(ka, to)
    k = Transpose<perm=[0,2,3,1]>(kr)
    vr = Reshape(va, to)
    v = Transpose<perm=[0,2,1,3]>(vr)
"""
LAYER_NORM = {
    13: lambda x, y: (
        f"""
        {y}u = ReduceMean<axes=[-1]>({x})
        {y}c = Sub({x}, {y}u)
        {y}s = Mul({y}c, {y}c)
        {y}v = ReduceMean<axes=[-1]>({y}s)
        {y}e = Add({y}v, eps)
        {y}r = Sqrt({y}e)
        {y}d = Div({y}c, {y}r)
        {y}g = Mul({y}d, gain)
        {y} = Add({y}g, beta)
    """
    ),
    17: lambda x, y: f"{y} = LayerNormalization({x}, gain, beta)",
}
GELU = {
    "erf": """
        g0 = Div(h, root)
        g1 = Erf(g0)
        g2 = Add(g1, one)
        g3 = Mul(h, g2)
        g = Mul(g3, half)
    """,
    "sigmoid": """
        g0 = Mul(h, root)
        g1 = Sigmoid(g0)
        g = Mul(h, g1)
    """,
}


def block(net, *, qkv=SEPARATE, opset=17, gelu="erf", tokens=24, heads=2, mask=""):
    """A pre-norm encoder layer on [2, tokens, 64], drawn."""
    norm = LAYER_NORM[opset]
    scores = "s1 = Mul(s0, scale)" if not mask else f"s2 = Mul(s0, scale) \n {mask}"
    text = f"""
    net (float[2,{tokens},64] x) => (float[2,{tokens},64] y) {{
        to = Constant<value_ints=[0,{tokens},{heads},{64 // heads}]>()
        flat = Constant<value_ints=[0,{tokens},64]>()
        thirds = Constant<value_ints=[64,64,64]>()
        eps = Constant<value_float=0.00001>()
        root = Constant<value_float=1.4142135>()
        one = Constant<value_float=1.0>()
        half = Constant<value_float=0.5>()
        scale = Constant<value_float=0.2>()
        {norm("x", "n")}
        {qkv}
        s0 = MatMul(q, k)
        {scores}
        p = Softmax<axis=-1>(s1)
        o = MatMul(p, v)
        ot = Transpose<perm=[0,2,1,3]>(o)
        of = Reshape(ot, flat)
        om = MatMul(of, wo)
        oa = Add(bo, om)
        r = Add(x, oa)
        {norm("r", "m")}
        hm = MatMul(m, w1)
        h = Add(b1, hm)
        {GELU[gelu]}
        fm = MatMul(g, w2)
        fa = Add(b2, fm)
        y = Add(r, fa)
    }}
    """
    words = set(re.findall(r"\w+", text))
    return net(text, {n: shape for n, shape in PARAMETERS.items() if n in words}, opset)


@pytest.mark.parametrize("gelu", ["erf", "sigmoid"])
@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("qkv", [SEPARATE, FUSED], ids=["separate", "fused"])
def test_an_encoder_layer(net, rtx_build, qkv, opset, gelu):
    graph = block(net, qkv=qkv, opset=opset, gelu=gelu)
    made, changes, skips, decibels = quantized(graph.model(), graph.feeds())
    products = {"qm:0", "km:0", "vm:0"} if qkv is SEPARATE else {"jm:0"}
    # Heads only: no bias Add, no GELU, no Softmax, no LayerNorm, neither residual Add.
    assert edges(made) == products | {"om:0", "hm:0", "fm:0"}
    assert len(changes) == len(products) + 3
    # One pair behind the LayerNorm, whoever reads it.
    assert pairs_on(made, "n") == 1
    # The product's result is quantized once, behind the copies that only move it.
    assert pairs_on(made, "of") == 1
    assert set(skips) == {"s0", "o"}
    assert all("a product inside attention" in reason for reason in skips.values())
    assert decibels > 28
    rtx_build(made, graph.feeds(1)[0])


def test_matrix_weights_by_column(net):
    graph = block(net)
    made, *_ = quantized(graph.model(), graph.feeds())
    for node in made.graph.nodes:
        if node.name in ("qm", "hm"):
            quantize = node.inputs[1].inputs[0].inputs[0].inputs[0]
            assert quantize.attrs["axis"] == 1
            assert quantize.inputs[1].values.shape == (node.outputs[0].shape[-1],)


@pytest.mark.parametrize("qkv", [SEPARATE, FUSED], ids=["separate", "fused"])
def test_attention_in_int8_where_it_is_asked_for(net, rtx_build, qkv):
    graph = block(net, qkv=qkv)
    default = quantized(graph.model(), graph.feeds())
    made, changes, skips, decibels = quantized(graph.model(), graph.feeds(), attention=True)
    # Before the first product, behind the Softmax, behind the second product (at the projection).
    assert edges(made) - edges(default[0]) == {"s0:0", "s0:1", "o:0", "o:1"}
    assert not skips
    assert {change.where for change in changes} >= {"s0", "o"}
    assert 24 < decibels < default[3] + 1
    rtx_build(made, graph.feeds(1)[0])


@pytest.mark.parametrize(
    "mask",
    [
        "s1 = Add(s2, bias)",
        "s3 = Reshape(s2, shape5) \n s4 = Add(s3, bias) \n s1 = Reshape(s4, shape4)",
        "s3 = Div(s2, one) \n s4 = Tanh(s3) \n s5 = Mul(s4, one) \n s1 = Where(keep, s5, low)",
    ],
    ids=["added", "windows", "soft cap and where"],
)
def test_attention_is_found_behind_masks(net, mask):
    constants = """
        bias = Constant<value_float=0.5>()
        low = Constant<value_float=-10000.0>()
        shape5 = Constant<value_ints=[1,2,2,24,24]>()
        shape4 = Constant<value_ints=[2,2,24,24]>()
        zeros = Constant<value_float=-3.0>()
        keep = Greater(s2, zeros)
    """
    model = block(net, mask=constants + mask).model()
    (attention,) = find_attention(model.graph)
    assert (attention.scores.name, attention.context.name) == ("s0", "o")
    assert refusal(attention) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"heads": 8}, "heads of 8 channels, and INT8 fuses heads of 16, 32 or 64"),
        ({"tokens": 513}, "513 tokens, and INT8 fuses at most 512"),
    ],
)
def test_attention_that_would_not_fuse_stays_in_float_and_says_why(net, change, reason):
    graph = block(net, **change)
    made, _, skips, _ = quantized(graph.model(), graph.feeds(1), attention=True)
    assert not {edge for edge in edges(made) if edge[:2] in ("s0", "o:")}
    assert set(skips) == {"s0", "o"}
    assert all(reason in text for text in skips.values())


def test_attention_whose_result_stays_in_float_is_left_alone(net):
    graph = block(net)
    _, _, skips, _ = quantized(
        graph.model(), graph.feeds(1), attention=True, exclude=frozenset({"om"})
    )
    assert "what reads its result stays in float" in skips["s0"]


def test_an_excluded_product_keeps_its_attention_in_float(net):
    graph = block(net)
    made, _, skips, _ = quantized(
        graph.model(), graph.feeds(1), attention=True, exclude=frozenset({"o"})
    )
    assert not {"s0:0", "o:0"} & edges(made)
    assert "as asked" in skips["o"]


def test_two_products_of_activations_without_a_softmax_are_no_attention(net):
    text = f"""
    net ({TOKENS} x) => (float[A,B,C] y) {{
        t = Transpose<perm=[0,2,1]>(x)
        a = MatMul(x, t)
        r = Relu(a)
        y = MatMul(r, x)
    }}
    """
    assert find_attention(net(text).model().graph) == []


def vit_module():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import vit
    finally:
        sys.path.pop(0)
    return vit


def images(size: int, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Blocks of eight pixels and noise: smooth enough that patches differ as pictures' do."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 1, 3, size // 8, size // 8))
    fine = rng.normal(size=(count, 1, 3, size, size))
    full = np.repeat(np.repeat(coarse, 8, -2), 8, -1) * 0.7 + fine * 0.5
    return [{"input": image.astype(np.float32)} for image in full]


FORMS = [
    {"opset": 13, "qkv": "separate", "gelu": "erf"},
    {"opset": 17, "qkv": "fused", "gelu": "tanh"},
    {"opset": 20, "qkv": "fused", "gelu": "op"},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_a_small_vit(form, rtx_build):
    vit = vit_module()
    shape = vit.TINY
    model = Model.from_onnx(vit.vit(shape, **form))
    found, held_out = images(shape.size, 16, 1), images(shape.size, 4, 2)
    made, changes, skips, _ = quantized(model, found)
    per_layer = 6 if form["qkv"] == "separate" else 4
    assert len(changes) == 2 + per_layer * shape.layers  # patches, classifier
    assert len(skips) == 2 * shape.layers  # the products of attention, nothing else
    assert all(edge.endswith(":0") for edge in edges(made))
    assert not [edge for edge in edges(made) if "/Add" in edge or "Norm" in edge or "act" in edge]
    before = np.concatenate([run(model, feed)[0] for feed in held_out])
    after = np.concatenate([run(made, feed)[0] for feed in held_out])
    assert sqnr(before, after) > 25
    rtx_build(made, held_out[0])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS[:2], ids=lambda form: "-".join(map(str, form.values())))
def test_vit_small(form, rtx_build):
    vit = vit_module()
    model = Model.from_onnx(vit.vit(**form))
    found, held_out = images(224, 8, 1), images(224, 4, 2)
    made, changes, skips, _ = quantized(model, found)
    assert len(changes) == 2 + 12 * (6 if form["qkv"] == "separate" else 4)
    assert len(skips) == 24
    before = np.concatenate([run(model, feed)[0] for feed in held_out])
    after = np.concatenate([run(made, feed)[0] for feed in held_out])
    assert sqnr(before, after) > 27
    rtx_build(made, held_out[0])
