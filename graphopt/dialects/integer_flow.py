"""Which tensors ONNX Runtime keeps in uint8, so that whole chains run on integer kernels.

ONNX Runtime replaces a node by its integer kernel only where all its data inputs come from a
DequantizeLinear and all readers of its output are one QuantizeLinear. So a *tensor* is quantized
or not, behind the node that writes it, and every reader sees the dequantized value.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.dialects.heads import Head, is_dynamic, label
from graphopt.dialects.kernels import (
    COMPUTES,
    ELEMENTWISE,
    MOVES,
    VARIADIC,
    has_exact_kernel,
    must_stay_float,
    rectifies,
)
from graphopt.dialects.ort_linear import find_bias
from graphopt.dialects.scales import Groups
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


def data_inputs(node: Node) -> list[Tensor]:
    """Return the inputs of a node that hold activations."""
    return list(node.inputs) if node.op in VARIADIC else list(node.inputs[:1])


class IntegerFlow:
    """The nodes that run on integer kernels, and the tensors that are quantized for them.

    Attributes:
        heads: the heads whose inputs are quantized, in graph order.
        carried: the other nodes that run on integers, in graph order.
        tensors: the quantized tensors, in graph order.
        groups: tensors that share scale and zero-point.
        rectified: names of tensors behind an absorbed Relu or Clip: their range starts at 0.
        biases: ``id`` of a MatMul -> the Add behind it that holds its bias.
    """

    def __init__(self, graph: Graph, heads: list[Head], exclude: frozenset[str]) -> None:
        self._graph = graph
        self._exclude = exclude
        self.heads = heads
        self._heads = {id(head.node): head for head in heads}
        self.biases = {
            id(head.node): add
            for head in heads
            if self._flows_on(head.node.outputs[0]) and (add := find_bias(head, exclude))
        }
        self.rectified: set[str] = set()
        self._float = must_stay_float(graph)
        # id -> node; dicts keep graph order.
        self._carried = {id(node): node for node in graph.nodes if self._may_carry(node)}
        self._writers: dict[str, Node] = {}
        self._settle()
        self.carried = list(self._carried.values())
        self.tensors = self._quantized()
        self.groups = self._share()

    def _flows_on(self, tensor: Tensor) -> bool:
        """Whether a tensor has one reader, a node of this graph, and nobody else sees it."""
        seen = is_graph_output(self._graph, tensor) or feeds_subgraph(self._graph, tensor)
        return not seen and len(tensor.outputs) == 1

    def final(self, node: Node, output: Tensor) -> Tensor:
        """Return the tensor to quantize behind a node: past a Relu or Clip that Q can absorb.

        With zero-point 0 the QuantizeLinear clips at 0 itself, and ONNX Runtime drops the Relu.
        """
        if id(node) not in self._heads and node.op not in ("Add", "Mul", "Sum"):
            return output
        if id(node) in self.biases:
            output = self.biases[id(node)].outputs[0]
        if not self._flows_on(output) or label(output.outputs[0]) in self._exclude:
            return output
        reader = output.outputs[0]
        return reader.outputs[0] if rectifies(reader) else output

    def _may_carry(self, node: Node) -> bool:
        if not is_op(node, *COMPUTES, *MOVES, "Sum") or label(node) in self._exclude:
            return False
        if any(node is add for add in self.biases.values()):
            return False
        inputs = data_inputs(node)
        if node.op in ("Add", "Mul", "Sum") and len(inputs) != 2:
            return False
        if not has_exact_kernel(node):
            return False
        return all(
            is_dynamic(t) and is_float(t) and t.name not in self._float
            for t in [*inputs, *node.outputs]
        )

    def _settle(self) -> None:
        """Drop carriers until each has a quantized producer and a quantized reader."""
        while True:
            self._writers = self._produced()
            drop = [key for key, node in self._carried.items() if not self._carries(node)]
            if not drop:
                return
            for key in drop:
                del self._carried[key]

    def _produced(self) -> dict[str, Node]:
        """Return tensor name -> the integer node that writes it."""
        written: dict[str, Node] = {}
        for node in self._graph.nodes:
            head = self._heads.get(id(node))
            if id(node) in self._carried or (head and self.quantizes_output(head)):
                for output in node.outputs:
                    written[self.final(node, output).name] = node
        return written

    def written(self, tensor: Tensor) -> bool:
        """Whether an integer node writes the tensor."""
        return tensor.name in self._writers

    def _carries(self, node: Node) -> bool:
        inputs = data_inputs(node)
        if node.op in MOVES and all(self.written(t) for t in inputs):
            return True
        fed = [self._fed(t) for t in inputs]
        # A Mul of something that never was integers is part of a float expression, like GELU's.
        enough = any(fed) if node.op in ("Add", "Sum", "Concat") else all(fed)
        return enough and any(self.read(self.final(node, t)) for t in node.outputs)

    def _fed(self, tensor: Tensor) -> bool:
        """Whether integers are behind a tensor, but for float activations in between."""
        while not self.written(tensor):
            source = producer(tensor)
            if source is None or not is_op(source, *ELEMENTWISE):
                return False
            tensor = source.inputs[0]
        return True

    def read(self, tensor: Tensor) -> bool:
        """Whether an integer kernel reads the tensor, perhaps behind nodes that only move it."""
        for node in consumers(tensor):
            if id(node) in self._heads:
                if node.inputs[0] is tensor:
                    return True
            elif id(node) in self._carried and (
                node.op not in MOVES or any(self.read(t) for t in node.outputs)
            ):
                return True
        return False

    def quantizes_output(self, head: Head) -> bool:
        """Whether a head's output is uint8.

        A convolution has no integer kernel otherwise. Gemm and MatMul have one with a float output:
        logits keep their precision.
        """
        if head.node.op not in ("Gemm", "MatMul"):
            return True
        return self.read(self.final(head.node, head.node.outputs[0]))

    def _quantized(self) -> list[Tensor]:
        names: set[str] = set()
        for head in self.heads:
            names.add(head.data.name)
            if self.quantizes_output(head):
                names.add(self._finish(head.node, head.node.outputs[0]))
        for node in self.carried:
            names |= {t.name for t in data_inputs(node)}
            names |= {self._finish(node, t) for t in node.outputs}
        return [t for t in in_graph_order(self._graph) if t.name in names]

    def _finish(self, node: Node, output: Tensor) -> str:
        final = self.final(node, output)
        if (source := producer(final)) is not None and source is not node and rectifies(source):
            self.rectified.add(final.name)
        return str(final.name)

    def _share(self) -> Groups:
        groups = Groups()
        for node in self.carried:
            if node.op in MOVES:
                for output in node.outputs:
                    groups.union(node.inputs[0].name, output.name)
        positive = self._positive(groups)
        for node in self.carried:
            # A tensor behind an absorbed Relu must keep zero-point 0: QLinearConcat then rescales.
            if node.op == "Concat":
                names = [t.name for t in [*node.outputs, *node.inputs]]
                if len({positive(name) for name in names[1:]}) == 1:
                    for name in names[1:]:
                        groups.union(names[0], name)
        return groups

    def _positive(self, groups: Groups) -> Callable[[str], bool]:
        roots = {groups.find(name) for name in self.rectified}
        return lambda name: groups.find(name) in roots
