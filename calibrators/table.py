"""The calibration table: the range of every tensor, with where it came from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError
from graphopt.files import dump_json, read_text, write_text

SCHEMA = 1


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
class CalibrationTable:
    """Ranges by tensor name, and what they were measured on.

    Attributes:
        ranges: tensor name -> range.
        method: the calibrator's name, with its options where it has any.
        model_digest: ``Model.digest()`` of the model whose tensors are named.
        data_digest: digest of the samples, or an empty string.
        samples: how many samples were seen.
        synthetic: whether the data was made up (``--synthetic``).
    """

    ranges: Mapping[str, TensorRange]
    method: str
    model_digest: str
    data_digest: str = ""
    samples: int = 0
    synthetic: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain values, tensors in name order."""
        return {
            "schema": SCHEMA,
            "kind": "graphopt-calibration-table",
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
        if not isinstance(raw, dict) or raw.get("kind") != "graphopt-calibration-table":
            raise UsageError(f"{path} is not a calibration table written by graphopt")
        if raw.get("schema") != SCHEMA:
            raise UsageError(f"{path} has schema {raw.get('schema')}; this graphopt reads {SCHEMA}")
        try:
            return cls(
                ranges={
                    str(name): TensorRange(float(r["amax"]), float(r["low"]), float(r["high"]))
                    for name, r in raw["ranges"].items()
                },
                method=str(raw["method"]),
                model_digest=str(raw["model_digest"]),
                data_digest=str(raw["data_digest"]),
                samples=int(raw["samples"]),
                synthetic=bool(raw["synthetic"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise UsageError(f"{path} is not a valid calibration table: {problem}") from problem
