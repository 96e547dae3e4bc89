"""Calibration and Q/DQ: one pass over the data serves every dialect."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

import numpy as np

from graphopt.calibrators import CALIBRATORS, CalibrationTable, TensorRange
from graphopt.calibrators.budget import Plan, collect_within, plan
from graphopt.calibrators.choose import calibrate, choose_again, digest_of
from graphopt.calibrators.collect import Collected
from graphopt.calibrators.merge import merge_tables, require_counts
from graphopt.calibrators.readers import patch_gains
from graphopt.calibrators.stopping import Stopping
from graphopt.calibrators.table import Counts
from graphopt.console import Console
from graphopt.data import Dataset
from graphopt.dialects import DIALECTS
from graphopt.dialects.codes import Codes
from graphopt.errors import DataError, UnsupportedModelError, UsageError
from graphopt.graph import in_graph_order, is_float
from graphopt.model import Model
from graphopt.passes.insert_qdq import InsertQDQ, excluded_nodes


def wanted_tensors(
    model: Model, exclude: Sequence[str], dialects: Sequence[str] | None = None
) -> list[str]:
    """Return the tensors that dialects need a range for, any of them by default, in graph order."""
    left_out = excluded_nodes(model, tuple(exclude))
    wanted: set[str] = set()
    for name in DIALECTS.names() if dialects is None else dialects:
        wanted.update(DIALECTS.load(name)().wanted(model, left_out))
    return in_order(model, wanted)


def in_order(model: Model, names: Container[str]) -> list[str]:
    """Return the tensors of these names in graph order, of unknown type too.

    After a custom operator no type is known; a product with float32 weights says it is float32.
    """
    return [t.name for t in in_graph_order(model.graph) if t.name in names]


def activations(model: Model) -> list[str]:
    """Return every float32 tensor that depends on the input, in graph order."""
    return [t.name for t in in_graph_order(model.graph) if t.name and is_float(t)]


def calibration_plan(
    model: Model, wanted: Sequence[str], data: Dataset, memory: int | None = None
) -> Plan:
    """Choose the batch of calibration, and passes where ``memory`` bytes are too few for one.

    Raises:
        UsageError: not even one sample and one tensor fit.
    """
    first = next(iter(data.batches(1)), {})
    sample = {name: array.shape for name, array in first.items()}
    return plan(model, wanted, sample, memory=memory, fixed_batch=data.fixed_batch)


def require_quantizable(model: Model, tensors: Sequence[str]) -> None:
    """Refuse a model in which INT8 has nothing to do.

    Args:
        model: the model.
        tensors: what :func:`wanted_tensors` found in it.

    Raises:
        UnsupportedModelError: nothing; one line that says why.
    """
    if tensors:
        return
    if any(t.dtype == np.float16 for t in model.graph.tensors().values()):
        raise UnsupportedModelError(
            "the weights are float16, and INT8 is calibrated in float32: start from the "
            "float32 model"
        )
    raise UnsupportedModelError(
        "nothing in this model can be quantized: no Conv, ConvTranspose, Gemm or MatMul with "
        "constant float32 weights wide enough; leave --int8 out"
    )


def calibration_table(
    model: Model,
    data: Dataset,
    method: str,
    tensors: Sequence[str],
    ui: Console,
    *,
    stopping: Stopping | None = None,
    memory: int | None = None,
) -> CalibrationTable:
    """Stream the data once and choose a range for each tensor.

    Args:
        model: the model whose tensors are named; fp32.
        data: the samples.
        method: a name in ``CALIBRATORS``, with its option where it has one.
        tensors: names of the tensors to observe.
        ui: shows progress.
        stopping: ends the pass early; the table then is of the samples seen until there.
        memory: bytes that the process may hold; decides the batch, and where that is not enough
            takes several passes, each for some of the tensors.

    Raises:
        UsageError: ``memory`` is too little for one sample and one tensor.
        UnsupportedModelError: there is nothing to calibrate.
        DataError: an activation is NaN or infinite.
    """
    require_quantizable(model, tensors)
    name = CALIBRATORS.canonical(method)
    how = calibration_plan(model, tensors, data, memory)
    if len(how.passes) > 1:
        ui.info(f"calibration takes {len(how.passes)} passes over the data to stay within --memory")
    until = None if stopping is None else stopping.batches
    with ui.progress(f"calibrating ({name})", len(data)) as advance:
        collected = collect_within(model, data.batches, how, until=until, progress=advance)
    gains = {name: gain for name, gain in patch_gains(model).items() if gain != 1}
    return _table(model, data, name, collected, gains)


def _table(
    model: Model, data: Dataset, method: str, collected: Collected, gains: Mapping[str, float]
) -> CalibrationTable:
    """Let the calibrator choose, and keep what it chose from."""
    seen = tuple(sorted(digest.hex() for digest in data.sample_digests[: collected.samples]))
    table = calibrate(
        collected,
        CALIBRATORS.load(method)(),
        method=method,
        model_digest=model.digest(),
        data_digest=digest_of(seen, data.preprocess_digest),
        synthetic=data.synthetic,
        gains=gains,
    )
    if collected.positions == 0:  # extremes alone
        return table
    known = {name: gain for name, gain in gains.items() if name in collected.histograms}
    counts = Counts(collected.histograms, known, seen, data.preprocess_digest, collected.positions)
    return replace(table, counts=counts)


def unseen(table: CalibrationTable, data: Dataset, where: str) -> Dataset | None:
    """Return the samples that a table has not counted yet; None where it has counted all.

    Raises:
        UsageError: the table does not say what it has counted, or of images prepared otherwise.
        DataError: the model fixes the batch, and what is left makes no whole batches.
    """
    counts = require_counts(where, table)
    if counts.preprocess != data.preprocess_digest:
        raise UsageError(f"{where} was made with different preprocessing: use the same")
    known = frozenset(counts.seen)
    new = [
        index
        for index, digest in zip(data.indices, data.sample_digests, strict=True)
        if digest.hex() not in known
    ]
    fixed = data.fixed_batch or 1
    if len(new) % fixed:
        raise DataError(
            f"{len(new)} samples are not in {where} yet, and the model's batch is fixed at "
            f"{fixed}: give a multiple of it"
        )
    return replace(data, indices=tuple(new)) if new else None


def resume_table(
    model: Model,
    data: Dataset,
    table: CalibrationTable,
    method: str,
    ui: Console,
    *,
    where: str,
    stopping: Stopping | None = None,
    memory: int | None = None,
) -> CalibrationTable:
    """Count the samples that a table has not seen: the same as one pass over all of them.

    Args:
        model: the model that the table is of.
        data: samples; those that the table has counted are left out.
        table: what was counted so far.
        method: the calibrator that chooses in the end.
        ui: shows progress.
        where: the table's file, for messages.
        stopping: ends the pass early.
        memory: bytes that the process may hold.

    Raises:
        UsageError: the table is of another model, has no counts, or of other preprocessing.
        DataError: an activation is NaN or infinite.
    """
    if table.model_digest != model.digest():
        raise UsageError(
            f"{where} belongs to another model (digest {table.model_digest[:12]}, this one "
            f"{model.digest()[:12]}): calibrate this model from the start"
        )
    rest = unseen(table, data, where)
    if rest is None:
        ui.info(f"{where} has counted all {len(data)} samples already")
        return choose_again(table, method, where)
    if len(rest) < len(data):
        ui.info(f"{len(data) - len(rest)} of {len(data)} samples are counted already: left out")
    tensors = in_order(model, table.ranges)
    more = calibration_table(model, rest, method, tensors, ui, stopping=stopping, memory=memory)
    return merge_tables([(where, table), ("the new samples", more)], method)


def placeholder_table(model: Model, tensors: Sequence[str]) -> CalibrationTable:
    """Return a table of unit ranges: enough to see where Q/DQ would go, never saved."""
    ranges = {name: TensorRange(1.0, -1.0, 1.0) for name in tensors}
    return CalibrationTable(ranges, "placeholder", model.digest())


def qdq_pass(
    dialect: str, table: CalibrationTable, exclude: Sequence[str], codes: Codes | None = None
) -> InsertQDQ:
    """Return the pass that writes a table into a graph as one engine wants it."""
    return InsertQDQ(dialect=dialect, table=table, exclude=tuple(exclude), codes=codes or {})
