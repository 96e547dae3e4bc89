"""Whose quantization a model carries."""

from __future__ import annotations

from graphopt.graph import QUANTIZE_OPS, is_standard, walk
from graphopt.lint.network import Network
from graphopt.model import Model

NONE = "none"
TENSORRT = "tensorrt"
ONNXRUNTIME = "onnxruntime"
# What ONNX Runtime's quantizers write and TensorRT knows nothing of.
OPERATORS = frozenset({
    "ConvInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "QAttention", "QGemm", "QLinearAdd", "QLinearAveragePool",
    "QLinearConcat", "QLinearConv", "QLinearConvTranspose", "QLinearGlobalAveragePool",
    "QLinearLeakyRelu", "QLinearMatMul", "QLinearMul", "QLinearSigmoid",
})  # fmt: skip
_FOREIGN = ("uint8", "uint16", "int16")


def recognize(model: Model, network: Network) -> str:
    """Return ``"none"``, ``"tensorrt"`` or ``"onnxruntime"``: the dialect a model is written in.

    TensorRT's is Q/DQ of int8; ONNX Runtime's has activations of uint8 (or 16 bits), or operators
    that compute on integers themselves.
    """
    quantizers = network.quantizers()
    # Contributed Q/DQ of its own domain (16 bits, UseQDQContribOps) are no more to TensorRT.
    if any(
        node.op in OPERATORS or (node.op in QUANTIZE_OPS and not is_standard(node))
        for node in walk(model.graph)
    ):
        return ONNXRUNTIME
    if not quantizers:
        return NONE
    foreign = any(
        layer.quant is not None
        and layer.quant.dtype in _FOREIGN
        and layer.outputs[0] not in network.constants
        for layer in quantizers
        if layer.outputs
    )
    return ONNXRUNTIME if foreign else TENSORRT
