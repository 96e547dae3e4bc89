"""Convolutions as ONNX Runtime's fast integer kernels want them.

QLinearConv has a kernel that reads the image where it lies; for it channels must come in fours,
and those of a depthwise Conv in sixteens.
For others each window is copied out first, three bytes at a time in a stem: an RGB stem then takes
as long as the three layers behind it. There is no integer ConvTranspose at all. So:

- channels are filled up with zeros to such a multiple (and the surplus is cut off behind);
- a large stem of stride 2 reads 2 x 2 blocks of pixels as channels (SpaceToDepth);
- a ConvTranspose whose output is ``stride`` times its input becomes a Conv with one set of output
  channels for each position within a block of ``stride`` pixels, and DepthToSpace behind it
  (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?").

All of that only moves weights about and adds zeros: the sums are the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.dialects.heads import Head
from graphopt.dialects.ort_moves import (
    Move,
    depth_to_space,
    first_channels,
    is_static_image,
    pad_channels,
)
from graphopt.graph import Array, Graph, dim, is_graph_input

FAST_CHANNELS, FAST_DEPTHWISE = 4, 16
# A smaller Conv is over before its image is copied (chains of 9, 10, 13 and 45 channels: 0.7, 0.8,
# 1.1 and 1.6 times as fast for it).
LEAST_TAPS, LEAST_OUTPUTS = 9, 12
# From this kernel size on reading 2 x 2 blocks beats filling up the channels (measured: 7 x 7 of
# stride 2 and 3 channels takes 0.73 ms as it is, 0.62 ms filled up, 0.44 ms in blocks).
BLOCK_KERNEL = 5
# int8 multiplies four times as fast as float32: more zeros than this eat that up.
MOST_ZEROS = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How a head is written.

    Attributes:
        spread: int8 weight of the head -> int8 weight that is written.
        op: the operator that is written.
        axis: the written weight's axis of output channels.
        times: how many times each bias and each output channel's scale appears.
        fill: output channels of zeros, behind all others.
        attrs: attributes of that operator that differ from the head's; None takes one away.
        block: the graph input is read through SpaceToDepth of this block; 1: as it is.
        before: moves of the quantized data.
        after: moves of the quantized output.
    """

    spread: Callable[[Array], Array]
    op: str = "Conv"
    axis: int = 0
    times: int = 1
    fill: int = 0
    attrs: Mapping[str, Any] = field(default_factory=dict)
    block: int = 1
    before: tuple[Move, ...] = ()
    after: tuple[Move, ...] = ()

    def channels(self, values: Array, filler: float) -> Array:
        """Spread one value for each output channel: bias or scales."""
        filled: Array = np.full(self.fill, filler, values.dtype)
        return np.concatenate([np.tile(values, self.times), filled])


def form_of(graph: Graph, head: Head) -> Form | None:
    """Return the form in which a Conv or ConvTranspose runs fast; None: as it is."""
    if head.node.op == "ConvTranspose":
        return transposed(head)
    if head.node.op != "Conv":
        return None
    if int(head.node.attrs.get("group", 1)) != 1:
        return _filled_depthwise(head)
    return _blocks(graph, head) or _filled(head)


def _filled_depthwise(head: Head) -> Form | None:
    """Fill up the channels of a depthwise Conv."""
    channels, inner, *taps = head.values.shape
    more = -channels % FAST_DEPTHWISE
    if inner != 1 or channels != int(head.node.attrs["group"]) or not more:
        return None
    if np.prod(taps) < LEAST_TAPS or 2 * more >= channels:
        return None
    widths = [(0, more), *[(0, 0)] * (1 + len(taps))]
    return Form(
        lambda codes: np.pad(codes, widths),
        fill=more,
        attrs={"group": channels + more},
        before=(pad_channels(len(widths), more),),
        after=(first_channels(channels),),
    )


def _filled(head: Head) -> Form | None:
    """Fill up input and output channels with zeros."""
    outputs, inputs, *taps = head.values.shape
    more, extra = -inputs % FAST_CHANNELS, -outputs % FAST_CHANNELS
    if not (more or extra) or np.prod(taps) < LEAST_TAPS:
        return None
    if extra and outputs < LEAST_OUTPUTS:
        return None
    widths = [(0, extra), (0, more), *[(0, 0)] * len(taps)]
    return Form(
        lambda codes: np.pad(codes, widths),
        fill=extra,
        before=(pad_channels(len(widths), more),) if more else (),
        after=(first_channels(outputs),) if extra else (),
    )


