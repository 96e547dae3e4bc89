"""What is compared: one file each, found in a build's folder where that is given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from graphopt.engines.header import is_engine
from graphopt.engines.sidecar import find_sidecar, read_json
from graphopt.errors import GraphoptError, UsageError
from graphopt.files import sha256
from graphopt.registry import did_you_mean
from graphopt.wording import one_line

_REPORT = "report.json"


@dataclass(frozen=True, slots=True)
class Item:
    """An artifact.

    Attributes:
        path: of the file.
        engine: whether it is an engine of TensorRT or TensorRT-RTX.
        size: in bytes, with the files that hold its weights.
        sha256: of the file.
        model_digest: of the model it was built from, as its sidecar tells; else empty.
    """

    path: Path
    engine: bool
    size: int
    sha256: str
    model_digest: str = ""


def exists(path: Path) -> bool:
    """Whether there is something; False for what can be no path."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists() raises for a name too long


def find(path: Path) -> Path:
    """Return the artifact that a path means: a file, or a build's engine in its folder.

    Of a folder without an engine it is the model that was written last: ``optimize`` builds none.

    Raises:
        UsageError: there is no such file, or the folder holds no build.
    """
    if not exists(path):
        nearest = did_you_mean(path.name, _names(path.parent))
        raise UsageError(f"no such file: {one_line(path)}{nearest}")
    if not path.is_dir():
        return path
    report = path / _REPORT
    if not report.is_file():
        raise UsageError(
            f"{one_line(path)} is a folder without {_REPORT}: name the engine or model in it"
        )
    raw = read_json(report, "report written by graphopt")
    artifacts = raw.get("artifacts") if isinstance(raw, dict) else None
    kinds = dict(_told(artifacts))
    models = [kind for kind in kinds if kind.startswith("onnx")]
    for kind in ("engine", *reversed(models)):
        if kind in kinds and (path / kinds[kind]).is_file():
            return path / kinds[kind]
    raise UsageError(f"{one_line(report)} tells of no engine and no model that lies beside it")


def look_at(path: Path) -> Item:
    """Return what a file is, without running it.

    Raises:
        UsageError: it cannot be read, or its sidecar cannot.
    """
    try:
        engine = is_engine(path)
        size = path.stat().st_size + (0 if engine else external_bytes(path))
        digest = sha256(path)
    except OSError as problem:
        raise UsageError(f"cannot read {one_line(path)}: {problem.strerror}") from problem
    source = (find_sidecar(path) or {}).get("source_digest")
    return Item(path, engine, size, digest, source if isinstance(source, str) else "")


@contextmanager
def unchanged(*items: Item) -> Iterator[None]:
    """Refuse what was measured if a file is not, in the end, what it was: it is opened anew often.

    Raises:
        UsageError: one was written, replaced or removed meanwhile.
    """
    before = [_mark(item.path) for item in items]
    try:
        yield
    except GraphoptError as problem:
        _same(items, before, problem)
        raise
    _same(items, before, None)


def _same(items: Sequence[Item], before: Sequence[object], cause: GraphoptError | None) -> None:
    for item, mark in zip(items, before, strict=True):
        if _mark(item.path) != mark:
            raise UsageError(
                f"{one_line(item.path)} was changed or removed while it was checked: check again"
            ) from cause


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_ino, told.st_size, told.st_mtime_ns


def external_bytes(path: Path) -> int:
    """Return the size of the files beside an ONNX model that hold its weights.

    What is no ONNX model has none: whoever opens it tells what is wrong.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # noqa: BLE001 - protobuf's errors have no common base
        return 0
    names = {
        entry.value
        for tensor in _tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    folder = path.parent
    files = {folder / name for name in names if "\0" not in name}
    return sum(file.stat().st_size for file in files if file.is_file())


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    todo = [graph]
    while todo:
        here = todo.pop()
        yield from here.initializer
        for node in here.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("g"):
                    todo.append(attribute.g)
                todo += attribute.graphs


def _told(artifacts: Any) -> Iterator[tuple[str, str]]:
    """Return kind and name of what a report lists; only names that stay in its folder."""
    for each in artifacts if isinstance(artifacts, list) else []:
        kind, name = (each.get("kind"), each.get("path")) if isinstance(each, dict) else (0, 0)
        if isinstance(kind, str) and isinstance(name, str) and Path(name).name == name:
            yield kind, name


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))[:1000]
    except OSError:
        return []
