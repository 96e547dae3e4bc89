"""What a file tells of the inputs of a model or an engine, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.engines import ShapeRange
from graphopt.engines.header import is_engine
from graphopt.engines.sidecar import find_sidecar
from graphopt.errors import UsageError
from graphopt.wording import one_line

Dims = tuple[int | None, ...]
_MOST_AXES = 8


def known_ranges(path: Path) -> dict[str, ShapeRange]:
    """Return the shapes an engine takes in its first optimization profile, by its sidecar.

    Empty where no sidecar tells them.

    Raises:
        UsageError: the sidecar cannot be read, or tells what no shapes can be.
    """
    told = (find_sidecar(path) or {}).get("shapes")
    found = {}
    for name, sizes in (told if isinstance(told, dict) else {}).items():
        given = sizes if isinstance(sizes, dict) else {}
        shapes = [_shape(given.get(key)) for key in ("min", "opt", "max")]
        low, tuned, high = shapes
        if (
            low is None
            or tuned is None
            or high is None
            or not len(low) == len(tuned) == len(high)
            or not all(a <= b <= c for a, b, c in zip(low, tuned, high, strict=True))
        ):
            raise UsageError(
                f"the sidecar of {path.name} tells no shapes of input '{one_line(name, 80)}' that "
                "an engine could have: build it again"
            )
        found[name] = ShapeRange(low, tuned, high)
    return found


def known_inputs(path: Path) -> dict[str, tuple[Dims, Dims | None]]:
    """Return input name -> (its shape, None where open; the shape it was tuned for, or None).

    Raises:
        UsageError: the model or the sidecar cannot be read.
    """
    from graphopt.model import Model

    if is_engine(path):
        told = (find_sidecar(path) or {}).get("inputs")
        inputs = told if isinstance(told, dict) else {}
        return {
            name: (_open(each, inputs.get(name)), each.opt)
            for name, each in known_ranges(path).items()
        }
    return {
        name: (tuple(d if isinstance(d, int) else None for d in shape), None)
        for name, (_, shape) in Model.load(path).inputs().items()
    }


def known_batch(path: Path) -> int:
    """Return the items in one run, as far as it can be told; else 1.

    Raises:
        UsageError: the model or the sidecar cannot be read.
    """
    shapes = (tuned or shape for shape, tuned in known_inputs(path).values())
    return next((shape[0] for shape in shapes if shape), None) or 1


def _open(ranges: ShapeRange, told: Any) -> Dims:
    """Return a shape, None where it is open: one that is built for a single size still is."""
    shape = told.get("shape") if isinstance(told, dict) else None
    if not isinstance(shape, list) or len(shape) != len(ranges.min):
        shape = list(ranges.min)
    return tuple(
        None if a != b or size is None else a
        for a, b, size in zip(ranges.min, ranges.max, shape, strict=True)
    )


def _shape(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > _MOST_AXES:
        return None
    if not all(type(size) is int and 0 < size < 1 << 31 for size in value):
        return None
    return tuple(value)
