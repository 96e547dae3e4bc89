"""Where the ``tensorrt`` dialect puts Q/DQ: which inputs, and which tensors share a scale."""

from __future__ import annotations

from graphopt.dialects.attention import Attention, find_attention, refusal
from graphopt.dialects.heads import HeadRules, find_heads, is_dynamic, label
from graphopt.dialects.partition import ADDS, Partitions, copy_root, is_copy
from graphopt.dialects.scales import Groups
from graphopt.dialects.untouched import left_alone
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
from graphopt.passes.base import Skip

# They run in int8 when a neighbour does, so that int8 flows through them; they win nothing alone.
CARRIERS = ("AveragePool", "GlobalAveragePool", "Resize")

_IN_FLOAT = (
    "a product inside attention: TensorRT fuses both products and the Softmax in FP16 without "
    "Q/DQ, and INT8 probabilities cost accuracy"
)


class Placement:
    """Which inputs get Q/DQ, and which tensors share a scale."""

    def __init__(
        self, graph: Graph, exclude: frozenset[str], rules: HeadRules, *, attention: bool
    ) -> None:
        self._graph = graph
        self._exclude = exclude
        self.heads, self.skipped = find_heads(graph, exclude, rules)
        self.skipped += left_alone(graph)
        self.partitions = Partitions(graph, self.heads, exclude)
        self.readers: dict[str, list[tuple[Node, int]]] = {}
        self._reads: set[tuple[int, int]] = set()
        for head in self.heads:
            self._add(head.node, 0)
        for residual in self.partitions.residuals:
            self._add(residual.node, residual.index)
        self.attentions = self._attend(asked=attention)
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

    def _attend(self, *, asked: bool) -> list[Attention]:
        """Quantize the attentions that fuse in INT8, where asked; say why the others do not."""
        taken = []
        reasons: dict[str, str] = {}
        for attention in find_attention(self._graph):
            nodes = (attention.scores, attention.context)
            if any(label(node) in self._exclude for node in nodes):
                continue
            reason = self._refused(attention) if asked else _IN_FLOAT
            if reason:
                reasons |= {label(node): f"{node.op}: {reason}" for node in nodes}
                continue
            taken.append(attention)
            for node, index in attention.operands:
                self._add(node, index)
        done = {label(node) for a in taken for node in (a.scores, a.context)}
        self.skipped = [
            Skip(skip.where, reasons.get(skip.where, skip.reason))
            for skip in self.skipped
            if skip.where not in done
        ]
        return taken

    def _refused(self, attention: Attention) -> str | None:
        reason = refusal(attention)
        if reason is None and not all(is_float(node.inputs[i]) for node, i in attention.operands):
            reason = "it does not compute in float32"
        if reason is None and not self._only_int8(attention.context.outputs[0], set()):
            reason = "what reads its result stays in float, and INT8 fuses only up to a Q"
        return None if reason is None else f"attention stays in float: {reason}"

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
                # What has no weight takes int8 in only if it writes int8 (TensorRT, "Q/DQ
                # Layer-Placement Recommendations"): else the DQ in front of it stands alone.
                if all(self._only_int8(t, hopeful) for t in [*_activations(node), *node.outputs])
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
        """Give one scale to what must agree.

        The quantized inputs of a Concat and its quantized output, also where Concats follow each
        other; the two sides of a Resize, which moves values as a copy does.
        """
        groups = Groups()
        quantized = {self.root(t).name for t in self.tensors}
        for tensor in self.tensors:
            root = self.root(tensor)
            for joined in self._concatenated(root):
                if joined in quantized:
                    groups.union(root.name, joined)
        for node in self.carried:
            if node.op == "Resize" and node.outputs[0].name in quantized:
                groups.union(self.root(node.inputs[0]).name, node.outputs[0].name)
        return groups

    def _concatenated(self, root: Tensor) -> list[str]:
        """Return the names of the roots that a Concat, and the Concats before it, put together."""
        found: dict[str, None] = {}
        todo = [root]
        while todo:
            source = producer(todo.pop())
            if source is None or not is_op(source, "Concat") or label(source) in self._exclude:
                continue
            for tensor in source.inputs:
                if is_dynamic(tensor) and (above := self.root(tensor)).name not in found:
                    found[above.name] = None
                    todo.append(above)
        return list(found)


def _activations(node: Node) -> list[Tensor]:
    """The inputs of a carrier that hold activations; the others of a Resize are sizes."""
    return list(node.inputs) if node.op in ADDS else list(node.inputs[:1])
