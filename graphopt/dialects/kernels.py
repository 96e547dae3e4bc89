"""What ONNX Runtime's CPU provider computes on uint8, and where that is not what float computes."""

from __future__ import annotations

import numpy as np

from graphopt.dialects.ort_moves import plain_moves
from graphopt.graph import Array, Graph, Node, Tensor, constant, dim, is_op, producer, rank

# Kernels that compute on uint8, each input and the output with a scale of its own.
# A ReduceMean over the image is written as a GlobalAveragePool.
# fmt: off
COMPUTES = (
    "Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "ReduceMean",
    "Sigmoid",
)
# Nodes that move uint8 as it is: input and output must share scale and zero-point.
MOVES = (
    "DepthToSpace", "Expand", "Flatten", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
)
# fmt: on
# Activations without an integer kernel: a few of them between integer kernels cost less in float
# than what could stand for them (HardSwish of 1.2 million values: 0.47 ms with Q and DQ, and
# 0.50 ms by a table and QLinearMul).
ELEMENTWISE = (
    "Celu",
    "Clip",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Mish",
    "PRelu",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Tanh",
    "ThresholdedRelu",
)
# Their data inputs are all of their inputs; of the others it is the first.
VARIADIC = ("Add", "Concat", "Mul", "Sum")


def has_exact_kernel(node: Node) -> bool:
    """Whether the integer kernel of one of these operators computes what the float one does."""
    if node.op == "Resize":
        return bool(node.attrs.get("mode", "nearest") == "nearest")
    if node.op in ("DepthToSpace", "Pad"):  # ONNX Runtime would go through float.
        return plain_moves(node) is not None
    if node.op == "ReduceMean":
        return is_image_mean(node)
    if node.op == "AveragePool":
        # QLinearAveragePool divides by what hangs over the padded input too; it has no dilations.
        return set(node.attrs.get("dilations", [1])) == {1} and not (
            node.attrs.get("ceil_mode", 0)
            and node.attrs.get("count_include_pad", 0)
            and _may_overhang(node)
        )
    return True


def is_image_mean(node: Node) -> bool:
    """Whether a ReduceMean of rank 4 takes the mean of each image."""
    axes: list[int] | Array | None = node.attrs.get("axes")
    if len(node.inputs) > 1 and node.inputs[1].name:  # since opset 18
        axes = constant(node.inputs[1])
    if axes is None or rank(node.inputs[0]) != 4:
        return False
    return sorted(int(axis) % 4 for axis in np.ravel(axes)) == [2, 3]


def _may_overhang(node: Node) -> bool:
    """Whether a pool's last window may reach beyond the padded input."""
    kernel = node.attrs["kernel_shape"]
    rank = len(kernel)
    strides = node.attrs.get("strides", [1] * rank)
    pads = node.attrs.get("pads", [0] * 2 * rank)
    if node.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return True
    for i in range(rank):
        size = dim(node.inputs[0], 2 + i)
        if size is None or (size + pads[i] + pads[rank + i] - kernel[i]) % strides[i]:
            return True
    return False


def must_stay_float(graph: Graph) -> dict[str, str]:
    """Return tensor name -> the AveragePool that must not meet a QuantizeLinear behind it.

    ONNX Runtime makes an integer kernel of every AveragePool between Q and DQ, also of those
    whose integer kernel computes something else, and it carries a Q back through Relu and
    through nodes that only move values.
    """
    found: dict[str, str] = {}
    for node in graph.nodes:
        if is_op(node, "AveragePool") and not has_exact_kernel(node):
            found[node.outputs[0].name] = node.outputs[0].name
        elif is_op(node, "Relu", "Clip", *MOVES) and node.inputs[0].name in found:
            found |= {t.name: found[node.inputs[0].name] for t in node.outputs}
    return found


def rectifies(node: Node) -> bool:
    """Whether a QuantizeLinear with zero-point 0 absorbs the node.

    A Relu is one, and a Clip whose bounds are constants, the lower one 0.
    """
    if is_op(node, "Relu"):
        return True
    if not is_op(node, "Clip") or len(node.inputs) < 2 or not node.inputs[1].name:
        return False
    low = constant(node.inputs[1])
    if low is None or low.any():
        return False
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return True
    high = constant(node.inputs[2])
    return high is not None and bool((high > 0).all())


def beyond_clip(tensor: Tensor, low: float, high: float) -> tuple[float, float]:
    """Widen the range of a tensor that a Clip makes of a graph input.

    ONNX Runtime drops a Clip that the QuantizeLinear behind it repeats, and 1.23 fails to load a
    model where that Clip reads a graph input. It merges Relu and Clip and carries the Q back
    through moves first. A range two steps beyond one bound keeps the Clip.
    """
    floors: list[float] = []
    ceilings: list[float] = []
    clipped = False
    while (source := producer(tensor)) is not None:
        if is_op(source, "Relu"):
            floors.append(0.0)
        elif is_op(source, "Clip"):
            clipped = True
            for bound, found in zip(source.inputs[1:3], (floors, ceilings), strict=False):
                value = constant(bound) if bound.name else None
                if value is not None and value.size == 1:
                    found.append(float(value.reshape(-1)[0]))
        elif not is_op(source, *MOVES):
            return low, high
        tensor = source.inputs[0]
    if not clipped:
        return low, high
    if floors:
        floor = max(floors)
        return min(low, floor - 2 * (max(high, floor) - floor) / 253), high
    if ceilings:
        ceiling = min(ceilings)
        return low, max(high, ceiling + 2 * (ceiling - min(low, ceiling)) / 253)
    return low, high
