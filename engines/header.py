"""The first bytes of an engine file: which runtime made it, and which version, without a GPU.

Layout, read off engines that TensorRT-RTX 1.7 built: bytes 0-3 ``vtrt`` (``ftrt`` for TensorRT),
4-7 zero, 16-23 the length of the whole file, 24-27 the version; integers are little-endian. That
TensorRT lays out the rest alike has not been seen, so its version is told only where the length
agrees too.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import ModelFormatError, UsageError

HEADER_BYTES = 28
MAGIC = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
# An offset that holds something else would hardly read as a major version in this range.
_PLAUSIBLE_MAJOR = range(7, 20)


@dataclass(frozen=True, slots=True)
class EngineHeader:
    """What an engine file says of itself.

    Attributes:
        kind: the runtime, a name in ``graphopt.engines.ENGINES``.
        version: the version that built it, ``"1.7.1.116"``; None where it cannot be trusted.
        size: the file's length, in bytes.
    """

    kind: str
    version: str | None
    size: int


def is_engine(path: str | os.PathLike[str]) -> bool:
    """Whether the file starts as a TensorRT or TensorRT-RTX engine does; False if unreadable."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(4) in MAGIC
    except OSError:
        return False


def identify(path: str | os.PathLike[str]) -> EngineHeader:
    """Read the header of an engine file.

    Raises:
        UsageError: there is no such file, or it may not be read.
        ModelFormatError: it is no engine, or is truncated.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(HEADER_BYTES)
            size = os.fstat(stream.fileno()).st_size
    except FileNotFoundError as problem:
        raise UsageError(f"no such file: {path}") from problem
    except OSError as problem:
        raise UsageError(f"cannot read {path}: {problem.strerror or problem}") from problem
    if head[:4] not in MAGIC:
        raise ModelFormatError(
            f"{path} is not a TensorRT engine: it starts with {head[:4]!r}, not 'ftrt' or 'vtrt'"
        )
    kind = MAGIC[head[:4]]
    if len(head) < HEADER_BYTES:
        raise ModelFormatError(f"{path} is truncated: an engine is longer than {size} bytes")
    zero, declared = struct.unpack("<I8xQ", head[4:24])
    version = head[24:28]
    if kind == "tensorrt-rtx":
        if zero:
            raise ModelFormatError(f"{path} is damaged: bytes 4 to 7 of an engine are zero")
        if declared > size:
            raise ModelFormatError(
                f"{path} is truncated: it should have {declared:,} bytes, and has {size:,}"
            )
        if declared < size:
            raise ModelFormatError(
                f"{path} is damaged: it should have {declared:,} bytes, and has {size:,}"
            )
    elif zero or declared != size or version[0] not in _PLAUSIBLE_MAJOR:
        return EngineHeader(kind, None, size)
    return EngineHeader(kind, ".".join(str(part) for part in version), size)
