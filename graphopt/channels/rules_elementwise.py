"""Operators that work on each element by itself, with broadcasting.

A dead channel need not hold zeros here: it is masked where channels are summed over.
"""

from __future__ import annotations

from graphopt.channels.dims import Dim
from graphopt.channels.trace import Refused, Site
from graphopt.graph import Tensor, constant


def unary(site: Site) -> None:
    """``y = f(x)``, the same dimensions; further inputs (Clip's bounds) are scalars."""
    dims = site.dims(0)
    for tensor in site.node.inputs[1:]:
        if not tensor.is_empty() and tensor.shape is not None and len(tensor.shape) > 0:
            _require_scalar(tensor)
    site.out(dims)


def with_bias(site: Site) -> None:
    """``y = f(x + b)`` with b along the last axis."""
    dims = site.dims(0)
    site.tie(1, dims[-1:])
    site.out(dims)


def like(site: Site) -> None:
    """CastLike: the second input gives a dtype only."""
    site.out(site.dims(0))


def dropout(site: Site) -> None:
    """Dropout: the mask has the dimensions of the data."""
    dims = site.dims(0)
    site.out(dims)
    site.out(dims, 1)


def broadcast(site: Site) -> None:
    """Add, Mul, Where, PRelu ...: equal dimensions die together, size one stays untied."""
    inputs = [i for i in range(len(site.node.inputs)) if site.has(i)]
    dynamic = {i: site.dims(i) for i in inputs if constant(site.node.inputs[i]) is None}
    fixed = {i: tuple(site.node.inputs[i].shape) for i in inputs if i not in dynamic}
    ranks = [len(d) for d in dynamic.values()] + [len(s) for s in fixed.values()]
    rank = max(ranks, default=0)
    joined = [_join(site, dynamic, fixed, back) for back in range(rank, 0, -1)]
    for i, shape in fixed.items():
        tail = joined[rank - len(shape) :] if shape else []
        site.tie(i, [d if n == d.size else Dim(n) for d, n in zip(tail, shape, strict=True)])
    site.out(joined)


def _join(
    site: Site, dynamic: dict[int, list[Dim]], fixed: dict[int, tuple[int, ...]], back: int
) -> Dim:
    """Return output dimension ``-back``, with everything of its size made to die together."""
    dims = [d[-back] for d in dynamic.values() if len(d) >= back]
    wide = [d for d in dims if d.size != 1]
    sizes = {shape[-back] for shape in fixed.values() if len(shape) >= back} - {1}
    if not wide:
        if sizes:  # Only constants have it: a dimension of its own.
            return site.space.fresh(int(max(sizes)))
        return dims[0] if dims else Dim(1, (), site.why)
    first, *rest = sorted(wide, key=lambda d: not d.slots)
    for other in rest:
        site.unify(first, other)
    if sizes and first.size not in sizes:  # Of unknown size: it may be one, and be broadcast.
        site.freeze([first], "joined with a dimension of unknown size")
        return Dim(int(max(sizes)), (), site.why)
    return first


def quantize(site: Site) -> None:
    """QuantizeLinear, DequantizeLinear: scale and zero point run along one axis, or are scalars."""
    dims = site.dims(0)
    if site.node.attrs.get("block_size"):
        raise Refused("blocked quantization ties neighbouring channels")
    axis = site.axis(len(dims), 1) if len(dims) > 1 else 0
    for index in (1, 2):
        if not site.has(index):
            continue
        shape = site.node.inputs[index].shape
        if shape is None:
            raise Refused("a scale of unknown rank")
        if len(shape) == 1 and shape[0] == dims[axis].size and shape[0] != 1:
            site.tie(index, [dims[axis]])
        elif len(shape) > 1:
            raise Refused("a scale of more than one dimension")
    site.out(dims)


def _require_scalar(tensor: Tensor) -> None:
    if any(n != 1 for n in tensor.shape):
        raise Refused(f"'{tensor.name}' is not a scalar")
