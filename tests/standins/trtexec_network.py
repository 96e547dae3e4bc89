"""What the stand-in trtexec makes of an ONNX model: refusals, layers, multiply-accumulates.

It is strict where TensorRT is vague: an opset beyond the parser's is refused outright, while the
real parser goes on until a node has changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_OPSETS = {(8, 5): 17, (10, 0): 20, (10, 9): 22, (10, 13): 24, (11, 0): 24, (11, 5): 25}
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_FUSED = ("Relu", "Clip", "BatchNormalization", "Sigmoid")
# What the DLA of a Xavier runs, roughly: NVIDIA's list of layers for DLA.
_DLA = {"Conv", "Relu", "Clip", "Sigmoid", "Tanh", "Add", "Mul", "Sub", "Max", "Min", "MaxPool"}
_DLA |= {"AveragePool", "GlobalAveragePool", "Concat", "BatchNormalization", "ConvTranspose"}
_KINDS = {
    "Conv": "CaskConvolution",
    "Gemm": "MatrixMultiply",
    "MatMul": "MatrixMultiply",
    "Add": "ElementWise",
    "MaxPool": "CaskPooling",
}


class Refused(Exception):
    """The parser refuses a node."""

    def __init__(self, text: str, node: Any = None, number: int = 0) -> None:
        super().__init__(text)
        self.node = node
        self.number = number


@dataclass
class Layer:
    name: str
    kind: str
    op: str
    inputs: list[str]
    outputs: list[str]
    macs: float
    int8: bool = False


@dataclass
class Network:
    layers: list[Layer]
    inputs: dict[str, tuple[int, ...]]
    """Declared shapes, -1 for a free dimension."""
    outputs: list[str]
    quantized: bool
    half: bool
    opset: int
    producer: str
    ir: int
    tensors: list[str] = field(default_factory=list)
    """Names of activations: what a calibration cache should hold."""


def max_opset(version: tuple[int, int, int]) -> int:
    return [opset for first, opset in sorted(_OPSETS.items()) if first <= version[:2]][-1]


def load(path: Path, version: tuple[int, int, int]) -> Network:
    """Parse and check a model as that version's parser would."""
    import onnx

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as problem:  # noqa: BLE001 - onnx and protobuf raise their own kinds
        raise Refused(
            f"Failed to parse ONNX model: {' '.join(str(problem).split())[:200]}"
        ) from None
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset > max_opset(version):
        raise Refused(f"Opset {opset} is newer than the parser supports ({max_opset(version)})")
    constants = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = next(a.t for a in node.attribute if a.name == "value")
    for number, node in enumerate(model.graph.node):
        if node.domain not in ("", "ai.onnx"):
            raise Refused(
                "No importer registered for op: "
                + node.op_type
                + ". Attempting to import as plugin.",
                node,
                number,
            )
        if node.op_type in _QDQ:
            _check_qdq(node, number, constants, version)
    return _network(model, constants, opset)


def _check_qdq(node: Any, number: int, constants: dict[str, Any], version: tuple[int, ...]) -> None:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    def refuse(text: str) -> None:
        raise Refused(text, node, number)

    old = version < (10, 0, 0)
    inputs = [name for name in node.input if name]
    if old and len(inputs) != 3:
        refuse(
            'Assertion failed: (inputs.size() == 3) && "This version of TensorRT requires 3 inputs '
            'for the DequantizeLinear operator."'
        )
    data = constants.get(node.input[0])
    if data is not None and data.data_type == TensorProto.INT8 and old:
        raise Refused(
            f"Invalid Node - {node.name}\n{data.name}: invalid weights type of Int8", node
        )
    if data is not None and data.data_type == TensorProto.INT32:
        refuse(f"{data.name}: TensorRT does not dequantize Int32 tensors")
    scale = constants.get(node.input[1])
    if scale is not None and not (numpy_helper.to_array(scale) > 0).all():
        refuse(
            'Assertion failed: scaleAllPositive(scale) && "Scale coefficients must all be positive"'
        )
    if len(inputs) == 3:
        zero = constants.get(node.input[2])
        if zero is None:
            refuse(
                'Assertion failed: inputs.at(2).is_weights() && "The zero-point must be constant"'
            )
        if zero.data_type == TensorProto.UINT8:
            refuse('Assertion failed: isInt8(zeroPoint) && "TensorRT quantizes to int8, not uint8"')
        if np.any(numpy_helper.to_array(zero)):
            refuse(
                'Assertion failed: shiftIsAllZeros(zeroPoint) && "TRT only supports symmetric '
                'quantization - zeroPt must be all zeros"'
            )


def _network(model: Any, constants: dict[str, Any], opset: int) -> Network:
    from onnx import TensorProto

    inputs = {}
    half = any(i.data_type == TensorProto.FLOAT16 for i in model.graph.initializer)
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        half = half or tensor.elem_type == TensorProto.FLOAT16
        inputs[value.name] = tuple(
            d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim
        )
    for node in model.graph.node:
        if node.op_type == "Cast":
            to = next(a.i for a in node.attribute if a.name == "to")
            half = half or to == TensorProto.FLOAT16
    tensors = list(inputs) + [
        name
        for node in model.graph.node
        if node.op_type not in ("Constant", *_QDQ)
        for name in node.output
        if name
    ]
    return Network(
        layers=[],
        inputs=inputs,
        outputs=[o.name for o in model.graph.output],
        quantized=any(n.op_type in _QDQ for n in model.graph.node),
        half=half,
        opset=opset,
        producer=model.producer_name,
        ir=model.ir_version,
        tensors=tensors,
    )


def shaped_layers(path: Path, shapes: dict[str, tuple[int, ...]]) -> list[Layer]:
    """Return the layers with their multiply-accumulates at these input shapes."""
    import onnx

    model = onnx.load(str(path))
    for value in model.graph.input:
        if value.name in shapes:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
                dim.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {i.name: tuple(i.dims) for i in model.graph.initializer}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        dims = value.type.tensor_type.shape.dim
        known[value.name] = tuple(max(1, d.dim_value) for d in dims)
    constants = {i.name for i in model.graph.initializer}
    layers: list[Layer] = []
    from_int8: set[str] = set()
    for node in model.graph.node:
        name = node.name or node.output[0]
        if node.op_type == "Constant" or all(i in constants for i in node.input if i):
            constants.update(node.output)
            from_int8.update(node.output if node.op_type == "DequantizeLinear" else ())
            continue
        if node.op_type in _QDQ:
            # Fused into what is beside them, as TensorRT does where it can.
            if node.op_type == "DequantizeLinear":
                from_int8.update(node.output)
            continue
        if layers and node.op_type in _FUSED and node.input[0] in layers[-1].outputs:
            layers[-1].name += f" + {name}"
            layers[-1].outputs = list(node.output)
            continue
        layers.append(
            Layer(
                name,
                _KINDS.get(node.op_type, node.op_type),
                node.op_type,
                [i for i in node.input if i and i not in constants],
                list(node.output),
                _macs(node, known),
                int8=node.op_type in ("Conv", "Gemm", "MatMul") and node.input[0] in from_int8,
            )
        )
    return layers


def _macs(node: Any, known: dict[str, tuple[int, ...]]) -> float:
    out = math.prod(known.get(node.output[0], (1,)))
    if node.op_type == "Conv":
        return out * math.prod(known.get(node.input[1], (1, 1))[1:])
    if node.op_type in ("Gemm", "MatMul"):
        return out * (known.get(node.input[0]) or (1,))[-1]
    return out / 16


def not_on_dla(layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer.op not in _DLA]
