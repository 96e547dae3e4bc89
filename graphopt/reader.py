"""From ONNX protobuf to a GraphSurgeon graph, without loss; :mod:`graphopt.writer` goes back.

GraphSurgeon's own reader and writer drop what its classes have no field for (doc strings, node
metadata, overloads, quantization annotations, map and optional types, attributes that hold types,
sparse tensors or several graphs), and its ``Graph.copy`` gives sub-graphs their own copies of the
outer graph's constants. Here every message leaves what GraphSurgeon cannot say, its *rest*, on the
object that stands for it, so that it follows a node or tensor through renames and clones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from onnx_graphsurgeon.ir.tensor import SparseValues

from graphopt.errors import ModelFormatError
from graphopt.graph import STANDARD_DOMAINS, Array, Graph, Node, Tensor, name_nodes

Message = Any
Scope = Callable[[], Mapping[str, Tensor]]

_NODE = frozenset({"input", "output", "name", "op_type", "domain", "attribute"})
_GRAPH = frozenset({"node", "name", "doc_string", "initializer", "sparse_initializer", "input",
                    "output", "value_info"})  # fmt: skip
_TENSOR = frozenset({"name", "dims", "data_type", "segment", "raw_data", "float_data", "int32_data",
                     "string_data", "int64_data", "double_data", "uint64_data", "external_data",
                     "data_location"})  # fmt: skip
_Kind = onnx.AttributeProto


def rest_of(proto: Message, known: frozenset[str]) -> Message | None:
    """Return a copy of ``proto`` without the ``known`` fields, or None if nothing is left."""
    left = type(proto)()
    for field, value in proto.ListFields():
        if field.name in known:
            continue
        if hasattr(value, "MergeFrom"):
            getattr(left, field.name).MergeFrom(value)
        else:
            setattr(left, field.name, value)
    return left if left.ListFields() else None


def rest(thing: Any) -> Message | None:
    """Return what a graph, node or tensor carries that GraphSurgeon has no field for, or None."""
    return vars(thing).get("rest")


def _keep(thing: Any, left: Message | None) -> Any:
    if left is not None:
        thing.rest = left
    return thing


def dtype_of(elem_type: int) -> Any:
    """Return the NumPy dtype (from ml_dtypes for bfloat16, int4, float8 …), or None if unknown."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except (KeyError, TypeError):
        return None


def elem_type_of(dtype: Any) -> int:
    """Return ONNX's element type for a NumPy dtype; an element type passes through."""
    return (
        dtype if isinstance(dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    )


def take_external(graph: onnx.GraphProto, folder: str) -> dict[str, Tensor]:
    """Read the initializers that lie in other files, one after the other; return them by name.

    In ``graph`` they become inputs, for the checker, which wants to see every name. A protobuf
    message keeps what was ever stored in it: loaded into the model itself, and read from there,
    the weights would lie in memory three times over.

    Raises:
        OSError, ValueError, onnx.checker.ValidationError: a file cannot be read, or a tensor says
            that its data lies where none is, or outside of ``folder``.
        ModelFormatError: a tensor is cut short.
    """
    names = [t.name for t in graph.initializer]
    taken: dict[str, Tensor] = {}
    left = []
    for initializer in graph.initializer:
        if not uses_external_data(initializer) or names.count(initializer.name) > 1:
            left.append(initializer)
            continue
        alone = onnx.TensorProto()
        alone.CopyFrom(initializer)
        load_external_data_for_tensor(alone, folder)
        alone.data_location = onnx.TensorProto.DEFAULT
        del alone.external_data[:]
        taken[alone.name] = _read_constant(alone)
    if taken:
        kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in left]
        kinds = {t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer}
        del graph.initializer[:]
        graph.initializer.extend(kept)
        known = {value.name for value in graph.input}
        graph.input.extend(
            onnx.helper.make_tensor_value_info(name, *kinds[name])
            for name in taken
            if name not in known
        )
    return taken


