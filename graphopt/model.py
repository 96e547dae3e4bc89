"""The model: a GraphSurgeon graph plus what GraphSurgeon drops; load, save, clone, digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import EncodeError
from onnx.external_data_helper import (
    convert_model_to_external_data,
    load_external_data_for_model,
)

from graphopt.errors import ModelFormatError, UnsupportedModelError
from graphopt.files import atomic_path
from graphopt.graph import (
    STANDARD_DOMAINS,
    Array,
    Graph,
    Shape,
    is_constant,
    is_graph_output,
    is_standard,
    walk,
)
from graphopt.intake import check, first_line, parse, with_one_standard_domain
from graphopt.reader import (
    copy_graph,
    dims_of,
    dtype_of,
    elem_type_of,
    read_graph,
    rest_of,
    take_external,
)
from graphopt.writer import GraphWriter

Feeds: TypeAlias = Mapping[str, Array]
"""One batch: input name -> array, the batch along axis 0."""

Inputs: TypeAlias = Mapping[str, tuple[Any, Shape]]
"""Input name -> (NumPy dtype or None, shape, the batch first); a free dimension is no number."""

MIN_OPSET = 7
# For models without a standard operator, should a pass bring one.
_OPSET_OF_CUSTOM_MODELS = 13
_MODEL_FIELDS = frozenset({"graph", "opset_import", "ir_version", "producer_name",
                           "producer_version", "metadata_props", "doc_string", "domain",
                           "model_version", "functions"})  # fmt: skip
# Protobuf refuses messages of 2 GiB; initializers above this total go to a file beside the model.
EXTERNAL_DATA_BYTES = 1_800_000_000

gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a model holds beside its graph, and GraphSurgeon drops.

    Attributes:
        properties: ``metadata_props``, in order.
        doc_string: of the model.
        domain: of the model, such as ``com.example``.
        model_version: of the model.
        functions: local functions, carried as they are: nodes that call them look like custom ops.
        rest: whatever else there is (training info, device configurations), or None.
    """

    properties: tuple[tuple[str, str], ...] = ()
    doc_string: str = ""
    domain: str = ""
    model_version: int = 0
    functions: tuple[onnx.FunctionProto, ...] = ()
    rest: onnx.ModelProto | None = None

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> Metadata:
        """Read it off a model."""
        functions = []
        for function in proto.functions:
            functions.append(onnx.FunctionProto())
            functions[-1].CopyFrom(function)
        return cls(
            properties=tuple((p.key, p.value) for p in proto.metadata_props),
            doc_string=proto.doc_string,
            domain=proto.domain,
            model_version=proto.model_version,
            functions=tuple(functions),
            rest=rest_of(proto, _MODEL_FIELDS),
        )

    def restore(self, proto: onnx.ModelProto) -> None:
        """Write it back."""
        if self.rest is not None:
            proto.MergeFrom(self.rest)
        for key, value in self.properties:
            proto.metadata_props.add(key=key, value=value)
        proto.doc_string = self.doc_string
        proto.domain = self.domain
        proto.model_version = self.model_version
        proto.functions.extend(self.functions)


