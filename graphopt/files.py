"""Files: written beside and renamed, hashed, and their errors told in one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from graphopt.errors import OutputError, UsageError

Json = Any
# What ends a program from outside, and lets it clean up; Windows has no SIGHUP.
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def output_error(path: Path, problem: OSError) -> OutputError:
    """Turn an ``OSError`` met while writing ``path`` into one line that says what to do."""
    if problem.errno == errno.ENOSPC:
        return OutputError(f"no space left on the disk that holds {path}: free some")
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"may not write {path}: {problem.strerror}; choose another place")
    return OutputError(f"cannot write {path}: {problem.strerror or problem}")


_OWN = re.compile(r"/dev/(stdin|stdout|stderr)|/(?:dev|proc/self)/fd/([0-9]{1,9})")
_DESCRIPTOR = re.compile(r"/dev/(?:fd/)?[^/]+|/proc/[^/]+/fd/[^/]+")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C and its like off until the block is through: for moving files, and cleaning up.

    By Python's handlers, not by a mask: a mask holds for one thread, and runtimes have others.
    """
    held: list[int] = []
    kept: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                handler = signal.getsignal(number)
                if callable(handler):
                    kept[number] = handler
                    signal.signal(number, lambda n, _: held.append(n))
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """Yield a fresh hidden folder beside ``target``; it is gone afterwards, whatever happens.

    So are the folders above it that had to be made, unless something was put there.
    """
    scratch: Path | None = None
    made: list[Path] = []
    try:
        with uninterrupted():
            made = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
        yield scratch
    finally:
        with uninterrupted(), suppress(OSError):
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
            for folder in made:
                folder.rmdir()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path inside a fresh folder beside ``path``; rename onto ``path`` at the end.

    A reader sees the old file or the whole new one. Whatever else the block leaves in the fresh
    folder (external data) is moved beside ``path`` first. Nothing is left behind on an error.

    Raises:
        OutputError: the disk is full, or the folder may not be written.
    """
    target = Path(path)
    try:
        with scratch_beside(target) as scratch:
            yield scratch / target.name
            names = sorted(p.name for p in scratch.iterdir())
            with uninterrupted():
                for name in [n for n in names if n != target.name] + [target.name]:
                    (scratch / name).replace(target.parent / name)
    except OSError as problem:
        raise output_error(target, problem) from problem


def is_stream(path: Path) -> bool:
    """Return whether ``path`` is a pipe or a device, in whose place a rename would put a file.

    ``/dev/stdout`` is one even where a shell has put a file behind it.
    """
    if _DESCRIPTOR.fullmatch(str(path.absolute())):
        return True
    return path.exists() and not (path.is_file() or path.is_dir())


def _stream(path: Path) -> IO[bytes]:
    """Open a pipe or a device; of this process's own descriptors the same, at its place."""
    found = _OWN.fullmatch(str(path.absolute()))
    if found is None:
        return path.open("ab")
    names = {"stdin": 0, "stdout": 1, "stderr": 2}
    return os.fdopen(os.dup(names[found[1]] if found[1] in names else int(found[2])), "wb")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write ``data`` to ``path`` atomically and return the path.

    A pipe or a device is written into: see :func:`is_stream`.
    """
    target = Path(path)
    if is_stream(target):
        try:
            with _stream(target) as stream:
                stream.write(data)
        except OSError as problem:
            raise output_error(target, problem) from problem
        return target
    with atomic_path(path) as beside:
        beside.write_bytes(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` (UTF-8) to ``path`` atomically and return the path."""
    return write_bytes(path, text.encode())


def read_text(path: str | os.PathLike[str]) -> str:
    """Return a file's text (UTF-8).

    Raises:
        UsageError: there is no such file, it may not be read, or it is not text.
    """
    try:
        return Path(path).read_bytes().decode()
    except FileNotFoundError as problem:
        raise UsageError(f"no such file: {path}") from problem
    except OSError as problem:
        raise UsageError(f"cannot read {path}: {problem.strerror or problem}") from problem
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path} is not text") from problem


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
