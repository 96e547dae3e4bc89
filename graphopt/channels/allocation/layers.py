"""The layers whose multiply-accumulates count, each as a product of sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphopt.channels.allocation.extents import Extents
from graphopt.channels.allocation.tally import Product
from graphopt.cost import with_input_shapes
from graphopt.graph import Node, is_op
from graphopt.model import Model

OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Factors:
    """Sizes to be multiplied.

    Attributes:
        extents: by number.
        channels: places in ``extents`` of what a device pads to its channel multiple.
    """

    extents: tuple[int, ...]
    channels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """One Conv, ConvTranspose, Gemm or MatMul.

    Attributes:
        name: the node.
        macs: whose product is its multiply-accumulates, as :func:`graphopt.cost.cost` counts them.
        moved: whose products are the elements of each tensor it reads or writes.
    """

    name: str
    macs: Factors
    moved: tuple[Factors, ...]


def layers_of(
    extents: Extents, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return the layers in graph order, and the names of those whose shapes are not known.

    Args:
        extents: of the model; grows.
        shapes: input name -> shape, for inputs with open dimensions; one still open counts as 1.
    """
    model = with_input_shapes(Model(extents.trace.graph), shapes)
    found: list[Layer] = []
    unknown: list[str] = []
    for node in model.graph.nodes:
        if is_op(node, *OPS):
            layer = _layer(extents, node)
            if layer is None:
                unknown.append(node.name)
            else:
                found.append(layer)
    return tuple(found), tuple(unknown)


def _layer(extents: Extents, node: Node) -> Layer | None:
    """Return a layer, or None if shapes are unknown that its cost depends on."""
    given = extents.of_read(node.name, 0, node.inputs[0])
    weight = extents.of_read(node.name, 1, node.inputs[1])
    out = extents.of_written(node.outputs[0])
    if weight is None or (out if node.op == "Conv" else given) is None:
        return None
    if node.op in ("Conv", "ConvTranspose"):
        # Layouts pad the channels of a tensor; the columns of a group are no dimension of one.
        grouped = int(node.attrs.get("group", 1)) > 1
        rows = out if node.op == "Conv" else given
        assert rows is not None
        macs = Factors((*rows, *weight[1:]), (1,) if grouped else (1, len(rows)))
        filters = Factors(tuple(weight), (0,) if grouped else (0, 1))
        moved = [Factors(tuple(t), (1,)) for t in (given, out) if t is not None]
        return Layer(node.name, macs, (*moved, filters))
    if out is None:
        return None
    assert given is not None
    inner = 0 if node.op == "Gemm" and node.attrs.get("transA", 0) else len(given) - 1
    # A product with a vector has no columns.
    columns = (len(out) - 1,) if out and len(weight) > 1 else ()
    macs = Factors((*out, given[inner]), (*columns, len(out)))
    last = tuple(range(len(weight)))[-2:]
    moved = [Factors(tuple(given), (inner,)), Factors(tuple(weight), last)]
    return Layer(node.name, macs, (*moved, Factors(tuple(out), columns)))


def product(extents: Extents, numbers: Iterable[int]) -> Product:
    """Return the product of extents, what no plan changes taken together."""
    factor, changing = 1, []
    for index in numbers:
        if extents.table[index].parts:
            changing.append(index)
        else:
            factor *= extents.table[index].size
    return Product(factor, tuple(changing))
