"""Which factor each channel gets, and what it takes to know: the greatest activation of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.graph import Names, in_graph_order
from graphopt.model import Model
from graphopt.quantization.scaling import rescale, weight_ranges, written_ranges
from graphopt.quantization.second_order import Matrix
from graphopt.quantization.sites import Site
from graphopt.statistics.collect import MEMORY, Batches, channel_rows
from graphopt.statistics.replay import Progress, Replay
from graphopt.statistics.spill import Spill

FARTHEST = 10  # no channel is rescaled by more than 2 to this power
ROUNDS = 20  # of balancing sites against their neighbours
_STILL = 0.01  # of a power of two: nothing moves any more


def channel_maxima(
    model: Model,
    batches: Batches,
    sites: Sequence[Site],
    *,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Matrix]:
    """Return the greatest magnitude of each channel of each site, where its readers read it.

    Where there are no sites, no data is read.

    Raises:
        DataError: there are no samples, or they do not fit the model.
    """
    if not sites:
        return []
    place = {t.name: i for i, t in enumerate(in_graph_order(model.graph))}
    wanted = sorted({name for site in sites for name in site.inputs}, key=place.__getitem__)
    found: dict[str, Matrix] = {}
    axes = {name: site.axis for site in sites for name in site.inputs}
    with Spill(memory) as spill:
        replay = Replay(model, batches(), wanted, spill, threads=threads)
        for name in wanted:
            replay.pin(name)
            replay.compute(name)
            for batch in range(replay.batches):
                x = replay.get(name, batch)
                axis = axes[name] if x.ndim > 2 else -1  # flattened: channels come first
                rows = np.abs(channel_rows(x, axis)).max(axis=0, initial=0.0)
                found[name] = np.maximum(found.get(name, 0.0), rows.astype(np.float64))
            replay.unpin(name)
            if progress is not None:
                progress(1)
    return [_of(site, found) for site in sites]


def _of(site: Site, found: dict[str, Matrix]) -> Matrix:
    parts = [found[name].reshape(site.channels, -1).max(axis=1) for name in site.inputs]
    return np.asarray(np.max(parts, axis=0))


def balanced(
    model: Model,
    sites: Sequence[Site],
    activations: Sequence[Matrix] | None,
    alpha: float = 0.5,
    *,
    exact: bool = True,
) -> list[Matrix]:
    """Return the factor each channel of each site is divided by, > 0.

    SmoothQuant's rule (Xiao et al., arXiv:2211.10438, equation 4), with the ranges of activations
    ``X`` or, without them, of the weights that write the channel (Nagel et al., arXiv:1906.04721,
    equation 11)::

        s = max |X|^alpha / max |W|^(1 - alpha)

    Weights that read one channel only (depthwise) have a scale of their own for it and lose
    nothing: there activations are made alike. Sites share layers, so each is balanced in turn
    until nothing moves. Channels that are always zero, or read by zeros, are left.

    Args:
        model: whose constants are looked at; stays as it is.
        sites: of this model.
        activations: what :func:`channel_maxima` says; None for the weights' rule.
        alpha: how much of the difficulty goes to the weights, in [0, 1].
        exact: factors are powers of two, so that the float network gives the same bits.
    """
    scratch = model.clone()
    nodes, names = {node.name: node for node in scratch.graph.nodes}, Names(scratch.graph)
    logs = [np.zeros(site.channels) for site in sites]
    for _ in range(ROUNDS):
        moved = 0.0
        for i, site in enumerate(sites):
            if activations is None:
                ranges = written_ranges(site, nodes)
            else:
                ranges = activations[i] / np.exp2(logs[i])
            step = _step(site, ranges, weight_ranges(site, nodes), alpha)
            step = np.clip(logs[i] + step, -FARTHEST, FARTHEST) - logs[i]
            logs[i] += step
            moved = max(moved, float(np.abs(step).max(initial=0.0)))
            rescale(scratch, site, np.exp2(step), nodes, names)
        if moved < _STILL:
            break
    return [np.exp2(np.rint(log) if exact else log) for log in logs]


def _step(site: Site, ranges: Matrix, read: Matrix, alpha: float) -> Matrix:
    """Return the base-2 logarithm of how much more each channel is to be divided by."""
    alive = (ranges > 0) & (read > 0) & np.isfinite(ranges)
    if not alive.any():
        return np.zeros(site.channels)
    one = np.log2(np.where(alive, ranges, 1.0))
    other = np.log2(np.where(alive, read, 1.0))
    if all(reader.layer.groups > 1 and reader.layer.channels == 1 for reader in site.readers):
        aim = one - one[alive].max()
    else:
        aim = alpha * one - (1 - alpha) * other
        aim -= aim[alive].mean()  # a factor common to all changes no scale's fit
    return np.asarray(np.where(alive, aim, 0.0))