def _blocks(graph: Graph, head: Head) -> Form | None:
    """Read 2 x 2 blocks of the input as channels, in place of a stride of 2."""
    node, shape = head.node, head.values.shape
    if len(shape) != 4 or shape[1] > FAST_CHANNELS or min(shape[2:]) < BLOCK_KERNEL:
        return None
    attrs = node.attrs
    plain = list(attrs.get("strides", [1, 1])) == [2, 2] and set(attrs.get("dilations", [1])) == {1}
    if not plain or attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    if not is_graph_input(graph, head.data) or not is_static_image(head.data):
        return None
    if shape[0] % FAST_CHANNELS:
        return None
    pads = list(attrs.get("pads", [0] * 4))
    starts, kernel, ends = [], [], []
    for axis in (0, 1):
        length, taps, begin = dim(head.data, 2 + axis), shape[2 + axis], pads[axis]
        assert length is not None
        written = (length + begin + pads[2 + axis] - taps) // 2 + 1
        start = -(-begin // 2)  # in blocks; its first pixel may lie one before the window's
        size = -(-(taps + 2 * start - begin) // 2)
        end = written - 1 + size - start - length // 2
        if length % 2 or end < 0 or begin < 0:
            return None
        starts.append(start)
        kernel.append(size)
        ends.append(end)
    skip = (2 * starts[0] - pads[0], 2 * starts[1] - pads[1])
    changed = {"kernel_shape": kernel, "strides": [1, 1], "pads": starts + ends}
    return Form(lambda codes: _in_blocks(codes, kernel, skip), attrs=changed, block=2)


def _in_blocks(codes: Array, kernel: list[int], skip: tuple[int, int]) -> Array:
    """Return the weight over blocks: channel ``(row * 2 + column) * C + c``."""
    outputs, inputs, high, wide = codes.shape
    room = np.zeros((outputs, inputs, 2 * kernel[0], 2 * kernel[1]), codes.dtype)
    room[:, :, skip[0] : skip[0] + high, skip[1] : skip[1] + wide] = codes
    room = room.reshape(outputs, inputs, kernel[0], 2, kernel[1], 2).transpose(0, 3, 5, 1, 2, 4)
    return np.ascontiguousarray(room.reshape(outputs, 4 * inputs, *kernel))


def transposed(head: Head) -> Form | None:
    """Return a ConvTranspose as a Conv and DepthToSpace, where its output is a multiple in size."""
    node, shape = head.node, head.values.shape
    attrs = node.attrs
    if len(shape) != 4 or int(attrs.get("group", 1)) != 1 or "output_shape" in attrs:
        return None
    if set(attrs.get("dilations", [1])) != {1} or attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    strides = [int(s) for s in attrs.get("strides", [1, 1])]
    pads = [int(p) for p in attrs.get("pads", [0] * 4)]
    more = [int(p) for p in attrs.get("output_padding", [0, 0])]
    first, kernel, last = [], [], []
    for taps, stride, begin, end, extra in zip(
        shape[2:], strides, pads[:2], pads[2:], more, strict=True
    ):
        if taps + extra - begin - end != stride:
            return None
        # Output stride * q + r reads input q + j where stride * -j + r + begin is a tap.
        low, high = -((taps - 1 - begin) // stride), (stride - 1 + begin) // stride
        if low > 0 or high < 0:
            return None
        first.append(-low)
        last.append(high)
        kernel.append(high - low + 1)
    count = strides[0] * strides[1]
    if count * np.prod(kernel) > MOST_ZEROS * np.prod(shape[2:]):
        return None
    if count > 1 and not is_static_image(head.data):
        return None
    size = (dim(head.data, 2) or 0, dim(head.data, 3) or 0)
    after = depth_to_space(size, shape[1], (strides[0], strides[1])) if count > 1 else ()
    written: dict[str, Any] = {"kernel_shape": kernel, "strides": [1, 1], "pads": first + last}
    written |= {"output_padding": None}
    return Form(
        lambda codes: _by_position(codes, strides, pads, first, kernel),
        times=count,
        attrs=written,
        after=after,
    )


def _by_position(
    codes: Array, strides: list[int], pads: list[int], first: list[int], kernel: list[int]
) -> Array:
    """Return the Conv weight ``[(row, column, output), input, kernel]`` of a ConvTranspose."""
    inputs, outputs, *taps = codes.shape
    made = np.zeros((*strides, outputs, inputs, *kernel), codes.dtype)
    for row, column, y, x in np.ndindex(*strides, *kernel):
        i = strides[0] * (first[0] - y) + row + pads[0]
        j = strides[1] * (first[1] - x) + column + pads[1]
        if 0 <= i < taps[0] and 0 <= j < taps[1]:
            made[row, column, :, :, y, x] = codes[:, :, i, j].T
    return made.reshape(-1, inputs, *kernel)
