"""Normalizations: parameters go with the channels; what statistics are taken over stays whole.

But for norms: a channel of zeros adds nothing to a root mean square, so it can go, and what is
divided by the number of channels is corrected by a factor.
"""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from graphopt.channels.dims import Dim
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.trace import Refused, Site
from graphopt.graph import Tensor, constant

_OVER = "normalizes over it"


def batch_norm(site: Site) -> None:
    """BatchNormalization: parameters and outputs are per channel."""
    x = site.dims(0)
    if len(x) < 2:
        raise Refused("an input without channels")
    for index in range(1, 5):
        site.tie(index, [x[1]])
    site.out(x)
    for index in range(1, len(site.node.outputs)):
        site.out([x[1]], index)


def instance_norm(site: Site) -> None:
    """InstanceNormalization: per channel over all positions."""
    x = site.dims(0)
    if len(x) < 3:
        raise Refused("an input without positions")
    site.freeze(x[2:], _OVER)
    site.tie(1, [x[1]])
    site.tie(2, [x[1]])
    site.out(x)


def group_norm(site: Site) -> None:
    """GroupNormalization: rows are free, the channels within a group are not."""
    x = site.dims(0)
    groups = int(site.node.attrs["num_groups"])
    if len(x) < 2 or x[1].size is None or x[1].size % groups:
        raise Refused(f"{groups} groups of an unknown or uneven number of channels")
    rows, columns = site.space.split(x[1], [groups, x[1].size // groups], site.why)
    site.freeze([columns, *x[2:]], _OVER)
    per_channel = site.opset >= 21
    for index in (1, 2):
        site.tie(index, [x[1] if per_channel else rows])

    def rewrite(to: Rewriter) -> None:
        if to.changed(rows):
            site.node.attrs["num_groups"] = int(to.count(rows) or 1)

    site.on_apply(rewrite)
    site.out(x)


def layer_norm(site: Site) -> None:
    """LayerNormalization: freeze the axes from ``axis`` on."""
    x = site.dims(0)
    axis = site.axis(len(x), -1)
    site.freeze(x[axis:], _OVER)
    for index in (1, 2):
        if site.has(index):
            site.freeze(site.dims(index), _OVER)
    site.out(x)
    for index in range(1, len(site.node.outputs)):
        site.out([*x[:axis], *(Dim(1) for _ in x[axis:])], index)


def rms_norm(site: Site) -> None:
    """RMSNormalization ``x s / sqrt(mean(x^2) + eps)``: free, for a zero adds nothing.

    With K of C channels kept, ``x s / sqrt(sum / C + eps)`` is what the operator computes with
    ``s sqrt(C / K)`` and ``eps C / K``.
    """
    x = site.dims(0)
    axis = site.axis(len(x), -1)
    scale = site.node.inputs[1]
    fixed = constant(scale) is not None and has_float_type(scale)
    if len(site.node.outputs) > 1 or not fixed or len(scale.shape) > len(x[axis:]):
        site.freeze(x[axis:], _OVER)
        site.trace.freeze_tensor(scale, f"{site.why}: {_OVER}")
        site.out(x)
        for index in range(1, len(site.node.outputs)):
            site.out([*x[:axis], *(Dim(1) for _ in x[axis:])], index)
        return
    tail = x[len(x) - len(scale.shape) :]
    site.tie(1, [Dim(1) if n == 1 else d for n, d in zip(scale.shape, tail, strict=True)])
    site.out(x)

    def rewrite(to: Rewriter) -> None:
        share = kept_share(to, x[axis:])
        if share == 1:
            return
        site.node.attrs["epsilon"] = float(site.node.attrs.get("epsilon", 1e-5)) / share
        old = constant(site.node.inputs[1])
        assert old is not None
        new = (old.astype(np.float64) / sqrt(share)).astype(old.dtype)
        to.set_constant(site.node, 1, new, f"{scale.name}_rescaled")

    site.on_apply(rewrite)


def has_float_type(tensor: Tensor) -> bool:
    """Whether the tensor is known to hold float16, float32 or float64."""
    return tensor.dtype in (np.float16, np.float32, np.float64)


def kept_share(to: Rewriter, dims: list[Dim]) -> float:
    """Return the fraction of the positions of these dimensions that survive."""
    changed = [dim for dim in dims if to.changed(dim)]
    return prod((to.count(dim) or 0) / (dim.size or 1) for dim in changed)


def mean_variance(site: Site) -> None:
    """MeanVarianceNormalization: freeze its axes (default 0, 2, 3)."""
    x = site.dims(0)
    axes = site.ints("axes") or [0, 2, 3]
    site.freeze([x[site.counted(a, len(x))] for a in axes], _OVER)
    site.out(x)


def softmax(site: Site) -> None:
    """Softmax, LogSoftmax, Hardmax: freeze the axis; before opset 13 everything from it on."""
    x = site.dims(0)
    if site.opset >= 13:
        site.freeze([x[site.axis(len(x), -1)]], _OVER)
    else:
        site.freeze(x[site.axis(len(x), 1) :], _OVER)
    site.out(x)


def lrn(site: Site) -> None:
    """LRN: a sum of squares over neighbouring channels, to which a channel of zeros adds nothing.

    Neighbours must stay at their distance: where channels go, the operator works on the channels
    there were, with zeros in the gaps, and the gaps are taken out again.
    """
    x = site.dims(0)
    if len(x) < 2:
        raise Refused("an input without channels")
    site.out(x)

    def rewrite(to: Rewriter) -> None:
        if not to.changed(x[1]):
            return
        alive = to.alive(x[1])
        kept = int(alive.sum())
        pads = [0] * (2 * len(x))
        pads[len(x) + 1] = 1
        padded = to.insert_before(site.node, "Pad", **({"pads": pads} if site.opset < 11 else {}))
        if site.opset >= 11:
            to.set_constant(padded, 1, np.array(pads, dtype=np.int64), f"{padded.name}_pads")
        apart = to.insert_before(site.node, "Gather", axis=1)
        places = np.where(alive, np.cumsum(alive) - 1, kept).astype(np.int64)
        to.set_constant(apart, 1, places, f"{apart.name}_indices")
        together = to.insert_after(site.node, "Gather", axis=1)
        to.set_constant(together, 1, np.flatnonzero(alive), f"{together.name}_indices")

    site.on_apply(rewrite)


def cumsum(site: Site) -> None:
    """CumSum, CumProd: freeze the axis."""
    x = site.dims(0)
    axes = site.ints("axis", 1) or [0]
    site.freeze([x[site.counted(a, len(x))] for a in axes], "accumulates along it")
    site.out(x)
