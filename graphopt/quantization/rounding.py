"""Second-order rounding of all weights of a model: codes that make up for each other's error.

The rounding of one layer is :mod:`graphopt.quantization.second_order`; here is what it is given.

* ``float`` (the default): the weights as they are, on the activations of the float network. Costs
  one run of it.
* ``sequential``: layers in graph order, each on the activations that the *quantized* network gives
  it, layers before it rounded already. What is rounded are not the old weights but those of least
  squares for what the float network gave there (:mod:`graphopt.recovery.least_squares`), where
  these do better on samples they were not fitted to: so weights make up for what rounding and
  clipping did to activations, as far as weights can. Costs a run of both networks, piece by piece.

Either way the bias takes back the mean of what rounding *weights* does to a layer's output
(:mod:`graphopt.quantization.bias`).

Memory: what :func:`graphopt.recovery.least_squares.most_memory` says, or
:mod:`graphopt.statistics.gram`, plus three matrices of one layer's features squared; activations up
to ``memory`` bytes, the rest in files. A layer too wide for the matrix of its features
(:func:`graphopt.statistics.gram.fits`) is rounded by that of its channels, tap by tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from graphopt.calibrators import CalibrationTable
from graphopt.dialects import DIALECTS
from graphopt.dialects.codes import WeightCodes
from graphopt.dialects.heads import Head, label
from graphopt.dialects.scales import MAX_SCALE, MIN_SCALE
from graphopt.errors import UsageError
from graphopt.graph import Array, Names, uses
from graphopt.model import Model
from graphopt.passes.base import Skip
from graphopt.quantization.refined import Refined
from graphopt.quantization.second_order import Matrix, cost, round_second_order
from graphopt.quantization.simulate import place, quantized_heads, simulate
from graphopt.recovery.least_squares import least_squares
from graphopt.recovery.problem import Problem, Solution
from graphopt.recovery.sequential import Solved, recover
from graphopt.recovery.targets import Target, target_of
from graphopt.statistics.collect import MEMORY, Batches, Statistics
from graphopt.statistics.gram import Gram, fits
from graphopt.statistics.layers import Layer, bias_of, layer_of, set_weights
from graphopt.statistics.replay import Progress

SEQUENTIAL, FLOAT = "sequential", "float"
FULL_RANGE = 127

TOO_WIDE = "rounded to nearest: its channels are too many for second order"
SHARED = "rounded to nearest: others share its weight"
NO_LAYER = "rounded to nearest: this form of Gemm is not handled"


@dataclass(frozen=True, slots=True)
class Rounded:
    """One layer's weight in integers.

    Attributes:
        codes: ``(groups, features, outputs)``.
        scales: of each output channel, ``(groups, outputs)``.
        weights: what they stand for, and the bias in the last row, ``(groups, features + 1,
            outputs)``.
        nearest: the relative squared error in the output, had they been rounded to nearest.
        chosen: the same of these codes.
    """

    codes: Array
    scales: Matrix
    weights: Matrix
    nearest: float
    chosen: float


def round_layer(
    layer: Layer, weights: Matrix, xx: Matrix, *, bias: bool, levels: int = FULL_RANGE
) -> Rounded:
    """Round one layer.

    Args:
        layer: the layer.
        weights: ``[W; b]``, ``(groups, features + 1, outputs)``.
        xx: Gram matrix with a column of ones, of its features or of its channels alone.
        bias: whether the bias may take back the mean error.
        levels: the greatest code.
    """
    groups, _, outputs = weights.shape
    taps = 1 if xx.shape[-1] - 1 == layer.features else layer.taps
    scales = _scales(layer, weights[:, :-1], levels)
    # Seen by channel: each tap is a column of its own.
    apart = weights[:, :-1].reshape(groups, -1, taps * outputs)
    steps = np.tile(scales, (1, taps))[:, None, :]
    seen = xx[:, :-1, :-1]
    # What is zero stays zero: a pattern of zeros, 2:4 or dead channels, is there for its speed.
    most = levels * (apart != 0)
    codes = round_second_order(apart, seen, steps, -most, most)
    error = apart - codes * steps
    nearest = apart - np.clip(np.rint(apart / steps), -levels, levels) * steps
    energy = max(float(cost(apart, seen).sum()), 1e-30)
    found = weights.copy()
    found[:, :-1] = (codes * steps).reshape(groups, -1, outputs)
    if bias and np.isfinite(xx).all():
        mean = xx[:, -1, :-1] / np.maximum(xx[:, -1, -1:], 1.0)
        lost = np.einsum("gf,gfo->go", mean, error)
        found[:, -1] += lost.reshape(groups, taps, outputs).sum(axis=1)
    left = [float(cost(e, seen).sum()) / energy for e in (nearest, error)]
    return Rounded(codes.reshape(groups, -1, outputs), scales, found, left[0], left[1])


def _scales(layer: Layer, weights: Matrix, levels: int) -> Matrix:
    amax = np.abs(weights).max(axis=1)
    if layer.op == "ConvTranspose":  # groups share the scales: the axis counts within a group
        amax = np.broadcast_to(amax.max(axis=0), amax.shape).copy()
    amax[amax == 0] = 1.0
    found = np.clip(amax / levels, MIN_SCALE, MAX_SCALE).astype(np.float32)
    return np.asarray(found, dtype=np.float64)


def codes_of(layer: Layer, head: Head, rounded: Rounded) -> WeightCodes:
    """Return the codes in the layout of the weight, with a scale along ``head.axis``."""
    alpha = float(head.node.attrs.get("alpha", 1.0)) if layer.op == "Gemm" else 1.0
    like = np.zeros(head.values.shape)
    codes = np.rint(layer.weight_of(rounded.codes * abs(alpha), like, head.node))
    scales = rounded.scales[0] if layer.op == "ConvTranspose" else rounded.scales.reshape(-1)
    return WeightCodes(codes.astype(np.int8), (scales / abs(alpha)).astype(np.float32))


@dataclass(slots=True)
class _Rounder:
    """A solver for :func:`recover` that gives each layer integer weights, and remembers them."""

    levels: int
    bias: bool
    done: dict[str, Rounded] = field(default_factory=dict)
    left: list[Skip] = field(default_factory=list)

    def __call__(self, problem: Problem) -> Solution | None:
        layer = problem.layer
        gram = _gram(problem)
        if gram is None:
            self.left.append(Skip(layer.node, TOO_WIDE))
            return None
        if not np.isfinite(gram.xx).all():
            self.left.append(Skip(layer.node, "rounded to nearest: its data is not all finite"))
            return None
        fitted = least_squares(problem)
        weights = problem.weights if fitted is None else fitted.weights
        if not np.isfinite(weights).all():
            fitted, weights = None, problem.weights
        bias = problem.bias and self.bias
        if not self.bias and fitted is not None:
            weights = weights.copy()
            weights[:, -1] = problem.weights[:, -1]
        found = round_layer(layer, weights, gram.xx, bias=bias, levels=self.levels)
        self.done[layer.node] = found
        note = "weights as they were" if fitted is None else fitted.note
        return Solution(found.weights, found.nearest, found.chosen, note)


def _gram(problem: Problem) -> Gram | None:
    """Sum the rows of a problem: of features, of channels where those are too many, or not."""
    layer = problem.layer
    by_channel = not fits(layer.groups, layer.features)
    if by_channel and not fits(layer.groups, layer.channels):
        return None
    gram = Gram(layer.groups, layer.channels if by_channel else layer.features)
    for rows in problem.rows():
        x = rows.x
        if by_channel:
            x = x.reshape(*x.shape[:2], layer.channels, layer.taps).swapaxes(-1, -2)
            x = x.reshape(len(x), -1, layer.channels)
        gram.add(x)
    return gram


def round_weights(
    model: Model,
    table: CalibrationTable,
    batches: Batches,
    *,
    dialect: str,
    exclude: Sequence[str] = (),
    how: str = FLOAT,
    bias: bool = True,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Refined:
    """Choose the codes of every weight that a dialect quantizes.

    Args:
        model: simplified and with BatchNorm folded, float; stays as it is.
        table: the ranges of its activations.
        batches: gives the samples, the same each time; real ones, not made up.
        dialect: a name in :data:`graphopt.dialects.DIALECTS`.
        exclude: patterns of nodes that stay float, as for :class:`InsertQDQ`.
        how: ``float`` or ``sequential``.
        bias: whether biases may change.
        memory: bytes of activations held in memory.
        threads: cores for ONNX Runtime.
        progress: called after each layer with 1.

    Raises:
        UsageError: ``how`` is unknown, or the table lacks a tensor.
        DataError: there are no samples, or they do not fit the model.
        UnsupportedModelError: the model is quantized already, or ONNX Runtime refuses it.
    """
    if how not in (SEQUENTIAL, FLOAT):
        raise UsageError(f"weights are rounded {FLOAT} or {SEQUENTIAL}, not '{how}'")
    placed = place(model, table, dialect, exclude)
    levels = levels_of(dialect)
    work, skipped = workable(model, quantized_heads(model, placed, exclude))
    done: dict[str, Rounded] = {}
    solved: list[Solved] = []
    if work and how == SEQUENTIAL:
        student = simulate(model, placed.model)
        rounder = _Rounder(levels, bias)
        solved = recover(
            model,
            student,
            {},
            batches,
            rounder,
            wanted=_targets(model, student, [layer for layer, _ in work]),
            memory=memory,
            threads=threads,
            progress=progress,
        )
        done, skipped = rounder.done, skipped + rounder.left
    elif work:
        statistics = Statistics(model, batches, memory=memory, threads=threads, progress=progress)
        done = _by_float(statistics, work, bias=bias, levels=levels)
        skipped += [Skip(x.node, TOO_WIDE) for x, _ in work if x.node not in done]
        solved = [Solved(n, r.nearest, r.chosen, "weights as they were") for n, r in done.items()]
    solved = [x for x in solved if x.node in done]
    return _written(model, work, done, solved, skipped, bias=bias)


def levels_of(dialect: str) -> int:
    """Return the greatest code of a weight in a dialect: 127, or 64 where sums would saturate."""
    return int(getattr(DIALECTS.load(dialect)(), "levels", FULL_RANGE))


def workable(model: Model, heads: Sequence[Head]) -> tuple[list[tuple[Layer, Head]], list[Skip]]:
    """Return the heads that can be given weights of their own, and those that cannot."""
    work, skipped = [], []
    for head in heads:
        layer = layer_of(model.graph, head.node)
        if layer is None or uses(head.weight) != 1:
            skipped.append(Skip(label(head.node), NO_LAYER if layer is None else SHARED))
        else:
            work.append((layer, head))
    return work, skipped


def _targets(model: Model, student: Model, work: Sequence[Layer]) -> list[Target]:
    """Return what each layer is asked for: what the float model gave, from what is rounded now."""
    known = set(model.graph.tensors())
    nodes = {node.name: node for node in student.graph.nodes}
    found = []
    for layer in work:
        target = target_of(model, layer, known)
        data = nodes[layer.node].inputs[0].name
        found.append(replace(target, layer=replace(layer, input=data)))
    return found


def _by_float(
    statistics: Statistics, work: Sequence[tuple[Layer, Head]], *, bias: bool, levels: int
) -> dict[str, Rounded]:
    heads = {layer.node: head for layer, head in work}
    nodes = {node.name: node for node in statistics.model.graph.nodes}
    done = {}
    for layer, gram in statistics.grams(heads):
        head = heads[layer.node]
        weights = np.concatenate(
            [layer.matrix(head.values, head.node), bias_of(layer, nodes)[:, None]], axis=1
        )
        may = bias and layer.bias is not None
        done[layer.node] = round_layer(layer, weights, gram.xx, bias=may, levels=levels)
    return done


def _written(
    model: Model,
    work: Sequence[tuple[Layer, Head]],
    done: dict[str, Rounded],
    solved: Sequence[Solved],
    skipped: Sequence[Skip],
    *,
    bias: bool,
) -> Refined:
    """Write what was found into a copy of the model."""
    out = model.clone()
    names, nodes = Names(out.graph), {node.name: node for node in out.graph.nodes}
    codes = {}
    for layer, head in work:
        found = done.get(layer.node)
        if found is None:
            continue
        codes[label(head.node)] = codes_of(layer, head, found)
        new = found.weights[:, -1] if bias else None
        set_weights(out, layer, found.weights[:, :-1], new, nodes, names)
    return Refined(out, codes, tuple(solved), tuple(skipped))