def read_graph(
    proto: onnx.GraphProto,
    opset: int,
    outer: Mapping[str, Tensor] | None = None,
    *,
    taken: Mapping[str, Tensor] | None = None,
) -> Graph:
    """Return the graph that ``proto`` describes; it shares nothing with ``proto``.

    Nodes of the outermost graph get names, and unique ones. Bodies of If, Loop and Scan read the
    very tensors of the outer graph. Initializers that are inputs too (IR version 3) lose the input.

    Args:
        proto: the graph.
        opset: version of the standard operators.
        outer: the tensors that a body may read.
        taken: what :func:`take_external` returned.

    Raises:
        ModelFormatError: an initializer is cut short, or its data is in a file not loaded.
    """
    scope = outer or {}
    tensors: dict[str, Tensor] = dict(taken or {})
    for initializer in proto.initializer:
        tensors[initializer.name] = _read_constant(initializer)
    for sparse in proto.sparse_initializer:
        tensors[sparse.values.name] = _read_sparse(sparse)
    inputs = [value for value in proto.input if value.name not in tensors]
    local = {name for node in proto.node for name in node.output}
    local |= {value.name for value in inputs} | set(tensors)
    for value in [*inputs, *proto.output, *proto.value_info]:
        _read_value(tensors, value)

    def tensor(name: str) -> Tensor:
        if not name:
            return gs.Variable.empty()
        if name not in local and name in scope:
            return scope[name]
        return tensors.setdefault(name, gs.Variable(name))

    def visible() -> Mapping[str, Tensor]:
        return {**scope, **{name: t for name, t in tensors.items() if name in local}}

    graph = gs.Graph(
        nodes=[_read_node(node, opset, tensor, visible) for node in proto.node],
        inputs=[tensors[value.name] for value in inputs],
        outputs=[tensor(value.name) for value in proto.output],
        name=proto.name,
        doc_string=proto.doc_string,
        opset=opset,
    )
    if outer is None:
        name_nodes(graph)
    left = rest_of(proto, _GRAPH)
    if left is not None and left.quantization_annotation:
        named = {
            p.value for a in left.quantization_annotation for p in a.quant_parameter_tensor_names
        }
        graph.annotated = [t for t in tensors.values() if t.name in named]
    return _keep(graph, left)


def _read_node(
    proto: onnx.NodeProto, opset: int, tensor: Callable[[str], Tensor], visible: Scope
) -> Node:
    node = gs.Node(
        op=proto.op_type,
        name=proto.name,
        inputs=[tensor(name) for name in proto.input],
        outputs=[tensor(name) for name in proto.output],
        domain=None if proto.domain in STANDARD_DOMAINS else proto.domain,
    )
    schema = schema_attributes(node, opset)
    for attr in proto.attribute:
        node.attrs[attr.name] = _read_attribute(attr, opset, schema, visible)
    return _keep(node, rest_of(proto, _NODE))


def _read_attribute(
    attr: onnx.AttributeProto, opset: int, schema: Mapping[str, Any], visible: Scope
) -> Any:
    """Return a Python value, or the AttributeProto itself where no value says it faithfully."""
    kind = attr.type
    try:
        if attr.ref_attr_name:
            pass
        elif kind == _Kind.FLOAT:
            return attr.f
        elif kind == _Kind.INT:
            return attr.i
        elif kind == _Kind.STRING:
            return attr.s.decode()
        elif kind == _Kind.TENSOR:
            return _read_constant(attr.t)
        elif kind == _Kind.GRAPH:
            return read_graph(attr.g, opset, visible())
        elif kind in (_Kind.FLOATS, _Kind.INTS, _Kind.STRINGS):
            strings = [s.decode() for s in attr.strings]
            values: list[Any] = list(attr.floats) or list(attr.ints) or strings
            # An empty list is written by the type its schema gives; a custom op has none.
            if values or attr.name in schema:
                return values
    except UnicodeDecodeError:
        pass
    kept = onnx.AttributeProto()
    kept.CopyFrom(attr)
    return kept


def schema_attributes(node: Node, opset: int) -> Mapping[str, Any]:
    """The attributes of a standard operator at this opset; none for a custom one."""
    if node.domain not in STANDARD_DOMAINS:
        return {}
    try:
        return dict(onnx.defs.get_schema(node.op, opset).attributes)
    except onnx.defs.SchemaError:
        return {}


def _read_constant(proto: onnx.TensorProto) -> Tensor:
    if uses_external_data(proto):
        raise ModelFormatError(
            f"tensor '{proto.name}' keeps its data in another file: use Model.load(path)"
        )
    try:
        values = onnx.numpy_helper.to_array(proto)
    except UnicodeDecodeError:
        values = np.array(list(proto.string_data), dtype=object).reshape(tuple(proto.dims))
    except (ValueError, TypeError, KeyError) as problem:
        raise ModelFormatError(f"tensor '{proto.name}' is cut short or malformed") from problem
    values = np.asarray(values)
    if values.shape != tuple(proto.dims):
        raise ModelFormatError(f"tensor '{proto.name}' is cut short or malformed")
    values.flags.writeable = False  # Clones share it.
    return _keep(gs.Constant(proto.name, values), rest_of(proto, _TENSOR))


