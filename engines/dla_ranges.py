"""Ranges for a DLA: one for all that a Concat or a pool reads and writes.

In INT8 a DLA does not change scale inside these layers (*TensorRT Developer Guide* 8.5, "Working
with DLA"), so tensors that such a node joins share the widest of their ranges.
"""

from __future__ import annotations

from dataclasses import replace

from graphopt.calibrators.table import CalibrationTable
from graphopt.graph import is_op
from graphopt.model import Model

_ONE_SCALE = ("Concat", "MaxPool", "AveragePool")


def joined_ranges(model: Model, table: CalibrationTable) -> CalibrationTable:
    """Return a table in which the tensors of each Concat and pool have one range.

    Args:
        model: float32; what the table is of.
        table: ranges; a tensor it lacks joins nothing.
    """
    parent = {name: name for name in table.ranges}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for node in model.graph.nodes:
        if is_op(node, *_ONE_SCALE):
            names = [t.name for t in (*node.inputs, *node.outputs) if t.name in parent]
            for name in names[1:]:
                parent[find(name)] = find(names[0])
    widest: dict[str, str] = {}
    for name, found in table.ranges.items():
        root = find(name)
        if root not in widest or found.amax > table.ranges[widest[root]].amax:
            widest[root] = name
    ranges = {
        name: replace(found, amax=table.ranges[widest[find(name)]].amax)
        for name, found in table.ranges.items()
    }
    return replace(table, ranges=ranges, counts=None)
