"""Files: written beside and renamed, hashed, and their errors told in one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphopt.errors import OutputError

Json = Any


def output_error(path: Path, problem: OSError) -> OutputError:
    """Turn an ``OSError`` met while writing ``path`` into one line that says what to do."""
    if problem.errno == errno.ENOSPC:
        return OutputError(f"no space left on the disk that holds {path}: free some, or use -o")
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"may not write {path}: {problem.strerror}; choose another -o")
    return OutputError(f"cannot write {path}: {problem.strerror or problem}")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path inside a fresh folder beside ``path``; rename onto ``path`` at the end.

    A reader sees the old file or the whole new one. Whatever else the block leaves in the fresh
    folder (external data) is moved beside ``path`` first. Nothing is left behind on an error.

    Raises:
        OutputError: the disk is full, or the folder may not be written.
    """
    target = Path(path)
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
        yield scratch / target.name
        names = sorted(p.name for p in scratch.iterdir())
        for name in [n for n in names if n != target.name] + [target.name]:
            (scratch / name).replace(target.parent / name)
    except OSError as problem:
        raise output_error(target, problem) from problem
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write ``data`` to ``path`` atomically and return the path."""
    with atomic_path(path) as beside:
        beside.write_bytes(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` (UTF-8) to ``path`` atomically and return the path."""
    return write_bytes(path, text.encode())


def dump_json(value: Mapping[str, Json] | list[Json]) -> str:
    """Serialize to JSON that is the same for the same value: sorted keys, NaN refused."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hex, reading it in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
