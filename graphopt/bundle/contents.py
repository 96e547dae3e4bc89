"""What the model file of a bundle asks of a TensorRT: read from the file itself, not from options.

Weights stay where they are: of external data only the reference is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from graphopt.errors import ModelFormatError, UsageError
from graphopt.graph import QUANTIZE_OPS

_NARROW = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)


@dataclass(frozen=True, slots=True)
class Contents:
    """One ONNX file.

    Attributes:
        opset: of the standard operators.
        qdq: it holds QuantizeLinear or DequantizeLinear nodes.
        int8_weights: stored int8 weights feed a DequantizeLinear.
        int4_weights: the same, of four bits.
        fp16: it holds fp16 tensors.
        inputs: name -> (dtype, shape); a shape is a list of sizes, names and None, or None.
        outputs: the same.
        data: names of the files that hold its weights, beside it.
    """

    opset: int
    qdq: bool = False
    int8_weights: bool = False
    int4_weights: bool = False
    fp16: bool = False
    inputs: Mapping[str, tuple[str, list[Any] | None]] = field(default_factory=dict)
    outputs: Mapping[str, tuple[str, list[Any] | None]] = field(default_factory=dict)
    data: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Contents:
        """Read an ONNX file without its external data.

        Raises:
            UsageError: it cannot be read.
            ModelFormatError: it is no ONNX model.
        """
        try:
            model = onnx.load(str(path), load_external_data=False)
        except OSError as problem:
            raise UsageError(f"cannot read {path}: {problem.strerror or problem}") from problem
        except DecodeError as problem:
            raise ModelFormatError(f"{path} is not an ONNX model: {problem}") from problem
        return cls.of(model)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Contents:
        """Look at a model in memory; a function's body counts as the graph's."""
        graphs = list(_graphs(model.graph))
        stored = {t.name: t for g in graphs for t in g.initializer}
        nodes = [n for g in graphs for n in g.node]
        nodes += [n for function in model.functions for n in function.node]
        for node in nodes:
            if node.op_type == "Constant" and node.output:
                stored.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        dequantized = {
            stored[n.input[0]].data_type
            for n in nodes
            if n.op_type == "DequantizeLinear" and n.input and n.input[0] in stored
        }
        opsets = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
        given = {t.name for t in model.graph.initializer}
        return cls(
            opset=max(opsets, default=1),
            qdq=any(n.op_type in QUANTIZE_OPS for n in nodes),
            int8_weights=onnx.TensorProto.INT8 in dequantized,
            int4_weights=bool(dequantized & set(_NARROW)),
            fp16=onnx.TensorProto.FLOAT16 in _types(graphs, nodes, stored.values()),
            inputs={v.name: _described(v) for v in model.graph.input if v.name not in given},
            outputs={v.name: _described(v) for v in model.graph.output},
            data=tuple(sorted({name for t in stored.values() for name in _external(t)})),
        )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _external(tensor: onnx.TensorProto) -> list[str]:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return []
    return [e.value for e in tensor.external_data if e.key == "location"]


def _types(graphs: list[onnx.GraphProto], nodes: list[Any], stored: Any) -> set[int]:
    found = {t.data_type for t in stored}
    for graph in graphs:
        for value in (*graph.input, *graph.output, *graph.value_info):
            found.add(value.type.tensor_type.elem_type)
    found |= {a.i for n in nodes if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    return found


def _described(value: onnx.ValueInfoProto) -> tuple[str, list[Any] | None]:
    kind = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    if not kind.HasField("shape"):
        return name, None
    return name, [
        d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim
    ]
