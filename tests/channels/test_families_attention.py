"""Transformers as exporters write them: what can be pruned, and pruned equals masked."""

from __future__ import annotations

import numpy as np
import pytest
from nets import NORM, OUTPUT, Family, Net, built, cases, check, prepared
from onnx import TensorProto

from graphopt.channels import analyze

D, HEADS, SIZE, TOKENS = 16, 2, 8, 5


def heads(net: Net, x: str, tokens: int = TOKENS, n: int = HEADS, size: int = SIZE) -> str:
    return net.transpose(net.view(x, "N", tokens, n, size), 0, 2, 1, 3)


def separate(net: Net, x: str) -> list[str]:
    return [heads(net, net.linear(x, D, D)) for _ in range(3)]


def fused_split(net: Net, x: str) -> list[str]:
    return [heads(net, part) for part in net.chunk(net.linear(x, D, 3 * D), 2, D, D, D)]


def fused_slice(net: Net, x: str) -> list[str]:
    y = net.linear(x, D, 3 * D)
    return [heads(net, net.slice(y, -1, k * D, (k + 1) * D)) for k in range(3)]


def five(net: Net, x: str) -> str:
    y = net.view(net.linear(x, D, 3 * D), "N", TOKENS, 3, HEADS, SIZE)
    return net.transpose(y, 2, 0, 3, 1, 4)


def fused_gather(net: Net, x: str) -> list[str]:
    y = five(net, x)
    return [net("Gather", y, np.int64(k), axis=0) for k in range(3)]


def fused_unbind(net: Net, x: str) -> list[str]:
    parts = net.chunk(five(net, x), 0, 1, 1, 1)
    return [net("Squeeze", part, [0]) for part in parts]


def vit(qkv, blocks: int = 1):
    """Patches, a class token, LayerNorm, attention, GELU; the head reads the class token."""

    def build(net: Net) -> None:
        x = net.conv(net.input(3, 8, 8), 3, D, 4, strides=[4, 4], pads=[0, 0, 0, 0])
        x = net.transpose(net.view(x, "N", D, 4), 0, 2, 1)
        token = net("Expand", net.weight(1, 1, D), net.shape(x, ["N", 1, D]))
        x = net("Add", net("Concat", token, x, axis=1), net.weight(1, TOKENS, D))
        for _ in range(blocks):
            q, k, v = qkv(net, net.layer_norm(x, D))
            y = net.attend(q, net.transpose(k, 0, 1, 3, 2), v, SIZE**-0.5)
            y = net.view(net.transpose(y, 0, 2, 1, 3), "N", TOKENS, D)
            x = net("Add", x, net.linear(y, D, D))
            y = net.act(net.linear(net.layer_norm(x, D), D, 24), "GELU")
            x = net("Add", x, net.linear(y, 24, D))
        first = net("Gather", net.layer_norm(x, D), np.int64(0), axis=1)
        net.output(net.gemm(first, D, 5), 5)

    return build


def multihead_module(net: Net) -> None:
    """torch.nn.MultiheadAttention: tokens first, batch and heads in one axis, before and after."""
    x = net.linear(net.input(TOKENS, 6), 6, D)
    y = net.linear(net.transpose(x, 1, 0, 2), D, 3 * D)
    y = net("Reshape", y, np.array([TOKENS, -1, 3, D]))
    y = net("Squeeze", net.transpose(net.unsqueeze(y, 0), 3, 1, 2, 0, 4), [3])
    q, k, v = (net("Gather", y, np.int64(i), axis=0) for i in range(3))
    many = net("Mul", net.size(x, 0), [HEADS])
    shape = net("Concat", [TOKENS], many, [SIZE], axis=0)
    q, k, v = (net.transpose(net("Reshape", t, shape), 1, 0, 2) for t in (q, k, v))
    y = net.attend(q, net.transpose(k, 0, 2, 1), v, SIZE**-0.5)
    y = net("Reshape", net.transpose(y, 1, 0, 2), np.array([-1, D]))
    y = net.view(net.gemm(y, D, D), "N", TOKENS, D, like=x)
    net.output(net.linear(net("Add", x, y), D, 5), TOKENS, 5)


