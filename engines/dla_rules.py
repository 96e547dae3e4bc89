"""Which ONNX operators a Jetson's DLA computes, and within which limits, by NVIDIA's documents.

*TensorRT Developer Guide* 8.5, "DLA Supported Layers and Restrictions" (Xavier and Orin); for how
ONNX operators become those layers, ``operators/README.md`` of NVIDIA/Deep-Learning-Accelerator-SW
(TensorRT 8.5 and 8.6). Where both are silent an operator counts as one that DLA does not compute.
What only the DLA compiler knows (its convolution buffer, its memory pools) is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphopt.graph import (
    QUANTIZE_OPS,
    Array,
    Node,
    Tensor,
    constant,
    is_standard,
    producer,
    static_shape,
)

LARGEST_BATCH = 4096
LARGEST_SIZE = 8192
MOST_LOADABLES = 16


@dataclass(frozen=True, slots=True)
class Chip:
    """What differs between accelerators and builds.

    Attributes:
        orin: of an Orin; else of a Xavier.
        int8: INT8 is computed.
        fp16: FP16 is allowed: alone, or beside INT8.
        explicit: Q/DQ is read: TensorRT 11.4.1 and newer, on an Orin.
    """

    orin: bool
    int8: bool
    fp16: bool
    explicit: bool = False


Reason: TypeAlias = "str | None"
_Rule: TypeAlias = "Callable[[Node], Reason]"
_ChipRule: TypeAlias = "Callable[[Node, Chip], Reason]"


def refusal(node: Node, chip: Chip) -> Reason:
    """Return why a node does not run on the DLA, or None where the documents say it does."""
    if not is_standard(node):
        return f"an operator of domain '{node.domain}'"
    if chip.explicit and node.op in QUANTIZE_OPS:
        return None  # Part of the layers around it.
    rule, by_chip = _RULES.get(node.op), _BY_CHIP.get(node.op)
    if rule is None and by_chip is None:
        return _ABSENT.get(node.op, "not among the layers of a DLA")
    data = [t for t in node.inputs if t.name and constant(t) is None]
    for tensor in [*data, *node.outputs[:1]]:
        problem = _size(tensor)
        if problem is not None:
            return problem
    return by_chip(node, chip) if by_chip is not None else rule(node) if rule is not None else None


def _size(tensor: Tensor) -> Reason:
    shape = static_shape(tensor)
    if shape is None:
        return f"the shape of '{tensor.name}' is not fixed"
    # All before the last three dimensions counts as the batch.
    batch = int(np.prod(shape[:-3])) if len(shape) > 3 else (shape[0] if shape else 1)
    if batch > LARGEST_BATCH:
        return f"a batch of {batch}, and a DLA takes {LARGEST_BATCH}"
    large = max(shape[-3:] if len(shape) > 3 else shape[1:], default=1)
    return (
        f"a dimension of {large}, and a DLA takes {LARGEST_SIZE}" if large > LARGEST_SIZE else None
    )


def _outside(what: str, values: Sequence[int], low: int, high: int) -> Reason:
    if all(low <= v <= high for v in values):
        return None
    return f"{what} {spell_sizes(values)} is outside [{low}, {high}]"


def spell_sizes(values: Sequence[int]) -> str:
    """Return ``3x3``."""
    return "x".join(str(int(v)) for v in values)


def _first(*problems: Reason) -> Reason:
    return next((p for p in problems if p is not None), None)


def _plane(tensor: Tensor) -> Reason:
    """DLA computes over two spatial dimensions: tensors have four."""
    dims = len(tensor.shape or ())
    return None if dims == 4 else f"{dims} dimensions, and a DLA computes over four"


def _ints(node: Node, name: str, default: Sequence[int]) -> list[int]:
    return [int(v) for v in node.attrs.get(name, default)]


def _pads(node: Node, kernel: Sequence[int]) -> list[int]:
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", b"NOTSET"):
        return _ints(node, "pads", [0] * 4)
    # SAME pads by less than the kernel, VALID not at all.
    return [0] * 4 if auto in ("VALID", b"VALID") else [k // 2 for k in kernel] * 2


def _weight(node: Node) -> Array | str:
    tensor = node.inputs[1]
    weight = constant(tensor)
    while weight is None:
        source = producer(tensor)
        if source is None or source.op not in QUANTIZE_OPS:
            return "its weights are computed at run time"
        tensor = source.inputs[0]
        weight = constant(tensor)
    return weight


def _conv(node: Node) -> Reason:
    weight = _weight(node)
    if isinstance(weight, str):
        return weight
    problem = _plane(node.inputs[0])
    if problem is not None:
        return problem
    kernel = list(weight.shape[2:])
    pads = _pads(node, kernel)
    # The padding of each side has to be less than the kernel is wide.
    wide = next((p for p, k in zip(pads, kernel * 2, strict=True) if p >= k and p), None)
    return _first(
        _outside("its kernel of", kernel, 1, 32),
        _outside("its padding of", pads, 0, 31),
        None if wide is None else f"its padding of {wide} is not less than its kernel",
        _outside("its stride of", _ints(node, "strides", [1, 1]), 1, 8),
        _outside("its dilation of", _ints(node, "dilations", [1, 1]), 1, 32),
        _outside("its number of filters", [weight.shape[0]], 1, LARGEST_SIZE),
        _outside("its number of groups", [int(node.attrs.get("group", 1))], 1, LARGEST_SIZE),
    )


def _deconv(node: Node) -> Reason:
    weight = _weight(node)
    if isinstance(weight, str):
        return weight
    problem = _plane(node.inputs[0])
    if problem is not None:
        return problem
    kernel, strides = list(weight.shape[2:]), _ints(node, "strides", [1, 1])
    long = 1 in kernel and max(kernel) in (64, 96, 128)
    slow = any(23 <= a <= 32 and a == b for a, b in (kernel, strides))
    return _first(
        None if long else _outside("its kernel of", kernel, 1, 32),
        "its square kernel or stride of 23 to 32 is switched off" if slow else None,
        "it has padding" if any(_pads(node, kernel)) else None,
        "it has output padding" if any(_ints(node, "output_padding", [0])) else None,
        "it has groups" if int(node.attrs.get("group", 1)) != 1 else None,
        "it has dilations" if any(d != 1 for d in _ints(node, "dilations", [1])) else None,
        _outside("its number of channels", list(weight.shape[:2]), 1, LARGEST_SIZE),
    )


def _linear(node: Node) -> Reason:
    """A fully connected layer, which TensorRT makes a convolution of 1x1."""
    weight = _weight(node)
    if isinstance(weight, str):
        return weight
    if weight.ndim != 2:
        return f"a weight of {weight.ndim} dimensions"
    if node.attrs.get("transA", 0):
        return "it transposes what it reads"
    return _outside("its number of channels", list(weight.shape), 1, LARGEST_SIZE)


def _pool(node: Node) -> Reason:
    kernel = _ints(node, "kernel_shape", [])
    return _first(
        _plane(node.inputs[0]),
        "it gives indices" if len(node.outputs) > 1 else None,
        "it has dilations" if any(d != 1 for d in _ints(node, "dilations", [1])) else None,
        _outside("its window of", kernel, 1, 8),
        _outside("its padding of", _pads(node, kernel), 0, 7),
        _outside("its stride of", _ints(node, "strides", [1, 1]), 1, 16),
    )


def _activation(node: Node) -> Reason:
    return _plane(node.inputs[0])


def _clip(node: Node) -> Reason:
    bounds = []
    for i, name in ((1, "min"), (2, "max")):
        given = node.inputs[i] if len(node.inputs) > i and node.inputs[i].name else None
        value = node.attrs.get(name) if given is None else constant(given)
        bounds.append(None if value is None else float(np.asarray(value).reshape(-1)[0]))
    low, high = bounds
    if low != 0 or high is None or not 1 <= high <= 127:
        return f"it clips to {low} .. {high}, and a DLA from 0 to something in [1, 127]"
    return _plane(node.inputs[0])


def _prelu(node: Node) -> Reason:
    slope = constant(node.inputs[1])
    if slope is None:
        return "its slope is computed at run time"
    data = len(node.inputs[0].shape or ())
    if slope.ndim not in (data, data - 1):
        return f"its slope has {slope.ndim} dimensions, and what it reads {data}"
    return _plane(node.inputs[0])


def _elementwise(node: Node) -> Reason:
    values = [t for t in node.inputs if t.name and constant(t) is None]
    constants = [v for t in node.inputs if t.name and (v := constant(t)) is not None]
    if constants and node.op in ("Max", "Min"):
        return "one of its inputs is a constant"
    if node.op == "Sub" and constants and constant(node.inputs[0]) is not None:
        return "it subtracts from a constant"
    shapes = {static_shape(t) for t in values}
    if len(shapes) > 1:
        spelled = " and ".join(sorted(spell_sizes(s or ()) for s in shapes))
        return f"its inputs have different shapes: {spelled}"
    for value in constants:
        if not _scales(value, static_shape(values[0]) or ()):
            return f"its constant of {spell_sizes(value.shape)} is no scale of a channel or element"
    return _plane(values[0])


def _scales(value: Array, shape: tuple[int, ...]) -> bool:
    """Whether a constant is one number, one for each channel, or one for each element."""
    full = (1,) * (len(shape) - value.ndim) + value.shape
    per_channel = (1, shape[1], *[1] * (len(shape) - 2)) if len(shape) > 1 else shape
    return value.size == 1 or full == per_channel or full[1:] == shape[1:]


def _batchnorm(node: Node) -> Reason:
    if any(constant(t) is None for t in node.inputs[1:5]):
        return "its parameters are computed at run time"
    return _plane(node.inputs[0])


def _lrn(node: Node) -> Reason:
    size = int(node.attrs.get("size", 0))
    if size not in (3, 5, 7, 9):
        return f"its window of {size} is none of 3, 5, 7 and 9"
    return _plane(node.inputs[0])


def _concat(node: Node) -> Reason:
    dims = len(node.outputs[0].shape or ())
    axis = int(node.attrs.get("axis", 0))
    if axis % max(dims, 1) != 1:
        return f"it joins along axis {axis}, and a DLA along channels"
    if len(node.inputs) < 2:
        return "it has one input"
    if any(constant(t) is not None for t in node.inputs):
        return "one of its inputs is a constant"
    return _plane(node.outputs[0])


def _resize(node: Node) -> Reason:
    at = 1 if node.op == "Upsample" or len(node.inputs) == 2 else 2
    given = constant(node.inputs[at]) if len(node.inputs) > at and node.inputs[at].name else None
    scales = node.attrs.get("scales") if given is None else given
    values = None if scales is None else np.asarray(scales, dtype=np.float64).reshape(-1)
    if values is None or not values.size:
        return "it is said by sizes, or computed at run time, and not by four scales"
    mode = node.attrs.get("mode", "nearest")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    most = {"nearest": 32, "linear": 4, "bilinear": 4}.get(mode)
    if most is None:
        return f"its mode is {mode}"
    if len(values) != 4 or list(values[:2]) != [1, 1]:
        return "it resizes the batch or channels, or has no four dimensions"
    if any(v != int(v) or not 1 <= v <= most for v in values[2:]):
        shown = " and ".join(f"{v:g}" for v in values[2:])
        return f"its scales of {shown} are no whole numbers in [1, {most}]"
    return _plane(node.inputs[0])


def _slice(node: Node, chip: Chip) -> Reason:
    if not chip.fp16:
        return "it is computed in FP16 only: allow it with --fp16"
    problem = _plane(node.inputs[0])
    if problem is not None:
        return problem
    if any(t.name and constant(t) is None for t in node.inputs[1:]):
        return "what it takes is computed at run time"
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    return "it slices the batch" if (before or (0,))[0] != (after or (1,))[0] else None


def _softmax(node: Node, chip: Chip) -> Reason:
    if not chip.orin:
        return "Xavier's DLA has no Softmax"
    if not chip.fp16:
        return "it is computed in FP16 only: allow it with --fp16"
    shape = static_shape(node.inputs[0]) or ()
    axis = int(node.attrs.get("axis", -1)) % max(len(shape), 1)
    if axis == 0:
        return "it is over the batch"
    others = [size for i, size in enumerate(shape) if i not in (0, axis)]
    if any(size > 1 for size in others) and shape[axis] > 1024:
        return f"it is over {shape[axis]} values, and a DLA takes 1024"
    return None


def _shuffle(node: Node) -> Reason:
    problem = _plane(node.inputs[0])
    if problem is not None:
        return problem
    if node.op == "Transpose":
        perm = _ints(node, "perm", range(4)[::-1])
        return "it moves the batch" if perm[0] != 0 else None
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    return "it changes the batch" if (before or (0,))[0] != (after or (1,))[0] else None


_RULES: Mapping[str, _Rule] = {
    "Conv": _conv,
    "ConvTranspose": _deconv,
    "Gemm": _linear,
    "MatMul": _linear,
    "MaxPool": _pool,
    "AveragePool": _pool,
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "LeakyRelu"), _activation),
    "Clip": _clip,
    "PRelu": _prelu,
    **dict.fromkeys(("Add", "Sub", "Mul", "Max", "Min", "Sum"), _elementwise),
    "BatchNormalization": _batchnorm,
    "LRN": _lrn,
    "Concat": _concat,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("Reshape", "Transpose"), _shuffle),
    "Abs": _activation,
}
_BY_CHIP: Mapping[str, _ChipRule] = {"Slice": _slice, "Split": _slice, "Softmax": _softmax}

_POOL_INSTEAD = (
    "TensorRT reduces it on the GPU: a chain of AveragePool or MaxPool of up to 8x8 runs"
)
_ABSENT: Mapping[str, str] = {
    "GlobalAveragePool": _POOL_INSTEAD,
    "GlobalMaxPool": _POOL_INSTEAD,
    "ReduceMean": _POOL_INSTEAD,
    "ReduceMax": _POOL_INSTEAD,
    "QuantizeLinear": "its DLA takes implicit INT8 only: no Q/DQ, and a calibration cache",
    "DequantizeLinear": "its DLA takes implicit INT8 only: no Q/DQ, and a calibration cache",
    "Equal": "it runs only where device and precision are set layer by layer",
    "Flatten": "TensorRT reshapes it on the GPU",
    "Squeeze": "TensorRT reshapes it on the GPU",
    "Unsqueeze": "TensorRT reshapes it on the GPU",
    "If": "control flow",
    "Loop": "control flow",
    "Scan": "control flow",
}