@dataclass(slots=True)
class Model:
    """An ONNX model in memory.

    Attributes:
        graph: the GraphSurgeon graph; passes edit it in place on a clone.
        metadata: properties, doc strings, domain and version, restored on the way out.
    """

    graph: Graph
    metadata: Metadata = field(default_factory=Metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """Read an ONNX file, with its external data.

        Raises:
            UsageError: there is no such file.
            ModelFormatError: it is no ONNX model, is truncated, or contradicts itself.
            UnsupportedModelError: its opset is older than 7 or newer than this onnx package.
        """
        path = Path(path)
        proto = parse(path)
        try:
            taken = take_external(proto.graph, str(path.parent))
            load_external_data_for_model(proto, str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as problem:
            raise ModelFormatError(
                f"{path}: its external data cannot be read: {first_line(problem)}"
            ) from problem
        except ModelFormatError as problem:
            raise ModelFormatError(f"{path}: {problem}") from problem
        return cls._read(proto, str(path), taken)

    @classmethod
    def from_onnx(cls, proto: onnx.ModelProto, *, name: str = "the model") -> Model:
        """Wrap a model already in memory; ``proto`` is neither kept nor changed.

        Nodes without a name get one, namesakes are told apart, and initializers that are listed
        as inputs too (old exporters) are no longer inputs.

        Raises:
            ModelFormatError: onnx.checker refuses it.
            UnsupportedModelError: its opset is out of range.
        """
        return cls._read(proto, name, {})

    @classmethod
    def _read(cls, proto: onnx.ModelProto, name: str, taken: Mapping[str, Any]) -> Model:
        opset = next((o.version for o in proto.opset_import if o.domain in STANDARD_DOMAINS), None)
        if opset is not None and opset < MIN_OPSET:
            raise UnsupportedModelError(
                f"{name} is of opset {opset}; graphopt reads 7 and newer: export it again"
            )
        newest = onnx.defs.onnx_opset_version()
        if opset is not None and opset > newest:
            raise UnsupportedModelError(
                f"{name} is of opset {opset}, and onnx {onnx.__version__} knows up to {newest}: "
                "pip install -U onnx"
            )
        proto = with_one_standard_domain(proto)
        check(proto, name)
        try:
            graph = read_graph(proto.graph, opset or _OPSET_OF_CUSTOM_MODELS, taken=taken)
        except ModelFormatError as problem:
            raise ModelFormatError(f"{name}: {problem}") from problem
        graph.import_domains = [
            onnx.helper.make_opsetid(o.domain, o.version) for o in proto.opset_import
        ]
        graph.producer_name, graph.producer_version = proto.producer_name, proto.producer_version
        graph.ir_version = proto.ir_version
        model = cls(graph, Metadata.of(proto))
        try:
            model.infer_shapes()
        except (ValueError, EncodeError) as problem:  # UnicodeDecodeError is a ValueError
            raise ModelFormatError(f"{name} cannot be read: {first_line(problem)}") from problem
        return model

    @property
    def opset(self) -> int:
        """The version of the ONNX operator set."""
        return int(self.graph.opset)

    def to_onnx(self, *, largest: int | None = None) -> onnx.ModelProto:
        """Return a ModelProto that shares nothing with this model.

        The IR version stays what it was, or becomes what the opset needs (4 at least, so that
        initializers need not be inputs): runtimes refuse versions newer than they know.

        Args:
            largest: initializers with more elements become inputs instead, for tools that need
                their type and not their values; all are written by default.
        """
        return self._to_onnx(GraphWriter(self.graph, largest=largest))

    def _to_onnx(self, writer: GraphWriter) -> onnx.ModelProto:
        proto = onnx.ModelProto(graph=writer.write())
        proto.producer_name = self.graph.producer_name or ""
        proto.producer_version = self.graph.producer_version or ""
        proto.opset_import.extend(self._opset_imports())
        needed = onnx.helper.find_min_ir_version_for(
            [o for o in proto.opset_import if not o.domain], ignore_unknown=True
        )
        proto.ir_version = max(self.graph.ir_version or 0, needed, 4)
        self.metadata.restore(proto)
        return proto

    def _opset_imports(self) -> list[onnx.OperatorSetIdProto]:
        """The imports the model came with, and version 1 of domains that passes brought in."""
        versions = {o.domain: o.version for o in self.graph.import_domains or []}
        used = dict.fromkeys(node.domain or "" for node in walk(self.graph))
        for domain in used:
            versions.setdefault(domain, 1)
        if "" in versions:
            versions[""] = int(self.graph.opset)
        return [onnx.helper.make_opsetid(d, v) for d, v in versions.items()]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model atomically; above 1.8 GB the weights go to ``<name>.data`` beside it.

        Raises:
            OutputError: the disk is full, or the folder may not be written.
        """
        path = Path(path)
        proto = self.to_onnx()
        if self.weight_bytes() > EXTERNAL_DATA_BYTES:
            convert_model_to_external_data(proto, location=f"{path.name}.data")
        with atomic_path(path) as beside:
            onnx.save_model(proto, beside)
        return path

    def clone(self) -> Model:
        """Return a copy whose graph can be edited; constant values are shared, never written."""
        return Model(copy_graph(self.graph), self.metadata)

    def digest(self) -> str:
        """Return the SHA-256 of nodes, weights and interface: the same graph, the same digest.

        Producer, doc strings, metadata properties and shapes of inner tensors do not count.
        """
        apart: dict[str, Array] = {}
        proto = self._to_onnx(GraphWriter(self.graph, bare=True, apart=apart))
        digest = hashlib.sha256()
        for tensor in sorted(proto.graph.initializer, key=lambda t: t.name):
            raw: Any = apart.get(tensor.name)
            raw = tensor.raw_data if raw is None else raw.reshape(-1).view(np.uint8).data
            tensor.raw_data = b""
            digest.update(tensor.SerializeToString(deterministic=True) + b"\0")
            digest.update(raw)
        del proto.graph.initializer[:], proto.metadata_props[:]
        for name in ("producer_name", "producer_version", "doc_string", "domain", "model_version"):
            proto.ClearField(name)
        proto.graph.name = ""
        digest.update(proto.SerializeToString(deterministic=True))
        return digest.hexdigest()

    def infer_shapes(self) -> None:
        """Fill in shapes and dtypes that ONNX shape inference knows; keeps those it does not."""
        # Large weights become inputs: inference reads only small ones, and copies what it is given.
        proto = self._to_onnx(GraphWriter(self.graph, bare=True, largest=4096))
        del proto.functions[:]
        tensors = self.graph.tensors()
        for node in self.graph.nodes:
            if not is_standard(node) or any(True for _ in node.subgraphs()):
                # Inference knows nothing of these but what was said before.
                known = [t for t in node.outputs if t.dtype is not None and t.name]
                proto.graph.value_info.extend(
                    onnx.helper.make_tensor_value_info(t.name, elem_type_of(t.dtype), t.shape)
                    for t in known
                    if not is_graph_output(self.graph, t)
                )
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
            return
        for value in [*inferred.graph.value_info, *inferred.graph.output]:
            tensor = tensors.get(value.name)
            if not isinstance(tensor, gs.Variable) or not value.type.HasField("tensor_type"):
                continue
            kind = value.type.tensor_type
            if tensor.dtype is None and kind.elem_type and tensor.type == "tensor_type":
                tensor.dtype = dtype_of(kind.elem_type)
            shape = dims_of(value.type)
            if shape is not None:
                tensor.shape = merge_shapes(tensor.shape, shape)

    def weight_bytes(self) -> int:
        """Return how many bytes the constants take, those of sub-graphs too."""
        return sum(values.nbytes for values in self._constants())

    def parameters(self) -> int:
        """Return the number of weights, shared ones once: floating-point ones and quantized ones.

        Scales and zero-points are none.
        """
        quantized: set[int] = set()
        beside: set[int] = set()
        for node in walk(self.graph):
            if node.op in ("QuantizeLinear", "DequantizeLinear"):
                held = [id(t._values) for t in node.inputs if isinstance(t, gs.Constant)]
                first = is_constant(node.inputs[0])
                quantized |= set(held[:1] if first else [])
                beside |= set(held[1:] if first else held)
        return sum(
            int(np.prod(v.shape))
            for v in self._constants()
            if id(v) in quantized or (is_floating(v.dtype) and id(v) not in beside)
        )

    def _constants(self) -> list[Any]:
        """Arrays (or their sparse stand-ins) of every constant, each once."""
        found: dict[int, Any] = {id(t): t._values for t in self.graph.outputs if is_constant(t)}
        for node in walk(self.graph):
            for tensor in [*node.inputs, *node.attrs.values()]:
                if isinstance(tensor, gs.Constant):
                    found[id(tensor)] = tensor._values
        return list(found.values())

    def inputs(self) -> dict[str, tuple[Any, Shape]]:
        """Return name -> (dtype, shape) of the graph inputs."""
        return {t.name: (t.dtype, tuple(t.shape or ())) for t in self.graph.inputs}


def merge_shapes(old: list[Any] | None, new: list[Any]) -> list[Any]:
    """A number beats a name beats nothing; on a contradiction the inferred one wins."""
    # Names that inference makes up are others in the next run: they would equate strangers.
    new = [None if isinstance(n, str) and n.startswith("unk__") else n for n in new]
    if old is None or len(old) != len(new):
        return new
    return [
        n if isinstance(n, int) else o if isinstance(o, int) else (n if o is None else o)
        for o, n in zip(old, new, strict=True)
    ]


def is_floating(dtype: Any) -> bool:
    """Whether the NumPy dtype is a float, those of ml_dtypes (bfloat16, float8 …) included."""
    return bool(dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")))
