"""Which layers no longer see what they saw, and what each should give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.graph import Array, Tensor, captured, constant, is_op
from graphopt.model import Model
from graphopt.statistics.layers import Layer, layers, shortcut_of, sole_reader

Masks: TypeAlias = "Sequence[npt.NDArray[np.bool_] | None]"
Kept: TypeAlias = "Mapping[str, Masks]"
"""Tensor name -> per axis which indices of the original are left; None where all are."""


@dataclass(frozen=True, slots=True)
class Target:
    """A layer, and the tensors that say what it should give.

    Attributes:
        layer: of the model that is being recovered.
        shortcut: what is added to the layer's output right behind it, or None.
        rectified: whether a Relu, and nothing else, reads the sum.
        rectified_alone: the same of the layer's output itself.
    """

    layer: Layer
    shortcut: str | None
    rectified: bool
    rectified_alone: bool


def targets(original: Model, model: Model, kept: Kept) -> list[Target]:
    """Return the layers to solve, in graph order.

    A layer is solved if its input, or anything its input depends on, lost channels, and if the
    original has a tensor of the name of its output to learn from. Layers that share a weight are
    left out: solving one would give it a weight of its own.
    """
    changed = downstream(model, {n for n, masks in kept.items() if _lost(masks)})
    known = set(original.graph.tensors())
    readers = Counter(
        t.name for n in model.graph.nodes for t in n.inputs if constant(t) is not None
    )
    return [
        target_of(model, layer, known)
        for layer in layers(model)
        if layer.input in changed and layer.output in known and readers[layer.weight] == 1
    ]


def target_of(model: Model, layer: Layer, known: set[str]) -> Target:
    """Return a layer with its shortcut, if the original has a tensor of its name."""
    tensors = model.graph.tensors()
    out = tensors[layer.output]
    alone = _rectified(model, out)
    found = shortcut_of(model.graph, out)
    if found is None or found[1].name not in known:
        return Target(layer, None, alone, alone)
    return Target(layer, found[1].name, _rectified(model, found[0].outputs[0]), alone)


def restrict(array: Array, masks: Masks | None) -> Array:
    """Return what is left of an original tensor."""
    for axis, mask in enumerate(masks or ()):
        if mask is not None:
            array = np.compress(mask, array, axis=axis)
    return array


def downstream(model: Model, tensors: Collection[str], nodes: Collection[str] = ()) -> set[str]:
    """Return these tensors, what these nodes write, and all that depends on one of them."""
    found = set(tensors)
    for node in model.graph.nodes:
        reads = [*node.inputs, *captured(node)]
        if node.name in nodes or any(t.name in found for t in reads):
            found.update(t.name for t in node.outputs if t.name)
    return found


def _lost(masks: Masks) -> bool:
    return any(mask is not None for mask in masks)


def _rectified(model: Model, tensor: Tensor) -> bool:
    node = sole_reader(model.graph, tensor)
    return node is not None and is_op(node, "Relu")
