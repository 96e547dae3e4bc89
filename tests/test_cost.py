"""MACs and parameters, against counts by hand."""

from __future__ import annotations

from helpers import conv_net, parse

from graphopt.cost import cost


def test_counts_by_hand() -> None:
    found = cost(conv_net(32))
    assert found.by_node == {
        "stem": 16 * 16 * 32 * 3 * 9,
        "conv1": 16 * 16 * 64 * 32 * 9,
        "conv2": 16 * 16 * 32 * 64 * 9,
        "fc": 10 * 32,
    }
    assert found.macs == sum(found.by_node.values())
    assert found.parameters == 32 * 27 + 32 + 64 * 288 + 64 + 32 * 576 + 32 + 330


def test_batch_multiplies() -> None:
    net = conv_net(32)
    assert cost(net, {"image": (4, 3, 16, 16)}).macs == 4 * cost(net).macs


def test_spatial_size_comes_from_the_shapes_given() -> None:
    model = parse(
        "g (float[N,3,H,W] x) => (float[N,8,OH,OW] y)"
        "<float[8,3,1,1] w = {" + ",".join(["0.5"] * 24) + "}> { y = Conv (x, w) }"
    )
    assert cost(model).macs == 24
    assert cost(model, {"x": (1, 3, 10, 20)}).macs == 24 * 200


def test_grouped_transposed_and_matmul() -> None:
    text = (
        "g (float[1,4,5,5] x, float[2,3,6] a) => (float[1,4,10,10] y, float[2,3,7] z)"
        "<float[4,2,2,2] w = {" + ",".join(["1"] * 32) + "},"
        " float[6,7] m = {" + ",".join(["1"] * 42) + "}> {"
        " y = ConvTranspose <group: int = 2, strides: ints = [2, 2]> (x, w)  z = MatMul (a, m) }"
    )
    assert sorted(cost(parse(text)).by_node.values()) == [2 * 3 * 7 * 6, 100 * 2 * 4]


def test_unknown_shapes_are_told_not_guessed() -> None:
    model = parse(
        "g (float[N,K] x, float[M,L] y) => (float[A,B] z)"
        "{ n = NonZero (x)  f = Cast <to: int = 1> (n)  z = MatMul (f, y) }"
    )
    model.graph.nodes[-1].name = "product"
    found = cost(model)
    assert found.unknown == ("product",)
    assert found.macs == 0
