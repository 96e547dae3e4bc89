"""Operators that look positions up or write to them by computed indices."""

from __future__ import annotations

from math import prod

import numpy as np

from graphopt.channels.dims import Dim
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.rules_index import base_name, renumber
from graphopt.channels.trace import Refused, Site

_INDICES = "holds indices"
_LOOKED_UP = "looks it up by indices"


def gather_nd(site: Site) -> None:
    """GatherND: indices ``[..., k]`` freeze the first k axes; one constant column is a Gather."""
    x, indices = site.dims(0), site.node.inputs[1]
    skip = int(site.node.attrs.get("batch_dims", 0))
    shape = indices.shape
    if not shape or not isinstance(shape[-1], int) or not skip + shape[-1] <= len(x):
        raise Refused("indices of unknown length")
    value, first = site.value(1), x[0]
    if skip == 0 and value is not None and value.shape[1:] == (1,) and first.slots:
        _one_column(site, x, [int(i) % (first.size or 1) for i in value.reshape(-1)])
        return
    site.freeze(site.dims(1), _INDICES)
    site.freeze(x[: skip + shape[-1]], _LOOKED_UP)
    rest = x[skip + shape[-1] :]
    site.out([*(site.other(axis) for axis in range(len(shape) - 1)), *rest])


def _one_column(site: Site, x: list[Dim], indices: list[int]) -> None:
    site.out([site.space.take(x[0], indices, site.why), *x[1:]])

    def rewrite(to: Rewriter) -> None:
        if to.changed(x[0]):
            new = np.array(renumber(to.alive(x[0]), indices), dtype=np.int64).reshape(-1, 1)
            to.set_constant(site.node, 1, new, base_name(site.node, "indices"))

    site.on_apply(rewrite)


def gather_elements(site: Site) -> None:
    """GatherElements: the axis is frozen, other dimensions of equal size die together."""
    x, indices = site.dims(0), site.dims(1)
    axis = site.axis(len(x), 0)
    _beside(site, x, indices, axis)
    site.out(indices)


def scatter_elements(site: Site) -> None:
    """ScatterElements, Scatter: the axis is frozen, other dimensions of equal size die together."""
    x, indices, updates = site.dims(0), site.dims(1), site.dims(2)
    axis = site.axis(len(x), 0)
    if len(updates) != len(indices):
        raise Refused("its inputs differ in rank")
    _beside(site, x, indices, axis)
    site.freeze([indices[axis]], _INDICES)
    for mine, given in zip(updates, indices, strict=True):
        site.unify(mine, given)
    site.out(x)


def _beside(site: Site, x: list[Dim], indices: list[Dim], axis: int) -> None:
    if len(indices) != len(x):
        raise Refused("its inputs differ in rank")
    site.freeze([x[axis]], _LOOKED_UP)
    for i, (mine, given) in enumerate(zip(x, indices, strict=True)):
        if i != axis:
            site.unify(mine, given)


def scatter_nd(site: Site) -> None:
    """ScatterND: indices ``[..., k]`` freeze the first k axes; the others are the updates'."""
    x, updates = site.dims(0), site.dims(2)
    shape = site.node.inputs[1].shape
    if not shape or not isinstance(shape[-1], int):
        raise Refused("indices of unknown length")
    if len(updates) - (len(shape) - 1) != len(x) - shape[-1]:
        raise Refused("its inputs differ in rank")
    site.freeze(site.dims(1), _INDICES)
    site.freeze(x[: shape[-1]], _LOOKED_UP)
    site.freeze(updates[: len(shape) - 1], _INDICES)
    rest = updates[len(shape) - 1 :]
    for mine, given in zip(x[shape[-1] :], rest, strict=True):
        site.unify(mine, given)
    site.out(x)


def one_hot(site: Site) -> None:
    """OneHot: a new axis of ``depth`` among those of the indices."""
    x = site.dims(0)
    axis = site.axis(len(x) + 1, -1)
    site.out([*x[:axis], site.other(axis), *x[axis:]])


def compress(site: Site) -> None:
    """Compress: the axis is frozen; without one, everything is."""
    x = site.dims(0)
    if "axis" not in site.node.attrs:
        site.freeze(x, _LOOKED_UP)
        site.out([site.other(0)])
        return
    axis = site.axis(len(x), 0)
    site.freeze([x[axis]], _LOOKED_UP)
    site.out([site.other(i) if i == axis else d for i, d in enumerate(x)])


def reverse_sequence(site: Site) -> None:
    """ReverseSequence: batch and time are frozen."""
    x = site.dims(0)
    axes = [site.axis(len(x), 1, "batch_axis"), site.axis(len(x), 0, "time_axis")]
    site.freeze([x[axis] for axis in axes], "reverses it")
    site.out(x)


def trilu(site: Site) -> None:
    """Trilu: rows and columns of the matrices are frozen."""
    x = site.dims(0)
    site.freeze(x[-2:], "keeps a triangle of it")
    site.out(x)


def center_crop_pad(site: Site) -> None:
    """CenterCropPad: its axes are frozen."""
    x = site.dims(0)
    axes = site.ints("axes")
    given = range(len(x)) if axes is None else [site.counted(axis, len(x)) for axis in axes]
    site.freeze([x[axis] for axis in given], "crops or pads it")
    site.out([site.other(i) if i in given else d for i, d in enumerate(x)])


def col2im(site: Site) -> None:
    """Col2Im: C is (C', block); the block is frozen."""
    x = site.dims(0)
    block, image = site.ints("block_shape", 2), site.ints("image_shape", 1)
    if len(x) != 3 or not block or not image or x[1].size is None or x[1].size % prod(block):
        raise Refused("an unknown number of channels")
    area = prod(block)
    kept, blocks = site.space.split(x[1], [x[1].size // area, area], site.why)
    site.freeze([blocks, x[2]], "moves it into space")
    site.out([x[0], kept, *(Dim(n, (), site.why) for n in image)])
