"""Data on another scale than the model was trained on, told without labels.

Two things in a model say what its inputs were like.

*BatchNormalization* holds mean and variance of what it normalized in training. What it gets now
must spread as far: the median over channels of the ratio of standard deviations is near 1. Data
that were divided by 255 and should not have been (or the other way round) are off by 255, missing
``std`` by 4.

Where BatchNormalization was folded away, the *bias* of a first layer is left of it. Folded, the
layer computes ``g (w x - m) / s + b``: with g, b and m/s of the order of 1, the answer to the data,
without the bias, is about as large as the bias (RMS over channels). That is coarser: only a factor
of 16 and more is told, and only for data whose values look like the mistake: all of them whole
numbers from 0 to 255 or some beyond ±300 where the answer is too large, none beyond ±4 where it is
too small.

Neither tells RGB from BGR: the statistics are nearly the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.data import Dataset
from graphopt.dialects.heads import label
from graphopt.graph import (
    Array,
    Node,
    Tensor,
    constant,
    is_float,
    is_op,
    remove_dead,
)
from graphopt.model import Feeds, Model
from graphopt.runtime import open_session
from graphopt.sensitivity import fewer

SAMPLES = 64
SPREAD = 2.5
"""Standard deviations this many times those of training, or as many times less, are told."""

ANSWER = 16.0
"""So many times the bias, or as many times less, is told of an answer."""

_LAYERS = 4
_BATCH = 16
# They give each channel its own statistics, whatever the scale of the data.
_NORMALIZE = ("InstanceNormalization", "LayerNormalization", "GroupNormalization",
              "LpNormalization", "MeanVarianceNormalization")  # fmt: skip
_WEIGHTED = ("Conv", "Gemm")


@dataclass(frozen=True, slots=True)
class Scale:
    """How strongly a first layer is driven, against how strongly it was.

    Attributes:
        node: name of the layer.
        ratio: spread against that of training, or answer against bias.
        trained: whether it is against statistics of the training.
        low: least value of the inputs.
        high: greatest value.
        whole: whether all inputs are whole numbers.
    """

    node: str
    ratio: float
    trained: bool
    low: float
    high: float
    whole: bool

    @property
    def raw(self) -> bool:
        """Whether the inputs look like pixels as they are in a file."""
        return self.whole and self.low >= 0 and 16 < self.high <= 255

    @property
    def small(self) -> bool:
        """Whether the inputs look scaled or normalized."""
        return max(-self.low, self.high) <= 4

    @property
    def huge(self) -> bool:
        """Whether the inputs are beyond those of any pixels, as they are or around their mean."""
        return max(-self.low, self.high) > 300

    @property
    def off(self) -> bool:
        """Whether the scale is wrong, for all one can see."""
        if self.trained:
            return not 1 / SPREAD <= self.ratio <= SPREAD
        if self.ratio > 1:
            return self.ratio > ANSWER and (self.raw or self.huge)
        return self.ratio < 1 / ANSWER and self.small

    def __str__(self) -> str:
        """One line: what was seen, and what to do."""
        strength = f"{self.ratio:.3g} times"
        seen = (
            f"what BatchNormalization '{self.node}' reads spreads {strength} as far as in training"
            if self.trained
            else f"the first layer '{self.node}' answers {strength} as strongly as its bias expects"
        )
        values = f"inputs are {self.low:.3g} to {self.high:.3g}"
        if self.low == self.high:
            advice = "every input is the same: check the samples, and --preprocess"
        elif self.ratio > 1 and self.raw:
            advice = (
                "these are raw pixels, and the model takes normalized ones: give --preprocess with "
                "scale, mean and std"
            )
        elif self.ratio < 1 / ANSWER and self.small:
            advice = "the model takes raw pixels, it seems: give --preprocess with scale = 1"
        else:
            advice = "give --preprocess as in training (scale, mean, std)"
        return f"the data do not fit the model: {seen}, and the {values}; {advice}"


def check_scale(model: Model, data: Dataset, *, samples: int = SAMPLES) -> list[str]:
    """Return one line where the data are on another scale than the model was trained on.

    Args:
        model: as given, or simplified, or folded; not quantized.
        data: what it is to be fed with; nothing is said of made-up data.
        samples: how many to look at.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses the model.
        DataError: a sample is broken, or does not fit.
    """
    if data.synthetic:
        return []
    found = scales(model, fewer(data, samples, 0))
    wrong = [scale for scale in found if scale.off]
    # Where several layers read the input, one of them may be odd by itself.
    return [str(wrong[0])] if 2 * len(wrong) > len(found) else []


def scales(model: Model, data: Dataset) -> list[Scale]:
    """Measure the first layers; those with BatchNormalization alone where there are any.

    Args:
        model: as :func:`check_scale`.
        data: all of it is run.
    """
    first = _first_layers(model)
    norms = [(node, True) for node in first if is_op(node, "BatchNormalization")]
    biased = [
        (node, False) for node in first if is_op(node, *_WEIGHTED) and _bias(node) is not None
    ]
    layers = (norms or biased)[:_LAYERS]
    if not layers:
        return []
    given = {t.name for t in model.graph.inputs}
    wanted: dict[str, Tensor] = {}
    for node, trained in layers:
        needed = [node.inputs[0], *node.inputs[3:5]] if trained else [node.outputs[0]]
        wanted.update((t.name, t) for t in needed if constant(t) is None)
    inputs, moments = _Inputs(), {n: _Moments() for n in wanted}
    values: dict[str, Array] = {}
    for feeds, outputs in _runs(model, [name for name in wanted if name not in given], data):
        inputs.add(feeds)
        values = {**feeds, **outputs}
        for name in wanted:
            moments[name].add(values[name])
    if inputs.low > inputs.high:
        return []
    found = []
    for node, trained in layers:
        if trained:
            mean, variance = (_value(t, values) for t in node.inputs[3:5])
            ratio = _spread(moments[node.inputs[0].name], mean, variance)
        else:
            ratio = _answer(moments[node.outputs[0].name], node)
        if ratio is not None:
            found.append(Scale(label(node), ratio, trained, inputs.low, inputs.high, inputs.whole))
    return found


def _first_layers(model: Model) -> list[Node]:
    """Return layers that tell of the inputs, and lie behind no other such layer, in graph order.

    A Conv before a BatchNormalization is returned as well as that.
    """
    graph = model.graph
    # What reaches a tensor: nothing of the inputs (no entry), the inputs through no layer (0),
    # through a Conv or Gemm (1), through more than tells of them (2).
    depth = {t.name: 0 for t in graph.inputs if is_float(t)}
    found = []
    for node in graph.nodes:
        above = [depth[t.name] for t in node.inputs if t.name in depth]
        if not above:
            continue
        deepest = max(above)
        if is_op(node, *_WEIGHTED) and node.inputs[0].name in depth:
            if deepest == 0:
                found.append(node)
            deepest += 1
        elif is_op(node, "BatchNormalization") and not _training(node):
            if deepest <= 1:
                found.append(node)
            deepest = 2
        elif is_op(node, *_NORMALIZE):
            deepest = 2
        depth.update((t.name, min(deepest, 2)) for t in node.outputs)
    return found


def _training(node: Node) -> bool:
    return bool(node.attrs.get("training_mode", 0)) or len(node.inputs) < 5


def _bias(node: Node) -> Array | None:
    """Return the bias, one value for each channel; None where there is none."""
    values = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else None
    if values is None or values.ndim != 1 or values.size < 2 or constant(node.inputs[1]) is None:
        return None
    bias = values.astype(np.float64) * float(node.attrs.get("beta", 1.0))
    return bias if np.isfinite(bias).all() and bias.any() else None


def _runs(
    model: Model, names: Sequence[str], data: Dataset
) -> Iterator[tuple[Feeds, dict[str, Array]]]:
    """Run what leads to some tensors, and no more, on all samples."""
    if not names:
        yield from ((feeds, {}) for feeds in data.batches(_BATCH))
        return
    clone = model.clone()
    tensors = clone.graph.tensors()
    clone.graph.outputs = [tensors[name] for name in names]
    remove_dead(clone.graph)
    read = {t.name for t in clone.graph.inputs}
    with open_session(clone) as session:
        for feeds in data.batches(_BATCH):
            outputs = session.run(list(names), {n: a for n, a in feeds.items() if n in read})
            yield feeds, dict(zip(names, outputs, strict=True))


class _Inputs:
    """The range of the float inputs, and whether all values are whole."""

    def __init__(self) -> None:
        self.low, self.high, self.whole = math.inf, -math.inf, True

    def add(self, feeds: Feeds) -> None:
        for array in feeds.values():
            if array.dtype.kind == "f" and array.size:
                self.low = min(self.low, float(array.min()))
                self.high = max(self.high, float(array.max()))
                self.whole = self.whole and bool((array == np.rint(array)).all())


class _Moments:
    """Sums over everything but the channels, which lie on axis 1."""

    def __init__(self) -> None:
        self.count, self.sum, self.square = 0, np.zeros(1), np.zeros(1)

    def add(self, array: Array) -> None:
        if array.ndim < 2:
            return
        values = array.astype(np.float64)
        axes = tuple(axis for axis in range(values.ndim) if axis != 1)
        self.count += values.size // max(values.shape[1], 1)
        self.sum = self.sum + values.sum(axes)
        self.square = self.square + np.square(values).sum(axes)

    def mean(self) -> Array:
        return np.asarray(self.sum / max(self.count, 1))

    def variance(self) -> Array:
        return np.maximum(self.square / max(self.count, 1) - np.square(self.mean()), 0)


def _value(tensor: Tensor, values: dict[str, Array]) -> Array:
    known = constant(tensor)
    return np.asarray(values[tensor.name] if known is None else known, dtype=np.float64)


def _spread(moments: _Moments, mean: Array, variance: Array) -> float | None:
    """Return how far channels spread against training, the median; None where that says nothing."""
    now = moments.variance()
    if now.shape != variance.shape or not moments.count:
        return None
    # A channel that was as good as constant in training tells nothing of the scale.
    alive = (variance > 1e-6 * np.median(variance)) & (variance > 1e-10) & np.isfinite(mean)
    if alive.sum() < 2:
        return None
    return float(np.median(np.sqrt(now[alive] / variance[alive])))


def _answer(moments: _Moments, node: Node) -> float | None:
    """Return the RMS of a layer's answer to the data against that of its bias."""
    bias = _bias(node)
    mean, variance = moments.mean(), moments.variance()
    if bias is None or mean.shape != bias.shape:
        return None
    answer = variance + np.square(mean - bias)
    return float(np.sqrt(answer.mean() / np.square(bias).mean()))


__all__ = ["ANSWER", "SAMPLES", "SPREAD", "Scale", "check_scale", "scales"]
