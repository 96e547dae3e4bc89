"""What each operator can do in fp16: which of its inputs and outputs change type, and which cannot.

The operators' own schemas say which inputs and outputs may hold float16; :data:`HALF` says which
operators TensorRT (8.5 to 11 and RTX) and ONNX Runtime both take in that type *and* compute
usefully. Left out on purpose: positions (Range, CumSum, Sin, Cos, GridSample's grid, RoiAlign's and
NonMaxSuppression's boxes), rounding to whole numbers (Floor, Round, Mod), equality, random numbers,
recurrences, and whatever has a body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from graphopt.graph import Node, Tensor, is_constant, is_float, is_op, is_standard

FLOAT, FLOAT16 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.FLOAT16)
QDQ_OPSET = 19  # the first whose QuantizeLinear and DequantizeLinear take a float16 scale

# These only move values, and cost nothing in either type where no element moves at all.
VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
# These read no values: they take whichever type is there.
NEUTRAL = frozenset({"Shape", "Size"})

HALF = VIEWS | {
    "Abs", "Add", "ArgMax", "ArgMin", "Attention", "AveragePool", "BatchNormalization", "Cast",
    "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Div", "Dropout", "Einsum",
    "Elu", "Erf", "Exp", "Expand", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GroupNormalization",
    "HardSigmoid", "HardSwish", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "LogSoftmax", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mish", "Mul",
    "Neg", "PRelu", "Pad", "Pow", "QuantizeLinear", "RMSNormalization", "Reciprocal", "ReduceL1",
    "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "Relu",
    "Resize", "RotaryEmbedding", "ScatterElements", "ScatterND", "Selu", "Sigmoid", "Sign", "Slice",
    "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Sub", "Sum", "Swish",
    "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Where",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ports:
    """The places of a node that change from float32 to float16 when it does.

    Attributes:
        reads: indices of inputs, constants included.
        writes: indices of outputs.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]


def touches_float(node: Node) -> bool:
    """Whether the node reads or writes float32; a Constant node is no more than its value."""
    return node.op != "Constant" and any(is_float(t) for t in [*node.inputs, *node.outputs])


def ports(node: Node, opset: int) -> Ports | str:
    """Return what changes when the node runs in fp16, or why it cannot."""
    if not is_standard(node):
        return f"{node.op} is no standard operator"
    if any(True for _ in node.subgraphs()):
        return f"the body of {node.op} stays as it is"
    unknown = next((t for t in [*node.inputs, *node.outputs] if _is_unknown(t)), None)
    if unknown is not None:
        return f"the type of '{unknown.name}' is not known"
    if node.op == "Cast":
        return _cast_ports(node)
    if node.op not in HALF:
        return f"{node.op} is kept in fp32"
    if node.op == "QuantizeLinear" and opset < QDQ_OPSET:
        return f"its scale cannot be fp16 below opset {QDQ_OPSET}"
    found = _by_schema(node, opset)
    if not found.reads and not found.writes:
        return f"{node.op} has no fp16 form at opset {opset}"
    data = node.inputs[0]
    if is_float(data) and 0 not in found.reads:
        return f"{node.op} has no fp16 form at opset {opset}"
    return found


def _is_unknown(tensor: Tensor) -> bool:
    if tensor.is_empty():
        return False
    return tensor.dtype is None or (not is_constant(tensor) and tensor.type != "tensor_type")


def _cast_ports(node: Node) -> Ports | str:
    """A Cast to float32 becomes one to float16; one to integers looks at every last bit."""
    data, out = node.inputs[0], node.outputs[0]
    if is_float(out):
        return Ports((0,) if is_float(data) else (), (0,))
    if int(node.attrs.get("to", 0)) == FLOAT16:
        return Ports((0,), ())
    return "it makes other numbers of fp32 ones"


def _by_schema(node: Node, opset: int) -> Ports:
    """Change the inputs whose type may be float16, and the outputs of the same type parameters."""
    try:
        schema = onnx.defs.get_schema(node.op, opset)
    except onnx.defs.SchemaError:
        return Ports((), ())
    half = {
        c.type_param_str
        for c in schema.type_constraints
        if "tensor(float16)" in c.allowed_type_strs
    }
    kinds = [_kind(schema.inputs, i) for i in range(len(node.inputs))]
    reads = tuple(i for i, t in enumerate(node.inputs) if is_float(t) and kinds[i] in half)
    changed = {kinds[i] for i in reads}
    writes = tuple(
        i for i, t in enumerate(node.outputs) if is_float(t) and _kind(schema.outputs, i) in changed
    )
    return Ports(reads, writes)


def _kind(formal: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """The type parameter of one input or output; the last formal one may stand for many."""
    return str(formal[min(index, len(formal) - 1)].type_str) if formal else ""


def is_dequantize(node: Node) -> bool:
    """Whether it is a DequantizeLinear whose scale is constant and whose output is float32."""
    return (
        is_op(node, "DequantizeLinear")
        and is_constant(node.inputs[1])
        and is_float(node.outputs[0])
        and int(node.attrs.get("output_dtype", 0)) == 0
    )