def gpt2(net: Net) -> None:
    """Conv1D layers are Gemm between reshapes; c_attn is split; the mask is a constant Where."""
    width, n, size = 16, 4, 4
    ids = net.input(TOKENS, dtype=TensorProto.INT64)
    table = net.weight(20, width)
    x = net("Add", net("Gather", table, ids, axis=0), net.weight(TOKENS, width))

    def conv1d(y: str, c: int, out: int) -> str:
        y = net("Reshape", y, [-1, c])
        y = net("Gemm", y, net.weight(c, out), net.weight(out))
        if net.style != "traced":
            return net.view(y, "N", TOKENS, out, like=x)
        front = net("Slice", net("Shape", x), [0], [2], [0])
        return net("Reshape", y, net("Concat", front, [out], axis=0))

    parts = net.chunk(conv1d(net.layer_norm(x, width), width, 3 * width), 2, width, width, width)
    q, k, v = (heads(net, part, TOKENS, n, size) for part in parts)
    scores = net("Div", net("MatMul", q, net.transpose(k, 0, 1, 3, 2)), 2.0)
    lower = np.tril(np.ones((1, 1, TOKENS, TOKENS), dtype=bool))
    scores = net("Where", lower, scores, -1e9)
    y = net("MatMul", net("Softmax", scores, axis=-1), v)
    y = net.view(net.transpose(y, 0, 2, 1, 3), "N", TOKENS, width)
    x = net("Add", x, conv1d(y, width, width))
    y = conv1d(net.layer_norm(x, width), width, 4 * width)
    cubed = net("Mul", net("Add", y, net("Mul", net("Pow", y, 3.0), 0.044715)), 0.79788)
    y = net("Mul", net("Mul", y, 0.5), net("Add", net("Tanh", cubed), 1.0))
    x = net("Add", x, conv1d(y, 4 * width, width))
    logits = net("MatMul", net.layer_norm(x, width), net("Transpose", table, perm=[1, 0]))
    net.output(logits, TOKENS, 20)


