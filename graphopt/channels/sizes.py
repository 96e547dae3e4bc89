"""Tensors that hold sizes: where each number comes from, and inputs kept in step with pruning.

Exporters write shapes as programs (Shape, Gather, Mul, Concat, Reshape). What such a program
computes changes by itself when channels go; so each number is followed back to the dimensions it
was read from. A number that ends up as a size that pruning knows about is overridden there; one
that ends up anywhere else freezes the dimensions it was read from, and only those: the usual
program that reads batch, height and width freezes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.channels.dims import Dim
from graphopt.channels.rewrite import Rewriter
from graphopt.channels.trace import Element, Refused, Site, untracked
from graphopt.graph import Array, constant, is_op

_SAME = ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten")
_ROUNDING = ("Abs", "Ceil", "Floor", "Neg", "Not", "Round", "Sqrt")
_COMPARISON = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Where")
_ARITHMETIC = ("Add", "Div", "Max", "Min", "Mod", "Mul", "Sub")
_LIMIT = 256


def propagate(site: Site) -> bool:
    """Follow sizes through the node; False if it is no part of a program that computes them."""
    node = site.node
    if is_op(node, "Shape", "Size"):
        found: tuple[Element, ...] | None = _read_shape(site)
    elif any(t.name in site.trace.elements for t in node.inputs if not t.is_empty()):
        found = _follow(site)
    else:
        return False
    if found is None or len(found) > _LIMIT:
        return False
    out = node.outputs[0]
    site.trace.elements[out.name] = found
    site.trace.dims[out.name] = untracked(out, site.why)
    return True


def _read_shape(site: Site) -> tuple[Element, ...]:
    dims = site.dims(0)
    if site.node.op == "Size":
        return (Element(tuple(dims)),)
    start = int(site.node.attrs.get("start", 0))
    end = site.node.attrs.get("end")
    return tuple(Element((d,), exact=True) for d in dims[start : None if end is None else int(end)])


def _elements(site: Site, index: int) -> tuple[Element, ...] | None:
    """Return the elements of an input; those of a constant come from nowhere."""
    tensor = site.node.inputs[index]
    if tensor.name in site.trace.elements:
        return site.trace.elements[tensor.name]
    if (value := constant(tensor)) is not None:
        return (Element(),) * min(int(value.size), _LIMIT + 1)
    shape = tensor.shape
    if shape is None or len(shape) > 1 or not all(isinstance(n, int) for n in shape):
        return None
    return (Element(),) * int(np.prod(shape, dtype=np.int64))


def _follow(site: Site) -> tuple[Element, ...] | None:
    node = site.node
    if is_op(node, *_SAME):
        return _elements(site, 0)
    if is_op(node, "Expand") and (shape := site.value(1)) is not None and (shape == 1).all():
        return _elements(site, 0)
    if is_op(node, *_ARITHMETIC, *_ROUNDING, *_COMPARISON):
        return _combine([_elements(site, i) for i in range(len(node.inputs))])
    if is_op(node, "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"):
        found = _elements(site, 0)
        return None if found is None else (Element(_all_dims(found)),)
    flat = all(t.shape is not None and len(t.shape) <= 1 for t in node.inputs)
    if is_op(node, "Concat") and flat:
        parts = [_elements(site, i) for i in range(len(node.inputs))]
        return None if None in parts else tuple(e for part in parts for e in part or ())
    found = _elements(site, 0)
    rank = node.inputs[0].shape
    if found is None or rank is None or len(rank) != 1:
        return None
    if is_op(node, "Gather") and (indices := site.value(1)) is not None:
        return tuple(found[int(i)] for i in indices.reshape(-1))
    if is_op(node, "Slice"):
        return _sliced(site, found)
    return None


def _sliced(site: Site, found: tuple[Element, ...]) -> tuple[Element, ...] | None:
    starts, ends = site.ints("starts", 1), site.ints("ends", 2)
    steps = site.ints("steps", 4) or [1]
    if not starts or not ends or len(starts) != 1:
        return None
    return found[starts[0] : ends[0] : steps[0]]


def _all_dims(elements: Sequence[Element]) -> tuple[Dim, ...]:
    return tuple({id(d): d for e in elements for d in e.dims}.values())


def _combine(inputs: list[tuple[Element, ...] | None]) -> tuple[Element, ...] | None:
    known = [part for part in inputs if part is not None]
    if len(known) != len(inputs) or not known:
        return None
    size = max(len(part) for part in known)
    if any(len(part) not in (1, size) for part in known):
        return None
    return tuple(Element(_all_dims([part[i % len(part)] for part in known])) for i in range(size))


def freeze_read_sizes(site: Site, index: int) -> None:
    """Freeze what an input of sizes was read from: the node's rule does not look at it."""
    for element in site.elements(index) or ():
        site.freeze(element.dims, "reads its size")


def follow_sizes(site: Site, index: int, dims: Sequence[Dim]) -> None:
    """Keep an input that spells out the sizes of ``dims`` in step with what is removed.

    Raises:
        Refused: it is computed, and this opset has no Where to override it with.
    """
    elements = site.elements(index) or (Element(),) * len(dims)
    if len(elements) != len(dims):
        raise Refused("an input of sizes of another length")
    if site.value(index) is None and site.opset < 9 and any(d.slots for d in dims):
        raise Refused("its sizes are computed (and opset < 9)")
    for dim, element in zip(dims, elements, strict=True):
        if not dim.slots:
            site.freeze(element.dims, "reads its size")

    def rewrite(to: Rewriter) -> None:
        counts = [
            to.count(d) if d.slots and to.changed(d, *e.dims) else None
            for d, e in zip(dims, elements, strict=True)
        ]
        if any(c is not None for c in counts):
            _override(site, to, index, counts)

    site.on_apply(rewrite)


def _override(site: Site, to: Rewriter, index: int, counts: list[int | None]) -> None:
    base = f"{site.node.name or site.node.outputs[0].name}_sizes"
    value = site.value(index)
    if value is not None:
        to.set_constant(site.node, index, _written(value, counts), base)
        return
    mask = np.array([c is not None for c in counts])
    literal = np.array([c or 0 for c in counts], dtype=np.int64)
    result = gs.Variable(to.names.fresh(base), dtype=np.int64, shape=[len(counts)])
    node = gs.Node(
        "Where",
        to.names.fresh(f"{base}_where"),
        inputs=[
            gs.Constant(to.names.fresh(f"{base}_pruned"), mask),
            gs.Constant(to.names.fresh(f"{base}_counts"), literal),
            site.node.inputs[index],
        ],
        outputs=[result],
    )
    place = next(i for i, other in enumerate(to.graph.nodes) if other is site.node)
    to.graph.nodes.insert(place, node)
    to.set_input(site.node, index, result)


def _written(value: Array, counts: list[int | None]) -> Array:
    """Return the sizes with the counts written in; -1 (whatever is left) stays."""
    flat = [
        int(v) if c is None or int(v) == -1 else c
        for v, c in zip(value.reshape(-1), counts, strict=True)
    ]
    return np.array(flat, dtype=value.dtype)
