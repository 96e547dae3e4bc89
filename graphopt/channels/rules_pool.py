"""Pooling, resampling, and blocks moved between channels and space."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.channels.dims import Dim
from graphopt.channels.sizes import follow_sizes
from graphopt.channels.trace import Refused, Site

_SLIDES = "works over it"


def pool(site: Site) -> None:
    """AveragePool, MaxPool, LpPool and the global ones: channels pass, positions are pooled."""
    x = site.dims(0)
    if len(x) < 3:
        raise Refused("an input without positions")
    site.freeze(x[2:], _SLIDES)
    out = [*x[:2], *(site.other(axis) for axis in range(2, len(x)))]
    site.out(out)
    if len(site.node.outputs) > 1 and not site.node.outputs[1].is_empty():
        site.freeze(x, "its indices count over all channels")
        site.out([Dim(d.size, (), site.why) for d in out], 1)


def sample(site: Site) -> None:
    """GridSample, RoiAlign, MaxRoiPool: channels pass; everything else is looked up by position."""
    x = site.dims(0)
    site.freeze([x[0], *x[2:]], _SLIDES)
    for index in range(1, len(site.node.inputs)):
        if site.has(index):
            site.freeze(site.dims(index), "holds coordinates")
    site.out([site.other(0), x[1], *(site.other(axis) for axis in range(2, len(x)))])


def resize(site: Site) -> None:
    """Resize and Upsample: an axis of scale one passes, any other is frozen."""
    x = site.dims(0)
    modern = site.node.op == "Resize" and site.opset >= 11
    axes = site.ints("axes") or list(range(len(x)))
    axes = [site.counted(axis, len(x)) for axis in axes]
    scales_at = 2 if modern else 1
    scales = site.node.attrs.get("scales") if not site.has(scales_at) else site.value(scales_at)
    if scales is None or np.size(scales) == 0:
        scales = None
    out = list(x)
    for place, axis in enumerate(axes):
        if not x[axis].slots:
            out[axis] = site.other(axis)
        elif not (_scale_is_one(scales, place) or _size_is_same(site, axis)):
            site.freeze([x[axis]], "resizes it")
            out[axis] = site.other(axis)
    site.out(out)
    if modern and site.has(3):
        follow_sizes(site, 3, [out[axis] for axis in axes])


def _scale_is_one(scales: Any, place: int) -> bool:
    return scales is not None and float(np.reshape(scales, -1)[place]) == 1.0


def _size_is_same(site: Site, axis: int) -> bool:
    sizes = site.out_sizes()
    return site.has(3) and sizes is not None and sizes[axis] == site.dims(0)[axis].size


def depth_to_space(site: Site) -> None:
    """DepthToSpace: C is (b, b, C') or, in mode CRD, (C', b, b); the block is frozen."""
    x = site.dims(0)
    block = int(site.node.attrs["blocksize"])
    channels = x[1]
    if len(x) != 4 or channels.size is None or channels.size % (block * block):
        raise Refused("an unknown number of channels")
    area, rest = block * block, channels.size // (block * block)
    site.freeze(x[2:], _SLIDES)
    if site.node.attrs.get("mode", "DCR") == "CRD":
        kept, blocks = site.space.split(channels, [rest, area], site.why)
    else:
        blocks, kept = site.space.split(channels, [area, rest], site.why)
    site.freeze([blocks], "moves it into space")
    site.out([x[0], kept, site.other(2), site.other(3)])


def space_to_depth(site: Site) -> None:
    """SpaceToDepth: the output's channels are (b, b, C)."""
    x = site.dims(0)
    block = int(site.node.attrs["blocksize"])
    if len(x) != 4 or x[1].size is None:
        raise Refused("an unknown number of channels")
    site.freeze(x[2:], _SLIDES)
    blocks = Dim(block * block, (), site.why)
    site.out([x[0], site.space.merge([blocks, x[1]], site.why), site.other(2), site.other(3)])
