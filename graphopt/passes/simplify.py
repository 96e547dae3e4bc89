"""Fold constants and shape arithmetic, take out nodes that do nothing and nodes nobody reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.graph import Graph, is_op, remove_dead
from graphopt.model import Model
from graphopt.passes.base import Change, Pass, Skip
from graphopt.passes.folding import fold_constants
from graphopt.passes.noops import bypass, source
from graphopt.passes.shapes import fold_shapes
from graphopt.passes.through_proto import inline_functions
from graphopt.reader import elem_type_of


@dataclass(frozen=True)
class Simplify(Pass):
    """Bring a model, as exporters leave it, down to the operators that do its work.

    Local functions are replaced by their bodies. Then, until nothing changes: constants are
    folded, shape arithmetic is worked out where dimensions are static (and Reshape targets get a
    0 or -1 for the one that is not), Identity, Dropout (inference), Cast to the same type, Reshape
    to the same shape, Transpose, Pad, Slice, Expand, x + 0, x * 1 … that change nothing are
    bypassed, and what no output depends on is removed.

    Names of graph inputs and outputs stay, bodies of If, Loop and Scan stay as they are, random
    operators, custom operators and Q/DQ are not folded. Outputs stay bit for bit what they were,
    but for the sign of zeros (-0 + 0 is 0).

    Attributes:
        largest: bytes of the largest constant that folding may make out of smaller ones.
    """

    largest: int = 16 << 20
    name: ClassVar[str] = "simplify"

    def edit(self, model: Model) -> Iterator[Change | Skip]:
        """Run every rule until none applies."""
        if model.metadata.functions:
            yield from inline_functions(model)
        skips: dict[str, Skip] = {}
        yield from _remove_dead(model.graph)
        changed = True
        while changed:
            changed = False
            for event in self._round(model):
                if isinstance(event, Skip):
                    skips[event.where] = event
                else:
                    changed = True
                    yield event
            if changed:
                model.infer_shapes()
        alive = {node.name for node in model.graph.nodes}
        yield from (skip for where, skip in skips.items() if where in alive)

    def _round(self, model: Model) -> Iterator[Change | Skip]:
        yield from _know_cast_targets(model.graph)
        yield from fold_constants(model, self.largest)
        yield from fold_shapes(model.graph)
        yield from _bypass_noops(model.graph)
        yield from _remove_dead(model.graph)


def _know_cast_targets(graph: Graph) -> Iterator[Change]:
    """CastLike reads a tensor for its type alone: say the type instead."""
    for node in graph.nodes:
        if is_op(node, "CastLike") and node.inputs[1].dtype is not None:
            like = node.inputs[1]
            node.op = "Cast"
            node.attrs["to"] = elem_type_of(like.dtype)
            node.inputs = [node.inputs[0]]
            yield Change("rewritten", node.name, f"CastLike to Cast, to {np.dtype(like.dtype)}")


def _bypass_noops(graph: Graph) -> Iterator[Change | Skip]:
    gone: set[int] = set()
    bodies = list(graph.subgraphs(recursive=True))
    for node in graph.nodes:
        tensor = source(graph, node)
        if tensor is not None and bypass(graph, node, tensor, bodies):
            gone.add(id(node))
            yield Change("removed-noop", node.name, f"{node.op} that changes nothing")
        elif is_op(node, "Dropout") and tensor is None:
            yield Skip(node.name, "Dropout in training mode, or its mask is read")
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def _remove_dead(graph: Graph) -> Iterator[Change]:
    for node in remove_dead(graph):
        yield Change("removed-dead", node.name, f"{node.op} that no output depends on")
