"""The layers whose multiply-accumulates count, each as a product of sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.channels.allocation.extents import Extents
from graphopt.channels.allocation.tally import Product
from graphopt.graph import is_op
from graphopt.model import Model
from graphopt.profiles.roofline.layers import MACS, Factors, mac_factors


@dataclass(frozen=True, slots=True)
class Layer:
    """One Conv, ConvTranspose, Gemm or MatMul.

    Attributes:
        name: the node.
        macs: whose product is its multiply-accumulates, as :func:`graphopt.cost.cost` counts them:
            numbers of extents.
    """

    name: str
    macs: Factors


def layers_of(extents: Extents, model: Model) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return the layers in graph order, and the names of those whose shapes are not known.

    Args:
        extents: of the model; grows.
        model: the same, with static shapes.
    """
    found: list[Layer] = []
    unknown: list[str] = []
    for node in model.graph.nodes:
        if is_op(node, *MACS):
            given = extents.of_read(node.name, 0, node.inputs[0])
            weight = extents.of_read(node.name, 1, node.inputs[1])
            macs = mac_factors(node, given, weight, extents.of_written(node.outputs[0]))
            if macs is None:
                unknown.append(node.name)
            else:
                found.append(Layer(node.name, macs))
    return tuple(found), tuple(unknown)


def product(extents: Extents, numbers: Iterable[int]) -> Product:
    """Return the product of extents, what no plan changes taken together."""
    factor, changing = 1, []
    for index in numbers:
        if extents.table[index].parts:
            changing.append(index)
        else:
            factor *= extents.table[index].size
    return Product(factor, tuple(changing))
