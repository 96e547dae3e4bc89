"""What samples say of a model's layers: one run over them, one layer in memory at a time.

Memory: ``memory`` bytes of activations, one layer's matrix (:mod:`graphopt.statistics.gram` says
how large), a piece of its rows, and a few copies of what one batch holds of one tensor. Activations
beyond that go to temporary files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.errors import DataError
from graphopt.graph import Array, Node, in_graph_order
from graphopt.model import Feeds, Model
from graphopt.statistics.gram import MOST_FEATURES, Gram, fits
from graphopt.statistics.layers import Layer, layers
from graphopt.statistics.replay import Progress, Replay
from graphopt.statistics.spill import Spill
from graphopt.statistics.unfold import PIECE, Unfolder, output_rows, pieces

MEMORY = 1 << 30  # bytes of activations held; beyond it they go to disk
MOST_ROWS = 65_536  # rows of a layer that are looked at: three times as many change nothing

__all__ = ["MEMORY", "MOST_FEATURES", "MOST_ROWS", "Batches", "Moments", "Statistics",
           "channel_rows"]  # fmt: skip

Batches = Callable[[], Iterable[Feeds]]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """Of each channel of a tensor, over all samples and positions.

    Attributes:
        mean: shape ``(channels,)``.
        std: standard deviation, shape ``(channels,)``.
        zeros: the share of exact zeros, shape ``(channels,)``.
    """

    mean: Values
    std: Values
    zeros: Values


class Statistics:
    """Streams samples through a model for whoever asks.

    Args:
        model: the model, simplified and with BatchNorm folded.
        batches: gives the same samples, in the same batches, each time it is called.
        unfolded: the same model before BatchNorm was folded, for criteria that look at its scales.
        seed: for criteria that draw numbers.
        memory: bytes of activations held in memory; the rest goes to disk.
        threads: cores for ONNX Runtime.
        progress: called after each layer with 1.
    """

    def __init__(
        self,
        model: Model,
        batches: Batches | None,
        *,
        unfolded: Model | None = None,
        seed: int = 0,
        memory: int = MEMORY,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.unfolded, self.seed = model, unfolded, seed
        self.memory, self.threads, self.progress = memory, threads, progress
        self._batches = batches

    @property
    def has_data(self) -> bool:
        """Whether there are samples."""
        return self._batches is not None

    @property
    def batches(self) -> Batches:
        """The samples.

        Raises:
            DataError: there are none.
        """
        if self._batches is None:
            raise DataError("this looks at activations and needs samples: give --data")
        return self._batches

    def grams(self, nodes: Iterable[str]) -> Iterator[tuple[Layer, Gram]]:
        """Yield the Gram matrix of the input of each of these layers, in graph order.

        Only ``xx`` is filled. A layer of more than ``MOST_FEATURES`` features (of less where there
        are several groups: :func:`~graphopt.statistics.gram.fits`) is seen channel by channel:
        ``gram.xx`` is ``(groups, channels + 1, channels + 1)``, and what its taps see is taken as
        alike and unrelated. One of more channels than that is left out; :meth:`moments` has room
        for any.
        """
        wanted = set(nodes)
        found = [
            layer
            for layer in layers(self.model)
            if layer.node in wanted and fits(layer.groups, layer.channels)
        ]
        at = {node.name: node for node in self.model.graph.nodes}
        with Spill(self.memory) as spill:
            replay = Replay(
                self.model, self.batches(), [x.input for x in found], spill, threads=self.threads
            )
            for layer in found:
                replay.pin(layer.input)
                replay.compute(layer.input)
                gram = _gram(replay, layer, at[layer.node])
                replay.unpin(layer.input)
                if self.progress is not None:
                    self.progress(1)
                yield layer, gram

    def moments(self, tensors: Mapping[str, int]) -> dict[str, Moments]:
        """Return the moments of each of these tensors, along one axis of each.

        Args:
            tensors: name of an activation -> axis of its channels.
        """
        place = {t.name: i for i, t in enumerate(in_graph_order(self.model.graph))}
        order = sorted((t for t in tensors if t in place), key=place.__getitem__)
        out: dict[str, Moments] = {}
        with Spill(self.memory) as spill:
            replay = Replay(self.model, self.batches(), order, spill, threads=self.threads)
            for name in order:
                replay.pin(name)
                replay.compute(name)
                sums = _Sums(replay.get(name, 0).shape[tensors[name]])
                for batch in range(replay.batches):
                    sums.add(channel_rows(replay.get(name, batch), tensors[name]))
                replay.unpin(name)
                out[name] = sums.moments()
                if self.progress is not None:
                    self.progress(1)
        return out


def _gram(replay: Replay, layer: Layer, node: Node) -> Gram:
    """Sum the rows of one layer, by channel where there are too many features."""
    by_channel = not fits(layer.groups, layer.features)
    gram = Gram(layer.groups, layer.channels if by_channel else layer.features)
    most = max(MOST_ROWS // replay.batches, 1)
    for batch in range(replay.batches):
        x = replay.get(layer.input, batch)
        if by_channel:
            count = x.size // (layer.groups * layer.channels)
            for rows in pieces(layer, count, most, batch):
                gram.add(output_rows(layer, x, rows))
            continue
        unfolder = Unfolder(layer, node, x)
        for rows in pieces(layer, unfolder.count, most, batch):
            gram.add(unfolder.rows(rows))
    return gram


class _Sums:
    def __init__(self, channels: int) -> None:
        self.rows = 0
        self.x, self.xx, self.zeros = np.zeros((3, channels))

    def add(self, rows: Array) -> None:
        step = max(PIECE // (8 * max(rows.shape[1], 1)), 1)
        for start in range(0, len(rows), step):
            wide = rows[start : start + step].astype(np.float64)
            self.rows += len(wide)
            self.x += wide.sum(axis=0)
            self.zeros += (wide == 0).sum(axis=0)
            self.xx += np.square(wide, out=wide).sum(axis=0)

    def moments(self) -> Moments:
        rows = max(self.rows, 1)
        mean = self.x / rows
        variance = np.maximum(self.xx / rows - mean * mean, 0)
        return Moments(mean, np.sqrt(variance), self.zeros / rows)


def channel_rows(x: Array, axis: int) -> Array:
    """Return an activation as ``(positions, channels)``."""
    channels = x.shape[axis]
    return np.moveaxis(x, axis, -1).reshape(x.size // max(channels, 1), channels)
