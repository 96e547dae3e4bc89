"""The ONNX parser: refuses opsets and Q/DQ as its version does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .names import MAX_OPSET
from .strict import Strict

_QDQ = ("QuantizeLinear", "DequantizeLinear")


class ParserError(Strict):
    _home: dict[str, Any]

    def __init__(self, index: int, name: str, operator: str, message: str) -> None:
        self._told = (index, name, operator, message)

    def code(self) -> str:
        return "ErrorCode.UNSUPPORTED_NODE"

    def node(self) -> int:
        return self._told[0]

    def node_name(self) -> str:
        return self._told[1]

    def node_operator(self) -> str:
        return self._told[2]

    def desc(self) -> str:
        return self._told[3]


class OnnxParser(Strict):
    _home: dict[str, Any]

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[Any] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def parse_from_file(self, path: str) -> bool:
        onnx.checker.check_model(path)
        model = onnx.load(path)
        for found in _refused(model, self._home["version"]):
            self._errors.append(self._home["trt"].ParserError(*found))
        if self._errors:
            return False
        self._network._fill(model)
        return True


def _refused(model: onnx.ModelProto, version: str) -> list[tuple[int, str, str, str]]:
    opset = {i.domain: i.version for i in model.opset_import}.get("", 0)
    most = MAX_OPSET[version]
    if opset > most:
        return [(-1, "", "", f"opset {opset} is newer than {most}, the newest of this parser")]
    constants = {i.name: i for i in model.graph.initializer}
    found = []
    for index, node in enumerate(model.graph.node):
        message = ""
        if node.domain not in ("", "ai.onnx"):
            message = "Plugin not found, are the plugin name, version, and namespace correct?"
        elif node.op_type in _QDQ:
            message = _quantization(node, constants, old=version.startswith("8"))
        if message:
            found.append((index, node.name, node.op_type, message))
    return found


def _quantization(node: onnx.NodeProto, constants: dict[str, Any], *, old: bool) -> str:
    """What is wrong with a Q or DQ; ``old`` is TensorRT 8."""
    if old and len(node.input) != 3:
        return "Assertion failed: (nodeInputs == 3): This version of TensorRT requires 3 inputs"
    if any(name not in constants for name in node.input[1:]):
        return "The scale and the zero point must be constants"
    scale = numpy_helper.to_array(constants[node.input[1]])
    if not np.all(scale > 0):
        return "Scale coefficients must all be positive"
    if len(node.input) == 3:
        zero = numpy_helper.to_array(constants[node.input[2]])
        if zero.dtype != np.int8:
            return "TensorRT only supports INT8 quantization"
        if np.any(zero):
            return "Non-zero zero point is not supported"
    constant = node.input[0] in constants
    if old and node.op_type == "QuantizeLinear" and scale.size > 1 and not constant:
        return "Per-channel quantization is supported for weights only"
    if old and node.op_type == "DequantizeLinear" and constant:
        return "INT8 weights are not supported: quantize fp32 weights with QuantizeLinear"
    return ""
