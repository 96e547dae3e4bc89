"""The rounding of weights in 4 or 8 bits from what their layers see: second order, no gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.model import Model
from graphopt.passes.blocks import BlockCodes, block_scales, limits
from graphopt.passes.weight_only import Target, WeightOnly
from graphopt.quantization.second_order import by_block, round_second_order
from graphopt.statistics.collect import MEMORY, Batches, Statistics
from graphopt.statistics.gram import Gram


def weight_codes(
    model: Model,
    quantizer: WeightOnly,
    batches: Batches,
    *,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, BlockCodes]:
    """Choose the codes of every weight that ``quantizer`` will write, on what samples show.

    Scales are searched with the energy of each feature in view, codes by
    :func:`graphopt.quantization.second_order.round_second_order` (GPTQ, arXiv:2210.17323, and
    coordinate descent). A weight that several nodes share is rounded for all of them together.
    Layers of more than ``graphopt.statistics.gram.MOST_FEATURES`` features are left out: the pass
    rounds them to nearest.

    Args:
        model: float32, simplified; the model that ``quantizer`` will be called with.
        quantizer: says which weights, bits and blocks.
        batches: gives the same samples each time it is called.
        memory: bytes of activations held; the rest goes to disk.
        threads: cores for ONNX Runtime; all by default.
        progress: called with 1 after each layer.

    Returns:
        Name of a weight -> its codes, for ``dataclasses.replace(quantizer, codes=...)``.

    Raises:
        DataError: the samples do not fit the model.
        UsageError: the quantizer's options make no sense.
    """
    targets, _ = quantizer.targets(model)
    of_node = {node.name: target for target in targets for node in target.nodes}
    waiting = {target.name: len(target.nodes) for target in targets}
    sums: dict[str, Gram] = {}
    codes: dict[str, BlockCodes] = {}
    statistics = Statistics(model, batches, memory=memory, threads=threads, progress=progress)
    for layer, gram in statistics.grams(of_node):
        target = of_node[layer.node]
        if gram.xx.shape[-1] != len(target.matrix) + 1:
            continue
        if target.name in sums:
            sums[target.name].merge(gram)
        else:
            sums[target.name] = gram
        waiting[target.name] -= 1
        if not waiting[target.name]:
            codes[target.name] = _rounded(target, sums.pop(target.name), quantizer.bits)
    for target in targets:  # Shared by a layer that has no statistics: by those that have.
        if target.name in sums:
            codes[target.name] = _rounded(target, sums.pop(target.name), quantizer.bits)
    return codes


def _rounded(target: Target, gram: Gram, bits: int) -> BlockCodes:
    features = len(target.matrix)
    energy = gram.xx[0, :features, :features]
    matrix = np.asarray(target.matrix, dtype=np.float64)
    counts = np.diagonal(energy) / max(gram.rows, 1)
    # What was never seen counts a little: other data may show it.
    counts = np.maximum(counts, 0.01 * max(float(counts.mean()), 1e-30))
    scales = block_scales(target.matrix, bits, target.block, counts)
    size = features if target.block is None else target.block
    low, high = limits(bits)
    steps = by_block(scales.astype(np.float64), features, size)
    # What is zero stays zero: a pattern of zeros is there for its speed, or its size.
    kept = matrix != 0
    found = round_second_order(matrix, energy, steps, low * kept, high * kept)
    return BlockCodes(found.astype(np.int8), scales)
