"""What a layer's output is a part of: errors count against the whole.

Behind an Add the error of a residual branch stands beside everything the shortcut brings. A block
that adds little to a strong stream may lose much of what it adds; the one that makes most of the
stream may not. So the error of a layer whose output is added to another activation is measured
against the variance of the sum.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from graphopt.model import Model
from graphopt.statistics.collect import Statistics
from graphopt.statistics.layers import Layer, shortcut_of


def sum_variances(
    model: Model, statistics: Statistics, layers: Iterable[Layer]
) -> dict[str, float]:
    """Return node name -> variance of the sum its output goes into, added over channels.

    Layers whose output is not added to another activation are left out.
    """
    tensors = model.graph.tensors()
    sums = {
        layer.node: (str(found[0].outputs[0].name), layer.axis)
        for layer in layers
        if (found := shortcut_of(model.graph, tensors[layer.output])) is not None
    }
    if not sums:
        return {}
    moments = statistics.moments(dict(sums.values()))
    return {
        node: float(np.square(moments[name].std).sum())
        for node, (name, _) in sums.items()
        if name in moments
    }
