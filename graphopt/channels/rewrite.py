"""The hands of ``apply_plan``: what survives of a dimension, and how nodes are given new inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphopt.channels.dims import Dim, Space
from graphopt.graph import Array, Graph, Names, Node, Tensor, replace_input


@dataclass(slots=True)
class Rewriter:
    """Given to the rewrites that rules registered.

    Attributes:
        graph: the graph, edited in place.
        space: the algebra the dimensions belong to.
        dead: the roots that are removed.
        names: gives out names that are free in the graph.
    """

    graph: Graph
    space: Space
    dead: frozenset[int]
    names: Names
    _masks: dict[int, npt.NDArray[np.bool_] | None] = field(default_factory=dict)

    def mask(self, dim: Dim) -> npt.NDArray[np.bool_] | None:
        """Return which indices survive, or None if all do."""
        if not dim.slots:
            return None
        if id(dim) not in self._masks:
            self._masks[id(dim)] = self.space.kept(dim, self.dead)
        return self._masks[id(dim)]

    def changed(self, *dims: Dim) -> bool:
        """Whether any of the dimensions loses something."""
        return any(self.mask(dim) is not None for dim in dims)

    def alive(self, dim: Dim) -> npt.NDArray[np.bool_]:
        """Return which indices survive, as an array even if all do. The size must be known."""
        mask = self.mask(dim)
        return np.ones(dim.size or 0, dtype=bool) if mask is None else mask

    def count(self, dim: Dim) -> int | None:
        """Return how many indices survive, or None if the size is unknown."""
        mask = self.mask(dim)
        return dim.size if mask is None else int(mask.sum())

    def set_constant(self, node: Node, index: int, values: Array, base: str) -> None:
        """Give an input of the node a new initializer; missing inputs before it become empty."""
        self.set_input(node, index, gs.Constant(self.names.fresh(base), np.asarray(values)))

    def set_input(self, node: Node, index: int, tensor: Tensor) -> None:
        """Make an input of the node read ``tensor``."""
        while len(node.inputs) <= index:
            node.inputs.append(gs.Variable.empty())
        replace_input(node, index, tensor)

    def insert_before(self, node: Node, op: str, **attrs: object) -> Node:
        """Put a one-output node between ``node`` and what it reads first."""
        inside = node.inputs[0]
        result = gs.Variable(self.names.fresh(f"{inside.name}_{op.lower()}"), dtype=inside.dtype)
        name = self.names.fresh(f"{node.name or node.outputs[0].name}_{op.lower()}")
        before = gs.Node(op, name, attrs=dict(attrs), inputs=[inside], outputs=[result])
        node.inputs[0] = result
        self.graph.nodes.insert(self._place(node), before)
        return before

    def _place(self, node: Node) -> int:
        # list.index would compare by content.
        return next(i for i, other in enumerate(self.graph.nodes) if other is node)

    def insert_after(self, node: Node, op: str, **attrs: object) -> Node:
        """Put a one-output node between ``node`` and everyone who reads its first output.

        The new node writes the tensor that ``node`` wrote, so a graph output keeps its name.
        """
        outside = node.outputs[0]
        inside = gs.Variable(self.names.fresh(f"{outside.name}_whole"), dtype=outside.dtype)
        node.outputs[0] = inside
        name = self.names.fresh(f"{node.name or outside.name}_{op.lower()}")
        after = gs.Node(op, name, attrs=dict(attrs), inputs=[inside], outputs=[outside])
        self.graph.nodes.insert(self._place(node) + 1, after)
        return after
