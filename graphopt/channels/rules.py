"""The table of rules: operator -> the function that knows what it does to channels.

A new operator is one function and one line here; another distribution adds rules through the
entry-point group ``graphopt.channel-rules`` (custom operators as ``domain::Op``). An operator
without a rule freezes every tensor it touches, and the reason names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from graphopt.channels.trace import Site
from graphopt.graph import Node, is_standard
from graphopt.registry import Registry

Rule: TypeAlias = Callable[[Site], None]

_ATTENTION = "graphopt.channels.rules_attention:"
_CONTRACT = "graphopt.channels.rules_contract:"
_EINSUM = "graphopt.channels.rules_einsum:"
_ELEMENTWISE = "graphopt.channels.rules_elementwise:"
_INDEX = "graphopt.channels.rules_index:"
_LOOKUP = "graphopt.channels.rules_lookup:"
_NORM = "graphopt.channels.rules_norm:"
_POOL = "graphopt.channels.rules_pool:"
_RECURRENT = "graphopt.channels.rules_recurrent:"
_REDUCE = "graphopt.channels.rules_reduce:"
_SHAPE = "graphopt.channels.rules_shape:"


def _all(rule: str, operators: str) -> dict[str, str]:
    return dict.fromkeys(operators.split(), rule)


TABLE: dict[str, str] = {
    # One input (further inputs are scalars), the same dimensions out.
    **_all(
        _ELEMENTWISE + "unary",
        "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Cos Cosh Elu Erf Exp "
        "Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not "
        "Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan "
        "Tanh ThresholdedRelu",
    ),
    # Any number of inputs, broadcast against each other.
    **_all(
        _ELEMENTWISE + "broadcast",
        "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less "
        "LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor",
    ),
    "CastLike": _ELEMENTWISE + "like",
    "Dropout": _ELEMENTWISE + "dropout",
    "QuantizeLinear": _ELEMENTWISE + "quantize",
    "DequantizeLinear": _ELEMENTWISE + "quantize",
    "Conv": _CONTRACT + "conv",
    "ConvTranspose": _CONTRACT + "conv_transpose",
    "Gemm": _CONTRACT + "gemm",
    "MatMul": _CONTRACT + "matmul",
    "Einsum": _EINSUM + "einsum",
    "DeformConv": _CONTRACT + "deform_conv",
    "Attention": _ATTENTION + "attention",
    "RotaryEmbedding": _ATTENTION + "rotary",
    **_all(_RECURRENT + "recurrent", "GRU LSTM RNN"),
    "BatchNormalization": _NORM + "batch_norm",
    "InstanceNormalization": _NORM + "instance_norm",
    "GroupNormalization": _NORM + "group_norm",
    "LayerNormalization": _NORM + "layer_norm",
    "RMSNormalization": _NORM + "rms_norm",
    "SimplifiedLayerNormalization": _NORM + "rms_norm",  # What ONNX Runtime calls it.
    "LpNormalization": _ELEMENTWISE + "unary",  # A zero adds nothing to the norm.
    "MeanVarianceNormalization": _NORM + "mean_variance",
    "Softmax": _NORM + "softmax",
    "LogSoftmax": _NORM + "softmax",
    "Hardmax": _NORM + "softmax",
    "LRN": _NORM + "lrn",
    "CumProd": _NORM + "cumsum",
    "CumSum": _NORM + "cumsum",
    "AveragePool": _POOL + "pool",
    "MaxPool": _POOL + "pool",
    "LpPool": _POOL + "pool",
    "GlobalAveragePool": _POOL + "pool",
    "GlobalMaxPool": _POOL + "pool",
    "GlobalLpPool": _POOL + "pool",
    "GridSample": _POOL + "sample",
    "RoiAlign": _POOL + "sample",
    "MaxRoiPool": _POOL + "sample",
    "Resize": _POOL + "resize",
    "Upsample": _POOL + "resize",
    "DepthToSpace": _POOL + "depth_to_space",
    "SpaceToDepth": _POOL + "space_to_depth",
    "Col2Im": _LOOKUP + "col2im",
    # Channels are summed over with weight one: a removed channel is one that adds zero.
    **_all(_REDUCE + "sums", "ReduceL1 ReduceL2 ReduceSum ReduceSumSquare"),
    "ReduceMean": _REDUCE + "mean",
    "ReduceMax": _REDUCE + "largest",
    **_all(_REDUCE + "others", "ReduceLogSum ReduceLogSumExp ReduceMin ReduceProd"),
    "ArgMax": _REDUCE + "arg",
    "ArgMin": _REDUCE + "arg",
    "TopK": _REDUCE + "topk",
    "Reshape": _SHAPE + "reshape",
    "Flatten": _SHAPE + "flatten",
    "Transpose": _SHAPE + "transpose",
    "Squeeze": _SHAPE + "squeeze",
    "Unsqueeze": _SHAPE + "unsqueeze",
    "Expand": _SHAPE + "expand",
    "ConstantOfShape": _SHAPE + "constant_of_shape",
    "Tile": _SHAPE + "tile",
    "Concat": _INDEX + "concat",
    "Split": _INDEX + "split",
    "Slice": _INDEX + "slice_",
    "Gather": _INDEX + "gather",
    "Pad": _INDEX + "pad",
    "GatherElements": _LOOKUP + "gather_elements",
    "GatherND": _LOOKUP + "gather_nd",
    "Scatter": _LOOKUP + "scatter_elements",
    "ScatterElements": _LOOKUP + "scatter_elements",
    "ScatterND": _LOOKUP + "scatter_nd",
    "OneHot": _LOOKUP + "one_hot",
    "Compress": _LOOKUP + "compress",
    "ReverseSequence": _LOOKUP + "reverse_sequence",
    "Trilu": _LOOKUP + "trilu",
    "CenterCropPad": _LOOKUP + "center_crop_pad",
    # What ONNX Runtime fuses, in models that it has optimized.
    "com.microsoft::Gelu": _ELEMENTWISE + "unary",
    "com.microsoft::QuickGelu": _ELEMENTWISE + "unary",
    "com.microsoft::BiasGelu": _ELEMENTWISE + "with_bias",
    "com.microsoft::FastGelu": _ELEMENTWISE + "with_bias",
}

RULES = Registry("channel-rule", TABLE)

# Inputs that hold sizes, which the rule itself looks at.
SIZE_INPUTS: dict[str, frozenset[int]] = {
    "Reshape": frozenset({1}),
    "Expand": frozenset({1}),
    "ConstantOfShape": frozenset({0}),
    "Resize": frozenset({3}),
}


class Rules:
    """The rules of one walk; each is imported once."""

    def __init__(self) -> None:
        self._known = frozenset(RULES.names())
        self._loaded: dict[str, Rule] = {}

    def of(self, node: Node) -> Rule | None:
        """Return the rule for a node, or None."""
        key = node.op if is_standard(node) else f"{node.domain}::{node.op}"
        if key not in self._known:
            return None
        if key not in self._loaded:
            self._loaded[key] = RULES.load(key)
        return self._loaded[key]
