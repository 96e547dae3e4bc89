"""Feeds checked before a runtime sees them, so that messages name the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.engines.shapes import text
from graphopt.errors import UsageError
from graphopt.registry import did_you_mean

if TYPE_CHECKING:
    from graphopt.graph import Array

# ONNX Runtime's names of types, where they differ from NumPy's.
_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "object"}


def check_feeds(
    feeds: Mapping[str, Array], inputs: Sequence[tuple[str, str, Sequence[Any] | None]]
) -> None:
    """Compare feeds with inputs ``(name, type, shape)``; a dimension that is no number is free.

    Raises:
        UsageError: an input is missing, unknown, or of the wrong type or shape.
    """
    names = [name for name, _, _ in inputs]
    for name in feeds:
        if name not in names:
            raise UsageError(
                f"'{name}' is no input of the model{did_you_mean(name, names)}; "
                f"its inputs: {', '.join(names)}"
            )
    for name, kind, shape in inputs:
        if name not in feeds:
            raise UsageError(f"input '{name}' is not given")
        array = np.asarray(feeds[name])
        wanted = kind.removeprefix("tensor(").removesuffix(")")
        wanted = _NUMPY_NAMES.get(wanted, wanted)
        if kind.startswith("tensor(") and array.dtype.name != wanted:
            raise UsageError(f"input '{name}' must be {wanted}, not {array.dtype.name}")
        if shape is not None and not _same(shape, array.shape):
            raise UsageError(
                f"input '{name}' must have the shape {text(shape)}, not {text(array.shape)}"
            )


def batch_of(feeds: Mapping[str, Array]) -> int:
    """Return the number of items in one batch: axis 0 of the first input that has one."""
    for array in feeds.values():
        if np.ndim(array):
            return max(1, int(np.shape(array)[0]))
    return 1


def _same(declared: Sequence[Any], shape: tuple[int, ...]) -> bool:
    return len(declared) == len(shape) and all(
        not isinstance(d, int) or d == s for d, s in zip(declared, shape, strict=True)
    )
