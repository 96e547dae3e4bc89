"""What a layer's output is a part of: errors count against the whole.

Behind an Add the error of a residual branch stands beside everything the shortcut brings. A block
that adds little to a strong stream may lose much of what it adds; the one that makes most of the
stream may not. So the error of a layer whose output is added to another activation is measured
against the variance of the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from graphopt.graph import Tensor, constant, is_graph_output, is_op
from graphopt.model import Model
from graphopt.statistics.collect import Statistics
from graphopt.statistics.layers import Layer


def sum_of(model: Model, layer: Layer, tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the sum that a layer's output goes into, and into nothing else."""
    out = tensors[layer.output]
    reading = out.outputs
    if len(reading) != 1 or is_graph_output(model.graph, out) or not is_op(reading[0], "Add"):
        return None
    node = reading[0]
    other = node.inputs[1] if node.inputs[0] is out else node.inputs[0]
    same_rank = other.shape is not None and len(other.shape) == len(out.shape or ())
    if constant(other) is not None or other is out or not same_rank:
        return None
    return str(node.outputs[0].name)


def sum_variances(
    model: Model, statistics: Statistics, layers: Iterable[Layer]
) -> dict[str, float]:
    """Return node name -> variance of the sum its output goes into, added over channels.

    Layers whose output is not added to another activation are left out.
    """
    tensors = model.graph.tensors()
    sums = {
        layer.node: (name, layer.axis)
        for layer in layers
        if (name := sum_of(model, layer, tensors)) is not None
    }
    if not sums:
        return {}
    moments = statistics.moments(dict(sums.values()))
    return {
        node: float(np.square(moments[name].std).sum())
        for node, (name, _) in sums.items()
        if name in moments
    }
