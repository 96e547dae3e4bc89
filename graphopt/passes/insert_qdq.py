"""Insert Q/DQ nodes: a calibration table becomes explicit quantization in an engine's dialect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

from graphopt.calibrators.table import CalibrationTable
from graphopt.dialects import DIALECTS
from graphopt.dialects.codes import Codes
from graphopt.dialects.heads import label
from graphopt.model import Model
from graphopt.passes.base import Change, Pass, Skip


def excluded_nodes(model: Model, patterns: tuple[str, ...]) -> frozenset[str]:
    """Return the names of the nodes that any pattern matches, by name or by operator.

    Args:
        model: the model; nodes inside sub-graphs are never quantized and not looked at.
        patterns: shell patterns, case-sensitive: ``"layer4.*"``, ``"Gemm"``. A node without a
            name goes by that of its first output.
    """
    return frozenset().union(*(_matching(model, pattern) for pattern in patterns))


def _matching(model: Model, pattern: str) -> frozenset[str]:
    return frozenset(
        label(node)
        for node in model.graph.nodes
        if fnmatchcase(label(node), pattern) or fnmatchcase(node.op, pattern)
    )


@dataclass(frozen=True)
class InsertQDQ(Pass):
    """Write a calibration table into the graph as QuantizeLinear/DequantizeLinear pairs.

    Attributes:
        dialect: a name in :data:`graphopt.dialects.DIALECTS`; the engine knows which.
        table: the ranges, measured on this very model.
        exclude: patterns over node names and operators; what they match stays in float.
        codes: node name -> how its weight is rounded; to nearest where there is none.
        options: of the dialect, by field: ``{"int8_weights": True}``.

    Raises:
        UnsupportedModelError: the model is quantized already, or its opset is below 13.
        UsageError: the table lacks a tensor, or no such dialect is registered.
    """

    name: ClassVar[str] = "insert-qdq"

    dialect: str
    table: CalibrationTable
    exclude: tuple[str, ...] = ()
    codes: Codes = field(default_factory=dict)
    options: Mapping[str, bool] = field(default_factory=dict)

    def edit(self, model: Model) -> Iterator[Change | Skip]:
        """Insert the pairs; yield what was quantized, and what was not and why."""
        dialect = DIALECTS.load(self.dialect)(**self.options)
        for pattern in self.exclude:
            if not _matching(model, pattern):
                yield Skip(pattern, "this exclude pattern matches no node's name or operator")
        left_out = excluded_nodes(model, self.exclude)
        yield from dialect.insert(model, self.table, left_out, self.codes)
