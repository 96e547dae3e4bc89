"""A run as bytes: what a history file keeps of it, exact, small and checked when read."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphopt.errors import UsageError
from graphopt.profiles.run import Run
from graphopt.wording import one_line

# More than any run has, and little enough to hold: a record, and raw samples.
MOST_RECORD = 64 << 20
MOST_SAMPLES = 16 << 20
_FLOATS, _NANOSECONDS = b"f", b"n"
_NS = 1e6  # in a millisecond
SEARCHED = (
    "moment, verb, subject, branch, revision, status, machine, batch, runs.samples, sha256, "
    "model_digest"
)


def fingerprint_hash(fingerprint: Mapping[str, str]) -> str:
    """Return 16 hex digits that are the same for the same fingerprint, in any order."""
    text = json.dumps(dict(fingerprint), sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def plain_text(text: str) -> str:
    """Return a text that UTF-8 can hold, as it stands in a column that is searched.

    What came from bytes that are no UTF-8 (a branch's name) is escaped; the record keeps it exact.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def searched(run: Run) -> tuple[str | int, ...]:
    """Return what a file is searched by, in the order of :data:`SEARCHED`."""
    return (
        *(plain_text(t) for t in (run.when, run.verb, run.subject, run.branch, run.commit)),
        run.status,
        fingerprint_hash(run.fingerprint),
        max(0, min(run.batch, 2**31)),
        len(run.samples_ms),
        plain_text(run.sha256),
        plain_text(run.model_digest),
    )


def figure_rows(run: Run) -> list[tuple[str, float, str]]:
    """Return name, value and unit of each figure; one told twice counts once, as a run finds it."""
    found: dict[str, tuple[str, float, str]] = {}
    for figure in run.figures:
        name = plain_text(figure.name)
        found.setdefault(name, (name, float(figure.value), plain_text(figure.unit)))
    return list(found.values())


def pack(run: Run) -> tuple[bytes, bytes, str]:
    """Return a run's record and samples as bytes, and the digest of both.

    Raises:
        UsageError: it is larger than a history keeps.
    """
    if len(run.samples_ms) > MOST_SAMPLES:
        raise UsageError(
            f"a history keeps {MOST_SAMPLES:,} raw samples of a run; this has "
            f"{len(run.samples_ms):,}: measure for less long"
        )
    raw = replace(run, samples_ms=()).to_json()
    del raw["samples_ms"], raw["status"]
    # ASCII, so that any text fits; a NumPy scalar among the figures is a float.
    text = json.dumps(raw, sort_keys=True, separators=(",", ":"), allow_nan=False, default=float)
    record = text.encode("ascii")
    if len(record) > MOST_RECORD:
        raise UsageError(f"a history keeps {MOST_RECORD >> 20} MiB of a run; this is longer")
    samples = pack_samples(run.samples_ms)
    return zlib.compress(record, 6), samples, _digest(record, _little(run.samples_ms))


def unpack(record: Any, samples: Any, digest: Any) -> Run:
    """Read what :func:`pack` gave; ``samples`` of None leaves them out, and the digest unchecked.

    Raises:
        UsageError: it is something else, or damaged.
    """
    try:
        plain = _inflate(record, MOST_RECORD)
        values = () if samples is None else unpack_samples(samples)
        if samples is not None and _digest(plain, _little(values)) != digest:
            raise ValueError("it differs from what was added")
        raw = json.loads(plain)
        return replace(Run.from_json({**raw, "samples_ms": []}), samples_ms=values)
    except (ValueError, TypeError, OverflowError, RecursionError, zlib.error) as problem:
        raise UsageError(f"damaged: {one_line(problem)}") from problem


def pack_samples(samples_ms: Sequence[float]) -> bytes:
    """Return raw samples as bytes that :func:`unpack_samples` reads back to the bit.

    What a clock of nanoseconds gave goes as whole nanoseconds, a third as long; the rest as
    float64. The bytes are sorted by their place in the number, which lets zlib see what repeats.
    """
    floats = _little(samples_ms)
    kind, data = _FLOATS, floats
    scaled = [s * _NS for s in samples_ms]
    if scaled and max(scaled) < 2**53 and min(scaled) >= 0:
        whole = array("q", [round(s) for s in scaled])
        if _little([n / _NS for n in whole]) == floats:
            kind, data = _NANOSECONDS, _ordered(whole).tobytes()
    shuffled = b"".join(data[place::8] for place in range(8))
    return kind + len(samples_ms).to_bytes(4, "little") + zlib.compress(shuffled, 6)


def unpack_samples(data: Any) -> tuple[float, ...]:
    """Read what :func:`pack_samples` gave.

    Raises:
        ValueError: it is something else, or damaged.
    """
    if not isinstance(data, bytes) or len(data) < 5 or data[:1] not in (_FLOATS, _NANOSECONDS):
        raise ValueError("its samples are none")
    count = int.from_bytes(data[1:5], "little")
    if count > MOST_SAMPLES:
        raise ValueError("it has too many samples")
    shuffled = _inflate(data[5:], 8 * count)
    if len(shuffled) != 8 * count:
        raise ValueError("samples are missing")
    mixed = bytearray(8 * count)
    for place in range(8):
        mixed[place::8] = shuffled[place * count : (place + 1) * count]
    values: Sequence[float]
    if data[:1] == _FLOATS:
        values = _ordered(array("d", bytes(mixed)))
    else:
        values = [n / _NS for n in _ordered(array("q", bytes(mixed)))]
    if not all(math.isfinite(v) and v >= 0 for v in values):
        raise ValueError("samples must be finite and not negative")
    return tuple(values)


def _inflate(data: Any, most: int) -> bytes:
    if not isinstance(data, bytes):
        raise TypeError("bytes are missing")
    stream = zlib.decompressobj()
    plain = stream.decompress(data, most + 1)
    if len(plain) > most or not stream.eof:
        raise ValueError("it is longer than it may be, or cut off")
    return plain


def _digest(record: bytes, samples: bytes) -> str:
    return hashlib.sha256(len(record).to_bytes(8, "little") + record + samples).hexdigest()


def _little(values: Sequence[float]) -> bytes:
    return _ordered(array("d", values)).tobytes()


def _ordered(values: array[Any]) -> array[Any]:
    """Return the numbers in the other order of bytes, on machines where it is not the file's."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values
