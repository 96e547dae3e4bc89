"""Small models and devices for the tests of engines."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.model import Model
from graphopt.profiles import DeviceProfile

HOST = DeviceProfile(name="host", title="a machine without a GPU")
T4 = DeviceProfile(name="t4", title="NVIDIA T4", sm=(7, 5))
A10 = DeviceProfile(name="a10", title="NVIDIA A10", sm=(8, 6))
XAVIER = DeviceProfile(name="jetson-agx-xavier", title="Xavier", sm=(7, 2))

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx is not installed: engines are not built",
)


def convnet(
    *, quantized: bool = False, batch: int | str = "N", gemm: bool = True, width: int = 16
) -> Model:
    """Two Convs with Relu, a global pool and, with ``gemm``, a classifier of ten classes.

    Quantized, it has Q/DQ as TensorRT wants it: inputs and per-channel weights, symmetric int8.
    """
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        initializers.append(numpy_helper.from_array(value, name))
        return name

    def qdq(name: str, scale: np.ndarray, **attributes: int) -> str:
        if not quantized:
            return name
        constant(f"{name}_scale", scale)
        constant(f"{name}_zero", np.zeros(scale.shape, np.int8))
        names = [f"{name}_scale", f"{name}_zero"]
        for op, before, after in (
            ("QuantizeLinear", name, f"{name}_q"),
            ("DequantizeLinear", f"{name}_q", f"{name}_dq"),
        ):
            nodes.append(helper.make_node(op, [before, *names], [after], name=after, **attributes))
        return f"{name}_dq"

    def weighted(op: str, data: str, shape: tuple[int, ...], name: str, **attributes: int) -> str:
        weight = rng.normal(0, 0.2, shape).astype(np.float32)
        axes = tuple(range(1, len(shape)))
        scale = np.abs(weight).max(axes) / np.float32(127)
        inputs = [
            qdq(data, np.asarray(0.03, np.float32)),
            qdq(constant(f"{name}_w", weight), scale, axis=0),
            constant(f"{name}_b", rng.normal(0, 0.1, shape[0]).astype(np.float32)),
        ]
        nodes.append(helper.make_node(op, inputs, [f"{name}_y"], name=name, **attributes))
        return f"{name}_y"

    data = "x"
    for name, channels in (("conv1", 3), ("conv2", width)):
        data = weighted("Conv", data, (width, channels, 3, 3), name, pads=[1, 1, 1, 1])
        nodes.append(helper.make_node("Relu", [data], [f"{name}_r"], name=f"{name}_relu"))
        data = f"{name}_r"
    nodes.append(helper.make_node("GlobalAveragePool", [data], ["pooled"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"))
    data = weighted("Gemm", "flat", (10, width), "fc", transB=1) if gemm else "flat"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "convnet",
        [value("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [value(data, TensorProto.FLOAT, [batch, 10 if gemm else width])],
        initializers,
    )
    opset = [helper.make_opsetid("", 17)]
    return Model.from_onnx(helper.make_model(graph, opset_imports=opset, ir_version=8))


def parsed(text: str) -> Model:
    """Return a model written in ONNX text, opset 17."""
    header = '<ir_version: 8, opset_import: ["": 17, "my.ops": 1]>\n'
    return Model.from_onnx(onnx.parser.parse_model(header + text))
