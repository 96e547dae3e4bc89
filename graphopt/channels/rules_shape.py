"""Operators that rearrange dimensions without choosing among their positions."""

from __future__ import annotations

from itertools import chain

import numpy as np

from graphopt.channels.dims import Dim
from graphopt.channels.reshape import Size, blocks, nested
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.sizes import follow_sizes
from graphopt.channels.trace import Element, Refused, Site


def transpose(site: Site) -> None:
    """Transpose: permute (default: reverse)."""
    x = site.dims(0)
    perm = site.ints("perm") or list(range(len(x)))[::-1]
    site.out([x[i] for i in perm])


def reshape(site: Site) -> None:
    """Reshape: merged dimensions multiply, split ones become grids; the sizes are rewritten."""
    x = site.dims(0)
    source, target = nested(*_sizes(site, x))
    parts: list[Dim] = []
    for dim, factors in zip(x, source, strict=True):
        parts += site.space.split(dim, factors, site.why)
    pieces = iter(_regrouped(site, parts, list(chain(*source)), list(chain(*target))))
    out = [site.space.merge([next(pieces) for _ in factors], site.why) for factors in target]
    site.out(out)
    follow_sizes(site, 1, out)


def _regrouped(site: Site, x: list[Dim], source: list[Size], target: list[Size]) -> list[Dim]:
    out: list[Dim] = []
    for block in blocks(source, target):
        inside, sizes = x[slice(*block.source)], target[slice(*block.target)]
        if block.known and len(inside) == len(sizes) == 1:
            out += inside
        elif block.known and inside and sizes:
            merged = site.space.merge(inside, site.why)
            out += site.space.split(merged, sizes, site.why)
        else:
            site.freeze(inside, "reshapes it together with dimensions of unknown size")
            out += [Dim(n if isinstance(n, int) else None, (), site.why) for n in sizes]
    return out


def _sizes(site: Site, x: list[Dim]) -> tuple[list[Size], list[Size]]:
    """Return the sizes of both sides, with equal names where they are known to be equal."""
    shape = site.node.inputs[0].shape or [None] * len(x)
    source: list[Size] = [
        d.size if d.size is not None else s for d, s in zip(x, shape, strict=True)
    ]
    inferred = site.out_sizes()
    value = site.value(1)
    if value is None:
        if inferred is None:
            raise Refused("its shape is computed and its rank unknown")
        return source, list(inferred)
    asked = [int(v) for v in value.reshape(-1)]
    target: list[Size] = list(inferred) if inferred is not None else [None] * len(asked)
    if len(target) != len(asked):
        raise Refused("shape inference disagrees with its shape")
    for axis, size in enumerate(asked):
        if size > 0:
            target[axis] = size
        elif size == 0 and not site.node.attrs.get("allowzero", 0) and axis < len(source):
            if source[axis] is None:
                source[axis] = f"the same as axis {axis}"
            target[axis] = source[axis]
    return source, target


def flatten(site: Site) -> None:
    """Flatten to two dimensions at ``axis``."""
    x = site.dims(0)
    axis = int(site.node.attrs.get("axis", 1))
    axis = axis + len(x) if axis < 0 else axis
    site.out(
        [
            site.space.merge(part, site.why) if part else Dim(1, (), site.why)
            for part in (x[:axis], x[axis:])
        ]
    )


def squeeze(site: Site) -> None:
    """Squeeze: without axes it drops whatever is 1, so they are spelled out when pruning."""
    x = site.dims(0)
    given = site.ints("axes", 1)
    if given:
        axes = sorted(site.counted(axis, len(x)) for axis in given)
    elif any(d.size is None for d in x):
        raise Refused("has no axes, and its input has a dimension of unknown size")
    else:
        axes = [i for i, d in enumerate(x) if d.size == 1]
    site.freeze([x[axis] for axis in axes], "drops it")
    site.out([d for i, d in enumerate(x) if i not in axes])

    def rewrite(to: Rewriter) -> None:
        if given or not to.changed(*x):
            return
        if site.opset < 13:
            site.node.attrs["axes"] = list(axes)
        else:
            base = f"{site.node.name or site.node.outputs[0].name}_axes"
            to.set_constant(site.node, 1, np.array(axes, dtype=np.int64), base)

    site.on_apply(rewrite)


