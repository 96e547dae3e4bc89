"""What comes of choosing weights anew: a model, and the codes its weights are to be written as."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from graphopt.dialects.codes import Codes
from graphopt.graph import Array, Names, Node, constant
from graphopt.model import Model
from graphopt.passes.base import Skip
from graphopt.recovery.sequential import Solved
from graphopt.statistics.layers import Layer, bias_of, layer_of, set_weights


@dataclass(frozen=True, slots=True)
class Refined:
    """A model with the codes of its weights.

    Attributes:
        model: biases corrected; where there are codes, its weights are what these stand for.
        codes: node label -> how its weight is rounded; for :class:`InsertQDQ`.
        solved: for each layer rounded, the relative squared error that rounding makes in its
            output: ``before`` to nearest, ``after`` as chosen.
        skipped: the layers rounded to nearest, and why.
    """

    model: Model
    codes: Codes = field(default_factory=dict)
    solved: tuple[Solved, ...] = ()
    skipped: tuple[Skip, ...] = ()

    def without(self, original: Model, nodes: Collection[str]) -> Refined:
        """Return the same with some layers as they were: for those that stay float after all.

        Args:
            original: the model that was refined.
            nodes: labels of nodes; those whose weight and bias were left are left.
        """
        gone = set(nodes)
        model = self.model.clone()
        names, now = Names(model.graph), {n.name: n for n in model.graph.nodes}
        then = {n.name: n for n in original.graph.nodes}
        for node in original.graph.nodes:
            layer = layer_of(original.graph, node) if node.name in gone else None
            if layer is None:
                continue
            matrix, bias = _matrix(layer, node), bias_of(layer, then)
            changed = not np.array_equal(matrix, _matrix(layer, now[node.name]))
            if changed or not np.array_equal(bias, bias_of(layer, now)):
                set_weights(model, layer, matrix, bias, now, names)
        codes = {name: codes for name, codes in self.codes.items() if name not in gone}
        solved = tuple(x for x in self.solved if x.node not in gone)
        return Refined(model, codes, solved, self.skipped)


def _matrix(layer: Layer, node: Node) -> Array:
    weight = constant(node.inputs[1])
    assert weight is not None
    return layer.matrix(weight, node)
