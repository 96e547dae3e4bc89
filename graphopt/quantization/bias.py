"""Bias correction: what rounding weights does to the mean of a layer's output, taken back.

With ``E = W - Q`` what rounding to nearest loses and ``m`` the mean of what the layer reads,

    b' = b + m E

(Nagel et al., arXiv:1906.04721, section 4.2, with means that are measured on samples). Second-order
rounding does the same for its own codes; this is for weights that stay rounded to nearest.

Only the weights' part is taken back. The mean of what *activations* lose can be measured too, by
running the quantized network up to each layer; tried on the ResNets, that made logits worse (by 2
dB on ResNet-56): behind a Relu noise has a mean of its own, and the next layer took back what was
not its fault.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.calibrators import CalibrationTable
from graphopt.dialects.heads import Head
from graphopt.dialects.scales import channel_scales, dequantize_weight, quantize_weight
from graphopt.graph import Names, Node
from graphopt.model import Model
from graphopt.passes.base import Change, PassResult, Skip
from graphopt.quantization.rounding import levels_of, workable
from graphopt.quantization.second_order import Matrix
from graphopt.quantization.simulate import place, quantized_heads
from graphopt.statistics.collect import MEMORY, MOST_ROWS, Batches
from graphopt.statistics.layers import Layer, bias_of, set_weights
from graphopt.statistics.replay import Progress, Replay
from graphopt.statistics.spill import Spill
from graphopt.statistics.unfold import Unfolder, pieces
from graphopt.wording import counted

NAME = "correct-bias"


def correct_bias(
    model: Model,
    table: CalibrationTable,
    batches: Batches,
    *,
    dialect: str,
    exclude: Sequence[str] = (),
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> PassResult:
    """Return the model with the biases of its layers corrected for weights rounded to nearest.

    A Conv or Gemm without a bias gets one; a MatMul that no Add of a constant follows is left.

    Args:
        model: simplified and with BatchNorm folded, float; stays as it is.
        table: the ranges of its activations, which say what is quantized.
        batches: gives the samples, the same each time.
        dialect: a name in :data:`graphopt.dialects.DIALECTS`.
        exclude: patterns of nodes that stay float.
        memory: bytes of activations held in memory.
        threads: cores for ONNX Runtime.
        progress: called after each layer with 1.

    Raises:
        UsageError: the table lacks a tensor.
        DataError: there are no samples, or they do not fit the model.
        UnsupportedModelError: the model is quantized already, or ONNX Runtime refuses it.
    """
    placed = place(model, table, dialect, exclude)
    levels = levels_of(dialect)
    work, skipped = workable(model, quantized_heads(model, placed, exclude))
    skipped += [Skip(x.node, "nothing is added to what it gives") for x, _ in work if not x.bias]
    work = [(layer, head) for layer, head in work if layer.bias is not None]
    out = model.clone()
    names, nodes = Names(out.graph), {node.name: node for node in out.graph.nodes}
    changes = []
    for layer, head, mean in _means(model, work, batches, memory, threads, progress):
        if not np.isfinite(mean).all():
            skipped.append(Skip(layer.node, "its data is not all finite"))
            continue
        lost = np.einsum("gf,gfo->go", mean, _rounding_error(layer, head, levels))
        matrix = layer.matrix(head.values, head.node)
        set_weights(out, layer, matrix, bias_of(layer, nodes) + lost, nodes, names)
        detail = f"{counted(lost.size, 'channel')}, by up to {np.abs(lost).max():.3g}"
        changes.append(Change("corrected", layer.node, detail))
    return PassResult(out, NAME, tuple(changes), tuple(skipped))


def _rounding_error(layer: Layer, head: Head, levels: int) -> Matrix:
    """Return what rounding to nearest takes from a weight, ``(groups, features, outputs)``."""
    scales = channel_scales(head.values, head.axis, levels)
    codes = quantize_weight(head.values, scales, head.axis, levels)
    stands = dequantize_weight(codes, scales, head.axis)
    lost: Matrix = layer.matrix(head.values, head.node) - layer.matrix(stands, head.node)
    return lost


def _means(
    model: Model,
    work: Sequence[tuple[Layer, Head]],
    batches: Batches,
    memory: int,
    threads: int | None,
    progress: Progress | None,
) -> list[tuple[Layer, Head, Matrix]]:
    """Return the mean of each feature of each layer's input, ``(groups, features)``."""
    if not work:
        return []
    found = []
    with Spill(memory) as spill:
        replay = Replay(model, batches(), [x.input for x, _ in work], spill, threads=threads)
        for layer, head in work:
            replay.pin(layer.input)
            replay.compute(layer.input)
            found.append((layer, head, _mean(replay, layer, head.node)))
            replay.unpin(layer.input)
            if progress is not None:
                progress(1)
    return found


def _mean(replay: Replay, layer: Layer, node: Node) -> Matrix:
    total, count = np.zeros((layer.groups, layer.features)), 0
    most = max(MOST_ROWS // replay.batches, 1)
    for batch in range(replay.batches):
        unfolder = Unfolder(layer, node, replay.get(layer.input, batch))
        for rows in pieces(layer, unfolder.count, most, batch):
            x = unfolder.rows(rows)
            total += x.sum(axis=1, dtype=np.float64)
            count += x.shape[1]
    return np.asarray(total / max(count, 1))
