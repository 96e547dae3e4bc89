"""Partitions: what an engine fuses behind one head, and which residual Adds join one.

A partition is a head and the pointwise nodes that follow it; TensorRT runs it as one kernel, so
no Q/DQ goes on an edge inside. The residual rule is the one NVIDIA's own tools follow: a Conv
absorbs the Add behind it if the *other* input of the Add is quantized. Only a convolution has that
fusion: the residual stream of a transformer, which a MatMul adds to, is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.dialects.heads import Head, is_dynamic, label, topological
from graphopt.graph import (
    Graph,
    Node,
    Tensor,
    constant,
    consumers,
    is_float,
    is_graph_output,
    is_op,
    is_standard,
    producer,
    uses,
)

ADDS = ("Add", "Sum")
# The heads whose kernels add a second tensor to their sums.
SUMMING = ("Conv", "ConvTranspose")
# fmt: off
POINTWISE = frozenset({
    "Abs", "Add", "BatchNormalization", "Celu", "Clip", "Div", "Dropout", "Elu", "Erf", "Exp",
    "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg",
    "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt",
    "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu",
})
# fmt: on
# Ops that move values without changing them: Q/DQ may stand before or after them alike.
# fmt: off
COPIES = frozenset({
    "DepthToSpace", "Dropout", "Expand", "Flatten", "Identity", "MaxPool", "Pad", "Reshape",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})
# fmt: on


def is_copy(node: Node) -> bool:
    """Whether every output value of the node is a value of its first input, or zero."""
    if not is_op(node, *COPIES):
        return False
    if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
        if len(node.inputs) > 2 and node.inputs[2].name:
            fill = constant(node.inputs[2])
            return fill is not None and not fill.any()
        return not float(node.attrs.get("value", 0.0))
    return node.op != "Dropout" or _is_inert(node)


def _is_inert(dropout: Node) -> bool:
    """Whether a Dropout passes its data on: nobody trains with it, nobody reads its mask."""
    if len(dropout.inputs) > 2 and dropout.inputs[2].name:
        training = constant(dropout.inputs[2])
        if training is None or training.any():
            return False
    return not any(uses(mask) for mask in dropout.outputs[1:])


def copy_root(tensor: Tensor, exclude: frozenset[str]) -> Tensor:
    """Walk up through copies to the tensor whose values these are."""
    while True:
        source = producer(tensor)
        if source is None or not is_copy(source) or label(source) in exclude:
            return tensor
        above = source.inputs[0]
        if not is_dynamic(above) or (above.dtype is not None and not is_float(above)):
            return tensor
        tensor = above


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """An Add that a head absorbs.

    Attributes:
        node: the Add.
        head: the head whose partition it joins.
        index: which input of the Add gets Q/DQ; the other one comes from the partition.
    """

    node: Node
    head: Head
    index: int


class Partitions:
    """The partitions of a graph, grown behind its heads in topological order.

    Attributes:
        residuals: the Adds that joined a partition, in graph order.
        standing: the Adds behind heads that could join none, in graph order.
    """

    def __init__(self, graph: Graph, heads: list[Head], exclude: frozenset[str]) -> None:
        self.residuals: list[Residual] = []
        self.standing: list[Node] = []
        self._graph = graph
        self._exclude = exclude
        self._order = topological(graph)
        self._summed: set[int] = set()
        self._owner: dict[int, Head] = {id(head.node): head for head in heads}
        for node in graph.nodes:
            if id(node) not in self._owner and is_standard(node) and label(node) not in exclude:
                self._grow(node)

    def owner(self, tensor: Tensor) -> Head | None:
        """Return the head whose partition writes the tensor, or None."""
        source = producer(tensor)
        return None if source is None else self._owner.get(id(source))

    def backbone(self, tensor: Tensor) -> Head | None:
        """Return the head that the tensor's values come from, through copies, or None."""
        return self.owner(copy_root(tensor, self._exclude))

    def _grow(self, node: Node) -> None:
        if node.op not in POINTWISE or (node.op == "Dropout" and not is_copy(node)):
            return
        inputs = [t for t in node.inputs if is_dynamic(t)]
        if not inputs:
            return
        owners = [self.owner(t) for t in inputs]
        first = owners[0]
        if first is not None and all(owner is first for owner in owners):
            self._owner[id(node)] = first
        elif node.op in ADDS and len(node.inputs) == len(inputs) == 2:
            self._join(node)

    def _join(self, node: Node) -> None:
        if any(producer(t) is None for t in node.inputs) or _broadcasts(node):
            return
        backbones = [self.backbone(t) for t in node.inputs]
        sums = [head is not None and head.node.op in SUMMING for head in backbones]
        if not any(sums) or backbones[0] is backbones[1]:
            return
        able = [i for i, t in enumerate(node.inputs) if self._fusible(t)]
        if not able:
            if all(sums) or None in backbones:
                self.standing.append(node)
            return
        inner = able[0] if len(able) == 1 else self._farther(node)
        head = self.owner(node.inputs[inner])
        assert head is not None
        self._owner[id(node)] = head
        self._summed.add(id(head))
        self.residuals.append(Residual(node, head, 1 - inner))

    def _fusible(self, tensor: Tensor) -> bool:
        """Whether a convolution writes the tensor, and nothing of its partition is read elsewhere.

        A value that somebody else reads has to be written to memory, and the kernel ends there. It
        adds one tensor to its sums, no second one.
        """
        head = self.owner(tensor)
        if head is None or head.node.op not in SUMMING or id(head) in self._summed:
            return False
        inside: dict[int, Node] = {}
        todo = [producer(tensor)]
        while todo:
            node = todo.pop()
            if node is None or id(node) in inside or self._owner.get(id(node)) is not head:
                continue
            inside[id(node)] = node
            if node is not head.node:
                todo += [producer(t) for t in node.inputs]
        return all(
            not is_graph_output(self._graph, output)
            and (
                uses(output) == 1
                if output is tensor
                else all(id(reader) in inside for reader in consumers(output))
            )
            for node in inside.values()
            for output in node.outputs
        )

    def _farther(self, node: Node) -> int:
        """Return which input of an Add lies farther from the inputs' lowest common ancestor.

        That branch does the block's work; the other one is the shortcut. On a tie, or without a
        common ancestor, the branch whose last node comes later.
        """
        frontiers: list[dict[int, int]] = [{}, {}]
        nodes: dict[int, Node] = {}
        for side, tensor in enumerate(node.inputs):
            source = producer(tensor)
            nodes[self._order[id(source)]] = source
            frontiers[side][self._order[id(source)]] = 0
        # Latest node first: when one is reached, all its readers' distances are final.
        deepest = [0, 0]
        while nodes:
            index = max(nodes)
            source = nodes.pop(index)
            found = [frontier.get(index) for frontier in frontiers]
            if found[0] is not None and found[1] is not None:
                deepest = [found[0], found[1]]
                break
            for above in self._above(source):
                i = self._order[id(above)]
                nodes[i] = above
                for side, distance in enumerate(found):
                    if distance is not None:
                        old = frontiers[side].get(i, 0)
                        frontiers[side][i] = max(old, distance + 1)
        if deepest[0] != deepest[1]:
            return 0 if deepest[0] > deepest[1] else 1
        last = [self._order[id(producer(t))] for t in node.inputs]
        return 0 if last[0] > last[1] else 1

    def _above(self, node: Node) -> Iterator[Node]:
        for tensor in node.inputs:
            source = producer(tensor)
            if source is not None and id(source) in self._order:
                yield source


def _broadcasts(node: Node) -> bool:
    """Whether the two inputs are known to differ in shape: such an Add is not residual."""
    first, second = (t.shape for t in node.inputs)
    if first is None or second is None:
        return False
    if len(first) != len(second):
        return True
    return any(
        isinstance(a, int) and isinstance(b, int) and a != b
        for a, b in zip(first, second, strict=True)
    )
