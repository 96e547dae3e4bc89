"""Calibration and Q/DQ: one pass over the data serves every dialect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.calibrators import CALIBRATORS, CalibrationTable, TensorRange
from graphopt.calibrators.choose import calibrate
from graphopt.calibrators.collect import collect
from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.dialects import DIALECTS
from graphopt.dialects.codes import Codes
from graphopt.errors import UnsupportedModelError
from graphopt.graph import in_graph_order, is_float
from graphopt.model import Model
from graphopt.passes.insert_qdq import InsertQDQ, excluded_nodes

# Activations held at once during calibration; past this a larger batch no longer helps.
ACTIVATION_BYTES = 48 << 20
MAX_BATCH = 16


def wanted_tensors(model: Model, exclude: Sequence[str]) -> list[str]:
    """Return the tensors any dialect needs a range for, in graph order."""
    left_out = excluded_nodes(model, tuple(exclude))
    wanted: set[str] = set()
    for name in DIALECTS.names():
        wanted.update(DIALECTS.load(name)().wanted(model, left_out))
    return [name for name in activations(model) if name in wanted]


def activations(model: Model) -> list[str]:
    """Return every float32 tensor that depends on the input, in graph order."""
    return [t.name for t in in_graph_order(model.graph) if t.name and is_float(t)]


def batch_size(model: Model, wanted: Sequence[str], data: Dataset) -> int:
    """Choose the calibration batch: as large as its activations stay in cache-friendly bounds."""
    fixed = data.fixed_batch
    if fixed is not None:
        return fixed
    tensors = model.graph.tensors()
    sample = {name: array.shape for name, array in next(iter(data.batches(1))).items()}
    pixels = max(
        (int(np.prod(shape[2:], dtype=np.int64)) for shape in sample.values() if len(shape) > 2),
        default=1,
    )
    total = 0
    for name in wanted:
        shape = tensors[name].shape or []
        known = [d for d in shape[1:] if isinstance(d, int)]
        open_dims = len(shape[1:]) - len(known)
        total += int(np.prod(known, dtype=np.int64)) * (pixels if open_dims else 1) * 4
    return int(np.clip(ACTIVATION_BYTES // max(total, 1), 1, MAX_BATCH))


def calibration_table(
    model: Model, data: Dataset, method: str, tensors: Sequence[str], ui: Console
) -> CalibrationTable:
    """Stream the data once and choose a range for each tensor.

    Args:
        model: the model whose tensors are named; fp32.
        data: the samples.
        method: a name in ``CALIBRATORS``.
        tensors: names of the tensors to observe.
        ui: shows progress.

    Raises:
        UnsupportedModelError: there is nothing to calibrate.
        DataError: an activation is NaN or infinite.
    """
    if not tensors:
        if any(t.dtype == np.float16 for t in model.graph.tensors().values()):
            raise UnsupportedModelError(
                "the weights are float16, and INT8 is calibrated in float32: start from the "
                "float32 model, or leave --int8 out"
            )
        raise UnsupportedModelError(
            "nothing in this model can be quantized: no Conv, ConvTranspose, Gemm or MatMul with "
            "constant float32 weights wide enough; leave --int8 out"
        )
    name = CALIBRATORS.canonical(method)
    with ui.progress(f"calibrating ({name})", len(data)) as advance:
        collected = collect(
            model, data.batches(batch_size(model, tensors, data)), tensors, progress=advance
        )
    return calibrate(
        collected,
        CALIBRATORS.load(name)(),
        method=name,
        model_digest=model.digest(),
        data_digest=data.digest,
        synthetic=data.synthetic,
    )


def placeholder_table(model: Model, tensors: Sequence[str]) -> CalibrationTable:
    """Return a table of unit ranges: enough to see where Q/DQ would go, never saved."""
    ranges = {name: TensorRange(1.0, -1.0, 1.0) for name in tensors}
    return CalibrationTable(ranges, "placeholder", model.digest())


def qdq_pass(
    dialect: str, table: CalibrationTable, exclude: Sequence[str], codes: Codes | None = None
) -> InsertQDQ:
    """Return the pass that writes a table into a graph as one engine wants it."""
    return InsertQDQ(dialect=dialect, table=table, exclude=tuple(exclude), codes=codes or {})
