"""Reads the neutral network off an ONNX model, without TensorRT."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.dialects.heads import label
from graphopt.dialects.partition import COPIES, POINTWISE, is_copy
from graphopt.graph import Node, Tensor, captured, constant, is_op, is_standard, walk
from graphopt.lint import network as kinds
from graphopt.lint.network import Layer, Network, Quant, constant_tensors
from graphopt.model import Model, is_floating

# Beside those that partitions know.
_MORE_POINTWISE = frozenset({"Ceil", "Floor", "Gelu", "Log", "Round", "Sign", "Swish"})
_AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_MAXIMA = frozenset({"GlobalMaxPool", "ReduceMax"})
# Of these the first input holds the values; the others are shapes, indices and settings.
_FIRST_ONLY = COPIES | _AVERAGES | _MAXIMA | {"Clip", "Resize"}
_KINDS = {
    "QuantizeLinear": kinds.QUANTIZE,
    "DequantizeLinear": kinds.DEQUANTIZE,
    "Conv": kinds.CONV,
    "ConvTranspose": kinds.DECONV,
    "Gemm": kinds.MATMUL,
    "MatMul": kinds.MATMUL,
    "Resize": kinds.RESIZE,
    "Concat": kinds.CONCAT,
    "Constant": kinds.CONSTANT,
    "Shape": kinds.SHAPE,
    "Size": kinds.SHAPE,
}


def read_onnx(model: Model) -> Network:
    """Return the model as the linter sees it.

    Nodes inside the bodies of If, Loop and Scan are not walked: a node with a body reads, in
    float, whatever its bodies read; Q/DQ inside are told under ``unread``.
    """
    graph = model.graph
    layers = [_layer(node) for node in graph.nodes]
    known: set[str] = set()
    shapes: dict[str, tuple[int | None, ...]] = {}
    for name, tensor in graph.tensors().items():
        if constant(tensor) is not None:
            known.add(name)
        if tensor.shape is not None:
            shapes[name] = tuple(d if isinstance(d, int) else None for d in tensor.shape)
    inside = sum(is_op(n, *_KINDS_OF_QUANT) for n in walk(graph)) - sum(
        layer.quant is not None for layer in layers
    )
    return Network(
        source="the ONNX file",
        layers=tuple(layers),
        inputs=frozenset(t.name for t in graph.inputs),
        outputs=frozenset(t.name for t in graph.outputs),
        constants=constant_tensors(layers, known),
        shapes=shapes,
        unread=(f"{inside} Q/DQ inside the bodies of If, Loop or Scan",) if inside else (),
    )


_KINDS_OF_QUANT = ("QuantizeLinear", "DequantizeLinear")


def _layer(node: Node) -> Layer:
    kind = _kind(node)
    inputs = [t for t in node.inputs if t.name]
    if kind == kinds.SHAPE:
        inputs = []
    elif kind in (kinds.QUANTIZE, kinds.DEQUANTIZE) or (
        node.op in _FIRST_ONLY and is_standard(node)
    ):
        inputs = list(node.inputs[:1])
    else:
        inputs = [t for t in inputs if _may_be_float(t)]
        inputs += [t for t in captured(node) if t.name and _may_be_float(t)]
    if kind == kinds.COPY and not _may_be_float(node.inputs[0]):
        # Moves int8 or integers: between Q and DQ it is a copy too, elsewhere nothing of ours.
        kind = kinds.COPY if _is_int8(node.inputs[0]) else kinds.OTHER
    return Layer(
        kind=kind,
        op=node.op,
        name=label(node),
        inputs=tuple(t.name for t in inputs),
        outputs=tuple(t.name for t in node.outputs if t.name),
        quant=_quant(node) if kind in (kinds.QUANTIZE, kinds.DEQUANTIZE) else None,
    )


def _kind(node: Node) -> str:
    if not is_standard(node) or not node.outputs:
        return kinds.OTHER
    if node.op == "Cast":
        floats = _may_be_float(node.inputs[0]) and _may_be_float(node.outputs[0])
        return kinds.COPY if floats else kinds.OTHER
    if is_copy(node) or node.op in _MAXIMA:
        return kinds.COPY
    if node.op in _AVERAGES:
        return kinds.POOL
    if node.op in ("Add", "Sum") and len(node.inputs) == 2:
        return kinds.ADD
    if node.op in POINTWISE or node.op in _MORE_POINTWISE:
        return kinds.POINTWISE
    return _KINDS.get(node.op, kinds.OTHER)


def _may_be_float(tensor: Tensor) -> bool:
    dtype = _dtype(tensor)
    return dtype is None or is_floating(dtype)


def _is_int8(tensor: Tensor) -> bool:
    return _dtype(tensor) in (np.dtype(np.int8), np.dtype(np.uint8))


def _dtype(tensor: Tensor) -> np.dtype[Any] | None:
    values = constant(tensor)
    if values is not None:
        return values.dtype
    try:
        return None if tensor.dtype is None else np.dtype(tensor.dtype)
    except TypeError:
        return None


def _quant(node: Node) -> Quant:
    scale = constant(node.inputs[1])
    zero = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    zeros = None if zero is None else constant(zero)
    integers = node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]
    dtype = _dtype(zero) if zero is not None else None
    if dtype is None:
        dtype = _dtype(integers)
    # Without a zero-point, QuantizeLinear writes uint8 unless told otherwise.
    name = dtype.name if dtype is not None else "uint8"
    size = scale.size if scale is not None else None
    shape = scale.shape if scale is not None else getattr(node.inputs[1], "shape", None)
    many = len(shape or ()) > 0 and size != 1
    return Quant(
        scales=None if scale is None else scale.astype(np.float32).reshape(-1),
        asymmetric=zeros is not None and bool(np.asarray(zeros).astype(np.int64).any()),
        dtype=name,
        axis=int(node.attrs.get("axis", 1)) if many else None,
        blocked=bool(node.attrs.get("block_size", 0)),
        has_zero_point=zero is not None,
    )
