"""Models of one layer, and a model run whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from helpers import run
from onnx import TensorProto, helper, numpy_helper

from graphopt.graph import Array, Node
from graphopt.model import Feeds, Model
from graphopt.statistics import Layer, layers


def values(*shape: int, seed: int = 0, dtype: str = "f4") -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def outputs_of(op: str, weight: tuple[int, ...], attrs: dict[str, Any]) -> int:
    if op == "ConvTranspose":
        return weight[1] * attrs.get("group", 1)
    return weight[0] if op == "Conv" or attrs.get("transB") else weight[1]


def layer_model(
    op: str,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    *,
    bias: bool = True,
    dtype: str = "f4",
    **attrs: Any,
) -> Model:
    """``x → op → y``, node ``n``, weights ``w`` and ``b``; MatMul's bias by an Add, node ``a``."""
    constants = [numpy_helper.from_array(values(*weight, seed=1, dtype=dtype), "w")]
    if bias:
        b = values(outputs_of(op, weight, attrs), seed=2, dtype=dtype)
        constants.append(numpy_helper.from_array(b, "b"))
    inputs = ["x", "w"] + ["b"] * (bias and op != "MatMul")
    added = bias and op == "MatMul"
    nodes = [helper.make_node(op, inputs, ["m" if added else "y"], "n", **attrs)]
    if added:
        nodes.append(helper.make_node("Add", ["b", "m"], ["y"], "a"))
    kind = TensorProto.FLOAT16 if dtype == "f2" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", kind, None)],
        constants,
    )
    opset = helper.make_opsetid("", 17)
    return Model.from_onnx(helper.make_model(graph, opset_imports=[opset], ir_version=8))


def only_layer(model: Model) -> tuple[Layer, Node]:
    (layer,) = layers(model)
    return layer, next(n for n in model.graph.nodes if n.name == layer.node)


def run_all(model: Model, feeds: Feeds) -> dict[str, Array]:
    """Run a whole model once, and return every tensor that its nodes write."""
    opened = model.clone()
    made = [t for node in opened.graph.nodes for t in node.outputs if t.name]
    kinds = onnx.shape_inference.infer_shapes(model.to_onnx()).graph
    opaque = {
        v.name
        for v in [*kinds.value_info, *kinds.output]
        if v.type.WhichOneof("value") == "sequence_type"
    }
    opened.graph.outputs = [t for t in made if t.name not in opaque]
    return dict(zip([t.name for t in opened.graph.outputs], run(opened, feeds), strict=True))
