"""Zeros among weights: how many, in which pattern, in which layers, and what they save.

``2:4``: of every four input channels at most two have a weight, for each output channel and each
place in the kernel. That is the direction TensorRT checks before it takes a sparse kernel: for
``weights[K, C, R, S]`` it counts the nonzeros of ``weights[k, 4 i : 4 i + 4, r, s]`` (*TensorRT
Developer Guide* 8.5, "Structured Sparsity"; ``sparsify`` in TensorRT's ``samples/common`` walks the
same axis, and the rows of a transposed MatMul weight, which is K). The guide names convolutions
and fully connected layers; grouped convolutions have no sparse kernels (NVIDIA/TensorRT#4054).
Input channels must be a multiple of 16 and output channels of 8, as NVIDIA's own ASP asks
(``apex/contrib/sparsity``): zeros elsewhere cost accuracy and give nothing.

Unstructured zeros are skipped by no runtime here: they make a *compressed* file smaller.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from graphopt.errors import UsageError
from graphopt.graph import Array, constant, consumers, feeds_subgraph, is_graph_output, walk
from graphopt.model import Model, is_floating
from graphopt.passes.base import Skip
from graphopt.profiles import DeviceProfile
from graphopt.statistics.layers import Layer, layers

Mask = npt.NDArray[np.bool_]
INPUTS_OF, OUTPUTS_OF = 16, 8  # what sparse tensor-core kernels want multiples of
FEW_CHANNELS = 4  # of images, and of depthwise kernels
FEW_WEIGHTS = 1024


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Which weights may be zero.

    Attributes:
        share: of the weights of each layer that become zero, in (0, 1).
        structured: whether they lie two in every four input channels.
    """

    share: float
    structured: bool = False

    def __str__(self) -> str:
        """As it is written on the command line."""
        return "2:4" if self.structured else f"{self.share:g}"


def parse_sparsity(text: str | float) -> Sparsity:
    """Read ``2:4`` or a share such as ``0.5``.

    Raises:
        UsageError: it is neither.
    """
    said = str(text).strip()
    if said == "2:4":
        return Sparsity(0.5, structured=True)
    if ":" in said:
        raise UsageError(f"the only pattern GPUs compute faster is 2:4, not {said}")
    try:
        share = float(said)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise UsageError(f"sparsity is 2:4, or a share of weights between 0 and 1, not {said}")
    return Sparsity(share)


