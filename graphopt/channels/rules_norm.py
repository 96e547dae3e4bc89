"""Normalizations: parameters go with the channels; what statistics are taken over stays whole."""

from __future__ import annotations

from graphopt.channels.dims import Dim
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.trace import Refused, Site

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
    """LayerNormalization, RMSNormalization: freeze the axes from ``axis`` on."""
    x = site.dims(0)
    axis = site.axis(len(x), -1)
    site.freeze(x[axis:], _OVER)
    for index in (1, 2):
        if site.has(index):
            site.freeze(site.dims(index), _OVER)
    site.out(x)
    for index in range(1, len(site.node.outputs)):
        site.out([*x[:axis], *(Dim(1) for _ in x[axis:])], index)


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


def one_axis(site: Site) -> None:
    """LpNormalization: freeze the axis (default the last)."""
    x = site.dims(0)
    site.freeze([x[site.axis(len(x), -1)]], _OVER)
    site.out(x)


def lrn(site: Site) -> None:
    """LRN: each channel is divided by a sum over its neighbours."""
    x = site.dims(0)
    site.freeze(x[1:2], "sums over neighbouring channels")
    site.out(x)


def cumsum(site: Site) -> None:
    """CumSum: freeze the axis."""
    x = site.dims(0)
    axes = site.ints("axis", 1) or [0]
    site.freeze([x[site.counted(a, len(x))] for a in axes], "sums along it")
    site.out(x)
