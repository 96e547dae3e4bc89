"""Operators that choose among the positions of a dimension, or add some."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from graphopt.channels.dims import Dim
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.trace import Refused, Site
from graphopt.graph import Node

_INT_MAX = np.iinfo(np.int64).max


def base_name(node: Node, what: str) -> str:
    """Return what a new initializer of a node is called."""
    return f"{node.name or node.outputs[0].name}_{what}"


def renumber(alive: npt.NDArray[np.bool_], indices: list[int]) -> list[int]:
    """Return where the surviving indices are once the dead ones are gone."""
    place = np.cumsum(alive) - 1
    return [int(place[i]) for i in indices if alive[i]]


def concat(site: Site) -> None:
    """Concat: positions one after the other; the other dimensions die together."""
    inputs = [site.dims(i) for i in range(len(site.node.inputs)) if site.has(i)]
    rank = len(inputs[0])
    if any(len(x) != rank for x in inputs):
        raise Refused("its inputs differ in rank")
    axis = site.axis(rank, 1)
    out: list[Dim] = []
    for i in range(rank):
        dims = [x[i] for x in inputs]
        if i == axis:
            out.append(site.space.concat(dims, site.why))
            continue
        first = max(dims, key=lambda d: bool(d.slots))
        for dim in dims:
            site.unify(first, dim)
        out.append(first)
    site.out(out)


def split(site: Site) -> None:
    """Split: consecutive positions; the sizes are rewritten."""
    x = site.dims(0)
    axis = site.axis(len(x), 0)
    dim, parts = x[axis], len(site.node.outputs)
    if not dim.slots or dim.size is None:
        for k in range(parts):
            site.out([*x[:axis], site.other(axis, k), *x[axis + 1 :]], k)
        return
    sizes = site.ints("split", 1)
    if sizes is None:
        chunk = -(-dim.size // parts)
        sizes = [min(chunk, dim.size - k * chunk) for k in range(parts)]
    if len(sizes) != parts or sum(sizes) != dim.size or min(sizes) < 0:
        raise Refused("its sizes do not add up")
    ends = np.cumsum(sizes)
    out = [
        site.space.take(dim, range(int(e) - n, int(e)), site.why)
        for e, n in zip(ends, sizes, strict=True)
    ]
    for k, part in enumerate(out):
        site.out([*x[:axis], part, *x[axis + 1 :]], k)

    def rewrite(to: Rewriter) -> None:
        if not to.changed(dim):
            return
        counts = [int(to.count(part) or 0) for part in out]
        if site.opset < 13:
            site.node.attrs["split"] = counts
            return
        site.node.attrs.pop("num_outputs", None)
        to.set_constant(
            site.node, 1, np.array(counts, dtype=np.int64), base_name(site.node, "split")
        )

    site.on_apply(rewrite)


@dataclass(frozen=True, slots=True)
class _Range:
    """What a Slice does to one axis."""

    axis: int
    start: int
    end: int
    step: int

    def indices(self, size: int) -> list[int]:
        return list(range(*slice(self.start, self.end, self.step).indices(size)))


def slice_(site: Site) -> None:
    """Slice: chosen positions; bounds are rewritten, and become a Gather where they cannot."""
    x = site.dims(0)
    axes = site.ints("axes", 3)
    if axes is None:
        count = site.node.attrs.get("starts")
        shape = site.node.inputs[1].shape if count is None else [len(count)]
        if not shape or not isinstance(shape[0], int):
            raise Refused("its axes are unknown")
        axes = list(range(shape[0]))
    axes = [site.counted(axis, len(x)) for axis in axes]
    try:
        starts, ends = site.ints("starts", 1), site.ints("ends", 2)
        steps = site.ints("steps", 4) or [1] * len(axes)
    except Refused:
        site.freeze([x[axis] for axis in axes], "its bounds are computed")
        site.out([site.other(i) if i in axes else d for i, d in enumerate(x)])
        return
    ranges = [_Range(*r) for r in zip(axes, starts or [], ends or [], steps, strict=True)]
    out = list(x)
    for r in ranges:
        dim = x[r.axis]
        if dim.slots and dim.size is not None:
            out[r.axis] = site.space.take(dim, r.indices(dim.size), site.why)
        else:
            out[r.axis] = site.other(r.axis)
    site.out(out)
    site.on_apply(lambda to: _rewrite_slice(site, to, x, ranges))


def _rewrite_slice(site: Site, to: Rewriter, x: list[Dim], ranges: list[_Range]) -> None:
    if not any(to.changed(x[r.axis]) for r in ranges):
        return
    written: list[_Range] = []
    gathers: list[tuple[int, list[int]]] = []
    for r in ranges:
        dim = x[r.axis]
        if not to.changed(dim):
            written.append(r)
            continue
        indices = renumber(to.alive(dim), r.indices(dim.size or 0))
        if (bounds := _as_range(r.axis, indices)) is not None:
            written.append(bounds)
        else:
            written.append(_Range(r.axis, 0, _INT_MAX, 1))
            gathers.append((r.axis, indices))
    _write_slice(site, to, written)
    for axis, indices in gathers:
        after = to.insert_after(site.node, "Gather", axis=axis)
        values = np.array(indices, dtype=np.int64)
        to.set_constant(after, 1, values, base_name(after, "indices"))


def _as_range(axis: int, indices: list[int]) -> _Range | None:
    """Return the bounds that choose these indices, or None if their steps differ."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if any(b - a != step for a, b in pairwise(indices)):
        return None
    end = indices[-1] + (1 if step > 0 else -1)
    return _Range(axis, indices[0], end if end >= 0 else -_INT_MAX, step)


