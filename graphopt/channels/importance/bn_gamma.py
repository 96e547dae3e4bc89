"""BN-gamma: the scale that BatchNorm gives a channel.

Liu et al., *Learning Efficient Convolutional Networks through Network Slimming*, ICCV 2017
(arXiv:1708.06519), without their sparsity training: ``|gamma|`` of the BatchNorm
behind each layer that makes the channels. By the time channels are scored those have been folded
into the weights, so they are looked up in the model as it was before. A BatchNorm that is still
there (before the layer that reads, as in DenseNet) counts as well.

Of several, each one's scales are divided by their mean and averaged. A group that has none gets
the norms of :mod:`graphopt.channels.importance.l2`; a model that has none is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from graphopt.channels.groups import Group
from graphopt.channels.importance.makers import Maker, makers
from graphopt.channels.importance.norms import group_scores
from graphopt.channels.importance.protocol import UNFOLDED, criterion
from graphopt.errors import UsageError
from graphopt.graph import Array, Graph, constant, consumers, is_op
from graphopt.model import Model
from graphopt.statistics.collect import Statistics
from graphopt.statistics.gram import Matrix


@criterion(UNFOLDED)
def bn_gamma(
    model: Model, groups: Sequence[Group], /, *, statistics: Statistics | None = None
) -> dict[str, Matrix]:
    """Return group name -> relative scales, shape ``(width,)``.

    Raises:
        UsageError: the model before folding is not known or has other channels, or no group has a
            BatchNorm.
    """
    before = None if statistics is None else statistics.unfolded
    if before is None:
        raise UsageError(
            "importance 'bn-gamma' needs the model as it was before BatchNorm was folded"
        )
    behind = _behind(before.graph)
    remaining = _scales(model.graph)
    made = makers(model, groups)
    out: dict[str, Matrix] = {}
    for group in groups:
        scales = [s for maker in made[group.name] for s in _of_maker(maker, behind)]
        for member in group.members:
            if member.role == "parameter" and member.tensor in remaining:
                gamma = np.abs(remaining[member.tensor])
                scales.append(np.array([gamma[list(p)].sum() for p in member.positions]))
        parts = [s / mean for s in scales if (mean := float(s.mean())) > 0 and np.isfinite(mean)]
        if parts:
            out[group.name] = np.mean(parts, axis=0)
    if groups and not out:
        raise UsageError(
            "importance 'bn-gamma' looks at the scales of BatchNorm, and no channel that can be "
            "removed has one (folded when the model was exported?): choose l2, or obs with --data"
        )
    rest = [group for group in groups if group.name not in out]
    out.update(group_scores(model, rest, order=2))
    return {group.name: out[group.name] for group in groups}


def _behind(graph: Graph) -> dict[str, Matrix]:
    """Return node name -> the scales of the BatchNorm that alone reads its output."""
    found: dict[str, Matrix] = {}
    for node in graph.nodes:
        if is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul") and len(node.outputs) == 1:
            readers = consumers(node.outputs[0])
            if len(readers) == 1 and is_op(readers[0], "BatchNormalization"):
                gamma = constant(readers[0].inputs[1])
                if gamma is not None:
                    found[node.name] = np.asarray(gamma, dtype=np.float64)
    return found


def _scales(graph: Graph) -> dict[str, Array]:
    """Return name -> scales of the BatchNorms of a graph."""
    return {
        node.inputs[1].name: np.asarray(gamma, dtype=np.float64)
        for node in graph.nodes
        if is_op(node, "BatchNormalization") and (gamma := constant(node.inputs[1])) is not None
    }


def _of_maker(maker: Maker, behind: dict[str, Matrix]) -> Iterator[Matrix]:
    gamma, width = behind.get(maker.layer.node), maker.layer.groups * maker.layer.outputs
    if gamma is None:
        return
    if len(gamma) != width:
        raise UsageError(
            f"importance 'bn-gamma': '{maker.layer.node}' has {width} channels, and had "
            f"{len(gamma)} before BatchNorm was folded: it cannot score a model that is pruned "
            "already; choose obs with --data, or l2"
        )
    yield np.abs(gamma)[maker.places].sum(axis=1)
