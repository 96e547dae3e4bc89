"""The shapes of a build: those asked for, and for what was left open the data's."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.engines import ShapeRange
from graphopt.engines.shapes import resolve_shapes
from graphopt.model import Model
from graphopt.recipe import Recipe
from graphopt.report import Report
from graphopt.wording import spell

MAX_AUTO_BATCH = 16


def choose_shapes(
    model: Model, recipe: Recipe, data: Dataset, report: Report, ui: Console
) -> dict[str, ShapeRange]:
    """Give every dynamic input its min, opt and max shapes.

    A dynamic first dimension becomes 1 .. 16 tuned for 1; other open dimensions take the size
    the data has.

    Raises:
        UsageError: a named input does not exist, or a given shape contradicts the model.
    """
    shapes = {
        name: ShapeRange(given.min, given.opt, given.max)
        for name, given in recipe.engine.shapes.items()
    }
    sample = {name: array.shape[1:] for name, array in next(iter(data.batches(1))).items()}
    for name, (_, shape) in model.inputs().items():
        if name in shapes or all(isinstance(d, int) for d in shape):
            continue
        rest = tuple(
            d if isinstance(d, int) else int(sample[name][i]) for i, d in enumerate(shape[1:])
        )
        batch = shape[0]
        most = MAX_AUTO_BATCH if recipe.engine.dla is None else 1  # a DLA takes fixed shapes
        low, high = (batch, batch) if isinstance(batch, int) else (1, most)
        shapes[name] = ShapeRange((low, *rest), (low, *rest), (high, *rest))
        spelled = spell((low, *rest))
        report.decide(
            f"shapes of {name}", f"{spelled}, batch up to {high}", "dynamic, none were given"
        )
        ui.info(
            f"input {name}: built for {spelled}, batch {low} to {high}; "
            "--min-shapes/--opt-shapes/--max-shapes change it"
        )
    resolve_shapes(model, shapes)  # what the engine would refuse, before any work
    return shapes


def more_profiles(
    model: Model, recipe: Recipe, first: Mapping[str, ShapeRange]
) -> tuple[Mapping[str, ShapeRange], ...]:
    """Return the optimization profiles after the first; what one leaves out is as in the first.

    Raises:
        UsageError: a shape contradicts the model.
    """
    found = []
    for given in recipe.engine.more_shapes:
        shapes = {name: ShapeRange(s.min, s.opt, s.max) for name, s in given.items()}
        profile = {**first, **shapes}
        resolve_shapes(model, profile)
        found.append(profile)
    return tuple(found)
