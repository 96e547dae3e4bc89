"""Float in the middle of INT8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from graphopt.dialects.scales import Groups
from graphopt.lint import network as kinds
from graphopt.lint.context import Context
from graphopt.lint.finding import NOTE, WARNING, Finding
from graphopt.lint.network import Layer

_NOTHING = frozenset({kinds.QUANTIZE, kinds.DEQUANTIZE, kinds.CONSTANT, kinds.SHAPE})


def check(context: Context) -> Iterator[Finding]:
    """Find regions in float that INT8 flows into and out of; tell those of the same make once."""
    found: dict[tuple[str, ...], list[list[Layer]]] = {}
    for region in _regions(context):
        computing = [layer for layer in region if layer.kind not in (kinds.COPY, kinds.CONCAT)]
        if computing:
            ops = Counter(layer.op for layer in computing)
            make = tuple(f"{n} {op}" if n > 1 else op for op, n in sorted(ops.items()))
            found.setdefault(make, []).append(computing)
    if not found:
        return
    total, by_node = context.macs()
    for make, regions in found.items():
        layers = [layer for region in regions for layer in region]
        share = sum(by_node.get(layer.name, 0) for layer in layers) / max(total, 1)
        quantizable = all(layer.kind != kinds.OTHER for layer in layers)
        count = "an island" if len(regions) == 1 else f"{len(regions)} islands"
        macs = f", {share:.1%} of the MACs" if share else ""
        yield Finding(
            "island",
            WARNING if quantizable else NOTE,
            tuple(layer.name for layer in layers),
            f"{count} of float between INT8: {', '.join(make[:6])}{macs}",
            "quantize it too, or leave its neighbours in float"
            if quantizable
            else "these stay in float by default; each costs a conversion on the way out",
        )


def _regions(context: Context) -> list[list[Layer]]:
    """Return the connected regions of float that have INT8 on both sides, in graph order."""
    flow, owner = context.own.flow, context.own.kernels.owner
    layers = context.network.layers
    floats: dict[int, Layer] = {}
    for index, layer in enumerate(layers):
        if layer.kind in _NOTHING or not flow.dynamic(layer):
            continue
        kernel = owner.get(index)
        if kernel is not None and kernel.int8:
            continue
        moves = layer.kind in (kinds.COPY, kinds.CONCAT)
        if moves and any(t in flow.int8 or flow.sink(t).pure for t in layer.outputs):
            continue  # it moves INT8
        floats[index] = layer
    groups = Groups()
    enters: set[str] = set()
    leaves: set[str] = set()
    for index, layer in floats.items():
        for name in flow.dynamic(layer):
            writer = flow.writer.get(name)
            if writer in floats:
                groups.union(str(writer), str(index))
            elif writer is not None:
                enters.add(str(index))
        if any(flow.sink(name).key is not None for name in layer.outputs):
            leaves.add(str(index))
    ends = [{groups.find(member) for member in side} for side in (enters, leaves)]
    regions: dict[str, list[Layer]] = {}
    for index, layer in floats.items():
        root = groups.find(str(index))
        if root in ends[0] and root in ends[1]:
            regions.setdefault(root, []).append(layer)
    return list(regions.values())
