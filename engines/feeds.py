"""Feeds checked before a runtime sees them, so that messages name the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import UsageError
from graphopt.registry import did_you_mean
from graphopt.wording import spell

if TYPE_CHECKING:
    from graphopt.graph import Array
    from graphopt.model import Inputs


def check_feeds(feeds: Mapping[str, Array], inputs: Inputs) -> None:
    """Compare feeds with what a session takes; a dimension that is no number is free.

    Raises:
        UsageError: an input is missing, unknown, or of the wrong type or shape.
    """
    for name in feeds:
        if name not in inputs:
            raise UsageError(
                f"'{name}' is no input of the model{did_you_mean(name, inputs)}; "
                f"its inputs: {', '.join(inputs)}"
            )
    for name, (dtype, shape) in inputs.items():
        if name not in feeds:
            raise UsageError(f"input '{name}' is not given")
        array = np.asarray(feeds[name])
        if dtype is not None and array.dtype != dtype:
            raise UsageError(f"input '{name}' must be {np.dtype(dtype).name}, not {array.dtype}")
        if not _fits(shape, array.shape):
            raise UsageError(
                f"input '{name}' must have the shape {spell(shape)}, not {spell(array.shape)}"
            )


def batch_of(feeds: Mapping[str, Array]) -> int:
    """Return the number of items in one batch: axis 0 of the first input that has one."""
    for array in feeds.values():
        if np.ndim(array):
            return max(1, int(np.shape(array)[0]))
    return 1


def _fits(declared: Sequence[Any], shape: tuple[int, ...]) -> bool:
    return len(declared) == len(shape) and all(
        not isinstance(d, int) or d == s for d, s in zip(declared, shape, strict=True)
    )
