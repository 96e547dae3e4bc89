"""SmoothQuant: outliers of normalized activations moved into the weights behind them.

Xiao et al., *SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models*, ICML 2023 (arXiv:2211.10438). In transformers a few channels are far greater than the
others behind every LayerNormalization, and one scale for all leaves the others little. Gain and
bias of the normalization are divided by ``s`` for each channel, and the rows of every MatMul and
Gemm that reads it multiplied by it. The float network is unchanged; with factors that are powers
of two, but for what the normalization itself rounds, to the last bit.
"""

from __future__ import annotations

from graphopt.model import Model
from graphopt.passes.base import PassResult
from graphopt.quantization.equalize import rescaled
from graphopt.quantization.factors import balanced, channel_maxima
from graphopt.quantization.sites import norm_sites
from graphopt.statistics.collect import MEMORY, Batches
from graphopt.statistics.replay import Progress

NAME = "smooth"
ALPHA = 0.5


def smooth(
    model: Model,
    batches: Batches,
    *,
    alpha: float = ALPHA,
    exact: bool = True,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> PassResult:
    """Return the model with outliers behind its normalizations moved into weights.

    Args:
        model: simplified, float; stays as it is.
        batches: gives the samples, the same each time.
        alpha: how much of the difficulty goes to the weights, in [0, 1]; the paper's is 0.5.
        exact: factors are powers of two.
        memory: bytes of activations held in memory.
        threads: cores for ONNX Runtime.
        progress: called after each tensor with 1.

    Raises:
        DataError: there are no samples, or they do not fit the model.
    """
    sites, skipped = norm_sites(model)
    maxima = channel_maxima(
        model, batches, sites, memory=memory, threads=threads, progress=progress
    )
    factors = balanced(model, sites, maxima, alpha, exact=exact)
    out, changes = rescaled(model, sites, factors, "smoothed")
    return PassResult(out, NAME, tuple(changes), tuple(skipped))
