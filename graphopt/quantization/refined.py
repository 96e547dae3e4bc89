"""What comes of choosing weights anew: a model, and the codes its weights are to be written as."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from graphopt.dialects.codes import Codes
from graphopt.graph import Names, constant
from graphopt.model import Model
from graphopt.passes.base import Skip
from graphopt.recovery.sequential import Solved
from graphopt.statistics.layers import bias_of, layer_of, set_weights


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
            nodes: labels of nodes; those without codes are left out.
        """
        gone = [name for name in self.codes if name in set(nodes)]
        model = self.model.clone()
        names, now = Names(model.graph), {n.name: n for n in model.graph.nodes}
        then = {n.name: n for n in original.graph.nodes}
        for name in gone:
            layer = layer_of(original.graph, then[name])
            assert layer is not None
            weight = constant(then[name].inputs[1])
            assert weight is not None
            matrix = layer.matrix(weight, then[name])
            set_weights(model, layer, matrix, bias_of(layer, then), now, names)
        codes = {name: codes for name, codes in self.codes.items() if name not in gone}
        solved = tuple(x for x in self.solved if x.node not in gone)
        return Refined(model, codes, solved, self.skipped)