def _write_slice(site: Site, to: Rewriter, ranges: list[_Range]) -> None:
    node = site.node
    fields = {
        "starts": [r.start for r in ranges],
        "ends": [r.end for r in ranges],
        "axes": [r.axis for r in ranges],
        "steps": [r.step for r in ranges],
    }
    if site.opset < 10:
        del fields["steps"]  # Always one there, and a contiguous range stays contiguous.
        node.attrs.update(fields)
        return
    for index, (what, values) in enumerate(fields.items(), start=1):
        to.set_constant(node, index, np.array(values, dtype=np.int64), base_name(node, what))


def gather(site: Site) -> None:
    """Gather: constant indices choose positions and are renumbered; computed ones freeze."""
    x = site.dims(0)
    axis = site.axis(len(x), 0)
    dim, value = x[axis], site.value(1)
    if value is None:
        picked = site.dims(1)
        site.freeze([dim], "looks it up by computed indices")
        site.out([*x[:axis], *picked, *x[axis + 1 :]])
        return
    if not dim.slots or dim.size is None:
        picked = [Dim(int(n), (), site.why) for n in value.shape]
        site.out([*x[:axis], *picked, *x[axis + 1 :]])
        return
    size = dim.size
    indices = [int(i) % size for i in value.reshape(-1)]
    taken = site.space.take(dim, indices, site.why)
    if value.ndim != 1:
        site.freeze([taken], "takes single channels out")
        picked = [Dim(int(n), (), site.why) for n in value.shape]
    else:
        picked = [taken]
    site.out([*x[:axis], *picked, *x[axis + 1 :]])

    def rewrite(to: Rewriter) -> None:
        if not to.changed(dim):
            return
        new = np.array(renumber(to.alive(dim), indices), dtype=value.dtype)
        new = new if value.ndim == 1 else new.reshape(value.shape)
        to.set_constant(site.node, 1, new, base_name(site.node, "indices"))

    site.on_apply(rewrite)


def pad(site: Site) -> None:
    """Pad: added positions are free (they hold a constant), and the pads shrink with them."""
    x = site.dims(0)
    pads = site.ints("pads", 1)
    if pads is None:
        raise Refused("no pads")
    axes = [site.counted(a, len(x)) for a in site.ints("axes", 3) or range(len(x))]
    if len(pads) != 2 * len(axes):
        raise Refused("its pads do not match its axes")
    constant_mode = site.node.attrs.get("mode", "constant") in ("constant", b"constant")
    out = list(x)
    rewritten: dict[int, tuple[Dim, int, int]] = {}
    for place, axis in enumerate(axes):
        begin, end, dim = pads[place], pads[place + len(axes)], x[axis]
        if begin == end == 0:
            continue
        # Spatial padding is none of pruning's business; channels are on axis 1 or tracked.
        if dim.size is None or not (dim.slots or axis == 1) or not constant_mode:
            site.freeze([dim], "pads it with its own values")
            out[axis] = site.other(axis)
            continue
        out[axis] = _padded(site, dim, begin, end)
        rewritten[place] = (dim, begin, end)
    site.out(out)

    def rewrite(to: Rewriter) -> None:
        new = list(pads)
        for place, (dim, begin, end) in rewritten.items():
            after = to.alive(out[axes[place]])
            before = to.alive(dim)
            new[place] = _survivors(begin, after, before)
            new[place + len(axes)] = _survivors(end, after[::-1], before[::-1])
        if new == pads:
            return
        if site.opset < 11:
            site.node.attrs["pads"] = new
        else:
            values = np.array(new, dtype=np.int64)
            to.set_constant(site.node, 1, values, base_name(site.node, "pads"))

    site.on_apply(rewrite)


def _padded(site: Site, dim: Dim, begin: int, end: int) -> Dim:
    size = dim.size or 0
    inner = site.space.take(dim, range(max(-begin, 0), size - max(-end, 0)), site.why)
    parts = [inner]
    if begin > 0:
        parts.insert(0, site.space.padding(begin))
    if end > 0:
        parts.append(site.space.padding(end))
    return site.space.concat(parts, site.why)


def _survivors(count: int, after: npt.NDArray[np.bool_], before: npt.NDArray[np.bool_]) -> int:
    """Return how much of a pad survives; a negative one crops what survives of the input."""
    return int(after[:count].sum()) if count >= 0 else -int(before[:-count].sum())
