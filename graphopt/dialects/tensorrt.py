"""The ``tensorrt`` dialect: Q/DQ on inputs only, symmetric int8, for TensorRT's own fusions.

What is written is the common denominator of TensorRT 8.5 to 11 and TensorRT-RTX: three inputs on
every Q and DQ, zero-points 0, positive float32 scales, weights as fp32 -> Q -> DQ with one scale
for each output channel, bias in float32, nothing newer than opset 13. From TensorRT 10 on weights
may be int8 initializers in front of their DQ: the same numbers in a quarter of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from graphopt.dialects.emit import Writer
from graphopt.dialects.heads import (
    HeadRules,
    describe,
    label,
    require_per_channel,
    require_unquantized,
)
from graphopt.dialects.placement import Placement
from graphopt.dialects.scales import require_ranges, symmetric_scale
from graphopt.passes.base import Change, Skip

if TYPE_CHECKING:
    from graphopt.calibrators import CalibrationTable
    from graphopt.dialects.codes import Codes
    from graphopt.model import Model

_RULES = HeadRules(thin=16, narrow=16, gemv=False)


@dataclass(frozen=True, slots=True)
class TensorRT:
    """Q/DQ where TensorRT fuses it: inputs of heads, shortcuts of residual Adds, pools between.

    Attributes:
        rules: where TensorRT's int8 kernels can win.
        attention: whether the products inside attention run in int8, where TensorRT documents a
            fused kernel for it (:mod:`graphopt.dialects.attention`).
        int8_weights: weights are written as int8 -> DQ, which TensorRT takes from version 10 on.
    """

    name: ClassVar[str] = "tensorrt"
    rules: HeadRules = _RULES
    attention: bool = False
    int8_weights: bool = False

    def _place(self, model: Model, exclude: frozenset[str]) -> Placement:
        return Placement(model.graph, exclude, self.rules, attention=self.attention)

    def wanted(self, model: Model, exclude: frozenset[str], /) -> list[str]:
        """Return the names of the tensors whose range is needed, in graph order.

        Raises:
            UnsupportedModelError: the model is quantized already, or a weight is not finite.
        """
        require_unquantized(model)
        return self._place(model, exclude).wanted()

    def insert(
        self,
        model: Model,
        table: CalibrationTable,
        exclude: frozenset[str],
        codes: Codes,
        /,
    ) -> Iterator[Change | Skip]:
        """Insert Q/DQ in place; yield each node that now runs in int8 and each that does not.

        Raises:
            UnsupportedModelError: the model is quantized already, is of an opset below 13, or a
                weight is not finite.
            UsageError: the table lacks a tensor.
        """
        require_unquantized(model)
        require_per_channel(model)
        place = self._place(model, exclude)
        require_ranges(table.ranges, place.wanted())
        writer = Writer(model.graph)
        members = place.groups.members(place.wanted())
        zero = np.int8(0)
        for tensor in place.tensors:
            key = place.groups.find(place.root(tensor).name)
            amax = max(table.ranges[name].amax for name in members[key])
            scale, zero_point = writer.parameters(key, symmetric_scale(amax), zero)
            writer.rewire(place.readers[tensor.name], writer.pair(tensor, scale, zero_point))
        for head in place.heads:
            write = writer.stored_weight if self.int8_weights else writer.float_weight
            head.node.inputs[1] = write(head, codes.get(label(head.node)))
            yield Change("quantized", label(head.node), describe(head))
        for residual in place.partitions.residuals:
            yield Change(
                "quantized",
                label(residual.node),
                f"residual {residual.node.op}: fuses into '{label(residual.head.node)}', "
                f"its input {residual.index} is quantized",
            )
        for attention in place.attentions:
            for node in (attention.scores, attention.context):
                yield Change("quantized", label(node), f"{node.op}: attention in int8")
        for node in place.carried:
            yield Change("quantized", label(node), f"{node.op}: int8 flows through")
        yield from place.skipped
