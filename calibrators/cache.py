"""TensorRT's calibration cache: text, one scale a tensor, for implicit quantization and for DLA.

::

    TRT-8502-EntropyCalibration2
    images: 3c010204

The number is the big-endian IEEE 754 float32 of ``scale = amax / 127``. TensorRT 5 to 10 read it;
a header that names another version or algorithm makes them calibrate again (and fail, without
data). ``trtexec --calib`` is always EntropyCalibration2, whatever chose the ranges.
"""

from __future__ import annotations

import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from graphopt.calibrators.table import CalibrationTable
from graphopt.errors import UsageError
from graphopt.files import read_text, write_text

LEVELS = 127
DEFAULT_VERSION = "8.5.2"
DEFAULT_ALGORITHM = "EntropyCalibration2"
# The bounds that Q/DQ nodes have too: 1 / scale and products of two scales stay normal float32s.
MIN_SCALE = 2.0**-60
MAX_SCALE = 2.0**60

_HEADER = re.compile(r"TRT-(\d{1,9})-(\w+)", re.ASCII)
_SCALE = re.compile(r"[0-9a-fA-F]{1,8}")  # TensorRT does not pad with zeros


@dataclass(frozen=True, slots=True)
class CacheHeader:
    """The first line of a cache.

    Attributes:
        version: of the TensorRT that reads it: major, minor, patch.
        algorithm: of the calibrator class: ``EntropyCalibration2``, ``MinMaxCalibration``.
    """

    version: tuple[int, int, int] = (8, 5, 2)
    algorithm: str = "EntropyCalibration2"

    def __str__(self) -> str:
        major, minor, patch = self.version
        number = major * 10000 + minor * 100 if major >= 10 else major * 1000 + minor * 100
        return f"TRT-{number + patch}-{self.algorithm}"

    @classmethod
    def parse(cls, line: str) -> CacheHeader | None:
        """Return the header a line holds, or None."""
        match = _HEADER.fullmatch(line)
        if match is None:
            return None
        number = int(match[1])
        major, rest = divmod(number, 10000 if number >= 100000 else 1000)
        return cls((major, rest // 100, rest % 100), match[2])


def parse_version(text: str) -> tuple[int, int, int]:
    """Return major, minor and patch of ``8.5.2``, ``8.5.2.2`` or ``10.3``.

    Raises:
        UsageError: it is no version, or none that reads calibration caches.
    """
    match = re.fullmatch(r"(\d{1,2})\.(\d{1,2})(?:\.(\d{1,2})(?:\.\d+)*)?", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(f"'{text}' is not a version of TensorRT: write it like 8.5.2")
    version = int(match[1]), int(match[2]), int(match[3] or 0)
    _header(version, "EntropyCalibration2")
    return version


def header_of(version: str, algorithm: str) -> CacheHeader:
    """Return the header of a cache for a version such as ``10.3`` and an algorithm.

    Raises:
        UsageError: there is no such header.
    """
    return _header(parse_version(version), algorithm)


def scale_of(amax: float) -> float:
    """Return the float32 scale of int8 for ±amax; that of ±1 for a tensor that is all zero."""
    scale = min(max((amax or 1.0) / LEVELS, MIN_SCALE), MAX_SCALE)
    return float(struct.unpack(">f", struct.pack(">f", scale))[0])


def write_cache(
    path: str | os.PathLike[str],
    table: CalibrationTable,
    *,
    version: tuple[int, int, int] = (8, 5, 2),
    algorithm: str = "EntropyCalibration2",
) -> Path:
    """Write the table as a calibration cache, atomically; tensors in name order.

    Args:
        path: the file.
        table: the ranges; a tensor that is all zero gets the scale of ±1.
        version: major, minor and patch of the TensorRT that is to read it, 5 to 10.
        algorithm: what the calibrator class of that TensorRT calls itself.

    Raises:
        UsageError: a tensor's name cannot stand in a cache, or there is no such header.
        OutputError: the file cannot be written.
    """
    lines = [str(_header(version, algorithm))]
    for name, found in sorted(table.ranges.items()):
        if not name or "\n" in name or "\r" in name:
            raise UsageError(
                f"tensor {name!r} cannot stand in a TensorRT calibration cache: rename it"
            )
        lines.append(f"{name}: {struct.pack('>f', scale_of(found.amax)).hex()}")
    return write_text(path, "\n".join(lines) + "\n")


def read_cache(path: str | os.PathLike[str]) -> tuple[CacheHeader, dict[str, float]]:
    """Read a calibration cache, TensorRT's or ours.

    Returns:
        The header, and tensor name -> scale (>= 0; TensorRT gives dead tensors 0), in file order.

    Raises:
        UsageError: there is no such file, or it is no calibration cache; the message has the line.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    header = CacheHeader.parse(lines[0])
    if header is None:
        raise UsageError(
            f"{path} is not a TensorRT calibration cache: line 1 is not like "
            f"'{CacheHeader()}': {lines[0][:60]!r}"
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        name, separator, value = line.rpartition(": ")
        scale = _parse_scale(value)
        if not separator or not name or scale is None:
            raise UsageError(
                f"{path}, line {number}: not 'tensor: scale', a float32 >= 0 as 8 hex digits: "
                f"{line[:60]!r}"
            )
        if name in scales:
            raise UsageError(f"{path}, line {number}: tensor {name[:60]!r} has two scales")
        scales[name] = scale
    return header, scales


def _header(version: tuple[int, int, int], algorithm: str) -> CacheHeader:
    header = CacheHeader(version, algorithm)
    if not 5 <= version[0] <= 10 or CacheHeader.parse(str(header)) != header:
        shown = ".".join(map(str, version))
        raise UsageError(
            f"no TensorRT reads a calibration cache of version {shown}, {algorithm}: "
            "take 5.0 to 10.x (11 has no calibration), and an algorithm like EntropyCalibration2"
        )
    return header


def _parse_scale(value: str) -> float | None:
    """Return the float32 that hex digits hold, or None where it is no scale."""
    if not _SCALE.fullmatch(value):
        return None
    scale = float(struct.unpack(">f", bytes.fromhex(value.zfill(8)))[0])
    return scale if math.isfinite(scale) and scale >= 0 else None