def check_sparsity(sparsity: Sparsity, device: DeviceProfile) -> str:
    """Return a line on what the zeros give on a device.

    Raises:
        UsageError: the device cannot make use of the pattern.
    """
    if not sparsity.structured:
        return (
            f"{sparsity} unstructured: saves bytes once the file is compressed, and no time; no "
            "runtime here skips such zeros"
        )
    if device.sparse_kernels is None:
        return f"2:4 gives speed on NVIDIA GPUs from Ampere on; of '{device.name}' none is known"
    if not device.sparse_kernels:
        major, minor = device.sm or (0, 0)
        has = f"is {major}.{minor}" if device.sm else "has none"
        raise UsageError(
            f"2:4 sparsity needs sparse tensor cores (Ampere, compute capability 8.0, and newer); "
            f"{device.title or device.name} {has}: leave --sparsity out, or use --prune",
        )
    return (
        "2:4 is for trtexec --sparsity=enable (kSPARSE_WEIGHTS) with FP16 or INT8; TensorRT picks "
        "sparse kernels where they are faster, which takes wide layers (about 256 channels)"
    )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Which layers get zeros.

    Attributes:
        layers: those, in graph order; of several that share their weights, each.
        shared: names of weights with more readers than one.
        skipped: the others, each with a reason.
    """

    layers: tuple[Layer, ...]
    shared: frozenset[str]
    skipped: tuple[Skip, ...]


def candidates(model: Model, sparsity: Sparsity, keep: Sequence[str] = ()) -> Candidates:
    """Return the layers that get zeros, and why the others do not.

    Args:
        model: the model, simplified and with BatchNorm folded, before Q/DQ.
        sparsity: the pattern.
        keep: ``fnmatch`` patterns of nodes and weights to leave alone.
    """
    every = list(layers(model))
    nodes = {node.name: node for node in model.graph.nodes}
    tensors = {layer.weight: nodes[layer.node].inputs[1] for layer in every}
    found: list[Layer] = []
    skipped = [
        Skip(pattern, "this pattern matches no layer with weights")
        for pattern in keep
        if not any(named(layer, pattern) for layer in every)
    ]
    same: dict[str, set[object]] = {}
    for layer in every:
        alpha = nodes[layer.node].attrs.get("alpha", 1.0), nodes[layer.node].attrs.get("transB", 0)
        same.setdefault(layer.weight, set()).add((layer.op, layer.groups, alpha))
    readers = {w: len(consumers(t)) for w, t in tensors.items()}
    count = Counter(layer.weight for layer in every)
    for layer in every:
        tensor = tensors[layer.weight]
        if any(named(layer, pattern) for pattern in keep):
            reason = "it is to be kept"
        elif (
            len(same[layer.weight]) > 1
            or readers[layer.weight] != count[layer.weight]
            or is_graph_output(model.graph, tensor)
            or feeds_subgraph(model.graph, tensor)
        ):
            reason = f"its weights '{layer.weight}' are read in several ways"
        else:
            reason = unfit(layer, sparsity)
        if reason:
            skipped.append(Skip(layer.node, f"stays dense: {reason}"))
        else:
            found.append(layer)
    shared = frozenset(w for w, number in readers.items() if number > 1)
    return Candidates(tuple(found), shared, tuple(skipped))


def unfit(layer: Layer, sparsity: Sparsity) -> str:
    """Return why a layer gets no zeros, or nothing."""
    if not sparsity.structured:
        if layer.channels <= FEW_CHANNELS:
            return f"{layer.channels} input channels a group leave no weight to spare"
        size = layer.groups * layer.features * layer.outputs
        return f"it is tiny ({size} weights)" if size < FEW_WEIGHTS else ""
    if layer.op == "ConvTranspose":
        return "TensorRT takes 2:4 in convolutions and matrix products, not in ConvTranspose"
    if layer.groups > 1:
        return "TensorRT has no sparse kernels for grouped convolutions"
    if layer.channels % INPUTS_OF or layer.outputs % OUTPUTS_OF:
        return (
            f"sparse kernels want input channels in {INPUTS_OF}s and output channels in "
            f"{OUTPUTS_OF}s, it has {layer.channels} and {layer.outputs}"
        )
    return ""


def fours(layer: Layer) -> npt.NDArray[np.int64]:
    """Return the features that share two weights, shape ``(features / 4, 4)``."""
    index = np.arange(layer.features).reshape(layer.channels // 4, 4, layer.taps)
    places: npt.NDArray[np.int64] = index.transpose(0, 2, 1).reshape(-1, 4)
    return places


def least_masked(scores: Array, layer: Layer, sparsity: Sparsity) -> Mask:
    """Return which weights stay where the least scores go.

    Args:
        scores: shape ``(groups, features, outputs)``; ties go to the later weight.
        layer: whose weights they are.
        sparsity: the pattern. The number of zeros is exact: two of four, or ``share`` of all.
    """
    mask = np.ones(scores.shape, dtype=bool)
    if sparsity.structured:
        places = fours(layer)
        part = scores[:, places]
        order = np.argsort(-part, axis=2, kind="stable")
        inside = np.ones(part.shape, dtype=bool)
        np.put_along_axis(inside, order[:, :, 2:], values=False, axis=2)
        mask[:, places] = inside
        return mask
    count = round(sparsity.share * scores.size)
    least = np.argsort(-scores.reshape(-1), kind="stable")[scores.size - count :]
    mask.reshape(-1)[least] = False
    return mask


@dataclass(frozen=True, slots=True)
class Stored:
    """What the weights of a model take.

    Attributes:
        weights: how many there are, shared ones once.
        zeros: how many of them are exactly zero.
        bytes: as they are.
        compressed: after zlib (level 6), each tensor by itself.
    """

    weights: int
    zeros: int
    bytes: int
    compressed: int


def stored(model: Model) -> Stored:
    """Count zeros, and compress: the honest size of unstructured sparsity."""
    arrays = [a for a in _weights(model) if is_floating(a.dtype)]
    return Stored(
        sum(a.size for a in arrays),
        sum(int(np.count_nonzero(a == 0)) for a in arrays),
        sum(a.nbytes for a in arrays),
        sum(len(zlib.compress(np.ascontiguousarray(a).tobytes(), 6)) for a in arrays),
    )


def named(layer: Layer, pattern: str) -> bool:
    """Whether a pattern names a layer or its weights."""
    return fnmatchcase(layer.node, pattern) or fnmatchcase(layer.weight, pattern)


def _weights(model: Model) -> Iterable[Array]:
    seen: set[int] = set()
    for node in walk(model.graph):
        for tensor in node.inputs:
            value = constant(tensor)
            if value is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield value
