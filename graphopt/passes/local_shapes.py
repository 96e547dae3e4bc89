"""Shape inference of single nodes: what a rewrite taught, carried on to those who come after.

Inference over the whole model after every rewrite would make a chain of views, each of which is
worked out from the one before, cost as many inferences as it is long.
"""

from __future__ import annotations

from typing import Any

import onnx

from graphopt.graph import Graph, Node, Tensor, constant, is_constant, is_standard
from graphopt.model import merge_shapes
from graphopt.reader import dims_of, elem_type_of
from graphopt.writer import GraphWriter

# Above, a constant is no shape, axis or size.
_LARGEST = 64


class LocalShapes:
    """Knows which tensors more is known of than when it was made."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._writer: GraphWriter | None = None
        self._learnt: set[int] = set()

    def learnt(self, tensor: Tensor) -> None:
        """Say that more is known of a tensor now: it became a constant."""
        self._learnt.add(id(tensor))

    def follow(self, node: Node) -> None:
        """Infer the node's outputs if more is known of one of its inputs."""
        if self._learnt and any(id(t) in self._learnt for t in node.inputs):
            self.infer(node)

    def infer(self, node: Node) -> None:
        """Fill in the shapes of the node's outputs; keep those that inference does not know."""
        if not is_standard(node) or any(True for _ in node.subgraphs()):
            return
        inputs = [t for t in node.inputs if not t.is_empty()]
        if any(t.dtype is None or not _is_plain(t) for t in inputs):
            return
        try:
            schema = onnx.defs.get_schema(node.op, int(self._graph.opset), "")
            self._writer = self._writer or GraphWriter(self._graph, bare=True)
            types = onnx.shape_inference.infer_node_outputs(
                schema,
                self._writer.write_node(node),
                {t.name: _type(t) for t in inputs},
                {t.name: value for t in inputs if (value := _small(t)) is not None},
                opset_imports=[onnx.helper.make_opsetid("", int(self._graph.opset))],
                ir_version=max(int(self._graph.ir_version or 0), 4),
            )
        except (onnx.shape_inference.InferenceError, onnx.defs.SchemaError, RuntimeError):
            return
        for tensor in node.outputs:
            shape = dims_of(types[tensor.name]) if tensor.name in types else None
            if shape is not None:
                self.say(tensor, shape)

    def say(self, tensor: Tensor, shape: list[int | str | None]) -> None:
        """Say what is known of a tensor's shape; what was known before stays."""
        merged = merge_shapes(tensor.shape, shape)
        if merged != tensor.shape:
            tensor.shape = merged
            self._learnt.add(id(tensor))


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is no sequence, map or optional."""
    return is_constant(tensor) or tensor.type == "tensor_type"


def _type(tensor: Tensor) -> Any:
    shape = None if tensor.shape is None else list(tensor.shape)
    return onnx.helper.make_tensor_type_proto(elem_type_of(tensor.dtype), shape)


def _small(tensor: Tensor) -> Any:
    value = constant(tensor)
    if value is None or value.size > _LARGEST:
        return None
    return onnx.numpy_helper.from_array(value, tensor.name)