def unsqueeze(site: Site) -> None:
    """Unsqueeze: insert dimensions of size one."""
    x = site.dims(0)
    given = site.ints("axes", 1) or []
    rank = len(x) + len(given)
    axes = {site.counted(axis, rank) for axis in given}
    rest = iter(x)
    site.out([Dim(1, (), site.why) if i in axes else next(rest) for i in range(rank)])


def expand(site: Site) -> None:
    """Expand: what grows from one to n is free, or follows the dimension n was read from.

    Free if n is a number in the graph, written down or at the end of a program of sizes.
    """
    x = site.dims(0)
    elements, value, inferred = site.elements(1), site.value(1), site.out_sizes()
    if value is not None:
        sizes: list[Size] = [int(v) for v in value.reshape(-1)]
    elif elements is not None:
        known = inferred if inferred is not None else [None] * len(elements)
        sizes = list(known[len(known) - len(elements) :])
    elif inferred is not None:
        sizes = list(inferred)
    else:
        raise Refused("its shape is computed and its rank unknown")
    origins = elements if elements is not None else (Element(),) * len(sizes)
    rank = max(len(x), len(sizes))
    out: list[Dim] = []
    for back in range(rank, 0, -1):
        mine = x[-back] if len(x) >= back else Dim(1, (), site.why)
        if len(sizes) < back or mine.size != 1:
            out.append(mine)
        else:
            fixed = value is not None or (elements is not None and not origins[-back].dims)
            out.append(_grown(site, sizes[-back], origins[-back], fixed=fixed))
    site.out(out)
    asked = out[rank - len(sizes) :]
    follow_sizes(site, 1, [d if n != 1 else Dim(1) for d, n in zip(asked, sizes, strict=True)])


def _grown(site: Site, size: object, origin: Element, *, fixed: bool) -> Dim:
    if origin.exact and origin.dims[0].slots:
        return origin.dims[0]
    if fixed and isinstance(size, int):
        return site.space.fresh(size)
    return Dim(size if isinstance(size, int) else None, (), site.why)


def constant_of_shape(site: Site) -> None:
    """ConstantOfShape: a dimension follows the one its size was read from, or is free."""
    elements, value, inferred = site.elements(0), site.value(0), site.out_sizes()
    if value is not None:
        sizes: list[Size] = [int(n) for n in value.reshape(-1)]
    elif inferred is not None:
        sizes = list(inferred)
    elif elements is not None:
        sizes = [None] * len(elements)
    else:
        raise Refused("its shape is computed and its rank unknown")
    if elements is None and value is None:
        site.out([Dim(n if isinstance(n, int) else None, (), site.why) for n in sizes])
        return
    origins = elements if elements is not None else (Element(),) * len(sizes)
    if len(origins) != len(sizes):
        raise Refused("shape inference disagrees with its shape")
    out = [
        _grown(site, n, e, fixed=value is not None or not e.dims)
        for n, e in zip(sizes, origins, strict=True)
    ]
    site.out(out)
    follow_sizes(site, 0, out)


def tile(site: Site) -> None:
    """Tile: a repeated dimension repeats its positions."""
    x = site.dims(0)
    times = site.ints("repeats", 1)
    if times is None or len(times) != len(x):
        raise Refused("no repeats")
    site.out(
        [
            d if n == 1 else Dim(d.size * n, d.slots) if d.slots and d.size else site.other(i)
            for i, (d, n) in enumerate(zip(x, times, strict=True))
        ]
    )