class SparseInitializer(SparseValues):  # type: ignore[misc]
    """A sparse initializer: carried as it is, made dense (in its own dtype) only to be read."""

    def __init__(self, proto: onnx.SparseTensorProto) -> None:
        self.tensor = onnx.SparseTensorProto()
        self.tensor.CopyFrom(proto)
        self.shape = tuple(proto.dims)
        self.dtype = dtype_of(proto.values.data_type)
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def load(self) -> Array:
        """Return the dense array."""
        values = onnx.numpy_helper.to_array(self.tensor.values)
        indices = onnx.numpy_helper.to_array(self.tensor.indices)
        dense = np.zeros(self.shape, dtype=self.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        dense.flags.writeable = False
        return dense


def _read_sparse(proto: onnx.SparseTensorProto) -> Tensor:
    return gs.Constant(proto.values.name, SparseInitializer(proto))


def _read_value(tensors: dict[str, Tensor], proto: onnx.ValueInfoProto) -> None:
    known = tensors.get(proto.name)
    if known is not None and (isinstance(known, gs.Constant) or known.dtype is not None):
        return
    tensor = known if known is not None else gs.Variable(proto.name)
    kind = proto.type.WhichOneof("value")
    covered = {"name"}
    if kind == "tensor_type":
        tensor.dtype = dtype_of(proto.type.tensor_type.elem_type)
        tensor.shape = dims_of(proto.type)
        if not _denoted(proto.type):
            covered.add("type")
    elif kind is not None:
        tensor.type = kind
    tensors[proto.name] = _keep(tensor, rest_of(proto, frozenset(covered)))


def dims_of(kind: onnx.TypeProto) -> list[int | str | None] | None:
    """Return the dimensions of a tensor type: numbers, names, None for unknown; or None."""
    if not kind.tensor_type.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") else d.dim_param or None
        for d in kind.tensor_type.shape.dim
    ]


def _denoted(kind: onnx.TypeProto) -> bool:
    return bool(kind.denotation) or any(d.denotation for d in kind.tensor_type.shape.dim)


def copy_graph(graph: Graph, copies: dict[int, Tensor] | None = None) -> Graph:
    """Return a copy with its own nodes, tensors and bodies; the arrays of constants are shared."""
    copies = {} if copies is None else copies

    def tensor(old: Tensor) -> Tensor:
        if id(old) not in copies:
            copies[id(old)] = _copy_tensor(old)
        return copies[id(old)]

    def node(old: Node) -> Node:
        new = gs.Node(
            op=old.op,
            name=old.name,
            inputs=[tensor(t) for t in old.inputs],
            outputs=[tensor(t) for t in old.outputs],
            domain=old.domain,
        )
        for key, value in old.attrs.items():
            if isinstance(value, gs.Graph):
                value = copy_graph(value, copies)
            new.attrs[key] = list(value) if isinstance(value, list) else value
        return _keep(new, rest(old))

    copy = gs.Graph(
        nodes=[node(n) for n in graph.nodes],
        inputs=[tensor(t) for t in graph.inputs],
        outputs=[tensor(t) for t in graph.outputs],
        name=graph.name,
        doc_string=graph.doc_string,
        opset=graph.opset,
        import_domains=[
            onnx.helper.make_opsetid(o.domain, o.version) for o in graph.import_domains or []
        ]
        or None,
        producer_name=graph.producer_name,
        producer_version=graph.producer_version,
        ir_version=graph.ir_version,
    )
    if "annotated" in vars(graph):
        copy.annotated = [tensor(t) for t in graph.annotated]
    return _keep(copy, rest(graph))


def _copy_tensor(old: Tensor) -> Tensor:
    if isinstance(old, gs.Constant):
        new = gs.Constant(old.name, old._values, export_dtype=old._export_dtype)
    else:
        shape = list(old.shape) if isinstance(old.shape, list | tuple) else old.shape
        new = gs.Variable(old.name, old.dtype, shape, old.type)
    return _keep(new, rest(old))
