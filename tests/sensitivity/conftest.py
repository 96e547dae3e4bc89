"""Small networks of several shapes, with samples; built once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import conv_net
from onnx import TensorProto, helper, numpy_helper

from graphopt.data import Dataset, open_data
from graphopt.model import Model

F32 = TensorProto.FLOAT


class Net:
    """A graph under construction; calling it adds a node and returns the name of what it makes."""

    def __init__(self, opset: int = 17, prefix: str = "") -> None:
        self.opset, self.prefix = opset, prefix
        self.rng = np.random.default_rng(3)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, outs: int = 1, **attrs: object):
        names = [f"{self.prefix}{op.lower()}{len(self.nodes)}_{k}" for k in range(outs)]
        name = f"{self.prefix}{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), names, name, **attrs))
        return names if outs > 1 else names[0]

    def const(self, value: object) -> str:
        array = np.asarray(value)
        array = array.astype("i8" if array.dtype.kind == "i" else "f4")
        name = f"{self.prefix}w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        return self.const(self.rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:])))

    def conv(self, x: str, cin: int, cout: int, *, relu: bool = True, k: int = 3, **attrs) -> str:
        pads = attrs.pop("pads", [k // 2] * 4)
        group = attrs.get("group", 1)
        out = self(
            "Conv", x, self.weight(cout, cin // group, k, k), self.bias(cout), pads=pads, **attrs
        )
        return self("Relu", out) if relu else out

    def bias(self, n: int) -> str:
        return self.const(self.rng.normal(size=n) * 0.1)

    def head(self, x: str, width: int, classes: int = 5) -> str:
        pooled = self("Flatten", self("GlobalAveragePool", x))
        return self("Gemm", pooled, self.weight(classes, width), self.bias(classes), transB=1)

    def graph(self, inputs: dict[str, list], outputs: dict[str, list]) -> onnx.GraphProto:
        info = helper.make_tensor_value_info
        return helper.make_graph(
            self.nodes,
            "net",
            [info(n, F32, s) for n, s in inputs.items()],
            [info(n, F32, s) for n, s in outputs.items()],
            self.weights,
        )

    def model(self, inputs: dict[str, list], outputs: dict[str, list]) -> Model:
        opset = helper.make_opsetid("", self.opset)
        return Model.from_onnx(
            helper.make_model(self.graph(inputs, outputs), opset_imports=[opset], ir_version=8)
        )


IMAGE = {"image": ["N", 3, 12, 12]}


def chain() -> Model:
    net = Net()
    x = net.conv("image", 3, 16)
    x = net.conv(x, 16, 24, strides=[2, 2])
    x = net.conv(x, 24, 16)
    return net.model(IMAGE, {net.head(x, 16): ["N", 5]})


def branches() -> Model:
    """Two inputs; two branches, one after the other in the file; three outputs, one of a branch."""
    net = Net()
    a = net.conv(net.conv("image", 3, 16), 16, 16)
    b = net.conv(net.conv("other", 3, 16), 16, 24)
    joint = net("Concat", a, b, axis=1)
    left, right = net("Split", net.conv(joint, 40, 32), outs=2, axis=1)
    mixed = net("Mul", left, net("Sigmoid", right))
    return net.model(
        {"image": ["N", 3, 12, 12], "other": ["N", 3, 12, 12]},
        {
            net.head(a, 16): ["N", 5],
            net.conv(mixed, 16, 4, relu=False, k=1): ["N", 4, 12, 12],
            net("GlobalMaxPool", b): ["N", 24, 1, 1],
        },
    )


def skips() -> Model:
    """A U-Net: skips, ConvTranspose, a depthwise convolution; outputs that are no classes."""
    net = Net()
    a = net.conv("image", 3, 16)
    b = net.conv(a, 16, 24, strides=[2, 2])
    c = net.conv(net.conv(b, 24, 24, group=24), 24, 24, k=1)
    up = net(
        "ConvTranspose", net("Add", b, c), net.weight(24, 16, 2, 2), net.bias(16), strides=[2, 2]
    )
    out = net.conv(net("Concat", a, net("Relu", up), axis=1), 32, 16)
    return net.model(IMAGE, {net.conv(out, 16, 3, relu=False): ["N", 3, 12, 12]})


def bodies() -> Model:
    """An If whose branches read an activation and a weight of the outer graph."""
    net = Net()
    a = net.conv("image", 3, 16)
    side = net.conv(a, 16, 16)
    scale = net.const(np.linspace(0.5, 1.5, 16).reshape(1, 16, 1, 1))
    total = net("ReduceSum", "image", keepdims=0)
    flag = net("Greater", total, net.const(0.0))

    def branch(op: str) -> onnx.GraphProto:
        inner = Net(prefix=f"{op}_")
        result = inner("Relu", inner(op, side, scale))
        return inner.graph({}, {result: ["N", 16, 12, 12]})

    chosen = net("If", flag, then_branch=branch("Mul"), else_branch=branch("Add"))
    deep = net.conv(net.conv(chosen, 16, 24), 24, 16)
    return net.model(IMAGE, {net.head(net("Add", deep, a), 16): ["N", 5]})


def linear() -> Model:
    """An MLP of MatMuls on tokens, batch fixed at 2, opset 11."""
    net = Net(opset=11)
    h = net("Relu", net("Add", net("MatMul", "tokens", net.weight(16, 32)), net.bias(32)))
    out = net("Add", net("MatMul", h, net.weight(32, 16)), "tokens")
    gate = net("Sigmoid", net("MatMul", out, net.weight(16, 24)))
    return net.model({"tokens": [2, 7, 16]}, {net("MatMul", gate, net.weight(24, 16)): [2, 7, 16]})


def sequences() -> Model:
    """Channels go through a sequence, which nobody can keep between parts of a run."""
    net = Net()
    a = net.conv("image", 3, 16)
    parts = net("SplitToSequence", net.conv(a, 16, 16), net.const(8), axis=1)
    first = net("SequenceAt", parts, net.const(0))
    x = net.conv(net("Add", first, net("SequenceAt", parts, net.const(1))), 8, 24)
    x = net.conv(net.conv(x, 24, 16), 16, 16)
    return net.model(IMAGE, {net.head(net("Add", x, a), 16): ["N", 5]})


NETS: dict[str, Callable[[], Model]] = {
    "residual": lambda: conv_net(16),
    "chain": chain,
    "branches": branches,
    "skips": skips,
    "bodies": bodies,
    "linear": linear,
    "sequences": sequences,
}


def samples(
    model: Model, path: Path, count: int = 20, *, labels: int = 0, seed: int = 5
) -> Dataset:
    """Write samples for a model into a file and open it."""
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.normal(size=(count, *shape[1:])).astype("f4")
        for name, (_, shape) in model.inputs().items()
    }
    if labels:
        arrays["labels"] = rng.integers(0, labels, count)
    np.savez(path, **arrays)
    return open_data(str(path), model.inputs())


class Tools:
    """What the tests use."""

    nets = NETS
    samples = staticmethod(samples)
    chain = staticmethod(chain)
    net = Net


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools
