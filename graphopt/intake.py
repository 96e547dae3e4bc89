"""What is let in as a model, and what is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import uses_external_data

from graphopt.errors import ModelFormatError, UsageError

# Above, the checker could not serialize the model; ONNX Runtime checks it when it is opened.
_CHECKED_BYTES = 1_800_000_000


def parse(path: Path) -> onnx.ModelProto:
    """Read a file, without its external data.

    Raises:
        UsageError: there is no such file, or it may not be read.
        ModelFormatError: it is no ONNX model.
    """
    if not path.exists():
        raise UsageError(f"no such file: {path}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the .onnx file in it")
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file")
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise UsageError(f"may not read {path}: {problem.strerror}") from problem
    proto = onnx.ModelProto()
    wrong = f"{path} is not an ONNX model, or is truncated"
    if not data:
        raise ModelFormatError(f"{wrong}: it is empty")
    try:
        proto.ParseFromString(data)
    except DecodeError as problem:
        raise ModelFormatError(f"{wrong} ({len(data)} bytes)") from problem
    if not proto.HasField("graph"):
        raise ModelFormatError(f"{wrong}: it has no graph")
    if not proto.ir_version or not proto.opset_import:
        raise ModelFormatError(f"{wrong}: it has no opset or IR version")
    return proto


def with_one_standard_domain(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with "ai.onnx" written as "", which runtimes take to be the same, the checker not.

    A copy, or ``proto`` itself where there is nothing to do.
    """

    def named(holder: Any) -> Iterator[Any]:
        yield from (o for o in getattr(holder, "opset_import", ()) if o.domain == "ai.onnx")
        for node in holder.node:
            if node.domain == "ai.onnx":
                yield node
            for attr in node.attribute:
                for body in [attr.g, *attr.graphs] if attr.g.node or attr.graphs else ():
                    yield from named(body)

    def found(model: onnx.ModelProto) -> list[Any]:
        imports = [o for o in model.opset_import if o.domain == "ai.onnx"]
        return [*imports, *(x for h in [model.graph, *model.functions] for x in named(h))]

    if not found(proto):
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for holder in found(copy):
        holder.domain = ""
    return copy


def check(proto: onnx.ModelProto, name: str) -> None:
    """Refuse a model that contradicts itself; ``proto`` is as it was afterwards.

    Raises:
        ModelFormatError: onnx.checker refuses it, or its weights are in a file not read.
    """
    outside = next((t.name for t in proto.graph.initializer if uses_external_data(t)), None)
    if outside is not None:
        raise ModelFormatError(
            f"{name} keeps the data of '{outside}' in another file: use Model.load(path)"
        )
    if sum(len(t.raw_data) for t in proto.graph.initializer) > _CHECKED_BYTES:
        return  # The checker serializes; ONNX Runtime checks such a model when it is opened.
    version = proto.ir_version
    values = [*proto.graph.input, *proto.graph.output]
    shapeless = [v for v in values if v.type.HasField("tensor_type")]
    shapeless = [v for v in shapeless if not v.type.tensor_type.HasField("shape")]
    try:
        # Exporters forget what the checker insists on and no runtime needs: shapes of outputs,
        # and, below IR version 4, initializers among the inputs.
        proto.ir_version = max(version, 4)
        for value in shapeless:
            value.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as problem:
        raise ModelFormatError(f"{name} is not a valid model: {first_line(problem)}") from problem
    except (EncodeError, ValueError, UnicodeDecodeError) as problem:
        raise ModelFormatError(f"{name} cannot be read: {first_line(problem)}") from problem
    finally:
        proto.ir_version = version
        for value in shapeless:
            value.type.tensor_type.ClearField("shape")


def first_line(problem: BaseException) -> str:
    """Return the first line of a message, shortened: C++ checkers write several."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(problem).__name__
