"""Reductions.

Where a zero makes no difference to what is reduced, a channel can go: it is masked with zeros in
the proof. Elsewhere no value of a channel stands for its absence, and the axes are frozen.
"""

from __future__ import annotations

import numpy as np

from graphopt.channels.dims import Dim
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.rules_norm import has_float_type, kept_share
from graphopt.channels.trace import Refused, Site
from graphopt.graph import Tensor, constant, is_op

_NEVER_NEGATIVE = (
    "Abs",
    "Exp",
    "HardSigmoid",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "Relu",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Sqrt",
)
_KEEPS_SIGN = (
    "Add",
    "AveragePool",
    "Cast",
    "Concat",
    "Div",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "MaxPool",
    "Mul",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)


def sums(site: Site) -> None:
    """ReduceSum, ReduceL1, ReduceL2, ReduceSumSquare: a zero adds nothing."""
    _reduce(site, free=True)


def mean(site: Site) -> None:
    """ReduceMean: a sum over the number of channels there were; the result is scaled.

    Frozen where it is a whole number, or is subtracted: that makes a zero something else than
    nothing, and what follows is the variance of a LayerNorm.
    """
    readers = [node for tensor in site.node.outputs for node in tensor.outputs]
    free = has_float_type(site.node.inputs[0]) and not any(is_op(n, "Sub") for n in readers)
    x, axes = _reduce(site, free=free)

    def rewrite(to: Rewriter) -> None:
        share = kept_share(to, [x[axis] for axis in axes])
        if share != 1:
            factor = np.array(share, dtype=site.node.inputs[0].dtype)
            after = to.insert_after(site.node, "Mul")
            to.set_constant(after, 1, factor, f"{after.name}_share")

    site.on_apply(rewrite)


def largest(site: Site) -> None:
    """ReduceMax: of what is never negative a zero changes nothing; else freeze the axes."""
    _reduce(site, free=_never_negative(site.node.inputs[0]))


def others(site: Site) -> None:
    """ReduceMin, ReduceProd ...: freeze the axes."""
    _reduce(site, free=False)


def _reduce(site: Site, *, free: bool) -> tuple[list[Dim], list[int]]:
    x = site.dims(0)
    axes = reduced_axes(site, len(x))
    if not free:
        site.freeze([x[axis] for axis in axes], "reduces it")
    _out_without(site, x, axes)
    return x, axes


def _never_negative(tensor: Tensor, depth: int = 8) -> bool:
    """Whether no element can be below zero, as far as the operators that made it tell."""
    if (value := constant(tensor)) is not None:
        return bool((value >= 0).all())
    if not tensor.inputs or not depth:
        return False
    node = tensor.inputs[0]
    if is_op(node, *_NEVER_NEGATIVE):
        return True
    if is_op(node, "Clip"):
        least = node.attrs.get("min") if len(node.inputs) < 2 else constant(node.inputs[1])
        return least is not None and bool(np.all(np.asarray(least) >= 0))
    if not is_op(node, *_KEEPS_SIGN):
        return False
    data = node.inputs if is_op(node, "Add", "Concat", "Div", "Mul") else node.inputs[:1]
    return all(_never_negative(t, depth - 1) for t in data)


def reduced_axes(site: Site, rank: int) -> list[int]:
    """Return the axes a Reduce node works over, sorted, counted from the front."""
    axes = site.ints("axes", 1)
    if not axes:
        return [] if site.node.attrs.get("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({site.counted(axis, rank) for axis in axes})


def _out_without(site: Site, x: list[Dim], axes: list[int], index: int = 0) -> None:
    if site.node.attrs.get("keepdims", 1):
        site.out([Dim(1, (), site.why) if i in axes else d for i, d in enumerate(x)], index)
    else:
        site.out([d for i, d in enumerate(x) if i not in axes], index)


def arg(site: Site) -> None:
    """ArgMax, ArgMin: the result is an index: freeze the axis."""
    x = site.dims(0)
    axis = site.axis(len(x), 0)
    site.freeze([x[axis]], "returns indices along it")
    _out_without(site, x, [axis])


def topk(site: Site) -> None:
    """TopK: freeze the axis; values and indices have the other dimensions of the input."""
    x = site.dims(0)
    if not x:
        raise Refused("a scalar input")
    axis = site.axis(len(x), -1)
    site.freeze([x[axis]], "sorts along it")
    out = [site.other(i) if i == axis else d for i, d in enumerate(x)]
    site.out(out)
    site.out(out, 1)
