"""The first bytes of an engine file: which runtime made it, and which version, without a GPU.

Layout, little-endian, as read off engines that TensorRT-RTX 1.7 built: bytes 0-3 ``vtrt``, 4-7
zero, 8-11 the version of the serialization, 16-23 the length of the whole file, 24-27 the version.

TensorRT's begin with ``ftrt``, and no document tells the rest. In NVIDIA/TensorRT issue 3073 people
read the version of the serialization at byte 8 (232 of TensorRT 8.5.3, 213 of 8.4.3) and the
version at bytes 24 to 26, where Autoware's ``tensorrt_common`` reads it too, so the layouts seem to
be one. No plan of TensorRT was at hand to check it: its version counts as sure only where the
length agrees as well.
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
        version: the version that built it, ``"1.7.1.116"``; None where nothing like one is there.
        size: the file's length, in bytes.
        sure: the whole header is laid out as known; else ``version`` is a guess to show and not to
            act on.
        serialization: the version of the file format, as the runtime's own errors name it.
    """

    kind: str
    version: str | None
    size: int
    sure: bool = True
    serialization: int | None = None


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
    zero, serialization, declared = struct.unpack("<II4xQ", head[4:24])
    version = ".".join(str(part) for part in head[24:28])
    if kind == "tensorrt-rtx":
        if zero:
            raise ModelFormatError(f"{path} is damaged: bytes 4 to 7 of an engine are zero")
        if declared != size:
            what = "truncated" if declared > size else "damaged"
            raise ModelFormatError(
                f"{path} is {what}: it should have {declared:,} bytes, and has {size:,}"
            )
        return EngineHeader(kind, version, size, serialization=serialization)
    if head[24] not in _PLAUSIBLE_MAJOR:
        return EngineHeader(kind, None, size, sure=False)
    if zero or declared != size:
        # The fourth number was read by nobody: three are shown.
        return EngineHeader(kind, version.rpartition(".")[0], size, sure=False)
    return EngineHeader(kind, version, size, serialization=serialization)
