"""Dialects: where Q/DQ goes and how it is written, as one inference engine wants it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Protocol

from graphopt.registry import Registry

if TYPE_CHECKING:
    from graphopt.calibrators import CalibrationTable
    from graphopt.model import Model
    from graphopt.passes.base import Change, Skip

__all__ = ["DIALECTS", "Dialect"]


class Dialect(Protocol):
    """A way to place Q/DQ nodes."""

    name: ClassVar[str]

    def wanted(self, model: Model, exclude: frozenset[str], /) -> list[str]:
        """Return the names of the tensors whose range this dialect needs, in graph order.

        Args:
            model: simplified, BatchNorm folded, not quantized.
            exclude: names of nodes to leave in floating point.
        """

    def insert(
        self, model: Model, table: CalibrationTable, exclude: frozenset[str], /
    ) -> Iterable[Change | Skip]:
        """Insert Q/DQ into ``model`` in place; yield what was quantized and what was not."""


DIALECTS = Registry(
    kind="dialect",
    table={
        "tensorrt": "graphopt.dialects.tensorrt:TensorRT",
        "onnxruntime": "graphopt.dialects.onnxruntime:OnnxRuntime",
    },
)
