"""A parsed network: a layer for each ONNX node, and for each constant that is not a weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .strict import Strict, stored

_KINDS = {
    "Conv": "CONVOLUTION",
    "Relu": "ACTIVATION",
    "Sigmoid": "ACTIVATION",
    "MaxPool": "POOLING",
    "AveragePool": "POOLING",
    "GlobalAveragePool": "REDUCE",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "Add": "ELEMENTWISE",
    "Mul": "ELEMENTWISE",
    "Softmax": "SOFTMAX",
    "Concat": "CONCATENATION",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
}
_TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.BOOL: "BOOL",
}


class ITensor(Strict):
    _home: dict[str, Any]

    def __init__(self, name: str, kind: int, shape: tuple[int, ...]) -> None:
        self._name, self._kind, self._shape = name, kind, shape

    name = property(lambda self: self._name)
    shape = property(lambda self: self._shape)
    is_shape_tensor = property(lambda self: False)
    is_execution_tensor = property(lambda self: True)

    @property
    def dtype(self) -> Any:
        types = self._home["trt"].DataType
        return getattr(types, _TYPES.get(self._kind, "INT32"))


class ILayer(Strict):
    _home: dict[str, Any]

    def __init__(self, name: str, kind: str, node: str, inputs: list[Any], outputs: list[Any]):
        self._name, self._kind, self._node = name, kind, node
        self._inputs, self._outputs = inputs, outputs

    name = property(lambda self: self._name)
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    metadata = property(lambda self: f"[ONNX Layer: {self._node}]" if self._node else "")
    precision_is_set = property(lambda self: False)
    precision = stored("precision")

    @property
    def type(self) -> Any:
        kinds = self._home["trt"].LayerType
        return getattr(kinds, self._kind)

    def get_input(self, index: int) -> Any:
        return self._inputs[index] if index < len(self._inputs) else None

    def get_output(self, index: int) -> Any:
        return self._outputs[index] if index < len(self._outputs) else None


LAYER_ATTRIBUTES = {
    "type": property(lambda self: "RELU" if self._kind == "ACTIVATION" else "MAX"),
    "num_groups": property(lambda self: 1),
    "op": property(lambda self: "SUM"),
    "axis": property(lambda self: 0),
    "weights": property(lambda self: self._weights),
}


class INetworkDefinition(Strict):
    _home: dict[str, Any]

    def __init__(self, flags: int) -> None:
        creation = self._home["trt"].NetworkDefinitionCreationFlag
        known = {int(flag): flag.name for flag in creation}
        names = {known[bit] for bit in range(32) if flags >> bit & 1}
        version = self._home["version"]
        if version.startswith("8") and "EXPLICIT_BATCH" not in names:
            raise AssertionError("TensorRT 8's ONNX parser takes explicit batch only")
        # TensorRT 11 knows nothing else.
        self._strong = "STRONGLY_TYPED" in names or version.startswith("11")
        self._flags = names
        self._layers: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._onnx = b""
        self._half = False

    name = property(lambda self: "")
    num_layers = property(lambda self: len(self._layers))
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_flag(self, flag: Any) -> bool:
        return flag.name in self._flags

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: int) -> Any:
        return self._layers[index]

    def _ops(self) -> set[str]:
        return {node.op_type for node in onnx.load_from_string(self._onnx).graph.node}

    def _fill(self, model: onnx.ModelProto) -> None:
        trt = self._home["trt"]
        self._onnx = model.SerializeToString()
        inferred = onnx.shape_inference.infer_shapes(model).graph
        known = {v.name: v for v in (*inferred.input, *inferred.output, *inferred.value_info)}
        constants = {i.name: i for i in model.graph.initializer}
        tensors: dict[str, Any] = {}

        def tensor(name: str) -> Any:
            if name and name not in tensors:
                tensors[name] = trt.ITensor(name, *_look(known.get(name), constants.get(name)))
            return tensors.get(name)

        self._half = any(t == onnx.TensorProto.FLOAT16 for t in _types(known, constants))
        self._inputs = [tensor(v.name) for v in model.graph.input if v.name not in constants]
        self._outputs = [tensor(v.name) for v in model.graph.output]
        quantizing = ("QuantizeLinear", "DequantizeLinear")
        for node in model.graph.node:
            own = [n for n in node.input if n in constants and node.op_type in quantizing]
            for name in own:
                layer = trt.ILayer(name, "CONSTANT", "", [], [tensor(name)])
                layer._weights = np.asarray(numpy_helper.to_array(constants[name]))
                self._layers.append(layer)
            read = [n for n in node.input if n not in constants or n in own]
            name = node.name or node.output[0]
            ends = [[tensor(n) for n in names] for names in (read, node.output)]
            kind = _KINDS.get(node.op_type, "SHUFFLE")
            self._layers.append(trt.ILayer(name, kind, name, *ends))


def _look(value: Any, constant: Any) -> tuple[int, tuple[int, ...]]:
    if value is not None:
        kind = value.type.tensor_type
        return kind.elem_type, tuple(
            d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim
        )
    if constant is not None:
        return constant.data_type, tuple(constant.dims)
    return onnx.TensorProto.FLOAT, ()


def _types(known: dict[str, Any], constants: dict[str, Any]) -> list[int]:
    return [v.type.tensor_type.elem_type for v in known.values()] + [
        c.data_type for c in constants.values()
    ]
