"""A histogram as text: little-endian counts, byte plane after byte plane, zlib, base64.

The counts take as few bytes each as the greatest needs. What is read is checked: lengths before
anything is unpacked, and that extremes, exponent and counts can belong to one histogram.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from typing import Any

import numpy as np

from graphopt.calibrators.histogram import BIN_BITS, BINS, Histogram, exponent_of

_SIZES = (1, 2, 4, 8)
# Counts of one tensor may be added up in int64.
_MOST = 1 << 62


def pack(histogram: Histogram) -> dict[str, Any]:
    """Return exponent and counts as plain values; the same histogram gives the same."""
    greatest = int(histogram.counts.max())
    size = next(s for s in _SIZES if greatest < 1 << (8 * s))
    little = histogram.counts.astype(f"<u{size}")
    planes = little.view(np.uint8).reshape(BINS, size).T
    packed = zlib.compress(np.ascontiguousarray(planes).tobytes(), 9)
    return {
        "exponent": histogram.exponent,
        "bytes": size,
        "counts": base64.b64encode(packed).decode(),
    }


def unpack(raw: Any, low: float, high: float) -> Histogram:
    """Return the histogram that :func:`pack` made plain, with the extremes of its values.

    Raises:
        ValueError: it is none.
    """
    size, exponent, text = raw["bytes"], raw["exponent"], raw["counts"]
    if size not in _SIZES or isinstance(size, bool) or not isinstance(exponent, int):
        raise ValueError("not the counts of a histogram")
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(text, validate=True), BINS * size + 1)
    except (zlib.error, binascii.Error, TypeError) as problem:
        raise ValueError(f"the counts cannot be unpacked: {problem}") from problem
    if len(data) != BINS * size or not stream.eof or stream.unused_data:
        raise ValueError(f"a histogram has {BINS} counts")
    planes = np.frombuffer(data, np.uint8).reshape(size, BINS)
    unsigned = np.ascontiguousarray(planes.T).view(f"<u{size}").reshape(BINS)
    if sum(int(part) for part in unsigned.astype(object)) >= _MOST:
        raise ValueError("a histogram of more values than there can be")
    found = Histogram(unsigned.astype(np.int64), exponent, low, high)
    _require_one(found)
    return found


def _require_one(found: Histogram) -> None:
    """Refuse extremes that cannot be those of the counts.

    They are exact over all values, whereas of a large map not every value need be counted.
    """
    largest = found.largest
    last = found.occupied() - 1
    if last < 0:
        fits = largest == 0
    else:
        fits = (
            found.low <= found.high
            and found.exponent == exponent_of(largest)
            and last <= math.floor(math.ldexp(largest, BIN_BITS - found.exponent))
        )
    if not fits:
        raise ValueError(f"counts do not go with the range {found.low} .. {found.high}")
