"""Activations as design matrices: what a layer multiplies its weight by, row by row.

A row is one output position of one sample; its columns are the features of
:mod:`graphopt.statistics.layers`.

Memory: an :class:`Unfolder` holds a padded copy of the batch it is given. Rows are made when they
are asked for; :func:`pieces` says which to ask for at once so that they stay within ``PIECE``
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.graph import Array, Node
from graphopt.statistics.layers import Layer

Rows = npt.NDArray[np.int64]
HELD = 256 << 20  # bytes of one layer's rows that are kept to be looked at again
PIECE = 32 << 20  # bytes of rows, inputs and outputs together, that are looked at at once


class Unfolder:
    """Turns one batch of a layer's input into rows.

    Args:
        layer: the layer.
        node: its node, for strides, pads and dilations.
        x: the layer's input, ``(N, C, spatial...)``, or ``(..., K)`` for Gemm and MatMul.
    """

    def __init__(self, layer: Layer, node: Node, x: Array) -> None:
        self.layer = layer
        if layer.axis == -1:
            self.count = prod(x.shape[:-1])
            self.flat = x.reshape(self.count, x.shape[-1])
            return
        kernel = _kernel(node)
        dilations = _ints(node, "dilations", [1] * len(kernel))
        strides = _ints(node, "strides", [1] * len(kernel))
        spatial, begin = _geometry(node, x.shape[2:], kernel, strides, dilations)
        if layer.op == "ConvTranspose":
            x = _spread(x, strides)
            begin = [(k - 1) * d - p for k, d, p in zip(kernel, dilations, begin, strict=True)]
            strides = [1] * len(kernel)
        reach = [
            (o - 1) * s + (k - 1) * d + 1
            for o, s, k, d in zip(spatial, strides, kernel, dilations, strict=True)
        ]
        x = _frame(x, begin, reach)
        axes = tuple(range(2, x.ndim))
        window = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
        view = np.lib.stride_tricks.sliding_window_view(x, window, axis=axes)
        if layer.op == "ConvTranspose":
            dilations = [-d for d in dilations]
        self.view: Array = view[_every(1, 1, *strides, *dilations)]
        self.spatial = spatial
        self.count = x.shape[0] * prod(spatial)

    def rows(self, wanted: Rows | None = None) -> Array:
        """Return the rows asked for, or all of them, as ``(groups, rows, features)``."""
        layer = self.layer
        if layer.axis == -1:
            return (self.flat if wanted is None else self.flat[wanted])[None]
        if wanted is None:
            dims = len(self.spatial)
            order = (0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
            flat = self.view.transpose(order)
        else:
            sample, *places = np.unravel_index(wanted, (self.view.shape[0], *self.spatial))
            at: Any = (sample, slice(None), *places)
            flat = self.view[at]
        count = self.count if wanted is None else len(wanted)
        found: Array = flat.reshape(count, layer.groups, layer.features).transpose(1, 0, 2)
        return found


def output_rows(layer: Layer, y: Array, wanted: Rows | None = None) -> Array:
    """Return a batch of a layer's output as ``(groups, rows, outputs)``.

    Args:
        layer: the layer.
        y: ``(N, groups * outputs, spatial...)``, or ``(..., outputs)``.
        wanted: which rows; all by default.
    """
    if layer.axis == -1:
        flat = y.reshape(prod(y.shape[:-1]), y.shape[-1])
        return (flat if wanted is None else flat[wanted])[None]
    dims = y.ndim - 2
    if wanted is None:
        flat = y.transpose(0, *range(2, 2 + dims), 1).reshape(-1, y.shape[1])
    else:
        sample, *places = np.unravel_index(wanted, (y.shape[0], *y.shape[2:]))
        at: Any = (sample, slice(None), *places)
        flat = y[at]
    flat = flat.reshape(len(flat), layer.groups, y.shape[1] // layer.groups)
    found: Array = flat.transpose(1, 0, 2)
    return found


def sampled(count: int, most: int, turn: int) -> Rows | None:
    """Choose at most ``most`` of ``count`` rows, evenly spread; None stands for all of them.

    One row of each of ``most`` equal strata, at a place that a hash of stratum and ``turn`` gives,
    so that no regular pattern of image columns comes about. Rows are in order, none comes twice.
    """
    if count <= most:
        return None
    strata = np.arange(most + 1, dtype=np.int64)
    edges = strata * count // most
    hashed = (strata[:-1].astype(np.uint64) + np.uint64(turn * 7919 + 1)) * np.uint64(
        0x9E3779B97F4A7C15
    )
    jitter = (hashed >> np.uint64(11)).astype(np.float64) / 2**53
    found: Rows = edges[:-1] + (jitter * np.diff(edges)).astype(np.int64)
    return found


def pieces(layer: Layer, count: int, most: int, turn: int) -> Iterator[Rows | None]:
    """Yield which rows of a batch to look at, those that fit into ``PIECE`` bytes at a time.

    Args:
        layer: whose rows, inputs and outputs in single precision.
        count: rows of the batch.
        most: rows to look at, :func:`sampled` from them.
        turn: number of the batch.
    """
    chosen = sampled(count, most, turn)
    total = count if chosen is None else len(chosen)
    step = max(PIECE // (4 * layer.groups * (layer.features + layer.outputs)), 1)
    if total <= step:
        yield chosen
        return
    for start in range(0, total, step):
        stop = min(start + step, total)
        yield np.arange(start, stop) if chosen is None else chosen[start:stop]


def _ints(node: Node, name: str, default: list[int]) -> list[int]:
    return [int(v) for v in node.attrs.get(name) or default]


def _kernel(node: Node) -> list[int]:
    return [int(n) for n in node.inputs[1].shape[2:]]


def _geometry(
    node: Node, given: tuple[int, ...], kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[tuple[int, ...], list[int]]:
    """Return the spatial size of the output, and what is padded (ConvTranspose: cut) before it."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    n = len(kernel)
    pads = _ints(node, "pads", [0] * 2 * n) if auto == "NOTSET" else [0] * 2 * n
    extra = _ints(node, "output_padding", [0] * n)
    asked = _ints(node, "output_shape", [])[-n:]
    transposed = node.op == "ConvTranspose"
    sizes, begin = [], []
    for i, (size, k, s, d) in enumerate(zip(given, kernel, strides, dilations, strict=True)):
        reach, low, high = (k - 1) * d + 1, pads[i], pads[i + n]
        same = auto in ("SAME_UPPER", "SAME_LOWER")
        if transposed:
            whole = (size - 1) * s + extra[i] + reach
            # Where kernels leave gaps there is nothing to cut off: SAME gives less than it says.
            out = asked[i] if asked else min(size * s, whole) if same else whole - low - high
            total = whole - out
        else:
            out = -(-size // s) if same else (size + low + high - reach) // s + 1
            total = (out - 1) * s + reach - size
        if same or (transposed and asked):
            # ONNX: SAME_UPPER pads the odd one at the end, anything else at the beginning.
            total = max(total, 0)
            low = total // 2 if auto == "SAME_UPPER" else total - total // 2
        sizes.append(out)
        begin.append(low)
    return tuple(sizes), begin


def _spread(x: Array, strides: list[int]) -> Array:
    """Return ``x`` with ``stride - 1`` zeros between neighbours: what ConvTranspose slides over."""
    if all(s == 1 for s in strides):
        return x
    shape = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True)]
    out = np.zeros((*x.shape[:2], *shape), dtype=x.dtype)
    out[_every(1, 1, *strides)] = x
    return out


def _every(*steps: int) -> Any:
    """Return an index that takes every so many of each axis; of negative ones from the end."""
    return tuple(slice(None, None, step) for step in steps)


def _frame(x: Array, begin: list[int], reach: list[int]) -> Array:
    """Return ``x`` padded or cut so that it starts ``begin`` earlier and is ``reach`` long."""
    widths = [(0, 0), (0, 0)]
    keep = [slice(None), slice(None)]
    for size, low, length in zip(x.shape[2:], begin, reach, strict=True):
        high = length - size - low
        keep.append(slice(max(-low, 0), size + min(high, 0)))
        widths.append((max(low, 0), max(high, 0)))
    x = x[tuple(keep)]
    return np.pad(x, widths) if any(low or high for low, high in widths) else x
