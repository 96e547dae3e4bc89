"""Who reads a tensor, and how errors that come in patches add up there.

The *patch gain* of a reader is the power at its output of an error that is the same under all taps
of its kernel, over that of one independent at each tap, channels independent in both::

    gain = sum_{output, channel} (sum_taps w)**2 / sum w**2

1 for anything without taps. A tensor's gain is the mean over its readers, for each of them is
judged by its own output; operators that move or gate values are looked through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod

import numpy as np

from graphopt.graph import Array, Node, constant, is_op, static_shape
from graphopt.model import Model

# A patch is no larger than this: a pool over a whole map does not meet one patch everywhere.
MOST = 16.0

# What passes values on, or stops some of them; the error goes with them.
# fmt: off
_THROUGH = (
    "Clip", "Concat", "DepthToSpace", "Expand", "Flatten", "Identity", "LeakyRelu", "MaxPool",
    "PRelu", "Pad", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
)
# fmt: on
_AVERAGES = ("AveragePool", "GlobalAveragePool")
_NO_VALUES = ("Shape", "Size")  # they look at the shape alone


def patch_gains(model: Model) -> dict[str, float]:
    """Return tensor name -> patch gain of its readers, for each tensor that anyone reads.

    Args:
        model: with its nodes in topological order; who reads a graph output, and inner nodes of
            If, Loop and Scan, count as readers without taps.
    """
    found = {tensor.name: (1.0, 1) for tensor in model.graph.outputs}
    for node in reversed(model.graph.nodes):
        for index, tensor in enumerate(node.inputs):
            gain = _gain(node, index, found) if tensor.name else None
            if gain is not None:
                total, readers = found.get(tensor.name, (0.0, 0))
                found[tensor.name] = total + gain, readers + 1
    return {name: min(total / readers, MOST) for name, (total, readers) in found.items()}


def _gain(node: Node, index: int, found: Mapping[str, tuple[float, int]]) -> float | None:
    """Return the gain that an input of a node leads to; None where nobody reads its values."""
    if is_op(node, *_NO_VALUES):
        return None
    if is_op(node, "Conv", "ConvTranspose") and index == 0:
        weight = constant(node.inputs[1])
        if weight is not None and weight.ndim > 2 and weight.dtype.kind == "f":
            return _kernel(node, weight)
    through = is_op(node, *_THROUGH) and (index == 0 or node.op == "Concat")
    if through or is_op(node, *_AVERAGES):
        behind = [found[t.name] for t in node.outputs if t.name in found]
        if not behind:
            return None
        taps = 1.0 if through else _window(node)
        return taps * sum(total for total, _ in behind) / sum(readers for _, readers in behind)
    return 1.0


def _window(node: Node) -> float:
    """Return over how many values a pool takes the mean, as far as that is known."""
    if node.op == "AveragePool":
        return float(min(prod(int(d) for d in node.attrs.get("kernel_shape", ())), MOST))
    shape = static_shape(node.inputs[0])
    if shape is None and node.inputs[0].shape is not None:
        sizes = node.inputs[0].shape[2:]
        return float(min(prod(sizes), MOST)) if all(isinstance(d, int) for d in sizes) else MOST
    return MOST if shape is None else float(min(prod(shape[2:]), MOST))


def _kernel(node: Node, weight: Array) -> float:
    """Return the patch gain of a Conv or ConvTranspose."""
    values = weight.astype(np.float64)
    noise = float(np.square(values).sum())
    if not (noise > 0 and np.isfinite(noise)):
        return 1.0
    taps = tuple(range(2, values.ndim))
    patch = sum(float(np.square(part.sum(axis=taps)).sum()) for part in _phases(node, values))
    return patch / noise


def _phases(node: Node, weight: Array) -> Iterator[Array]:
    """Yield the taps that meet in one output: all; of a ConvTranspose, those a stride apart."""
    if node.op == "Conv":
        yield weight
        return
    dims = weight.ndim - 2
    strides = [max(int(s), 1) for s in node.attrs.get("strides", ())] or [1] * dims
    for starts in product(*(range(s) for s in strides[:dims])):
        cut = [slice(start, None, s) for start, s in zip(starts, strides, strict=False)]
        where = (slice(None), slice(None), *cut)
        yield weight[where]
