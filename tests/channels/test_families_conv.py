"""Convolutional backbones as exporters write them: what can be pruned, and pruned equals masked."""

from __future__ import annotations

import numpy as np
import pytest
from nets import NORM, OUTPUT, Family, Net, cases, check


def head(net: Net, x: str, c: int) -> None:
    net.output(net.gemm(net.pool(x), c, 5), 5)


def add(net: Net, a: str, b: str) -> str:
    return net("Relu", net("Add", a, b))


def vgg(net: Net) -> None:
    """Channels that become runs of a flattened vector."""
    x = net("Relu", net.conv(net.input(3, 8, 8), 3, 8, 3))
    x = net("MaxPool", net("Relu", net.conv(x, 8, 12, 3)), kernel_shape=[4, 4], strides=[4, 4])
    x = net("Flatten", x) if net.style == "traced" else net.view(x, "N", 48)
    net.output(net.gemm(net("Relu", net.gemm(x, 48, 20)), 20, 5), 5)


def alexnet(net: Net) -> None:
    """Local response normalization over five neighbours, and two groups of filters."""
    x = net("LRN", net("Relu", net.conv(net.input(3, 8, 8), 3, 12, 3)), size=5, alpha=0.5)
    x = net("LRN", net("Relu", net.conv(x, 12, 16, 3, group=2)), size=5, alpha=0.5)
    head(net, net("Relu", net.conv(x, 16, 8, 3)), 8)


def resnet(shortcut: str, groups: int = 1):
    def build(net: Net) -> None:
        x = net.cbr(net.input(3, 8, 8), 3, 8, 3)
        x = add(net, x, net.cbr(net.cbr(x, 8, 8, 3), 8, 8, 3, act=None))
        y = net.cbr(net.cbr(x, 8, 16, 3, strides=[2, 2]), 16, 16, 3, act=None, group=groups)
        if shortcut == "A":
            for axis in (2, 3):
                x = net.slice(x, axis, 0, 2**63 - 1, 2)
            x = net("Pad", x, [0, 4, 0, 0, 0, 4, 0, 0])
        else:
            x = net.cbr(x, 8, 16, act=None, strides=[2, 2])
        head(net, add(net, x, y), 16)

    return build


def densenet(net: Net) -> None:
    """BatchNorm in front of each convolution, of everything that came before."""
    features = [net.conv(net.input(3, 8, 8), 3, 8, 3)]
    c = 8
    for _ in range(3):
        x = net("Concat", *features, axis=1) if len(features) > 1 else features[0]
        x = net.cbr(net("Relu", net.bn(x, c)), c, 16)
        features.append(net.conv(x, 16, 4, 3))
        c += 4
    x = net("Relu", net.bn(net("Concat", *features, axis=1), c))
    x = net("AveragePool", net.conv(x, c, 10), kernel_shape=[2, 2], strides=[2, 2])
    head(net, net("Relu", net.bn(x, 10)), 10)


