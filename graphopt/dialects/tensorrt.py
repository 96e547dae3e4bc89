"""The ``tensorrt`` dialect: Q/DQ on inputs only, symmetric int8, for TensorRT's own fusions.

What is written is the common denominator of TensorRT 8.5 to 11 and TensorRT-RTX: three inputs on
every Q and DQ, zero-points 0, positive float32 scales, weights as fp32 -> Q -> DQ with one scale
for each output channel, bias in float32, nothing newer than opset 13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from graphopt.dialects.emit import Writer
from graphopt.dialects.heads import (
    HeadRules,
    describe,
    find_heads,
    is_dynamic,
    label,
    require_per_channel,
    require_unquantized,
)
from graphopt.dialects.partition import ADDS, Partitions, copy_root, is_copy
from graphopt.dialects.scales import Groups, require_ranges, symmetric_scale
from graphopt.graph import (
    Graph,
    Node,
    Tensor,
    consumers,
    feeds_subgraph,
    in_graph_order,
    is_float,
    is_graph_output,
    is_op,
    producer,
)
from graphopt.passes.base import Change, Skip

if TYPE_CHECKING:
    from graphopt.calibrators import CalibrationTable
    from graphopt.dialects.codes import Codes
    from graphopt.model import Model

# They run in int8 when a neighbour does, so that int8 flows through them; they win nothing alone.
CARRIERS = ("AveragePool", "GlobalAveragePool", "Resize")

_RULES = HeadRules(thin=16, narrow=16, gemv=False)


class _Placement:
    """Which inputs get Q/DQ, and which tensors share a scale."""

    def __init__(self, graph: Graph, exclude: frozenset[str], rules: HeadRules) -> None:
        self._graph = graph
        self._exclude = exclude
        self.heads, self.skipped = find_heads(graph, exclude, rules)
        self.partitions = Partitions(graph, self.heads, exclude)
        self.readers: dict[str, list[tuple[Node, int]]] = {}
        self._reads: set[tuple[int, int]] = set()
        for head in self.heads:
            self._add(head.node, 0)
        for residual in self.partitions.residuals:
            self._add(residual.node, residual.index)
        self.carried = self._carry()
        self.skipped += [
            Skip(label(node), f"{node.op}: what it adds is read in float elsewhere too")
            for node in self.partitions.standing
            if not any(node is other for other in self.carried)
        ]
        self.tensors = [t for t in in_graph_order(graph) if t.name in self.readers]
        self.groups = self._share()

    def root(self, tensor: Tensor) -> Tensor:
        """The tensor whose range sets the scale."""
        return copy_root(tensor, self._exclude)

    def wanted(self) -> list[str]:
        """Names of the tensors whose range is needed, in graph order."""
        roots = {self.root(t).name for t in self.tensors}
        return [t.name for t in in_graph_order(self._graph) if t.name in roots]

    def _add(self, node: Node, index: int) -> None:
        if (id(node), index) in self._reads:
            return
        self.readers.setdefault(node.inputs[index].name, []).append((node, index))
        self._reads.add((id(node), index))

    def _carry(self) -> list[Node]:
        """Let pools, Resize and standing Adds join their neighbours, and read int8 only.

        One that would make its input be written in int8 *and* in float stays out, and takes with
        it those that counted on it.
        """
        adds = {id(node) for node in self.partitions.standing}
        carried = [
            node
            for node in self._graph.nodes
            if (is_op(node, *CARRIERS) or id(node) in adds)
            and label(node) not in self._exclude
            and all(is_dynamic(t) and is_float(t) for t in _activations(node))
        ]
        while True:
            hopeful = {id(node) for node in carried}
            able = [
                node
                for node in carried
                if all(self._only_int8(t, hopeful) for t in _activations(node))
            ]
            able = self._connected(able)
            if len(able) == len(carried):
                break
            carried = able
        for node in carried:
            for index, _ in enumerate(_activations(node)):
                self._add(node, index)
        return carried

    def _connected(self, nodes: list[Node]) -> list[Node]:
        """Return those that a chain of neighbours links to a head."""
        joined: set[int] = set()
        while True:
            more = {
                id(node)
                for node in nodes
                if id(node) not in joined
                and (
                    self._only_int8(node.outputs[0], joined, anyone=True)
                    or any(self._comes_from(t, joined) for t in _activations(node))
                )
            }
            if not more:
                return [node for node in nodes if id(node) in joined]
            joined |= more

    def _comes_from(self, tensor: Tensor, joined: set[int]) -> bool:
        source = producer(self.root(tensor))
        return self.partitions.backbone(tensor) is not None or id(source) in joined

    def _only_int8(self, tensor: Tensor, hopeful: set[int], *, anyone: bool = False) -> bool:
        """Whether all readers of a tensor (or any of them) quantize it, looking through copies."""
        if not anyone and (
            is_graph_output(self._graph, tensor) or feeds_subgraph(self._graph, tensor)
        ):
            return False
        verdicts = []
        for node in consumers(tensor):
            if is_copy(node) or is_op(node, "Concat"):
                parts = [self._only_int8(out, hopeful, anyone=anyone) for out in node.outputs]
                verdicts.append(any(parts) if anyone else all(parts))
            else:
                indices = [i for i, t in enumerate(node.inputs) if t is tensor]
                verdicts.append(
                    id(node) in hopeful or all((id(node), i) in self._reads for i in indices)
                )
        return any(verdicts) if anyone else all(verdicts)

    def _share(self) -> Groups:
        """Give the quantized inputs of a Concat and its quantized output one scale."""
        groups = Groups()
        quantized = {self.root(t).name for t in self.tensors}
        for node in self._graph.nodes:
            if not is_op(node, "Concat") or label(node) in self._exclude:
                continue
            if node.outputs[0].name in quantized:
                for tensor in node.inputs:
                    if is_dynamic(tensor) and (root := self.root(tensor).name) in quantized:
                        groups.union(node.outputs[0].name, root)
        return groups


def _activations(node: Node) -> list[Tensor]:
    """The inputs of a carrier that hold activations; the others of a Resize are sizes."""
    return list(node.inputs) if node.op in ADDS else list(node.inputs[:1])


@dataclass(frozen=True, slots=True)
class TensorRT:
    """Q/DQ where TensorRT fuses it: inputs of heads, shortcuts of residual Adds, pools between.

    Attributes:
        rules: where TensorRT's int8 kernels can win.
    """

    name: ClassVar[str] = "tensorrt"
    rules: HeadRules = _RULES

    def wanted(self, model: Model, exclude: frozenset[str], /) -> list[str]:
        """Return the names of the tensors whose range is needed, in graph order.

        Raises:
            UnsupportedModelError: the model is quantized already, or a weight is not finite.
        """
        require_unquantized(model)
        return _Placement(model.graph, exclude, self.rules).wanted()

    def insert(
        self,
        model: Model,
        table: CalibrationTable,
        exclude: frozenset[str],
        codes: Codes,
        /,
    ) -> Iterator[Change | Skip]:
        """Insert Q/DQ in place; yield each node that now runs in int8 and each that does not.

        Raises:
            UnsupportedModelError: the model is quantized already, is of an opset below 13, or a
                weight is not finite.
            UsageError: the table lacks a tensor.
        """
        require_unquantized(model)
        require_per_channel(model)
        place = _Placement(model.graph, exclude, self.rules)
        require_ranges(table.ranges, place.wanted())
        writer = Writer(model.graph)
        members = place.groups.members(place.wanted())
        zero = np.int8(0)
        for tensor in place.tensors:
            key = place.groups.find(place.root(tensor).name)
            amax = max(table.ranges[name].amax for name in members[key])
            scale, zero_point = writer.parameters(key, symmetric_scale(amax), zero)
            writer.rewire(place.readers[tensor.name], writer.pair(tensor, scale, zero_point))
        for head in place.heads:
            head.node.inputs[1] = writer.float_weight(head, codes.get(label(head.node)))
            yield Change("quantized", label(head.node), describe(head))
        for residual in place.partitions.residuals:
            yield Change(
                "quantized",
                label(residual.node),
                f"residual {residual.node.op}: fuses into '{label(residual.head.node)}', "
                f"its input {residual.index} is quantized",
            )
        for node in place.carried:
            yield Change("quantized", label(node), f"{node.op}: int8 flows through")
        yield from place.skipped
