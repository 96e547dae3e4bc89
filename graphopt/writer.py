"""From a GraphSurgeon graph to ONNX protobuf, with what :mod:`graphopt.reader` kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphopt.graph import Array, Graph, Node, Tensor
from graphopt.reader import SparseInitializer, elem_type_of, rest, schema_attributes

_APART_BYTES = 1 << 20


class GraphWriter:
    """Writes one graph and its bodies.

    Args:
        graph: the outermost graph.
        bare: leave out whatever changes nothing that is computed (doc strings, inner shapes).
        largest: initializers of the outermost graph with more elements become inputs (for shape
            inference, which needs their type and not their values).
        apart: takes the values of large initializers of the outermost graph, by name, that then
            are written without them: C-contiguous, little-endian, not copied where they were so.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        bare: bool = False,
        largest: int | None = None,
        apart: dict[str, Array] | None = None,
    ) -> None:
        self._graph = graph
        self._bare = bare
        self._largest = largest
        self._apart = apart
        self._owned: dict[int, list[Tensor]] = {}
        self._find_owners()

    def write(self) -> onnx.GraphProto:
        """Return the GraphProto; it shares nothing with the graph.

        Raises:
            ValueError: two different constants have one name.
        """
        return self._write_graph(self._graph)

    def write_node(self, node: Node) -> onnx.NodeProto:
        """Return one node's NodeProto; it shares nothing with the graph."""
        proto = onnx.NodeProto()
        self._write_node(node, proto)
        return proto

    def _find_owners(self) -> None:
        """A constant belongs to the innermost graph around all of its readers."""
        paths: dict[int, tuple[Tensor, tuple[int, ...]]] = {}

        def see(tensor: Tensor, path: tuple[int, ...]) -> None:
            if isinstance(tensor, gs.Constant):
                before = paths.get(id(tensor), (tensor, path))[1]
                common = 0
                while common < min(len(path), len(before)) and path[common] == before[common]:
                    common += 1
                paths[id(tensor)] = (tensor, path[:common])

        def visit(graph: Graph, path: tuple[int, ...]) -> None:
            path = (*path, id(graph))
            for node in graph.nodes:
                for tensor in node.inputs:
                    see(tensor, path)
                for value in node.attrs.values():
                    if isinstance(value, gs.Graph):
                        visit(value, path)
            for tensor in [*graph.outputs, *vars(graph).get("annotated", [])]:
                see(tensor, path)

        visit(self._graph, ())
        for tensor, path in paths.values():
            self._owned.setdefault(path[-1], []).append(tensor)

    def _write_graph(self, graph: Graph) -> onnx.GraphProto:
        proto = onnx.GraphProto(name=graph.name or "graph")
        local: dict[str, Tensor] = {t.name: t for t in graph.inputs}
        for node in graph.nodes:
            self._write_node(node, proto.node.add())
            local.update((t.name, t) for t in node.outputs if t.name)
        for value, target in ((graph.inputs, proto.input), (graph.outputs, proto.output)):
            for tensor in value:
                self._write_value(tensor, target.add())
        self._write_constants(graph, proto)
        if self._bare:
            return proto
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        interface = {t.name for t in [*graph.inputs, *graph.outputs]}
        for name, tensor in local.items():
            if name not in interface and (tensor.dtype is not None or tensor.type != "tensor_type"):
                self._write_value(tensor, proto.value_info.add())
        left = rest(graph)
        if left is not None:
            proto.MergeFrom(left)
            names = set(local) | {t.name for t in [*proto.initializer, *proto.input]}
            alive = [a for a in proto.quantization_annotation if a.tensor_name in names]
            del proto.quantization_annotation[:]
            proto.quantization_annotation.extend(alive)
        return proto

    def _write_constants(self, graph: Graph, proto: onnx.GraphProto) -> None:
        written: dict[str, Tensor] = {}
        for tensor in self._owned.get(id(graph), []):
            twin: Tensor = written.setdefault(tensor.name, tensor)
            if twin is not tensor:
                if not _same_values(twin, tensor):
                    raise ValueError(f"two different constants are named '{tensor.name}'")
                continue
            stored: Any = tensor._values
            if isinstance(stored, SparseInitializer):
                sparse = proto.sparse_initializer.add()
                sparse.CopyFrom(stored.tensor)
                sparse.values.name = tensor.name
            elif graph is self._graph and self._is_too_large(tensor):
                self._write_value(tensor, proto.input.add())
            elif graph is self._graph and self._is_apart(tensor):
                self._write_hollow(tensor, proto.initializer.add())
            else:
                self._write_tensor(tensor, proto.initializer.add())

    def _is_too_large(self, tensor: Tensor) -> bool:
        return self._largest is not None and int(np.prod(tensor.shape)) > self._largest

    def _is_apart(self, tensor: Tensor) -> bool:
        # Their raw data is their bytes; others (float8, int4, strings) are packed or spelled out.
        dtype = np.dtype(tensor.dtype)
        size = int(np.prod(tensor.shape)) * dtype.itemsize
        return self._apart is not None and dtype.kind in "fiu" and size >= _APART_BYTES

    def _write_hollow(self, tensor: Tensor, proto: onnx.TensorProto) -> None:
        assert self._apart is not None
        values = np.ascontiguousarray(tensor.values)
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self._apart[tensor.name] = values
        proto.name = tensor.name
        proto.dims.extend(values.shape)
        proto.data_type = elem_type_of(tensor.dtype)
        proto.raw_data = b""
        left = rest(tensor)
        if not self._bare and isinstance(left, onnx.TensorProto):
            proto.MergeFrom(left)

    def _write_tensor(self, tensor: Tensor, proto: onnx.TensorProto) -> None:
        proto.CopyFrom(onnx.numpy_helper.from_array(np.asarray(tensor.values), tensor.name))
        left = rest(tensor)
        if not self._bare and isinstance(left, onnx.TensorProto):
            proto.MergeFrom(left)

    def _write_value(self, tensor: Tensor, proto: onnx.ValueInfoProto) -> None:
        proto.name = tensor.name
        left = rest(tensor)
        if isinstance(left, onnx.ValueInfoProto):
            if not self._bare:
                proto.MergeFrom(left)
            elif left.HasField("type"):
                proto.type.CopyFrom(left.type)
        if tensor.dtype is None:
            return
        shape = None if tensor.shape is None else [_written_dim(d) for d in tensor.shape]
        fresh = onnx.helper.make_tensor_type_proto(elem_type_of(tensor.dtype), shape)
        if proto.type.HasField("tensor_type") and not self._bare:
            if proto.type.denotation:
                fresh.denotation = proto.type.denotation
            old = proto.type.tensor_type.shape.dim
            if len(old) == len(fresh.tensor_type.shape.dim):
                for new_dim, old_dim in zip(fresh.tensor_type.shape.dim, old, strict=True):
                    if old_dim.denotation:
                        new_dim.denotation = old_dim.denotation
        proto.type.CopyFrom(fresh)

    def _write_node(self, node: Node, proto: onnx.NodeProto) -> None:
        proto.op_type = node.op
        if node.name:
            proto.name = node.name
        if node.domain:
            proto.domain = node.domain
        proto.input.extend(t.name for t in node.inputs)
        proto.output.extend(t.name for t in node.outputs)
        schema = schema_attributes(node, self._graph.opset)
        for key, value in node.attrs.items():
            self._write_attribute(key, value, schema.get(key), proto.attribute.add())
        left = rest(node)
        if left is not None and not self._bare:
            proto.MergeFrom(left)
        elif left is not None:
            proto.overload = left.overload

    def _write_attribute(
        self, key: str, value: Any, schema: Any, proto: onnx.AttributeProto
    ) -> None:
        if isinstance(value, onnx.AttributeProto):
            proto.CopyFrom(value)
        elif isinstance(value, gs.Graph):
            proto.name, proto.type = key, onnx.AttributeProto.GRAPH
            proto.g.CopyFrom(self._write_graph(value))
        elif isinstance(value, gs.Constant):
            proto.name, proto.type = key, onnx.AttributeProto.TENSOR
            self._write_tensor(value, proto.t)
        elif isinstance(value, list | tuple) and not value:
            proto.name, proto.type = key, schema.type.value if schema else onnx.AttributeProto.INTS
        else:
            if isinstance(value, type | np.dtype):
                value = elem_type_of(value)
            wants = schema.type.value if schema else None
            if wants == onnx.AttributeProto.FLOAT:
                value = float(value)
            elif wants == onnx.AttributeProto.FLOATS:
                value = [float(v) for v in value]
            proto.CopyFrom(onnx.helper.make_attribute(key, value))


def _written_dim(value: Any) -> int | str | None:
    return None if isinstance(value, int) and value < 0 else value


def _same_values(a: Tensor, b: Tensor) -> bool:
    x, y = np.asarray(a.values), np.asarray(b.values)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
