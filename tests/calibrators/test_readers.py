"""Patch gains of small graphs, against what convolving patches of error gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.calibrators.readers import MOST, patch_gains
from graphopt.model import Model
from graphopt.runtime import open_session


def model(body: str, outputs: str, **weights: np.ndarray) -> Model:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4,12,12] x) => ({outputs}) {{ {body} }}
    """
    proto = onnx.parser.parse_model(text)
    for name, value in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return Model.from_onnx(proto)


def kernel(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.2, 1, shape).astype(np.float32)


BLUR = np.ones((4, 1, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("body", "weight"),
    [
        ("y = Conv<pads=[1,1,1,1]>(x, w)", kernel(8, 4, 3, 3)),
        ("y = Conv<group=4, pads=[1,1,1,1]>(x, w)", kernel(4, 1, 3, 3)),
        ("y = Conv<group=2, strides=[2,2]>(x, w)", kernel(6, 2, 5, 5)),
        ("y = Conv(x, w)", kernel(8, 4, 1, 1)),
        ("y = ConvTranspose(x, w)", kernel(4, 5, 3, 3)),
        ("y = ConvTranspose<strides=[2,2]>(x, w)", kernel(4, 5, 4, 4)),
        ("y = ConvTranspose<strides=[2,2], group=2>(x, w)", kernel(4, 3, 3, 3)),
    ],
)
def test_the_gain_is_what_the_layer_does_to_patches(body: str, weight: np.ndarray) -> None:
    layer = model(body, "float[N,M,H,W] y", w=weight)
    rng = np.random.default_rng(1)
    count = 3000
    alike = np.broadcast_to(rng.normal(size=(count, 4, 1, 1)), (count, 4, 12, 12))
    apart = rng.normal(size=(count, 4, 12, 12))
    with open_session(layer, threads=1) as session:
        powers = []
        for x in (alike, apart):
            (y,) = session.run(None, {"x": x.astype(np.float32)})
            middle = y[:, :, 4:-4, 4:-4] if y.shape[2] > 8 else y[:, :, 1:-1, 1:-1]
            powers.append(np.square(middle.astype(np.float64)).mean())
    assert patch_gains(layer)["x"] == pytest.approx(powers[0] / powers[1], rel=0.1)


def test_a_blur_gains_nine_and_a_difference_nothing() -> None:
    blur = model("y = Conv<group=4>(x, w)", "float[N,4,H,W] y", w=BLUR)
    assert patch_gains(blur)["x"] == pytest.approx(9)
    edge = BLUR.copy()
    edge[:, :, 1, 1] = -8
    sharp = model("y = Conv<group=4>(x, w)", "float[N,4,H,W] y", w=edge)
    assert patch_gains(sharp)["x"] == pytest.approx(0, abs=1e-9)


def test_what_moves_or_gates_values_is_looked_through() -> None:
    net = model(
        """a = Relu(x) b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        c = Transpose<perm=[0,1,3,2]>(b) y = Conv<group=4>(c, w)""",
        "float[N,4,H,W] y",
        w=BLUR,
    )
    found = patch_gains(net)
    assert all(found[name] == pytest.approx(9) for name in "xabc")


def test_readers_count_alike() -> None:
    """A blur, a matrix, an Add, and the caller who reads the graph output: through the Relu."""
    net = model(
        """a = Relu(x) y = Conv<group=4, pads=[1,1,1,1]>(a, w) z = Add(a, y) s = Shape(a)
        t = Cast<to=1>(s)""",
        "float[N,4,H,W] z, float[N,4,H,W] a, float[4] t",
        w=BLUR,
    )
    found = patch_gains(net)
    assert found["a"] == pytest.approx((9 + 1 + 1) / 3)
    assert found["x"] == found["a"]
    assert found["y"] == found["z"] == 1


def test_a_pool_over_a_map_is_bounded() -> None:
    net = model(
        "p = GlobalAveragePool(x) f = Flatten(p) y = MatMul(f, w)", "float[N,3] y", w=kernel(4, 3)
    )
    found = patch_gains(net)
    assert found["x"] == MOST
    assert found["p"] == found["f"] == 1.0


@pytest.mark.parametrize("weight", [np.zeros((4, 1, 3, 3), np.float32), BLUR * np.float32("inf")])
def test_weights_that_say_nothing(weight: np.ndarray) -> None:
    net = model("y = Conv<group=4>(x, w)", "float[N,4,H,W] y", w=weight)
    assert patch_gains(net)["x"] == 1.0


def test_a_deep_tree_of_copies_takes_no_time() -> None:
    """Two paths at each of 2000 steps: counted once each, not 2**2000 times."""
    steps = " ".join(f"a{i + 1} = Concat<axis=0>(a{i}, a{i})" for i in range(2000))
    net = model(f"a0 = Relu(x) {steps} y = Conv<group=4>(a2000, w)", "float[N,4,H,W] y", w=BLUR)
    assert patch_gains(net)["x"] == pytest.approx(9)