def inception(net: Net) -> None:
    x = net.cbr(net.input(3, 8, 8), 3, 12, 3)
    pooled = net("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    wide = net.cbr(net.cbr(x, 12, 6), 6, 8, 3)
    wider = net.cbr(net.cbr(net.cbr(x, 12, 4), 4, 6, [1, 5]), 6, 4, [5, 1])
    head(net, net("Concat", net.cbr(x, 12, 8), wide, wider, net.cbr(pooled, 12, 5), axis=1), 25)


def excite(net: Net, x: str, c: int, inner: int, kind: str) -> str:
    """Squeeze and excitation, by convolutions or by matrices."""
    y = net("GlobalAveragePool", x) if net.style == "traced" else net.mean(x, 2, 3)
    if kind == "conv":
        y = net.conv(net("Relu", net.conv(y, c, inner)), inner, c)
        return net("Mul", x, net("HardSigmoid", y, alpha=1 / 6))
    y = net("Relu", net.gemm(net.view(y, "N", c), c, inner))
    y = net.view(net("Sigmoid", net.gemm(y, inner, c)), "N", c, 1, 1)
    return net("Mul", x, net("Expand", y, net("Shape", x)) if net.style != "literal" else y)


def mobile(act: str, kind: str):
    """Inverted residuals with squeeze and excitation (MobileNetV3, EfficientNet)."""

    def build(net: Net) -> None:
        x = net.cbr(net.input(3, 8, 8), 3, 8, 3, act=act, strides=[2, 2])
        y = net.cbr(net.cbr(x, 8, 24, act=act), 24, 24, 5, act=act, group=24)
        y = net.cbr(excite(net, y, 24, 8, kind), 24, 8, act=None)
        y = net.cbr(net("Add", x, y), 8, 20, act=act)
        y = net.cbr(y, 20, 20, 3, act=act, group=20, strides=[2, 2])
        y = net.cbr(excite(net, y, 20, 6, kind), 20, 12, act=None)
        y = net.pool(net.cbr(y, 12, 32, act=act))
        net.output(net.gemm(net.act(net.gemm(y, 32, 16), act), 16, 5), 5)

    return build


def shuffle(net: Net, x: str, c: int, groups: int, side: int) -> str:
    x = net.view(x, "N", groups, c // groups, side, side)
    return net.view(net.transpose(x, 0, 2, 1, 3, 4), "N", c, side, side)


def shufflenet_v2(net: Net) -> None:
    """Half of the channels pass, half are worked on, then they are shuffled."""
    x = net.cbr(net.input(3, 8, 8), 3, 12, 3, strides=[2, 2])
    left = net.cbr(net.cbr(x, 12, 12, 3, act=None, group=12), 12, 16)
    right = net.cbr(net.cbr(net.cbr(x, 12, 16), 16, 16, 3, act=None, group=16), 16, 16)
    x = shuffle(net, net("Concat", left, right, axis=1), 32, 2, 4)
    for _ in range(2):
        left, right = net.chunk(x, 1, 16, 16)
        right = net.cbr(net.cbr(right, 16, 16), 16, 16, 3, act=None, group=16)
        x = net("Concat", left, net.cbr(right, 16, 16), axis=1)
        x = shuffle(net, x, 32, 2, 4)
    head(net, net.cbr(x, 32, 24), 24)


def shufflenet_v1(groups: int):
    """Grouped pointwise convolutions; the grids of two units of equal width nest."""

    def build(net: Net) -> None:
        x = net.cbr(net.input(3, 8, 8), 3, 24, 3, strides=[2, 2])
        for _ in range(2):
            y = shuffle(net, net.cbr(x, 24, 12, group=groups), 12, groups, 4)
            y = net.cbr(y, 12, 12, 3, act=None, group=12)
            x = add(net, x, net.cbr(y, 12, 24, act=None, group=groups))
        head(net, x, 24)

    return build


def convnext(net: Net) -> None:
    """Depthwise 7 x 7, channels last, LayerNorm, layer scale."""
    c = 12

    def normalized(t: str) -> str:
        return net.transpose(net.layer_norm(net.transpose(t, 0, 2, 3, 1), c), 0, 3, 1, 2)

    x = normalized(net.conv(net.input(3, 16, 16), 3, c, 4, strides=[4, 4], pads=[0] * 4))
    y = net.transpose(net.conv(x, c, c, 7, group=c), 0, 2, 3, 1)
    y = net.act(net.linear(net.layer_norm(y, c), c, 32), "GELU")
    y = net("Mul", net.positive(c), net.linear(y, 32, c))
    x = net("Add", x, net.transpose(y, 0, 3, 1, 2))
    x = net.conv(normalized(x), c, 20, 2, strides=[2, 2], pads=[0] * 4)
    net.output(net.gemm(net.layer_norm(net.pool(x), 20), 20, 5), 5)


def group_norms(net: Net) -> None:
    """Groups of two as InstanceNormalization, all channels in one group, and per channel."""
    x = net.conv(net.input(3, 8, 8), 3, 16, 3)
    one, zero = net.const(np.ones(8)), net.const(np.zeros(8))
    y = net("InstanceNormalization", net.view(x, "N", 8, -1), one, zero)
    y = net.view(y, "N", 16, 8, 8)
    x = net("Relu", net("Add", net("Mul", y, net.positive(16, 1, 1)), net.weight(16, 1, 1)))
    y = net.view(net.conv(x, 16, 12, 3), "N", 1, -1)
    centered = net("Sub", y, net.mean(y, 2))
    y = net(
        "Div", centered, net("Sqrt", net("Add", net.mean(net("Mul", centered, centered), 2), 1e-5))
    )
    x = net.conv(net.view(y, "N", 12, 8, 8), 12, 10)
    x = net("InstanceNormalization", x, net.positive(10), net.weight(10))
    head(net, net.conv(x, 10, 6), 6)


def crelu(net: Net) -> None:
    """concat(x, -x), and a depthwise convolution of two filters a channel."""
    x = net.conv(net.input(3, 8, 8), 3, 8, 3)
    x = net("Relu", net("Concat", x, net("Neg", x), axis=1))
    x = net.conv(net("Relu", net.conv(x, 16, 12, 3)), 12, 24, 3, group=12)
    head(net, net.conv(x, 24, 10), 10)


def glu(how: str):
    def half(net: Net, x: str, n: int) -> list[str]:
        if how == "split":
            return net.chunk(x, 1, n, n)
        return [net.slice(x, 1, 0, n), net.slice(x, 1, n, 2**63 - 1)]

    def build(net: Net) -> None:
        a, b = half(net, net.conv(net.input(3, 8, 8), 3, 16, 3), 8)
        x = net.pool(net("Relu", net.conv(net("Mul", a, net("Sigmoid", b)), 8, 12)))
        a, b = half(net, net.gemm(x, 12, 20), 10)
        net.output(net.gemm(net("Mul", a, net("Sigmoid", b)), 10, 5), 5)

    return build


def selective(net: Net) -> None:
    """Softmax over branches, not over channels (SKNet, ResNeSt)."""
    image = net.input(3, 8, 8)
    a, b = net.cbr(image, 3, 12, 3), net.cbr(image, 3, 12, 5)
    y = net.conv(net("Relu", net.conv(net.mean(net("Add", a, b), 2, 3), 12, 6)), 6, 24)
    weights = net("Softmax", net.view(y, "N", 2, 12, 1, 1), axis=1)
    both = net("Concat", net.unsqueeze(a, 1), net.unsqueeze(b, 1), axis=1)
    head(net, net("ReduceSum", net("Mul", both, weights), [1], keepdims=0), 12)


def cbam(net: Net) -> None:
    """Attention over channels by a shared MLP, and over pixels by mean and maximum of channels."""
    x = net.cbr(net.input(3, 8, 8), 3, 12, 3)
    first, second = net.weight(12, 4), net.weight(4, 12)
    both = [net("Flatten", net(op, x)) for op in ("GlobalAveragePool", "GlobalMaxPool")]
    both = [net("MatMul", net("Relu", net("MatMul", y, first)), second) for y in both]
    x = net("Mul", x, net.unsqueeze(net("Sigmoid", net("Add", *both)), 2, 3))
    largest = {"axes": [1]} if net.opset < 18 else {}
    y = net("ReduceMax", x, *([] if net.opset < 18 else [[1]]), keepdims=1, **largest)
    y = net.conv(net("Concat", net.mean(x, 1), y, axis=1), 2, 1, 7)
    head(net, net("Mul", x, net("Sigmoid", y)), 12)


def channel_attention(net: Net) -> None:
    """ECA: a convolution that slides over channels."""
    x = net.cbr(net.input(3, 8, 8), 3, 12, 3)
    y = net.transpose(net("Squeeze", net.mean(x, 2, 3), [3]), 0, 2, 1)
    y = net.unsqueeze(net.transpose(net.conv(y, 1, 1, [3]), 0, 2, 1), 3)
    head(net, net("Mul", x, net("Sigmoid", y)), 12)


def picked(net: Net) -> None:
    """Strided slices, a Gather and a GatherND of channels."""
    x = net.conv(net.input(3, 8, 8), 3, 12)
    even, odd = net.slice(x, 1, 0, 2**63 - 1, 2), net.slice(x, 1, 1, 2**63 - 1, 2)
    y = net("Relu", net("Add", net.conv(even, 6, 8), net.conv(odd, 6, 8)))
    z = net("Gather", y, [5, 3, 1, 7, 2, 2], axis=1)
    first = net("GatherND", net.transpose(y, 1, 0, 2, 3), [[6], [0], [4]])
    z = net("Concat", z, net.transpose(first, 1, 0, 2, 3), axis=1)
    head(net, z, 9)


def audio(net: Net) -> None:
    """One axis of positions: dilated, depthwise, gated."""
    x = net.conv(net.input(1, 64), 1, 12, [9], strides=[4])
    x = net.conv(net("Relu", x), 12, 12, [3], group=12, dilations=[2], pads=[2, 2])
    x = net("Elu", net.bn(x, 12))
    a, b = net.chunk(net.conv(x, 12, 32, [1]), 1, 16, 16)
    x = net("Mul", a, net("Sigmoid", b))
    x = net("Add", x, net("Tanh", net.conv(x, 16, 16, [3])))
    x = net("MaxPool", x, kernel_shape=[2], strides=[2])
    net.output(net.gemm(net.mean(x, 2, keep=False), 16, 5), 5)


def video(net: Net) -> None:
    """Three axes of positions."""
    x = net.cbr(net.input(3, 4, 8, 8), 3, 8, [3, 3, 3])
    x = net("MaxPool", x, kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    x = net("Relu", net.conv(x, 8, 12, [3, 1, 1]))
    net.output(net.gemm(net("Flatten", net("GlobalAveragePool", x)), 12, 5), 5)


def reader(net: Net) -> None:
    """CRNN: columns of features are steps of a bidirectional LSTM."""
    x = net.cbr(net.input(1, 8, 12), 1, 8, 3)
    x = net("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.transpose(net.view(net.cbr(x, 8, 12, 3), "N", 48, 6), 2, 0, 1)
    state = net("ConstantOfShape", net("Concat", [2], net.size(x, 1), [10], axis=0))
    weights = [net.weight(2, 40, 48), net.weight(2, 40, 10), net.weight(2, 80)]
    y = net("LSTM", x, *weights, "", state, state, hidden_size=10, direction="bidirectional")
    y = net("Reshape", net.transpose(y, 2, 0, 1, 3), [0, 6, 20])
    net.output(net.linear(y, 20, 5), 6, 5)


def unrolled(net: Net) -> None:
    """A GRU over the rows of an embedding, its last state classified; a plain RNN beside it."""
    x = net.transpose(net.linear(net.input(5, 6), 6, 12), 1, 0, 2)
    weights = [net.weight(1, 24, 12), net.weight(1, 24, 8), net.weight(1, 48)]
    last = net("GRU", x, *weights, hidden_size=8, linear_before_reset=1, outs=2)[1]
    other = [net.weight(1, 6, 12), net.weight(1, 6, 6)]
    plain = net("RNN", x, *other, hidden_size=6, outs=2)[1]
    y = net("Concat", net("Squeeze", last, [0]), net("Squeeze", plain, [0]), axis=1)
    net.output(net.gemm(y, 14, 5), 5)


RAGGED = "splits its channels unevenly"
FAMILIES = {
    "vgg": Family(vgg, (8, 12, 20), 5),
    # 12 go to two groups of filters: 6 columns of 2 rows; 16 come out of them: 8 columns.
    "alexnet": Family(alexnet, (6, 8, 8), 5),
    # The stream of stage 1, what stage 2 adds to it, and what is inside of the blocks.
    "resnet, padded shortcut": Family(resnet("A"), (8, 8, 8, 16), 5),
    "resnet, projected shortcut": Family(resnet("B"), (8, 8, 16, 16), 5),
    "resnext": Family(resnet("B", 4), (4, 4, 8, 8), 5),
    "densenet": Family(densenet, (4, 4, 4, 8, 10, 16, 16, 16), 5),
    "inception": Family(inception, (4, 4, 5, 6, 6, 8, 8, 12), 5),
    "mobilenet v3": Family(mobile("HardSwish", "conv"), (6, 8, 8, 12, 16, 20, 24, 32), 5),
    "efficientnet": Family(mobile("SiLU", "gemm"), (6, 8, 8, 12, 16, 20, 24, 32), 5),
    "shufflenet v2": Family(shufflenet_v2, (4, 4, 8, 12, 16, 16, 16, 24), 5),
    "shufflenet v1, 2 groups": Family(shufflenet_v1(2), (3, 3, 12), 5),
    "shufflenet v1, 3 groups": Family(shufflenet_v1(3), (8,), 53, (RAGGED, *OUTPUT)),
    "convnext": Family(convnext, (32,), 37, (*NORM, *OUTPUT)),
    "group norms": Family(group_norms, (6, 8, 10), 17, ("Reshape", *NORM, *OUTPUT)),
    "crelu": Family(crelu, (8, 10, 12), 5),
    "glu by split": Family(glu("split"), (8, 10, 12), 5),
    "glu by slices": Family(glu("slice"), (8, 10, 12), 5),
    "selective kernels": Family(selective, (6, 12), 5),
    "cbam": Family(cbam, (4, 12), 5),
    "channel attention": Family(channel_attention, (), 17, ("slides over it", *OUTPUT)),
    # The Gather takes 4 of y once and one of them twice, the GatherND the other 3.
    "picked channels": Family(picked, (3, 4, 6, 6), 6, ("one channel", *OUTPUT)),
    "audio": Family(audio, (12, 16), 5),
    "video": Family(video, (8, 12), 5),
    "text reader": Family(reader, (8, 10, 12), 5),
    "recurrent": Family(unrolled, (6, 8, 12), 5),
}


@pytest.mark.parametrize(("name", "style"), cases(FAMILIES))
def test_pruned_equals_masked(tools, name, style):
    check(tools, FAMILIES[name], style)
