"""Reductions."""

from __future__ import annotations

from graphopt.channels.dims import Dim
from graphopt.channels.trace import Refused, Site


def sums(site: Site) -> None:
    """ReduceSum, ReduceL1, ReduceL2, ReduceSumSquare: a dead channel is one that adds zero."""
    _reduce(site, free=True)


def others(site: Site) -> None:
    """ReduceMean, ReduceMax ...: no value of a channel stands for its absence: freeze the axes."""
    _reduce(site, free=False)


def _reduce(site: Site, *, free: bool) -> None:
    x = site.dims(0)
    axes = reduced_axes(site, len(x))
    if not free:
        site.freeze([x[axis] for axis in axes], "reduces it")
    _out_without(site, x, axes)


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
