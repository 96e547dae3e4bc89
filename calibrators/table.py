"""The calibration table: the range of every tensor, with where it came from.

A file holds the histograms too (schema 2), so that tables can be merged and resumed exactly, and
another calibrator can choose from the same counts without the data. Schema 1 had ranges only.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.calibrators.histogram import Histogram
from graphopt.calibrators.packed import pack, unpack
from graphopt.errors import UsageError
from graphopt.files import dump_json, read_text, write_text

SCHEMA = 2
SCHEMAS = (1, 2)
KIND = "graphopt-calibration-table"

_FLOAT32_MAX = 3.4028234663852886e38
_DIGEST = re.compile(r"[0-9a-f]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TensorRange:
    """The range of one tensor.

    Attributes:
        amax: the clipping threshold the calibrator chose, > 0 (0 for a tensor that is all zero).
        low: the least value seen, signed.
        high: the greatest value seen, signed.
    """

    amax: float
    low: float
    high: float

    def __post_init__(self) -> None:
        for value in (self.amax, self.low, self.high):
            if not math.isfinite(value):
                raise ValueError(f"a range must be finite, not {value}")
        if self.amax < 0 or self.low > self.high:
            raise ValueError(f"not a range: amax {self.amax}, {self.low} .. {self.high}")


@dataclass(frozen=True, slots=True)
class Counts:
    """What ranges are chosen from, kept so that they can be chosen again.

    Attributes:
        histograms: tensor name -> histogram, of the tensors of the table.
        gains: tensor name -> patch gain of its readers where that is not 1; see
            :mod:`graphopt.calibrators.readers`.
        seen: a digest of the content of each sample counted, in hex, sorted; a sample that was
            counted twice stands twice. Empty where nobody knows.
        preprocess: digest of how images became samples, or an empty string.
        positions: of how many positions of each sample values were counted, at least; None for
            all. Only counts of the same number can be added up.
    """

    histograms: Mapping[str, Histogram]
    gains: Mapping[str, float] = field(default_factory=dict)
    seen: tuple[str, ...] = ()
    preprocess: str = ""
    positions: int | None = None

    def gain(self, name: str) -> float:
        """Return the patch gain of a tensor's readers."""
        return self.gains.get(name, 1.0)


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """Ranges by tensor name, and what they were measured on.

    Attributes:
        ranges: tensor name -> range.
        method: the calibrator's name, with its options where it has any.
        model_digest: ``Model.digest()`` of the model whose tensors are named; empty where the
            table was made by another program.
        data_digest: digest of the samples, or an empty string.
        samples: how many samples were seen; 0 where another program did not say.
        synthetic: whether the data was made up (``--synthetic``).
        counts: the histograms, or None for ranges alone.
    """

    ranges: Mapping[str, TensorRange]
    method: str
    model_digest: str
    data_digest: str = ""
    samples: int = 0
    synthetic: bool = False
    counts: Counts | None = None

    def to_json(self, *, histograms: bool = True) -> dict[str, Any]:
        """Return the table as plain values, tensors in name order.

        Args:
            histograms: False leaves out the counts and the digests of the samples.
        """
        value: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": KIND,
            "method": self.method,
            "model_digest": self.model_digest,
            "data_digest": self.data_digest,
            "samples": self.samples,
            "synthetic": self.synthetic,
            "ranges": {
                name: {"amax": r.amax, "low": r.low, "high": r.high}
                for name, r in sorted(self.ranges.items())
            },
        }
        if histograms and self.counts is not None:
            value["counts"] = {
                "histograms": {n: pack(h) for n, h in sorted(self.counts.histograms.items())},
                "patch_gains": dict(sorted(self.counts.gains.items())),
                "samples_seen": list(self.counts.seen),
                "preprocess": self.counts.preprocess,
                "positions": self.counts.positions,
            }
        return value

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as JSON, atomically; the same table gives the same bytes."""
        return write_text(path, dump_json(self.to_json()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CalibrationTable:
        """Read a table written by :meth:`save`.

        Raises:
            UsageError: no such file, or it is no calibration table.
        """
        try:
            raw = json.loads(read_text(path))
        except (ValueError, RecursionError) as problem:
            raise UsageError(f"{path} is not a calibration table: {problem}") from problem
        return cls.from_json(raw, str(path))

    @classmethod
    def from_json(cls, raw: Any, where: str) -> CalibrationTable:
        """Read what :meth:`to_json` gave.

        Args:
            raw: plain values.
            where: the file, for messages.

        Raises:
            UsageError: it is no calibration table, or one of a newer graphopt.
        """
        if not isinstance(raw, dict) or raw.get("kind") != KIND:
            raise UsageError(f"{where} is not a calibration table written by graphopt")
        if raw.get("schema") not in SCHEMAS:
            known = " and ".join(map(str, SCHEMAS))
            raise UsageError(
                f"{where} has schema {str(raw.get('schema'))[:20]}; this graphopt reads {known}"
            )
        try:
            if not isinstance(raw["ranges"], dict):
                raise ValueError("its ranges are no table of names")
            ranges = {str(name): _range(str(name), r) for name, r in raw["ranges"].items()}
            return cls(
                ranges=ranges,
                method=_text(raw, "method"),
                model_digest=_text(raw, "model_digest"),
                data_digest=_text(raw, "data_digest"),
                samples=_natural(raw, "samples"),
                synthetic=bool(raw["synthetic"]),
                counts=_counts(raw["counts"], ranges) if "counts" in raw else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
            told = f"it lacks {problem}" if isinstance(problem, KeyError) else problem
            raise UsageError(f"{where} is not a valid calibration table: {told}") from problem


def _range(name: str, raw: Any) -> TensorRange:
    """Read one range.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: it is none, or beyond float32.
    """
    try:
        found = TensorRange(float(raw["amax"]), float(raw["low"]), float(raw["high"]))
    except ValueError as problem:
        raise ValueError(f"tensor '{name[:60]}': {problem}") from problem
    if max(found.amax, -found.low, found.high) > _FLOAT32_MAX:
        raise ValueError(f"tensor '{name[:60]}': a range beyond float32")
    return found


def _text(raw: Mapping[str, Any], key: str) -> str:
    if not isinstance(raw[key], str):
        raise ValueError(f"its {key} is no text")
    return str(raw[key])


def _natural(raw: Mapping[str, Any], key: str) -> int:
    if type(raw[key]) is not int or raw[key] < 0:
        raise ValueError(f"its {key} is no number >= 0")
    return int(raw[key])


def _counts(raw: Mapping[str, Any], ranges: Mapping[str, TensorRange]) -> Counts:
    """Read the counts, and check that they are those of the ranges.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: they are not.
    """
    stored, gains = raw["histograms"], raw["patch_gains"]
    if stored.keys() != ranges.keys() or not gains.keys() <= ranges.keys():
        raise ValueError("histograms and ranges are of different tensors")
    found = {}
    for name, one in stored.items():
        try:
            found[name] = unpack(one, ranges[name].low, ranges[name].high)
        except ValueError as problem:
            raise ValueError(f"tensor '{name}': {problem}") from problem
    given = {name: float(gain) for name, gain in gains.items()}
    if not all(math.isfinite(gain) and gain >= 0 for gain in given.values()):
        raise ValueError("a patch gain is no number >= 0")
    positions = raw["positions"]
    if positions is not None and (type(positions) is not int or positions < 1):
        raise ValueError("the number of positions is no number >= 1")
    seen = _digests(raw["samples_seen"])
    return Counts(found, given, seen, str(raw["preprocess"]), positions)


def _digests(raw: Sequence[Any]) -> tuple[str, ...]:
    if not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in raw):
        raise ValueError("the digest of a sample is not hexadecimal")
    return tuple(sorted(raw))
