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
from graphopt.files import dump_json, read_text, sha256, write_text

SCHEMA = 1
_KIND = "graphopt-engine-sidecar"
_MOST_BYTES = 16 << 20


def sidecar_path(engine: str | os.PathLike[str]) -> Path:
    """Return where the sidecar of an engine lies: its name with ``.json`` added."""
    engine = Path(engine)
    return engine.with_name(f"{engine.name}.json")


def write_sidecar(engine: str | os.PathLike[str], facts: Mapping[str, Any]) -> Path:
    """Write the sidecar of an engine that has been built, and return its path.

    Args:
        engine: the engine's file; its name (``file``), length and SHA-256 are added.
        facts: JSON values. By convention: ``runtime``, ``runtime_version``, ``onnx_sha256``,
            ``calibration_sha256``, ``recipe_sha256``, ``shapes``, ``device``, ``precision``,
            ``preprocessing``, ``synthetic``, ``host``, and what the engine's build tells.

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
    if not file.exists():
        raise UsageError(f"no sidecar: there is no file {file}")
    if file.stat().st_size > _MOST_BYTES:
        raise UsageError(f"{file} is too long to be a sidecar written by graphopt")
    try:
        raw = json.loads(read_text(file))
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{file} is not a sidecar written by graphopt: {problem}") from problem
    if not isinstance(raw, dict) or raw.get("kind") != _KIND:
        raise UsageError(f"{file} is not a sidecar written by graphopt")
    if raw.get("schema") != SCHEMA:
        raise UsageError(f"{file} has schema {raw.get('schema')}; this graphopt reads {SCHEMA}")
    return raw


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
    if facts.get("engine_bytes") != engine.stat().st_size:
        return [
            f"{engine.name} has {engine.stat().st_size:,} bytes and its sidecar tells of "
            f"{facts.get('engine_bytes')}: it belongs to another build"
        ]
    if facts.get("engine_sha256") != sha256(engine):
        return [f"{engine.name} is not what its sidecar tells of: the SHA-256 differs"]
    return []
