"""Graphs whose dead channels are multiples of live ones, problems of one layer, plans."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from graphopt.channels import analyze, make_plan
from graphopt.channels.apply import apply_plan, survivors
from graphopt.graph import Array
from graphopt.model import Feeds, Model
from graphopt.recovery.problem import Matrix, Problem, Rows
from graphopt.recovery.targets import Kept
from graphopt.statistics import Layer


@dataclass(frozen=True)
class Net:
    """A graph, and which constants have a second half that is a multiple of the first.

    Attributes:
        text: ``g (inputs) => (outputs) { nodes }``; inputs not called x... become weights.
        doubled: constant -> (axis, parts): in each of so many parts of the axis, the second half
            is a multiple of the first.
        width: of the group that is cut in half.
        solved: the nodes that are expected to be solved.
    """

    text: str
    doubled: Mapping[str, tuple[int, int]]
    width: int
    solved: tuple[str, ...]
    x: tuple[int, ...] = (4, 7, 7)
    weights: Mapping[str, Array] = field(default_factory=dict)

    def model(self) -> Model:
        header = '<ir_version: 8, opset_import: ["" : 17]>'
        proto = onnx.parser.parse_model(f"{header}\n{self.text}")
        rng = np.random.default_rng(zlib.crc32(self.text.encode()))
        for value in [i for i in proto.graph.input if not i.name.startswith("x")]:
            shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
            array = rng.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]), 1))
            if value.name in self.doubled:
                array = _doubled(array, *self.doubled[value.name])
            proto.graph.initializer.append(numpy_helper.from_array(array.astype("f4"), value.name))
            proto.graph.input.remove(value)
        return Model.from_onnx(proto)

    def samples(self, count: int, seed: int) -> Array:
        return np.random.default_rng(seed).normal(size=(count, *self.x)).astype("f4")


def _doubled(array: Array, axis: int, parts: int) -> Array:
    array = np.moveaxis(array, axis, 0).copy()
    for part in np.split(np.arange(len(array)), parts):
        live, dead = np.split(part, 2)
        # Positive, so that a Relu in between changes nothing.
        array[dead] = array[live] * 1.5
    return np.moveaxis(array, 0, axis)


def halved(model: Model, width: int) -> tuple[Model, Kept]:
    """Cut the second half off every group of this width, and return what is left."""
    analysis = analyze(model)
    hit = {g.name for g in analysis.groups if g.width == width}
    assert hit, [(g.name, g.width) for g in analysis.groups]
    scores = {g.name: -np.arange(g.width, dtype=float) for g in analysis.groups}
    ratios = {g.name: 0.5 if g.name in hit else 0.0 for g in analysis.groups}
    plan = make_plan(analysis, scores, align=1, floor=1, ratios=ratios)
    assert all(g.after == (g.before // 2 if g.name in hit else g.before) for g in plan.groups)
    cut = model.clone()
    apply_plan(cut, plan)
    return cut, survivors(analysis, plan)


def batched(x: Array, size: int, name: str = "x") -> Callable[[], list[Feeds]]:
    return lambda: [{name: x[i : i + size]} for i in range(0, len(x), size)]


def problem(
    x: Array,
    wanted: Array,
    weights: Matrix,
    *,
    beside: Array | None = None,
    bias: bool = True,
    rectified: bool = False,
    batches: int = 4,
) -> Problem:
    """A layer of ``(groups, rows, features)`` that should give ``(groups, rows, outputs)``."""
    groups, size, outputs = weights.shape
    layer = Layer(
        "n", "Conv", "w", "x", "y", ("n", 2) if bias else None, groups, size - 1, 1, outputs, 1
    )

    def rows() -> Iterator[Rows]:
        for part in np.array_split(np.arange(x.shape[1]), batches):
            other = 0.0 if beside is None else beside[:, part]
            yield Rows(x[:, part], wanted[:, part], other)

    return Problem(layer, weights, bias, rectified, rows)


def linear(x: Array, weights: Matrix) -> Matrix:
    found: Matrix = x.astype("f8") @ weights[:, :-1] + weights[:, -1:]
    return found
