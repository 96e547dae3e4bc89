"""A small residual CNN whose batch, height and width are all dynamic."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.model import Model

SMALL = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[N,3,H,W] x) => (float[N,4] y)
{
    c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, w2)
    s = Add(c2, r1)
    r2 = Relu(s)
    p = GlobalAveragePool(r2)
    f = Flatten(p)
    y = MatMul(f, w3)
}
"""
INNER = ["r1", "c2", "r2", "f", "y"]


@pytest.fixture
def small() -> Model:
    proto = onnx.parser.parse_model(SMALL)
    rng = np.random.default_rng(7)
    for name, shape in {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "w3": (4, 4)}.items():
        value = rng.normal(0, 0.3, shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return Model.from_onnx(proto)


@pytest.fixture
def inner() -> list[str]:
    """Tensors worth calibrating, the input and the output among them."""
    return ["x", *INNER]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(7, 3, 12, 10)).astype(np.float32)
