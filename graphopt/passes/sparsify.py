"""Set the least weights to zero, by magnitude: no data needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.graph import Array, constant, consumers, is_constant, replace_input
from graphopt.model import Model
from graphopt.passes.base import Change, Pass, Skip
from graphopt.passes.sparsity import Sparsity, candidates, least_masked, parse_sparsity
from graphopt.statistics.layers import Layer


@dataclass(frozen=True, slots=True)
class Sparsify(Pass):
    """Magnitude pruning of single weights: in each layer those nearest zero become zero.

    Han et al., *Learning both Weights and Connections for Efficient Neural Networks*, NeurIPS 2015
    (arXiv:1506.02626); for 2:4, Mishra et al., *Accelerating Sparse Deep Neural Networks*
    (arXiv:2104.08378). With samples :func:`graphopt.recovery.weights.sparsify` chooses better.

    Attributes:
        sparsity: ``2:4``, or the share of each layer's weights that becomes zero.
        keep: ``fnmatch`` patterns of nodes and weights to leave alone.
    """

    name: ClassVar[str] = "sparsify"

    sparsity: str | float = "2:4"
    keep: tuple[str, ...] = ()

    def edit(self, model: Model) -> Iterator[Change | Skip]:
        """Set weights to zero in place.

        Raises:
            UsageError: the sparsity is no pattern.
        """
        sparsity = parse_sparsity(self.sparsity)
        found = candidates(model, sparsity, self.keep)
        yield from cut_by_magnitude(model, sparsity, found.layers)
        yield from found.skipped


def cut_by_magnitude(model: Model, sparsity: Sparsity, layers: Iterable[Layer]) -> Iterator[Change]:
    """Set the least weights of these layers to zero, in place; shared weights stay shared."""
    nodes = {node.name: node for node in model.graph.nodes}
    done: set[str] = set()
    for layer in layers:
        node = nodes[layer.node]
        old = constant(node.inputs[1])
        if layer.weight in done or old is None:
            continue
        done.add(layer.weight)
        mask = least_masked(np.abs(layer.matrix(old, node)), layer, sparsity)
        kept = layer.weight_of(mask.astype(np.float64), old, node) != 0
        new = np.where(kept, old, np.zeros((), dtype=old.dtype))
        tensor = node.inputs[1]
        if is_constant(tensor):
            tensor.values = new
        else:
            fresh = gs.Constant(f"{layer.weight}_sparse", new)
            for other in consumers(tensor):
                replace_input(other, 1, fresh)
        yield sparsified(layer.node, new)


def sparsified(node: str, weight: Array) -> Change:
    """Say how many weights of a layer are zero now."""
    zeros = int(np.count_nonzero(weight == 0))
    return Change("sparsified", node, f"{zeros:,} of {weight.size:,} weights are zero")
