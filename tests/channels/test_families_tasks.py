"""Segmentation, detection, super-resolution, comparison: networks as exporters write them."""

from __future__ import annotations

import numpy as np
import pytest
from nets import OUTPUT, Family, Net, built, cases, check, prepared
from onnx import TensorProto, helper

from graphopt.channels import analyze
from graphopt.model import Model

FAR = 2**63 - 1


def resized(net: Net, x: str, like: str, side: int, c: int) -> str:
    """Bilinear, to the size of another tensor."""
    if net.style == "literal":
        return net("Resize", x, "", "", [2, c, side, side], mode="linear")
    front = net("Slice", net("Shape", x), [0], [2], [0])
    sizes = net("Concat", front, net("Slice", net("Shape", like), [2], [FAR], [0]), axis=0)
    return net(
        "Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel"
    )


def up(net: Net, x: str, c: int, out: int) -> str:
    weight, bias = net.weight(c, out, 2, 2), net.weight(out)
    return net("ConvTranspose", x, weight, bias, strides=[2, 2], kernel_shape=[2, 2])


def unet(how: str):
    """Skips by Concat; what comes up is upsampled, or made wider by a Pad and cropped."""

    def raised(net: Net, x: str, skip: str, c: int, out: int, side: int) -> str:
        if how == "resize":
            return net.conv(resized(net, x, skip, side, c), c, out)
        y = up(net, x, c, out)
        if how == "pad":
            y = net("Pad", y, [0, 0, 1, 0, 0, 0, 0, 1])
            y = net.slice(net.slice(y, 2, 1, FAR), 3, 0, -1)
        return y

    def build(net: Net) -> None:
        a = net.cbr(net.input(3, 8, 8), 3, 8, 3)
        b = net.cbr(net("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), 8, 16, 3)
        c = net.cbr(net("MaxPool", b, kernel_shape=[2, 2], strides=[2, 2]), 16, 24, 3)
        x = net.cbr(net("Concat", b, raised(net, c, b, 24, 12, 4), axis=1), 28, 14, 3)
        x = net.cbr(net("Concat", raised(net, x, a, 14, 6, 8), a, axis=1), 14, 10, 3)
        net.output(net.conv(x, 10, 2), 2, 8, 8)

    return build


def pyramid(net: Net) -> None:
    """Lateral connections added to what is upsampled by a constant scale; three outputs."""
    a = net.cbr(net.input(3, 16, 16), 3, 8, 3)
    b = net.cbr(a, 8, 12, 3, strides=[2, 2])
    c = net.cbr(b, 12, 16, 3, strides=[2, 2])
    p = net.conv(c, 16, 10)
    outputs = [p]
    for skip, width in ((b, 12), (a, 8)):
        scales = net.const([1.0, 1.0, 2.0, 2.0])
        p = net("Add", net("Resize", p, "", scales, mode="nearest"), net.conv(skip, width, 10))
        outputs.append(p)
    head = [net.weight(4, 10, 3, 3), net.weight(4)]  # One head for all levels.
    for level, side in zip(outputs, (4, 8, 16), strict=True):
        net.output(net("Conv", level, *head, pads=[1] * 4), 4, side, side)


def deeplab(net: Net) -> None:
    """Dilated branches and the image's mean, resized and joined, then details."""
    image = net.input(3, 8, 8)
    low = net.cbr(image, 3, 6, 3)
    x = net.cbr(image, 3, 12, 3, strides=[2, 2])
    mean = net.cbr(net("GlobalAveragePool", x), 12, 8)
    dilated = net.conv(x, 12, 7, 3, dilations=[2, 2], pads=[2] * 4)
    branches = [net.cbr(x, 12, 9), dilated, resized(net, mean, x, 4, 8)]
    x = net.cbr(net("Concat", *branches, axis=1), 24, 10)
    x = net.cbr(net("Concat", resized(net, x, low, 8, 10), low, axis=1), 16, 11, 3)
    net.output(net.conv(x, 11, 4), 4, 8, 8)


def sub_pixel(how: str):
    """ESPCN twice: DepthToSpace in either order, or as Reshape and Transpose."""

    def shuffled(net: Net, x: str, c: int, side: int) -> str:
        if how != "reshape":
            return net("DepthToSpace", x, blocksize=2, mode=how)
        x = net.view(x, "N", c, 2, 2, side, side)
        return net.view(net.transpose(x, 0, 1, 4, 2, 5, 3), "N", c, 2 * side, 2 * side)

    def build(net: Net) -> None:
        x = net("Tanh", net.conv(net.input(1, 4, 4), 1, 16, 5))
        x = shuffled(net, net("Tanh", net.conv(x, 16, 32, 3)), 8, 4)
        x = shuffled(net, net.conv(net("Tanh", net.conv(x, 8, 12, 3)), 12, 4, 3), 1, 8)
        net.output(x, 1, 16, 16)

    return build


def stem_of_blocks(net: Net) -> None:
    """Space to depth as the operator, and as strided slices (the Focus layer of YOLOv5)."""
    x = net("SpaceToDepth", net.cbr(net.input(3, 8, 8), 3, 6, 3), blocksize=2)
    x = net.cbr(x, 24, 8)
    corners = [
        net.slice(net.slice(x, 2, row, FAR, 2), 3, column, FAR, 2)
        for column in (0, 1)
        for row in (0, 1)
    ]
    x = net.cbr(net("Concat", *corners, axis=1), 32, 10)
    net.output(net.gemm(net.pool(x), 10, 5), 5)


def ssd(net: Net) -> None:
    """Boxes and classes of two levels: Transpose, Reshape, Concat, Softmax over classes."""
    a = net.cbr(net.input(3, 8, 8), 3, 16, 3, strides=[2, 2])
    b = net.cbr(a, 16, 24, 3, strides=[2, 2])
    heads: dict[int, list[str]] = {4: [], 5: []}
    for x, c, boxes, cells in ((a, 16, 2, 16), (b, 24, 3, 4)):
        for each, found in heads.items():
            y = net.transpose(net.conv(x, c, boxes * each, 3), 0, 2, 3, 1)
            found.append(net.view(y, "N", cells * boxes if net.style == "literal" else -1, each))
    joined = {each: net("Concat", *found, axis=1) for each, found in heads.items()}
    net.output(net("Softmax", joined[5], axis=2), 44, 5)
    net.output(joined[4], 44, 4)


def yolo(net: Net) -> None:
    """Split and concat (C2f), pooled pyramid (SPPF), a grid of anchors, decoded boxes."""
    x = net.cbr(net.input(3, 8, 8), 3, 16, 3, act="SiLU", strides=[2, 2])
    parts = net.chunk(net.cbr(x, 16, 16, act="SiLU"), 1, 8, 8)
    inner = net.cbr(net.cbr(parts[1], 8, 6, 3, act="SiLU"), 6, 8, 3, act="SiLU")
    parts.append(net("Add", parts[1], inner))
    x = net.cbr(net.cbr(net("Concat", *parts, axis=1), 24, 12, act="SiLU"), 12, 10, act="SiLU")
    pooled = [x]
    for _ in range(3):
        pooled.append(net("MaxPool", pooled[-1], kernel_shape=[5, 5], pads=[2] * 4))
    x = net.cbr(net("Concat", *pooled, axis=1), 40, 14, act="SiLU")
    y = net.view(net.conv(x, 14, 2 * 7), "N", 2, 7, 4, 4)
    y = net("Sigmoid", net.transpose(y, 0, 1, 3, 4, 2))
    xy, wh, rest = net.chunk(y, 4, 2, 2, 3)
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1)[None, None]
    xy = net("Mul", net("Add", net("Mul", xy, 2.0), grid), 4.0)
    wh = net("Mul", net("Pow", net("Mul", wh, 2.0), 2.0), net.positive(1, 2, 1, 1, 2))
    net.output(net.view(net("Concat", xy, wh, rest, axis=4), "N", 32, 7), 32, 7)


def distances(net: Net) -> None:
    """The head of YOLOv8: boxes as expected values of distributions over 8 bins."""
    x = net.cbr(net.input(3, 4, 4), 3, 12, 3)
    boxes, classes = net.conv(net.cbr(x, 12, 10, 3), 10, 32), net.conv(x, 12, 6)
    y = net.view(net("Concat", boxes, classes, axis=1), "N", 38, 16)
    boxes, classes = net.chunk(y, 1, 32, 6)
    bins = net.transpose(net.view(boxes, "N", 4, 8, 16), 0, 2, 1, 3)
    weight = net.const(np.arange(8.0).reshape(1, 8, 1, 1))
    boxes = net.view(net("Conv", net("Softmax", bins, axis=1), weight), "N", 4, 16)
    net.output(net("Concat", boxes, net("Sigmoid", classes), axis=1), 10, 16)


def siamese(net: Net) -> None:
    """Two inputs through the same weights: three outputs that compare them."""
    weights = [(net.weight(8, 3, 3, 3), net.weight(8)), (net.weight(12, 8, 3, 3), net.weight(12))]

    def embed(x: str) -> str:
        for weight, bias in weights:
            x = net("Relu", net("Conv", x, weight, bias, pads=[1] * 4))
        return net.pool(x)

    a, b = embed(net.input(3, 8, 8)), embed(net.input(3, 8, 8))
    y = net("Relu", net.gemm(net("Concat", a, b, axis=1), 24, 10))
    net.output(net.gemm(y, 10, 3), 3)
    net.output(net("ReduceSum", net("Mul", a, b), [1], keepdims=0))
    unit = [net("LpNormalization", t, axis=1, p=2) for t in (a, b)]
    net.output(net("ReduceL2", net("Sub", *unit), *far(net), keepdims=0, **near(net)))


def far(net: Net) -> list[list[int]]:
    return [[1]] if net.opset >= 18 else []


def near(net: Net) -> dict[str, list[int]]:
    return {} if net.opset >= 18 else {"axes": [1]}


def two_inputs(net: Net) -> None:
    """An image, and a vector that scales and shifts its features (FiLM)."""
    x = net.cbr(net.input(3, 8, 8), 3, 12, 3)
    y = net.gemm(net("Relu", net.gemm(net.input(6), 6, 10)), 10, 24)
    scale, shift = (net.unsqueeze(t, 2, 3) for t in net.chunk(y, 1, 12, 12))
    x = net("Relu", net("Add", net("Mul", x, scale), shift))
    net.output(net.conv(x, 12, 2), 2, 8, 8)
    net.output(net.gemm(net.pool(x), 12, 5), 5)


FAMILIES = {
    "unet": Family(unet("transposed"), (6, 8, 10, 12, 14, 16, 24), 2),
    "unet, padded and cropped": Family(unet("pad"), (6, 8, 10, 12, 14, 16, 24), 2),
    "unet, resized": Family(unet("resize"), (6, 8, 10, 12, 14, 16, 24), 2),
    "pyramid": Family(pyramid, (8, 10, 12, 16), 4),
    "deeplab": Family(deeplab, (6, 7, 8, 9, 10, 11, 12), 4),
    "sub-pixel, DCR": Family(sub_pixel("DCR"), (8, 12, 16), 4, ("DepthToSpace", *OUTPUT)),
    "sub-pixel, CRD": Family(sub_pixel("CRD"), (8, 12, 16), 4, ("DepthToSpace", *OUTPUT)),
    "sub-pixel, reshaped": Family(sub_pixel("reshape"), (8, 12, 16), 4, ("Reshape", *OUTPUT)),
    "stem of blocks": Family(stem_of_blocks, (6, 8, 10), 5),
    "ssd": Family(ssd, (16, 24), 45, ("Softmax", *OUTPUT)),
    "yolo": Family(yolo, (6, 8, 8, 10, 12, 14, 16), 14),
    "distances": Family(distances, (10, 12), 38, ("Softmax", *OUTPUT)),
    "siamese": Family(siamese, (8, 10, 12), 3),
    "two inputs": Family(two_inputs, (10, 12), 7),
}


@pytest.mark.parametrize(("name", "style"), cases(FAMILIES))
def test_pruned_equals_masked(tools, name, style):
    check(tools, FAMILIES[name], style)


def test_the_trips_of_a_loop_are_left_alone(tools):
    """Weights inside of a body stay; what is before and after the Loop is pruned but for the door.

    The body adds a convolution of what it carries, by weights of its own.
    """
    net = Net("literal")
    x = net.conv(net.cbr(net.input(3, 8, 8), 3, 10, 3), 10, 6)
    inner = Net("literal", prefix="body_")
    carried = inner("Add", "carried", inner.conv("carried", 6, 6))
    again = inner("Identity", "more")
    info = helper.make_tensor_value_info
    shape = [2, 6, 8, 8]
    body = helper.make_graph(
        inner.nodes,
        "body",
        [
            info("trip", TensorProto.INT64, []),
            info("more", TensorProto.BOOL, []),
            info("carried", TensorProto.FLOAT, shape),
        ],
        [info(again, TensorProto.BOOL, []), info(carried, TensorProto.FLOAT, shape)],
        inner.weights,
    )
    y = net("Loop", np.int64(2), np.array(True), x, body=body)
    y = net.conv(net("Relu", net.conv(y, 6, 8, 3)), 8, 5)
    net.output(y, 5, 8, 8)
    model = prepared(net.model())
    analysis = analyze(model)
    assert sorted(g.width for g in analysis.groups) == [8, 10]
    assert sum(g.width for g in analysis.frozen) == 11
    assert any("Loop" in reason for g in analysis.frozen for reason in g.reasons)
    for seed in range(3):
        pruned = tools.prove(model, tools.random_plan(analysis, seed), seed=seed)
    loops = [next(n for n in m.graph.nodes if n.op == "Loop") for m in (model, pruned)]
    before, after = (
        {t.name: t.shape for n in loop.attrs["body"].nodes for t in n.inputs} for loop in loops
    )
    assert before == after


def test_a_real_parser_takes_what_pruning_writes(tools):
    """The Gather, Mul and Where nodes that pruning may add are ones TensorRT reads."""
    from helpers import rtx_refuses

    for name, style in (("sub-pixel, CRD", "literal"), ("yolo", "export"), ("siamese", "export")):
        model: Model = prepared(built(FAMILIES[name], style))
        pruned = tools.prune(model, tools.random_plan(analyze(model), 1, 0.5))
        assert rtx_refuses(pruned) is None
