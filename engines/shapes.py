"""The shapes an engine is built for: every input's range, checked against the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.engines import ShapeRange
from graphopt.errors import UsageError
from graphopt.registry import did_you_mean
from graphopt.wording import spell

if TYPE_CHECKING:
    from graphopt.model import Model


def resolve_shapes(model: Model, given: Mapping[str, ShapeRange]) -> dict[str, ShapeRange]:
    """Return the range of every input of the model, in the order of its inputs.

    An input without dynamic dimensions need not be given.

    Raises:
        UsageError: a name is no input, a dynamic input is not given, or a shape does not fit.
    """
    names = [tensor.name for tensor in model.graph.inputs]
    for name in given:
        if name not in names:
            raise UsageError(
                f"'{name}' is no input of the model{did_you_mean(name, names)}; "
                f"its inputs: {', '.join(names)}"
            )
    return {t.name: _range(t, given.get(t.name)) for t in model.graph.inputs}


def opt_batch(shapes: Mapping[str, ShapeRange]) -> int:
    """Return the items in one run at the opt shapes: the first input's first dimension, or 1."""
    return next((each.opt[0] for each in shapes.values() if each.opt), 1)


def to_json(shapes: Mapping[str, ShapeRange]) -> dict[str, dict[str, list[int]]]:
    """Return ranges as plain values: name -> {"min", "opt", "max"}."""
    return {
        name: {"min": list(r.min), "opt": list(r.opt), "max": list(r.max)}
        for name, r in shapes.items()
    }


def input_facts(model: Model) -> dict[str, dict[str, Any]]:
    """Return what a sidecar tells of the inputs: name -> {"dtype", "shape"}.

    The type is NumPy's name for it, null where unknown; so is a free dimension.
    """
    return {
        name: {
            "dtype": None if dtype is None else np.dtype(dtype).name,
            "shape": [d if isinstance(d, int) else None for d in shape],
        }
        for name, (dtype, shape) in model.inputs().items()
    }


def _range(tensor: Any, given: ShapeRange | None) -> ShapeRange:
    declared: list[Any] | None = tensor.shape
    if given is None:
        if declared is not None and all(isinstance(d, int) for d in declared):
            fixed = tuple(declared)
            return ShapeRange(fixed, fixed, fixed)
        example = "x".join(str(d) if isinstance(d, int) else "1" for d in declared or ["1"])
        raise UsageError(
            f"input '{tensor.name}' is {spell(declared)}: say which shapes to "
            f"build for, for example --opt-shapes {tensor.name}:{example}"
        )
    for which, shape in (("min", given.min), ("opt", given.opt), ("max", given.max)):
        _fits(tensor.name, declared, which, shape)
    for low, mid, high in zip(given.min, given.opt, given.max, strict=True):
        if not low <= mid <= high:
            raise UsageError(
                f"input '{tensor.name}': the shapes must grow from min to max, not "
                f"{spell(given.min)}, {spell(given.opt)}, {spell(given.max)}"
            )
    return given


def _fits(name: str, declared: list[Any] | None, which: str, shape: tuple[int, ...]) -> None:
    wrong = (
        f"input '{name}' is {spell(declared)}, which the {which} shape {spell(shape)} does not fit"
    )
    if any(d < 1 for d in shape):
        raise UsageError(f"input '{name}': every dimension of {spell(shape)} must be at least 1")
    if declared is None:
        return
    if len(declared) != len(shape):
        raise UsageError(wrong)
    if any(isinstance(d, int) and d != s for d, s in zip(declared, shape, strict=True)):
        raise UsageError(wrong)
