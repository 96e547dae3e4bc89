"""What a model costs: multiply-accumulates from static shapes, parameters, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.graph import Node, constant, is_constant, is_op, static_shape
from graphopt.model import Model


@dataclass(frozen=True, slots=True)
class Cost:
    """Totals for one sample shape.

    Attributes:
        macs: multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul.
        by_node: node name -> macs, in graph order.
        unknown: nodes of those kinds whose shapes are not known, so that they count as nothing.
        parameters: floating-point weights, shared ones once.
    """

    macs: int
    by_node: Mapping[str, int]
    unknown: tuple[str, ...]
    parameters: int


def cost(model: Model, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Cost:
    """Count the cost of one run.

    Args:
        model: any model.
        shapes: input name -> shape for inputs with dynamic dimensions; a dimension that is still
            open counts as 1.
    """
    fixed = with_input_shapes(model, shapes or {})
    by_node: dict[str, int] = {}
    unknown: list[str] = []
    for node in fixed.graph.nodes:
        if not is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        macs = _macs(node)
        if macs is None:
            unknown.append(node.name)
        else:
            by_node[node.name] = by_node.get(node.name, 0) + macs
    return Cost(sum(by_node.values()), by_node, tuple(unknown), model.parameters())


def with_input_shapes(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """Return a copy whose inputs have these static shapes, inner shapes inferred again."""
    clone = model.clone()
    for tensor in clone.graph.inputs:
        given = shapes.get(tensor.name)
        if given is not None:
            tensor.shape = list(given)
        elif tensor.shape is not None:
            tensor.shape = [d if isinstance(d, int) else 1 for d in tensor.shape]
    for node in clone.graph.nodes:
        for tensor in node.outputs:
            if tensor.shape is not None and static_shape(tensor) is None:
                tensor.shape = None
    clone.infer_shapes()
    return clone


def _macs(node: Node) -> int | None:
    first, second = node.inputs[0], node.inputs[1]
    out, given = static_shape(node.outputs[0]), static_shape(first)
    weight = constant(second)
    weight_shape = weight.shape if weight is not None else static_shape(second)
    if weight_shape is None:
        return None
    if node.op == "Conv":
        return None if out is None else int(np.prod(out) * np.prod(weight_shape[1:]))
    if node.op == "ConvTranspose":
        return None if given is None else int(np.prod(given) * np.prod(weight_shape[1:]))
    if out is None or given is None:
        return None
    inner = given[0] if node.op == "Gemm" and node.attrs.get("transA", 0) else given[-1]
    return int(np.prod(out, dtype=np.int64)) * int(inner)


def stored_bytes(model: Model) -> int:
    """Return the bytes of the weights as a runtime holds them.

    A weight that only QuantizeLinear reads takes one byte an element: runtimes quantize it once,
    when they load the model or build the engine.
    """
    total = 0
    for tensor in model.graph.tensors().values():
        if not is_constant(tensor):
            continue
        quantized = tensor.outputs and all(is_op(n, "QuantizeLinear") for n in tensor.outputs)
        elements = int(np.prod(tensor.shape, dtype=np.int64))
        itemsize = 1.0 if quantized and elements > 1 else float(np.dtype(tensor.dtype).itemsize)
        if np.dtype(tensor.dtype).name in ("int4", "uint4"):  # NumPy holds one a byte
            itemsize = 0.5
        total += math.ceil(elements * itemsize)
    return total
