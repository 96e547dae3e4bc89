"""Small nets whose weights are looked at, their samples, and what INT8 makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from helpers import run, sqnr
from onnx import TensorProto, helper, numpy_helper

from graphopt.calibrators import CalibrationTable
from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import collect
from graphopt.calibrators.minmax import MinMax
from graphopt.dialects.codes import Codes
from graphopt.graph import Array
from graphopt.model import Feeds, Model
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.quantize import wanted_tensors


def net(text: str, weights: Mapping[str, tuple[int, ...]], *, opset: int = 17, seed: int = 0):
    """Make a model from ONNX text, nodes named after their outputs, weights drawn."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    for node in proto.graph.node:
        node.name = node.output[0]
    rng = np.random.default_rng(seed)
    for name, shape in weights.items():
        fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        value = rng.normal(0, (2 / max(fan, 1)) ** 0.5 if len(shape) > 1 else 0.3, shape)
        # Channels differ, as they do once a BatchNorm has been folded.
        value = value * np.exp(rng.normal(0, 1, (shape[0], *[1] * (len(shape) - 1))))
        proto.graph.initializer.append(numpy_helper.from_array(value.astype("f4"), name))
    return Model.from_onnx(proto)


def samples(model: Model, count: int = 8, batch: int = 4, seed: int = 3) -> list[Feeds]:
    """Smooth positive inputs: features go along with each other, and have a mean."""
    rng = np.random.default_rng(seed)
    feeds = []
    for _ in range(count):
        feed = {}
        for name, (_, shape) in model.inputs().items():
            dims = [d if isinstance(d, int) else batch for d in shape]
            common = rng.normal(size=(dims[0], *[1] * (len(dims) - 1)))
            feed[name] = (rng.normal(size=dims) + 2 * common + 1).astype("f4")
        feeds.append(feed)
    return feeds


def one_layer(op: str, x: tuple[Any, ...], w: tuple[int, ...], bias: bool = True, **attrs: Any):
    """``x → op → y``, node ``n``, weight ``w``; MatMul's bias by an Add."""
    rng = np.random.default_rng(1)
    constants = [numpy_helper.from_array(rng.standard_normal(w).astype("f4"), "w")]
    group = attrs.get("group", 1)
    outputs = w[1] * group if op == "ConvTranspose" else (
        w[0] if op == "Conv" or attrs.get("transB") else w[1])  # fmt: skip
    if bias:
        b = rng.standard_normal(outputs).astype("f4")
        constants.append(numpy_helper.from_array(b, "b"))
    added = bias and op == "MatMul"
    inputs = ["x", "w"] + ["b"] * (bias and not added)
    nodes = [helper.make_node(op, inputs, ["m" if added else "y"], "n", **attrs)]
    if added:
        nodes.append(helper.make_node("Add", ["m", "b"], ["y"], "a"))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, x)], [info("y", TensorProto.FLOAT, None)],
        constants,
    )  # fmt: skip
    opset = helper.make_opsetid("", 17)
    return Model.from_onnx(helper.make_model(graph, opset_imports=[opset], ir_version=8))


def batches(feeds: list[Feeds]) -> Callable[[], list[Feeds]]:
    return lambda: feeds


def table_for(model: Model, feeds: list[Feeds], exclude: tuple[str, ...] = ()) -> CalibrationTable:
    collected = collect(model, feeds, wanted_tensors(model, exclude))
    return calibrate(collected, MinMax(), method="minmax", model_digest=model.digest())


def int8(
    model: Model,
    table: CalibrationTable,
    codes: Codes | None = None,
    *,
    dialect: str = "tensorrt",
    exclude: tuple[str, ...] = (),
) -> Model:
    return InsertQDQ(dialect, table, exclude, codes or {})(model).model


def outputs(model: Model, feeds: list[Feeds]) -> list[Array]:
    found = [run(model, feed) for feed in feeds]
    return [np.concatenate([f[i].ravel() for f in found]) for i in range(len(found[0]))]


def quality(reference: Model, other: Model, feeds: list[Feeds]) -> float:
    """SQNR of all outputs together, dB."""
    a, b = outputs(reference, feeds), outputs(other, feeds)
    return sqnr(np.concatenate(a), np.concatenate(b))
