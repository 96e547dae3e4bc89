"""Reads TensorRT's parsed network into plain values; runs in the child process.

Nothing here is interpreted: kinds are the names of ``LayerType``, and what a layer was set to is
told as TensorRT tells it. :mod:`graphopt.engines.network` is the other end.
"""

from __future__ import annotations

import math
from typing import Any

# A scale for each channel, or for each block of a large weight, and nothing of a weight's size.
_MOST_VALUES = 1 << 20
# Kind -> what to ask of the layer, seen as its own class.
_ASKED: dict[str, tuple[str, tuple[str, ...]]] = {
    "POOLING": ("IPoolingLayer", ("type",)),
    "REDUCE": ("IReduceLayer", ("op",)),
    "ELEMENTWISE": ("IElementWiseLayer", ("op",)),
    "ACTIVATION": ("IActivationLayer", ("type",)),
    "UNARY": ("IUnaryLayer", ("op",)),
    "RESIZE": ("IResizeLayer", ("resize_mode",)),
    "SLICE": ("ISliceLayer", ("mode",)),
    "CONVOLUTION": ("IConvolutionLayer", ("num_groups",)),
    "DECONVOLUTION": ("IDeconvolutionLayer", ("num_groups",)),
    "QUANTIZE": ("IQuantizeLayer", ("axis",)),
    "DEQUANTIZE": ("IDequantizeLayer", ("axis",)),
}
_METADATA = ("[ONNX Layer: ", "]")


def walk(trt: Any, network: Any) -> dict[str, Any]:
    """Return the layers, tensors and small constants of an ``INetworkDefinition`` as JSON values.

    What could not be read is named under ``"unread"`` and left out; it never raises for it.
    """
    layers: list[dict[str, Any]] = []
    tensors: dict[str, list[Any]] = {}
    unread: list[str] = []
    constants: dict[str, Any] = {}
    wanted: set[str] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = _word(layer.type)
        told: dict[str, Any] = {
            "name": str(layer.name),
            "kind": kind,
            "node": _node(layer),
            "inputs": [_see(layer.get_input(i), tensors) for i in range(layer.num_inputs)],
            "outputs": [_see(layer.get_output(i), tensors) for i in range(layer.num_outputs)],
            "settings": _settings(trt, layer, kind, unread),
        }
        layers.append(told)
        if kind == "CONSTANT":
            constants[told["outputs"][0]] = layer
        elif kind in ("QUANTIZE", "DEQUANTIZE"):
            wanted |= {name for name in told["inputs"][1:] if name}
    values: dict[str, list[float]] = {}
    for name, layer in constants.items():
        elements = math.prod(tensors[name][1] or [1])
        if (name in wanted and elements <= _MOST_VALUES) or elements == 1:
            _read_constant(trt, layer, name, values, unread)
    return {
        "layers": layers,
        "tensors": tensors,
        "inputs": [_see(network.get_input(i), tensors) for i in range(network.num_inputs)],
        "outputs": [_see(network.get_output(i), tensors) for i in range(network.num_outputs)],
        "values": values,
        "unread": unread,
    }


def _word(value: Any) -> str:
    """Return the last word of an enumerated value: ``CONVOLUTION``."""
    return str(value).rsplit(".", maxsplit=1)[-1]


def _node(layer: Any) -> str:
    """Return the ONNX node that the parser notes in a layer's metadata, or ""."""
    # TensorRT 8.5's layers have no metadata.
    text = str(getattr(layer, "metadata", "") or "")
    start, end = _METADATA
    if not text.startswith(start) or not text.endswith(end):
        return ""
    return text[len(start) : -len(end)]


def _see(tensor: Any, tensors: dict[str, list[Any]]) -> str:
    """Note a tensor's type and shape; return its name, "" for an input that is not given."""
    if tensor is None:
        return ""
    name = str(tensor.name)
    if name not in tensors:
        try:
            shape: list[int] | None = [int(d) for d in tensor.shape]
        except (ValueError, TypeError):
            shape = None  # The rank is not known, or the shape is wrong: a build would say so.
        tensors[name] = [_word(tensor.dtype).lower(), shape]
    return name


def _settings(trt: Any, layer: Any, kind: str, unread: list[str]) -> dict[str, Any]:
    if kind not in _ASKED:
        return {}
    own_class, names = _ASKED[kind]
    found: dict[str, Any] = {}
    try:
        layer.__class__ = getattr(trt, own_class)
        for name in names:
            value = getattr(layer, name)
            found[name] = value if isinstance(value, int | float) else _word(value)
    except (AttributeError, TypeError) as problem:
        unread.append(f"{kind} {layer.name}: {problem}")
    return found


def _read_constant(
    trt: Any, layer: Any, name: str, values: dict[str, list[float]], unread: list[str]
) -> None:
    import numpy as np

    try:
        layer.__class__ = trt.IConstantLayer
        found = np.asarray(layer.weights)
        values[name] = [float(v) for v in found.reshape(-1)]
    except (AttributeError, TypeError, ValueError, RuntimeError) as problem:
        # NumPy knows no int4 and no bfloat16.
        unread.append(f"CONSTANT {layer.name}: {problem}")
