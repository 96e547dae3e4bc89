"""ONNX Runtime's calibration tables, read: every file that ``onnxruntime.quantization`` writes.

``write_calibration_table`` writes one table three times: ``calibration.json`` with both ends of
each range, and ``calibration.cache`` (text, ``name value``) and ``calibration.flatbuffers`` with
one number, ``max(highest, lowest)``. ``save_tensors_data`` writes a ``TensorsData`` as JSON.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from graphopt.calibrators.table import TensorRange
from graphopt.errors import UsageError

_FIELDS = frozenset({"lowest", "highest"})


def from_json(raw: Any, where: str) -> dict[str, TensorRange] | None:
    """Return the ranges of ``calibration.json`` or of a ``TensorsData``; None where it is neither.

    Raises:
        UsageError: a range is none.
    """
    if isinstance(raw, dict) and raw.get("CLS") == "TensorsData":
        raw = raw.get("data")
    if not isinstance(raw, dict) or not raw:
        return None
    pairs = {str(name): _pair(value) for name, value in raw.items()}
    if all(pair is None for pair in pairs.values()):
        return None
    return {name: _range(name, pair, where) for name, pair in pairs.items()}


def from_text(text: str, where: str) -> dict[str, TensorRange] | None:
    """Return the ranges of ``calibration.cache``; None where the text is not of that kind.

    Raises:
        UsageError: a line is wrong, or a tensor has two ranges.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or _number(lines[0].rpartition(" ")[2]) is None or " " not in lines[0]:
        return None
    pairs = []
    for line in lines:
        name, _, value = line.rpartition(" ")
        number = _number(value)
        if not name or number is None:
            raise UsageError(f"{where}: not 'tensor range': {line[:60]!r}")
        pairs.append((name, number))
    return _symmetric(pairs, where)


def from_flatbuffers(data: bytes, where: str) -> dict[str, TensorRange] | None:
    """Return the ranges of ``calibration.flatbuffers``; None where the bytes are not of that kind.

    Raises:
        UsageError: a tensor's range is none, or it has two.
    """
    try:
        pairs = list(_entries(data))
    except (struct.error, UnicodeDecodeError, IndexError):
        return None
    found = []
    for name, value in pairs:
        number = _number(value)
        if not name or number is None:
            raise UsageError(f"{where}: tensor {name[:60]!r} has no range: {value[:40]!r}")
        found.append((name, number))
    return _symmetric(found, where) if found else None


def _symmetric(pairs: list[tuple[str, float]], where: str) -> dict[str, TensorRange]:
    found: dict[str, TensorRange] = {}
    for name, number in pairs:
        if name in found:
            raise UsageError(f"{where}: tensor {name[:60]!r} has two ranges")
        if number < 0:
            # max(highest, lowest) of a tensor that is never positive.
            raise UsageError(
                f"{where}: tensor {name[:60]!r} has the range {number}: ONNX Runtime writes the "
                "greatest value, not the greatest magnitude; read its calibration.json instead"
            )
        found[name] = TensorRange(number, -number, number)
    return found


def _pair(value: Any) -> tuple[Any, Any] | None:
    """Return lowest and highest as they stand, of a TensorData or an old [low, high]; or None."""
    if isinstance(value, Mapping) and value.keys() >= _FIELDS:
        return _scalar(value["lowest"]), _scalar(value["highest"])
    if isinstance(value, list) and len(value) == 2:
        return _scalar(value[0]), _scalar(value[1])
    return None


def _scalar(value: Any) -> Any:
    """Return the number in NumPy's JSON form, ``{"data": …, "CLS": "numpy.array"}``."""
    if isinstance(value, Mapping):
        value = value.get("data")
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _range(name: str, pair: tuple[Any, Any] | None, where: str) -> TensorRange:
    numbers = [n for n in pair or () if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(numbers) != 2:
        raise UsageError(f"{where}: tensor {name[:60]!r} has no range of two numbers")
    try:
        low, high = (float(n) for n in numbers)
        return TensorRange(max(abs(low), abs(high)), low, high)
    except (ValueError, OverflowError) as problem:
        raise UsageError(f"{where}: tensor {name[:60]!r}: {problem}") from problem


def _number(text: str) -> float | None:
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text, re.ASCII):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _entries(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield key and value of each entry of ``table TrtTable {dict: [KeyValue];}``.

    Every offset is read with a bounds check (``struct.error``), none may point backwards but that
    of a vtable, and no more entries are taken than the file could hold.
    """
    vector = _reference(data, _field(data, _reference(data, 0), 0))
    (count,) = struct.unpack_from("<I", data, vector)
    if count > len(data) // 4:
        raise struct.error("more entries than bytes")
    read = 0
    for i in range(count):
        entry = _reference(data, vector + 4 + 4 * i)
        key, value = (_string(data, _field(data, entry, field)) for field in (0, 1))
        read += len(key) + len(value)
        if read > len(data):  # the same bytes again and again
            raise struct.error("more text than bytes")
        yield key, value


def _field(data: bytes, table: int, index: int) -> int:
    """Return where a field of a table lies."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    if vtable < 0:
        raise struct.error("a vtable before the file")
    size, _ = struct.unpack_from("<HH", data, vtable)
    if 4 + 2 * index >= size:
        raise struct.error("a field is missing")
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * index)
    if not offset:
        raise struct.error("a field is missing")
    return int(table + offset)


def _reference(data: bytes, at: int) -> int:
    (offset,) = struct.unpack_from("<I", data, at)
    return int(at + offset)


def _string(data: bytes, at: int) -> str:
    start = _reference(data, at)
    (length,) = struct.unpack_from("<I", data, start)
    if start + 4 + length > len(data):
        raise struct.error("a string beyond the file")
    return data[start + 4 : start + 4 + length].decode()


def loads(text: str) -> Any:
    """Return what JSON text holds, or None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
