"""Operators that sum over channels: here dead channels are masked, and weights lose slices."""

from __future__ import annotations

from graphopt.channels.dims import Dim
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.trace import Refused, Site
from graphopt.graph import constant


def _spatial(site: Site, x: list[Dim], w: list[Dim]) -> list[Dim]:
    """Freeze spatial and kernel dimensions; return the output's spatial ones."""
    if len(x) != len(w) or len(x) < 3:
        raise Refused("its input and its weight differ in rank")
    site.freeze([*x[2:], *w[2:]], "slides over it")
    return [site.other(axis) for axis in range(2, len(x))]


def _images(site: Site, w: list[Dim]) -> list[Dim]:
    """Return the dimensions of the data; of unknown rank they are as many as the weight's."""
    try:
        return site.dims(0)
    except Refused as unknown:
        return [Dim(None, (), str(unknown)) for _ in w]


def _set_group(site: Site, rows: Dim) -> None:
    def rewrite(to: Rewriter) -> None:
        if to.changed(rows):
            site.node.attrs["group"] = int(to.count(rows) or 1)

    site.on_apply(rewrite)


def conv(site: Site) -> None:
    """Conv, W ``[O, C / g, k...]``.

    One group: W's columns die with x's channels. Depthwise (``C / g = 1``): W's output ``o`` dies
    with input ``o // m``. In between: x's channels are a grid of g rows and C / g columns; W's
    columns are the grid's, and W's outputs are the same g rows of O / g channels.
    """
    _convolve(site, bias=2)


def deform_conv(site: Site) -> None:
    """DeformConv: a Conv; offsets and mask are the same for all channels."""
    if int(site.node.attrs.get("offset_group", 1)) != 1:
        raise Refused("offsets of their own for groups of channels")
    for index in (2, 4):
        if site.has(index):
            site.freeze(site.dims(index), "holds offsets")
    _convolve(site, bias=3)


def _convolve(site: Site, *, bias: int) -> None:
    w = site.dims(1)
    x = _images(site, w)
    spatial = _spatial(site, x, w)
    groups = int(site.node.attrs.get("group", 1))
    channels, outputs = x[1], w[0]
    if groups == 1:
        site.unify(channels, w[1])
        site.role(1, 1, "consumer")
    elif channels.size is None or outputs.size is None or outputs.size % groups:
        raise Refused(f"{groups} groups of an unknown or uneven number of channels")
    elif channels.size == groups:
        m = outputs.size // groups
        site.unify(outputs, site.space.repeat(channels, m))
        _set_group(site, channels)
    else:
        rows, columns = site.space.split(
            channels, [groups, channels.size // groups], f"{site.why}: {groups} groups"
        )
        mine, _ = site.space.split(outputs, [groups, outputs.size // groups], site.why)
        site.unify(columns, w[1])
        site.unify(rows, mine)
        site.role(1, 1, "consumer")
        _set_group(site, rows)
    site.role(1, 0, "producer")
    site.tie(bias, [outputs])
    site.out([x[0], outputs, *spatial])


def conv_transpose(site: Site) -> None:
    """ConvTranspose, W ``[C, O / g, k...]``; the outputs are g rows of O / g channels."""
    w = site.dims(1)
    x = _images(site, w)
    spatial = _spatial(site, x, w)
    groups = int(site.node.attrs.get("group", 1))
    channels = x[1]
    site.unify(channels, w[0])
    if groups == 1:
        site.role(1, 0, "consumer")
        outputs = w[1]
    else:
        if channels.size is None or channels.size % groups:
            raise Refused(f"{groups} groups of an unknown or uneven number of channels")
        if channels.size == groups:
            rows = channels
        else:
            rows, _ = site.space.split(
                channels, [groups, channels.size // groups], f"{site.why}: {groups} groups"
            )
        outputs = site.space.merge([rows, w[1]], site.why)
        site.role(1, 0, "producer" if w[1].size == 1 else "consumer")
        _set_group(site, rows)
    site.role(1, 1, "producer")
    site.tie(2, [outputs])
    site.out([x[0], outputs, *spatial])


def gemm(site: Site) -> None:
    """Gemm ``alpha A' B' + beta C`` with ``A' [M, K]``, ``B' [K, N]``."""
    a, b = site.dims(0), site.dims(1)
    if len(a) != 2 or len(b) != 2:
        raise Refused("its inputs are not matrices")
    swap_a, swap_b = bool(site.node.attrs.get("transA", 0)), bool(site.node.attrs.get("transB", 0))
    rows, inner = a[::-1] if swap_a else a
    inner_b, columns = b[::-1] if swap_b else b
    site.unify(inner, inner_b)
    if constant(site.node.inputs[1]) is not None:
        site.role(1, int(swap_b), "consumer")
        site.role(1, 1 - int(swap_b), "producer")
    if constant(site.node.inputs[0]) is not None:
        site.role(0, 1 - int(swap_a), "consumer")
        site.role(0, int(swap_a), "producer")
    if site.has(2):
        _bias(site, [rows, columns])
    site.out([rows, columns])


def _bias(site: Site, out: list[Dim]) -> None:
    shape = site.node.inputs[2].shape
    if shape is None:
        raise Refused("a bias of unknown rank")
    tail = out[len(out) - len(shape) :] if len(shape) else []
    site.tie(2, [Dim(1) if n == 1 else d for d, n in zip(tail, shape, strict=True)])


def matmul(site: Site) -> None:
    """MatMul: the inner dimensions die together, so do batch dimensions of equal size."""
    a, b = site.dims(0), site.dims(1)
    if not a or not b:
        raise Refused("a scalar input")
    site.unify(a[-1], b[-2] if len(b) > 1 else b[0])
    batch = _batch(site, a[:-2], b[:-2])
    if constant(site.node.inputs[1]) is not None:
        site.role(1, max(len(b) - 2, 0), "consumer")
        if len(b) > 1:
            site.role(1, len(b) - 1, "producer")
    if constant(site.node.inputs[0]) is not None:
        site.role(0, len(a) - 1, "consumer")
        if len(a) > 1:
            site.role(0, len(a) - 2, "producer")
    site.out([*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else [])])


def _batch(site: Site, a: list[Dim], b: list[Dim]) -> list[Dim]:
    rank = max(len(a), len(b))
    out: list[Dim] = []
    for back in range(rank, 0, -1):
        pair = [d[-back] for d in (a, b) if len(d) >= back]
        wide = [d for d in pair if d.size != 1]
        for other in wide[1:]:
            site.unify(wide[0], other)
        out.append(wide[0] if wide else pair[0])
    return out
