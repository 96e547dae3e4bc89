"""What an engine takes, as far as its sidecar and the model it is compared with tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.engines.known import known_ranges
from graphopt.engines.sidecar import find_sidecar
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.wording import one_line, spell

if TYPE_CHECKING:
    from graphopt.graph import Array
    from graphopt.model import Inputs

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True)
class Takes:
    """What one input takes.

    Attributes:
        dtype: of the model's input.
        low, high: the least and the greatest shape.
    """

    dtype: np.dtype[Any]
    low: tuple[int, ...]
    high: tuple[int, ...]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Its shape; a dimension that may vary is None."""
        return tuple(a if a == b else None for a, b in zip(self.low, self.high, strict=True))

    def stored(self, name: str, array: Array, *, old: bool) -> Array:
        """Return values in the type that a binding of the engine has.

        Args:
            name: of the input, for messages.
            array: of the model's type and rank.
            old: the engine is of a TensorRT before 10, whose int64 inputs are int32.

        Raises:
            UsageError: it is beyond the shapes the engine was built for, or beyond int32.
            UnsupportedModelError: TensorRT has no such type.
        """
        for size, low, high in zip(array.shape, self.low, self.high, strict=True):
            if not low <= size <= high:
                raise UsageError(
                    f"input '{name}' is {spell(array.shape)}, and the engine was built for "
                    f"{spell(self.low)} to {spell(self.high)}"
                )
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        if array.dtype == np.int64 and old:
            if array.size and (array.min() < _INT32.min or array.max() > _INT32.max):
                raise UsageError(f"input '{name}' has values beyond int32, which TensorRT 8 has")
            array = array.astype(np.int32)
        if array.dtype.name not in _KINDS:
            raise UnsupportedModelError(f"input '{name}' is {array.dtype}: TensorRT has none")
        return array


_KINDS = frozenset({"float32", "float16", "int64", "int32", "int8", "uint8", "bool", "bfloat16"})
_TOLD = (_KINDS | {"float64"}) - {"bfloat16"}  # which NumPy knows only from elsewhere


def takes_of(path: Path, reference: Inputs | None = None) -> dict[str, Takes]:
    """Return input name -> what it takes.

    Args:
        path: the engine.
        reference: the inputs of the model it was built from, for what the sidecar does not tell:
            its types, or where there is no sidecar all.

    Raises:
        UsageError: too little is known, or the sidecar is not right.
    """
    reference = reference or {}
    ranges = known_ranges(path)
    if not ranges:
        return _of_model(path, reference)
    told = (find_sidecar(path) or {}).get("inputs")
    types = told if isinstance(told, dict) else {}
    found = {}
    for name, each in ranges.items():
        dtype = _dtype(types.get(name)) or _model_dtype(reference, name)
        if dtype is None:
            raise UsageError(
                f"input '{one_line(name, 80)}': the sidecar of {path.name} does not tell its type: "
                "compare it with the model it was built from, or build it again"
            )
        found[name] = Takes(dtype, each.min, each.max)
    return found


def dla_core(path: Path) -> int | None:
    """Return the DLA core that an engine was built for, by its sidecar, or None."""
    told = (find_sidecar(path) or {}).get("dla")
    core = told.get("core") if isinstance(told, dict) else told
    return core if type(core) is int and 0 <= core < 16 else None


def _of_model(path: Path, reference: Inputs) -> dict[str, Takes]:
    found = {}
    for name, (_, shape) in reference.items():
        dtype = _model_dtype(reference, name)
        fixed = tuple(size for size in shape if isinstance(size, int))
        if dtype is None or len(fixed) != len(shape):
            raise UsageError(
                f"{path.name} has no sidecar, and input '{one_line(name, 80)}' of the model is "
                f"{spell(shape)}: nothing tells which shapes the engine takes; build it with "
                "graphopt, or compare it with a model of fixed shapes"
            )
        found[name] = Takes(dtype, fixed, fixed)
    if not found:
        raise UsageError(f"{path.name} has no sidecar: nothing tells what the engine takes")
    return found


def _model_dtype(reference: Inputs, name: str) -> np.dtype[Any] | None:
    dtype = reference[name][0] if name in reference else None
    return None if dtype is None else np.dtype(dtype)


def _dtype(told: Any) -> np.dtype[Any] | None:
    name = told.get("dtype") if isinstance(told, dict) else None
    return np.dtype(name) if isinstance(name, str) and name in _TOLD else None
