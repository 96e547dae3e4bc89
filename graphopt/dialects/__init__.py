"""Dialects: where Q/DQ goes and how it is written, as one inference engine wants it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Protocol

from graphopt.registry import Registry

if TYPE_CHECKING:
    from graphopt.calibrators import CalibrationTable
    from graphopt.dialects.codes import Codes
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
        self,
        model: Model,
        table: CalibrationTable,
        exclude: frozenset[str],
        codes: Codes,
        /,
    ) -> Iterable[Change | Skip]:
        """Insert Q/DQ into ``model`` in place; yield what was quantized and what was not.

        Args:
            model: simplified, BatchNorm folded, not quantized.
            table: the ranges of at least the tensors :meth:`wanted` names.
            exclude: names of nodes to leave in floating point.
            codes: node name -> how its weight is rounded; to nearest where there is none.
        """


DIALECTS = Registry(
    kind="dialect",
    table={
        "tensorrt": "graphopt.dialects.tensorrt:TensorRT",
        "onnxruntime": "graphopt.dialects.onnxruntime:OnnxRuntime",
    },
)
