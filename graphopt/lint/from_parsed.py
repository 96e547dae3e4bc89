"""Reads the neutral network off TensorRT's parsed one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from graphopt.engines.network import ParsedLayer, ParsedNetwork
from graphopt.lint import network as kinds
from graphopt.lint.network import Layer, Network, Quant, constant_tensors

_FLOATS = frozenset({"float", "half", "bf16", "fp8", "fp4"})
_INTEGERS = frozenset({"int8", "uint8", "int4", "fp8", "fp4"})
_KINDS = {
    "QUANTIZE": kinds.QUANTIZE,
    "DEQUANTIZE": kinds.DEQUANTIZE,
    "CONVOLUTION": kinds.CONV,
    "DECONVOLUTION": kinds.DECONV,
    "MATRIX_MULTIPLY": kinds.MATMUL,
    "FULLY_CONNECTED": kinds.MATMUL,
    "ELEMENTWISE": kinds.POINTWISE,
    "ACTIVATION": kinds.POINTWISE,
    "UNARY": kinds.POINTWISE,
    "SCALE": kinds.POINTWISE,
    "PARAMETRIC_RELU": kinds.POINTWISE,
    "RESIZE": kinds.RESIZE,
    "CONCATENATION": kinds.CONCAT,
    "SHUFFLE": kinds.COPY,
    "SLICE": kinds.COPY,
    "PADDING": kinds.COPY,
    "IDENTITY": kinds.COPY,
    "SQUEEZE": kinds.COPY,
    "UNSQUEEZE": kinds.COPY,
    "CONSTANT": kinds.CONSTANT,
    "SHAPE": kinds.SHAPE,
}
_FIRST_ONLY = frozenset({kinds.COPY, kinds.RESIZE, kinds.POOL, kinds.QUANTIZE, kinds.DEQUANTIZE})
_FILL = 4  # which input of a SLICE holds the value it pads with


def read_parsed(parsed: ParsedNetwork) -> Network:
    """Return a parsed network as the linter sees it.

    A layer goes by the name of the ONNX node it was made from, where the parser noted it; of the
    layers of one node the first keeps the name for itself in messages about kernels.
    """
    layers = [_layer(layer, parsed) for layer in parsed.layers]
    shapes = {name: shape for name, shape in parsed.shapes.items() if shape is not None}
    return Network(
        source=parsed.title,
        layers=tuple(layers),
        inputs=frozenset(parsed.inputs),
        outputs=frozenset(parsed.outputs),
        constants=constant_tensors(layers, set()),
        shapes=shapes,
        unread=parsed.unread,
    )


def _layer(layer: ParsedLayer, parsed: ParsedNetwork) -> Layer:
    kind = _kind(layer, parsed)
    dtypes = parsed.dtypes
    if kind in _FIRST_ONLY:
        inputs = [name for name in layer.inputs[:1] if name]
    elif kind == kinds.SHAPE:
        inputs = []
    else:
        inputs = [name for name in layer.inputs if name and dtypes[name] in _FLOATS]
    return Layer(
        kind=kind,
        op=layer.kind,
        name=layer.node or layer.name,
        inputs=tuple(inputs),
        outputs=tuple(name for name in layer.outputs if name),
        quant=_quant(layer, parsed) if kind in (kinds.QUANTIZE, kinds.DEQUANTIZE) else None,
    )


def _kind(layer: ParsedLayer, parsed: ParsedNetwork) -> str:
    dtypes = parsed.dtypes
    kind = _KINDS.get(layer.kind, kinds.OTHER)
    first = dtypes.get(layer.inputs[0], "") if layer.inputs else ""
    written = dtypes.get(layer.outputs[0], "") if layer.outputs else ""
    if layer.kind == "CAST" and first in _FLOATS and written in _FLOATS:
        return kinds.COPY
    if layer.kind in ("POOLING", "REDUCE"):
        return _reduction(layer.settings)
    if layer.kind == "ELEMENTWISE" and layer.settings.get("op") == "SUM":
        kind = kinds.ADD
    if kind == kinds.COPY and first not in _FLOATS | _INTEGERS:
        return kinds.OTHER  # arithmetic with shapes
    if layer.kind == "SLICE" and len(layer.inputs) > _FILL and layer.inputs[_FILL]:
        fill = parsed.values.get(layer.inputs[_FILL])
        return kinds.COPY if fill is not None and not any(fill) else kinds.OTHER
    return kind


def _reduction(settings: Mapping[str, object]) -> str:
    how = settings.get("type", settings.get("op"))
    return {"MAX": kinds.COPY, "AVERAGE": kinds.POOL, "AVG": kinds.POOL}.get(str(how), kinds.OTHER)


def _quant(layer: ParsedLayer, parsed: ParsedNetwork) -> Quant:
    scale = layer.inputs[1] if len(layer.inputs) > 1 else ""
    zero = layer.inputs[2] if len(layer.inputs) > 2 else ""
    values = parsed.values.get(scale)
    shape = parsed.shapes.get(scale) or ()
    # DQ to an axis has no scalar; a scale of one element is one for everything.
    size = len(values) if values is not None else math.prod(d or 0 for d in shape)
    many = bool(shape) and size != 1
    integers = layer.outputs[0] if layer.kind == "QUANTIZE" else layer.inputs[0]
    return Quant(
        scales=None if values is None else np.asarray(values, np.float32),
        asymmetric=any(parsed.values.get(zero, ())),
        dtype=parsed.dtypes.get(integers, "int8"),
        axis=int(layer.settings.get("axis", 1)) if many else None,
        blocked=len(shape) > 1,
        has_zero_point=bool(zero),
    )
