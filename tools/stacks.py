"""Deep models of one repeated block, as deep as asked: to see how time grows with nodes.

Weights are small and shared by nothing, so that what is measured is the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
CHANNELS = 16
SIDE = 8
TOKENS = 8
HEADS = 2


@dataclass
class _Stack:
    """A graph under construction; ``x`` is the newest value."""

    shape: list[int | str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def weight(self, *shape: int) -> str:
        std = 1 / np.sqrt(max(np.prod(shape[1:]), 1))
        return self.constant(self.rng.normal(0.0, std, shape).astype(np.float32))

    def constant(self, value: Any) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 1) -> str:
        weight = self.weight(outputs, inputs, kernel, kernel)
        return self.node("Conv", x, weight, self.weight(outputs), pads=[kernel // 2] * 4)

    def batch_norm(self, x: str, channels: int) -> str:
        gamma, beta, mean = (self.weight(channels) for _ in range(3))
        variance = self.constant(self.rng.uniform(0.5, 1.5, channels).astype(np.float32))
        return self.node("BatchNormalization", x, gamma, beta, mean, variance)

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        product = self.node("MatMul", x, self.weight(inputs, outputs))
        return self.node("Add", product, self.weight(outputs))

    def model(self, name: str, output: str, rank: int) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        y = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)
        graph = helper.make_graph(self.nodes, name, [x], [y], self.weights)
        imports = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)


def _images() -> _Stack:
    return _Stack(["N", 3, SIDE, SIDE])


def chain(nodes: int) -> onnx.ModelProto:
    """Conv, BatchNorm, Relu: a group per convolution."""
    s, x, width = _images(), "x", 3
    while len(s.nodes) < nodes - 1:
        x = s.node("Relu", s.batch_norm(s.conv(x, width, CHANNELS), CHANNELS))
        width = CHANNELS
    return s.model("chain", s.conv(x, width, 4), 4)


def residual(nodes: int) -> onnx.ModelProto:
    """Bottlenecks around one stream: one group with thousands of members."""
    s = _images()
    x = s.conv("x", 3, CHANNELS)
    while len(s.nodes) < nodes - 1:
        y = s.node("Relu", s.batch_norm(s.conv(x, CHANNELS, CHANNELS), CHANNELS))
        y = s.batch_norm(s.conv(y, CHANNELS, CHANNELS), CHANNELS)
        x = s.node("Relu", s.node("Add", y, x))
    return s.model("residual", s.conv(x, CHANNELS, 4), 4)


def dense_blocks(nodes: int, layers: int = 16, growth: int = 4) -> onnx.ModelProto:
    """DenseNet: blocks of ``layers``, each layer joined to all before it, then a transition."""
    s = _images()
    x, width = s.conv("x", 3, CHANNELS), CHANNELS
    while len(s.nodes) < nodes - 1:
        for _ in range(layers):
            y = s.conv(s.node("Relu", s.batch_norm(x, width)), width, growth, 3)
            x, width = s.node("Concat", x, y, axis=1), width + growth
            if len(s.nodes) >= nodes - 2:
                break
        x, width = s.conv(x, width, CHANNELS), CHANNELS
    return s.model("dense", s.conv(x, width, 4), 4)


def one_dense_block(nodes: int) -> onnx.ModelProto:
    """One block that never ends: the positions of its Concats grow as the square of its depth."""
    return dense_blocks(nodes, layers=nodes)


def transformer(nodes: int) -> onnx.ModelProto:
    """Attention and MLP, the sizes of each Reshape worked out from Shape, as exporters do."""
    s = _Stack(["N", TOKENS, CHANNELS])
    x, one = "x", {"axis": 0}
    head = s.constant(np.array([HEADS, CHANNELS // HEADS], dtype=np.int64))
    model = s.constant(np.array([CHANNELS], dtype=np.int64))
    batch_and_tokens = s.constant(np.array([0, 1], dtype=np.int64))
    scale = s.constant(np.array((CHANNELS / HEADS) ** 0.5, dtype=np.float32))

    def norm(x: str) -> str:
        scale, shift = s.weight(CHANNELS), s.weight(CHANNELS)
        return s.node("LayerNormalization", x, scale, shift, axis=-1)

    def reshaped(x: str, tail: str) -> str:
        sizes = s.node("Gather", s.node("Shape", x), batch_and_tokens, **one)
        return s.node("Reshape", x, s.node("Concat", sizes, tail, **one))

    while len(s.nodes) < nodes - 1:
        y = norm(x)
        q, k, v = (reshaped(s.linear(y, CHANNELS, CHANNELS), head) for _ in range(3))
        q, k, v = (
            s.node("Transpose", t, perm=p)
            for t, p in ((q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3]))
        )
        weights = s.node("Softmax", s.node("Div", s.node("MatMul", q, k), scale), axis=-1)
        mixed = s.node("Transpose", s.node("MatMul", weights, v), perm=[0, 2, 1, 3])
        x = s.node("Add", x, s.linear(reshaped(mixed, model), CHANNELS, CHANNELS))
        y = s.node("Relu", s.linear(norm(x), CHANNELS, 4 * CHANNELS))
        x = s.node("Add", x, s.linear(y, 4 * CHANNELS, CHANNELS))
    return s.model("transformer", s.linear(x, CHANNELS, 4), 3)


def shared(nodes: int) -> onnx.ModelProto:
    """Conv, PRelu, all with the same bias and slopes: what exporters do with equal constants."""
    s, x, width = _images(), "x", 3
    bias, slope = s.weight(CHANNELS), s.weight(CHANNELS, 1, 1)
    while len(s.nodes) < nodes - 1:
        x = s.node("Conv", x, s.weight(CHANNELS, width, 1, 1), bias)
        x, width = s.node("PRelu", x, slope), CHANNELS
    return s.model("shared", s.conv(x, width, 4), 4)


STACKS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "chain": chain,
    "residual": residual,
    "dense": dense_blocks,
    "transformer": transformer,
    "shared": shared,
    "one dense block": one_dense_block,
}
