"""The sidecar of an engine: ``model.engine.json`` beside ``model.engine``.

What is written inside an engine breaks other tools, so it is written beside it. No time and no
path goes in: the same build gives the same bytes. The hashes tell a mix-up, not an attack: whoever
can change the engine can change the sidecar too, and an engine is code that the GPU's runtime runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError
from graphopt.files import dump_json, sha256, write_text
from graphopt.wording import one_line

SCHEMA = 2
"""2 adds ``gpu`` and what else an engine is tied to; 1 is still read."""
_READ = (1, 2)
_KIND = "graphopt-engine-sidecar"
_MOST_BYTES = 16 << 20
_MOST_DEPTH = 32


def sidecar_path(engine: str | os.PathLike[str]) -> Path:
    """Return where the sidecar of an engine lies: its name with ``.json`` added."""
    engine = Path(engine)
    return engine.with_name(f"{engine.name}.json")


def write_sidecar(engine: str | os.PathLike[str], facts: Mapping[str, Any]) -> Path:
    """Write the sidecar of an engine that has been built, and return its path.

    Args:
        engine: the engine's file; its name (``file``), length and SHA-256 are added.
        facts: JSON values. By convention:

            - what it is: ``engine`` (a name in ``ENGINES``), ``runtime``, ``precision``,
              ``shapes``, ``inputs`` (name -> ``dtype`` and ``shape``), ``device``, ``layers``;
            - what it is tied to, checked before it is loaded: ``runtime_version``; ``gpu``, the one
              it was built on, ``{"name": "Tesla T4", "sm": "7.5"}``; ``compute_capabilities``, what
              a TensorRT-RTX engine is for; and where it was built to be tied less,
              ``version_compatible`` (true) and ``hardware_compatibility`` (``"ampere_plus"`` or
              ``"same_compute_capability"``);
            - how it was built: ``builder_flags``, ``trtexec`` (the words of its command line, files
              by their names), ``versions``, ``host``;
            - what it was built from: ``source`` (the name of the model's file), ``source_digest``,
              ``onnx_sha256``, ``calibration_sha256``, ``recipe_sha256``, ``preprocessing``,
              ``synthetic``.

    Raises:
        UsageError: there is no such engine.
        OutputError: the disk is full, or the folder may not be written.
    """
    engine = Path(engine)
    if not engine.is_file():
        raise UsageError(f"no such file: {engine}")
    everything = {
        **facts,
        "schema": SCHEMA,
        "kind": _KIND,
        "file": engine.name,
        "engine_bytes": engine.stat().st_size,
        "engine_sha256": sha256(engine),
    }
    return write_text(sidecar_path(engine), dump_json(everything))


def read_sidecar(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the sidecar of an engine, by the engine's path or its own.

    Raises:
        UsageError: there is none, or it is no sidecar of ours.
    """
    path = Path(path)
    file = path if path.name.endswith(".json") else sidecar_path(path)
    if not _exists(file):
        raise UsageError(f"no sidecar: there is no file {file}")
    raw = read_json(file, "sidecar written by graphopt")
    if not isinstance(raw, dict) or raw.get("kind") != _KIND:
        raise UsageError(f"{file} is not a sidecar written by graphopt")
    schema = raw.get("schema")
    if type(schema) is not int or schema not in _READ:
        raise UsageError(
            f"{file} has schema {one_line(schema, 40)}; this graphopt reads {SCHEMA} and older"
        )
    return raw


def find_sidecar(engine: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the sidecar of an engine, or None where it has none of ours.

    Other tools write JSON of that name too: what says it is something else counts as none.

    Raises:
        UsageError: what lies there is no JSON, or a sidecar of ours that this version cannot read:
            either way what it would have told is not known.
    """
    file = sidecar_path(engine)
    if not _exists(file):
        return None
    raw = read_json(file, "sidecar written by graphopt")
    if not isinstance(raw, dict) or raw.get("kind") != _KIND:
        return None
    return read_sidecar(file)


def check_sidecar(engine: str | os.PathLike[str]) -> list[str]:
    """Return what is wrong between an engine and its sidecar, a line each; empty if they agree.

    Raises:
        UsageError: there is no such engine.
    """
    engine = Path(engine)
    if not engine.is_file():
        raise UsageError(f"no such file: {engine}")
    try:
        facts = read_sidecar(sidecar_path(engine))
    except UsageError as problem:
        return [str(problem)]
    swapped = is_another(engine, facts)
    return [swapped] if swapped else []


def is_another(engine: Path, facts: Mapping[str, Any]) -> str | None:
    """Return why an engine is not the one its sidecar tells of, or None where it is."""
    size = engine.stat().st_size
    told = facts.get("engine_bytes")
    if told != size:
        return (
            f"{engine.name} has {size:,} bytes and its sidecar tells of {one_line(told, 40)}: "
            "it belongs to another build"
        )
    if facts.get("engine_sha256") != sha256(engine):
        return f"{engine.name} is not what its sidecar tells of: the SHA-256 differs"
    return None


def read_json(file: Path, what: str) -> Any:
    """Read a small JSON file that may be anything.

    Args:
        file: to be read.
        what: it should be, for the message: ``"sidecar written by graphopt"``.

    Raises:
        UsageError: it is no file, may not be read, or is no JSON, too long or nested too deep.
    """
    if not file.is_file():
        raise UsageError(f"{file} is not a {what}: it is not a file")
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as problem:
        raise UsageError(f"cannot read {file}: {problem.strerror or problem}") from problem
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{file} is too long to be a {what}")
    try:
        value = json.loads(data.decode(), parse_constant=_no_number)
        _check_depth(value)
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{file} is not a {what}: {one_line(problem, 150)}") from problem
    return value


def _exists(file: Path) -> bool:
    return os.path.lexists(file)  # Path.exists() raises for a name too long


def _no_number(text: str) -> Any:
    raise ValueError(f"it holds {text}, which JSON does not have")


def _check_depth(value: Any) -> None:
    todo = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if depth > _MOST_DEPTH:
            raise ValueError(f"it is nested more than {_MOST_DEPTH} levels deep")
        if isinstance(item, dict):
            todo += [(each, depth + 1) for each in item.values()]
        elif isinstance(item, list):
            todo += [(each, depth + 1) for each in item]
