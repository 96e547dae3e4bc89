"""Cross-layer equalization: channels of one tensor made alike, by moving factors between layers.

Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, ICCV 2019
(arXiv:1906.04721). One scale serves all channels of an activation: a channel that is a hundredth
of the greatest has one or two of 127 codes. Between two layers with nothing but operators that
commute with positive factors (Relu, LeakyRelu, PRelu, pooling), a factor for each channel goes out
of one layer's weights into the other's. The float network is unchanged; with factors that are
powers of two, to the last bit.

With samples the ranges of activations are balanced, which is what per-channel weights leave to be
gained; without, those of weights, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.graph import Names
from graphopt.model import Model
from graphopt.passes.base import Change, PassResult
from graphopt.quantization.factors import balanced, channel_maxima
from graphopt.quantization.scaling import rescale
from graphopt.quantization.second_order import Matrix
from graphopt.quantization.sites import Site, linear_sites
from graphopt.statistics.collect import MEMORY, Batches
from graphopt.statistics.replay import Progress
from graphopt.wording import counted

NAME = "equalize"
ALPHA = 0.7  # measured: docs/quantization.md


def equalize(
    model: Model,
    batches: Batches | None = None,
    *,
    alpha: float = ALPHA,
    exact: bool = True,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> PassResult:
    """Return the model with channels between its layers made alike.

    Args:
        model: simplified and with BatchNorm folded, float; stays as it is.
        batches: gives the samples, the same each time; None to go by weights alone.
        alpha: how much of the difficulty goes to the weights, in [0, 1].
        exact: factors are powers of two.
        memory: bytes of activations held in memory.
        threads: cores for ONNX Runtime.
        progress: called after each tensor with 1.

    Raises:
        DataError: there are no samples, or they do not fit the model.
    """
    sites, skipped = linear_sites(model)
    maxima = None
    if batches is not None:
        maxima = channel_maxima(
            model, batches, sites, memory=memory, threads=threads, progress=progress
        )
    factors = balanced(model, sites, maxima, alpha, exact=exact)
    out, changes = rescaled(model, sites, factors, "equalized")
    return PassResult(out, NAME, tuple(changes), tuple(skipped))


def rescaled(
    model: Model, sites: Sequence[Site], factors: Sequence[Matrix], kind: str
) -> tuple[Model, list[Change]]:
    """Return a copy of a model with its sites divided by factors, and what was done."""
    out = model.clone()
    nodes, names = {node.name: node for node in out.graph.nodes}, Names(out.graph)
    changes = []
    for site, factor in zip(sites, factors, strict=True):
        if np.all(factor == 1):
            continue
        rescale(out, site, factor, nodes, names)
        readers = ", ".join(f"'{r.layer.node}'" for r in site.readers)
        many = counted(site.channels, "channel")
        detail = f"{many} by {factor.min():.3g} to {factor.max():.3g}, into {readers}"
        changes.append(Change(kind, site.writers[0].node, detail))
    return out, changes