def llama(net: Net) -> None:
    """Grouped-query attention, rotary embedding, RMSNorm and SwiGLU."""
    width, n, kv, size = 32, 4, 2, 8
    ids = net.input(TOKENS, dtype=TensorProto.INT64)
    x = net("Gather", net.weight(20, width), ids, axis=0)
    angle = np.arange(TOKENS)[:, None] / 100.0 ** (np.arange(0, size, 2) / size)
    angle = np.concatenate([angle, angle], axis=1)
    cos, sin = net.const(np.cos(angle)), net.const(np.sin(angle))

    def rope(t: str) -> str:
        low, high = net.slice(t, 3, 0, size // 2), net.slice(t, 3, size // 2, 2**63 - 1)
        turned = net("Concat", net("Neg", high), low, axis=-1)
        return net("Add", net("Mul", t, cos), net("Mul", turned, sin))

    def repeated(t: str) -> str:
        grown = net.shape(t, ["N", kv, n // kv, TOKENS, size])
        return net.view(net("Expand", net.unsqueeze(t, 2), grown), "N", n, TOKENS, size)

    y = net.rms_norm(x, width)
    q, k, v = (
        heads(net, net.linear(y, width, m * size, bias=False), TOKENS, m, size) for m in (n, kv, kv)
    )
    mask = net.const(np.triu(np.full((TOKENS, TOKENS), -1e9), 1))
    k_t = net.transpose(repeated(rope(k)), 0, 1, 3, 2)
    y = net.attend(rope(q), k_t, repeated(v), size**-0.5, mask)
    y = net.view(net.transpose(y, 0, 2, 1, 3), "N", TOKENS, n * size)
    x = net("Add", x, net.linear(y, n * size, width, bias=False))
    y = net.rms_norm(x, width)
    gate = net.act(net.linear(y, width, 24, bias=False), "SiLU")
    y = net("Mul", gate, net.linear(y, width, 24, bias=False))
    x = net("Add", x, net.linear(y, 24, width, bias=False))
    net.output(net.linear(net.rms_norm(x, width), width, 20, bias=False), TOKENS, 20)


def swin(net: Net) -> None:
    """Windows, shifted by Slice and Concat, a relative bias, and merging of patches."""
    window, grid = 4, 8
    x = net.conv(net.input(3, 16, 16), 3, D, 2, strides=[2, 2], pads=[0, 0, 0, 0])
    x = net.transpose(x, 0, 2, 3, 1)

    def roll(t: str, by: int) -> str:
        for axis in (1, 2):
            parts = net.slice(t, axis, by, 2**63 - 1), net.slice(t, axis, 0, by)
            t = net("Concat", *parts, axis=axis)
        return t

    y = roll(net.layer_norm(x, D), 2)
    y = net.view(y, "N", grid // window, window, grid // window, window, D)
    y = net("Reshape", net.transpose(y, 0, 1, 3, 2, 4, 5), [-1, window**2, D])
    y = net("Reshape", net.linear(y, D, 3 * D), [-1, window**2, 3, HEADS, SIZE])
    y = net.transpose(y, 2, 0, 3, 1, 4)
    q, k, v = (net("Gather", y, np.int64(i), axis=0) for i in range(3))
    table, places = net.weight(49, HEADS), net.rng.integers(0, 49, window**4)
    bias = net("Reshape", net("Gather", table, places, axis=0), [window**2, window**2, HEADS])
    bias = net.unsqueeze(net.transpose(bias, 2, 0, 1), 0)
    y = net.attend(net("Mul", q, SIZE**-0.5), net.transpose(k, 0, 1, 3, 2), v, 1.0, bias)
    y = net("Reshape", net.transpose(y, 0, 2, 1, 3), [-1, window**2, D])
    y = net.view(net.linear(y, D, D), "N", 2, 2, window, window, D, like=x)
    y = net.view(net.transpose(y, 0, 1, 3, 2, 4, 5), "N", grid, grid, D)
    x = net("Add", x, roll(y, grid - 2))
    y = net.act(net.linear(net.layer_norm(x, D), D, 24), "GELU")
    x = net("Add", x, net.linear(y, 24, D))
    corners = []
    for column in (0, 1):
        for row in (0, 1):
            rows = net.slice(x, 1, row, 2**63 - 1, 2)
            corners.append(net.slice(rows, 2, column, 2**63 - 1, 2))
    x = net.layer_norm(net("Concat", *corners, axis=-1), 4 * D)
    x = net.linear(x, 4 * D, 2 * D, bias=False)
    x = net.mean(net.layer_norm(x, 2 * D), 1, 2, keep=False)
    net.output(net.gemm(x, 2 * D, 5), 5)


def latents(net: Net) -> None:
    """Learned queries attend over tokens and themselves (Perceiver): Einsum, stacked keys."""
    x = net.linear(net.input(TOKENS, 6), 6, D)
    own = net("Expand", net.weight(1, 3, D), net.shape(x, ["N", 3, D]))
    q = heads(net, net.linear(own, D, D), 3)
    y = net.linear(net("Concat", x, own, axis=1), D, 2 * D)
    y = net.transpose(net.view(y, "N", TOKENS + 3, 2, HEADS, SIZE), 2, 0, 3, 1, 4)
    k, v = (net("Gather", y, np.int64(i), axis=0) for i in range(2))
    scores = net("Einsum", q, k, equation="bhid,bhjd->bhij")
    y = net("MatMul", net("Softmax", scores, axis=-1), v)
    y = net.view(net.transpose(y, 0, 2, 1, 3), "N", 3, D)
    net.output(net.linear(y, D, 5), 3, 5)


def non_local(net: Net) -> None:
    """Attention over pixels (Wang et al. 2018)."""
    x = net.cbr(net.input(3, 8, 8), 3, 12, 3)
    t, p, g = (net.view(net.conv(x, 12, 6), "N", 6, 64) for _ in range(3))
    y = net.attend(net.transpose(t, 0, 2, 1), p, net.transpose(g, 0, 2, 1), 1.0)
    y = net.view(net.transpose(y, 0, 2, 1), "N", 6, 8, 8)
    net.output(net.pool(net.conv(net("Add", x, net.conv(y, 6, 12)), 12, 5)), 5)


def mixer(net: Net) -> None:
    """MLP-Mixer: one MLP over tokens, one over channels."""
    x = net.conv(net.input(3, 8, 8), 3, 12, 4, strides=[4, 4], pads=[0, 0, 0, 0])
    x = net.transpose(net.view(x, "N", 12, 4), 0, 2, 1)
    y = net.transpose(net.layer_norm(x, 12), 0, 2, 1)
    y = net.linear(net.act(net.linear(y, 4, 10), "GELU"), 10, 4)
    x = net("Add", x, net.transpose(y, 0, 2, 1))
    x = net("Add", x, net.linear(net.act(net.linear(x, 12, 20), "GELU"), 20, 12))
    net.output(net.linear(net.mean(x, 1, keep=False), 12, 5), 5)


def conformer(net: Net) -> None:
    """The convolution module: pointwise, GLU, depthwise, BatchNorm, SiLU, pointwise."""
    x = net.linear(net.input(TOKENS, 6), 6, D)
    y = net.conv(net.transpose(net.layer_norm(x, D), 0, 2, 1), D, 2 * D, [1])
    a, b = net.chunk(y, 1, D, D)
    y = net.conv(net("Mul", a, net("Sigmoid", b)), D, D, [3], group=D)
    y = net.conv(net.act(net.bn(y, D), "SiLU"), D, D, [1])
    net.output(net.linear(net("Add", x, net.transpose(y, 0, 2, 1)), D, 5), TOKENS, 5)


WHY = (*NORM, *OUTPUT)
FAMILIES = {
    # Queries with keys, and values: a head dimension of 8 each; the MLP; the stream is normalized.
    "vit, separate": Family(vit(separate), (8, 8, 24), 21, WHY),
    "vit, two blocks": Family(vit(fused_split, 2), (8, 8, 8, 8, 24, 24), 21, WHY),
    "vit, fused and sliced": Family(vit(fused_slice), (8, 8, 24), 21, WHY),
    # One axis of 3 x heads x size: queries, keys and values share their head dimension.
    "vit, fused in five axes": Family(vit(fused_gather), (8, 24), 21, WHY),
    "vit, fused and unbound": Family(vit(fused_unbind), (8, 24), 21, WHY),
    "multihead module": Family(multihead_module, (8, 16), 5),
    "gpt2": Family(gpt2, (4, 4, 64), 36, WHY),
    # Rotary embedding ties the two halves of a head: 4 pairs; RMSNorm frees the stream of 32.
    "llama": Family(llama, (4, 8, 24, 32), 20),
    "swin": Family(swin, (8, 24), 53, WHY),
    "latents": Family(latents, (8, 16), 5, styles=("export", "traced")),
    "non-local": Family(non_local, (6, 6, 12), 5),
    # Four tokens of the MLP over tokens are pixels of the first convolution.
    "mixer": Family(mixer, (10, 20), 21, (*WHY, "Conv 'Conv_0'")),
    "conformer": Family(conformer, (16,), 21, WHY),
}


@pytest.mark.parametrize(("name", "style"), cases(FAMILIES))
def test_pruned_equals_masked(tools, name, style):
    check(tools, FAMILIES[name], style)


@pytest.mark.parametrize("style", ["literal", "export"])
def test_whole_heads_of_grouped_queries(tools, style):
    """A head of keys and values goes with the two query heads that read it."""
    model = prepared(built(FAMILIES["llama"], style))
    analysis = analyze(model, heads=True)
    assert sorted((g.width, g.unit) for g in analysis.groups if g.kind == "heads") == [(2, 16)]
    for seed in range(3):
        tools.prove(model, tools.random_plan(analysis, seed, 0.5), seed=seed)
