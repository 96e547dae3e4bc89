"""Q/DQ placed again and again with other layers left in float."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from graphopt.calibrators import CalibrationTable
from graphopt.dialects import DIALECTS
from graphopt.dialects.codes import Codes
from graphopt.dialects.onnxruntime import OnnxRuntime
from graphopt.model import Model
from graphopt.passes.base import PassResult
from graphopt.passes.insert_qdq import InsertQDQ, excluded_nodes

Extend = Callable[[Sequence[str]], CalibrationTable]
"""Calibrates these tensors of the model, with the same calibrator on the same data."""

Refine = Callable[[Collection[str]], Model]
"""Given the names of layers that stay float, returns the model with weights made for INT8 in all
others: rounded, biases corrected."""

Finish = Callable[[Model], Model]
"""What becomes of a model with Q/DQ before it ships: what is left in float goes to FP16."""


def patterns(names: Iterable[str]) -> tuple[str, ...]:
    """Return names as patterns of ``--exclude-nodes``, their wildcards escaped.

    A name that is also an operator's (a node called ``Conv``) matches those nodes too.
    """
    return tuple(glob.escape(name) for name in names)


@dataclass(slots=True)
class Placement:
    """Places Q/DQ with more and more nodes left out.

    Attributes:
        model: the float model, as it is to be quantized.
        table: its ranges; grows where ``extend`` is given.
        dialect: a name in :data:`graphopt.dialects.DIALECTS`.
        codes: node name -> how its weight is rounded.
        exclude: patterns of nodes that stay in float in any case.
        extend: calibrates more tensors. Where a node stays in float, a dialect may want Q/DQ on
            tensors that it did not want before: the other input of a residual Add.
        refine: makes of the model the one that Q/DQ goes into.
        finish: makes of a model with Q/DQ the one that ships, which is what is judged.
    """

    model: Model
    table: CalibrationTable
    dialect: str
    codes: Codes = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    extend: Extend | None = None
    refine: Refine | None = None
    finish: Finish | None = None

    @property
    def exact(self) -> bool:
        """Whether Q/DQ is for a runtime other than the one that evaluates it."""
        return self.dialect != OnnxRuntime.name

    def __call__(self, names: Iterable[str] = ()) -> PassResult:
        """Return the model with Q/DQ, these nodes left in float too.

        Raises:
            UsageError: the table lacks a tensor; :meth:`ready` tells before.
        """
        left = tuple(names)
        exclude = (*self.exclude, *patterns(left))
        model = self.model if self.refine is None else self.refine(left)
        return InsertQDQ(self.dialect, self.table, exclude, self.codes)(model)

    def ready(self, *sets: Iterable[str]) -> bool:
        """Whether the table has all that is wanted with any one of these sets left in float.

        What it lacks is calibrated, in one pass over the data, where that is possible.
        """
        dialect = DIALECTS.load(self.dialect)()
        missing: dict[str, None] = {}
        for names in sets:
            left_out = excluded_nodes(self.model, (*self.exclude, *patterns(names)))
            wanted = dialect.wanted(self.model, left_out)
            missing.update((t, None) for t in wanted if t not in self.table.ranges)
        if missing and self.extend is not None:
            more = self.extend(tuple(missing))
            self.table = _joined(self.table, more)
            return all(name in self.table.ranges for name in missing)
        return not missing


def _joined(table: CalibrationTable, more: CalibrationTable) -> CalibrationTable:
    """Return a table with the tensors of another of the same model; its own come first.

    Histograms are kept where both have them, of the same samples: a table has all or none.
    """
    a, b, counts = table.counts, more.counts, None
    if (
        a is not None
        and b is not None
        and (a.seen, a.preprocess, a.positions) == (b.seen, b.preprocess, b.positions)
    ):
        histograms = {**b.histograms, **a.histograms}
        counts = replace(a, histograms=histograms, gains={**b.gains, **a.gains})
    return replace(table, ranges={**more.ranges, **table.ranges}, counts=counts)
