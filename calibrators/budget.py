"""How calibration fits a memory budget: the batch, and passes over the data where one is too many.

What a run holds is estimated from the shapes: the process as it is, ONNX Runtime's packed copy of
the weights, what is alive inside the graph at its fullest, and what leaves it, twice (one batch is
counted while the next one runs). The estimate decides how much is done at once and never what is
found: counts do not depend on the batch, and each pass collects tensors of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from graphopt.calibrators.collect import POSITIONS, Collected, collect
from graphopt.errors import UsageError
from graphopt.graph import Graph, Tensor, captured, is_constant, static_shape
from graphopt.model import Feeds, Model
from graphopt.wording import counted

# Outputs of one batch; past this a larger one leaves the caches and no longer helps.
OUTPUT_BYTES = 48 << 20
MAX_BATCH = 16
# What ONNX Runtime's arena takes beyond what lives in it, measured on ResNets.
_ARENA = 1.5
# Sessions, thread stacks, histograms' buffers, the heap's own.
_SLACK = 96 << 20


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that calibration of a model holds.

    Attributes:
        fixed: however large the batch: the process, packed weights, slack.
        alive: for each sample, inside the graph at its fullest, inputs included.
        outputs: for each sample, of each tensor asked for that leaves the graph.
    """

    fixed: int
    alive: int
    outputs: Mapping[str, int]

    def peak(self, names: Iterable[str], batch: int) -> int:
        """Return the most that a pass for these tensors holds, in bytes."""
        leaving = sum(self.outputs.get(name, 0) for name in names)
        return self.fixed + batch * (int(self.alive * _ARENA) + 2 * leaving)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to calibrate.

    Attributes:
        batch: samples at a time.
        passes: the tensors of each pass over the data, in the order asked for.
    """

    batch: int
    passes: tuple[tuple[str, ...], ...]


def footprint(
    model: Model, names: Sequence[str], sample: Mapping[str, tuple[int, ...]]
) -> Footprint:
    """Estimate what calibration of ``names`` holds.

    Args:
        model: floating point.
        names: the tensors to collect.
        sample: input name -> shape of one sample, the batch (1, or the model's) along axis 0.
    """
    sized = model.clone()
    for tensor in sized.graph.inputs:
        if tensor.name in sample:
            tensor.shape = list(sample[tensor.name])
    sized.infer_shapes()
    graph = sized.graph
    batch = max((shape[0] for shape in sample.values() if shape), default=1)
    given = sum(math.prod(sample.get(t.name, ())) * _itemsize(t) for t in graph.inputs)
    # Of a shape that nobody knows: as much as the largest one known, which errs on the safe side.
    known = [_bytes(t) for t in graph.tensors().values() if not is_constant(t)]
    unknown = max((size for size in known if size is not None), default=given)
    size = {
        name: _bytes(t, unknown) or 0 for name, t in graph.tensors().items() if not is_constant(t)
    }
    inputs = {t.name for t in graph.inputs}
    return Footprint(
        fixed=resident_bytes() + model.weight_bytes() + _SLACK,
        alive=-(-(_alive(graph, size) + given) // batch),
        outputs={n: -(-size.get(n, 0) // batch) for n in names if n not in inputs},
    )


def plan(
    model: Model,
    names: Sequence[str],
    sample: Mapping[str, tuple[int, ...]],
    *,
    memory: int | None = None,
    fixed_batch: int | None = None,
) -> Plan:
    """Choose the batch, and split the tensors into passes only where one batch does not fit.

    Args:
        model: floating point.
        names: the tensors to collect.
        sample: input name -> shape of one sample, the batch (1, or the model's) along axis 0.
        memory: bytes that the process may hold at its peak; None for no limit.
        fixed_batch: the batch where the model leaves no choice.

    Raises:
        UsageError: not even one sample and one tensor fit.
    """
    found = footprint(model, names, sample)
    leaving = sum(found.outputs.values())
    batch = fixed_batch or min(max(OUTPUT_BYTES // max(leaving, 1), 1), MAX_BATCH)
    if memory is None or found.peak(names, batch) <= memory:
        return Plan(batch, (tuple(names),))
    least = fixed_batch or 1
    each = found.peak(names, 2) - found.peak(names, 1)
    if found.peak(names, least) <= memory:
        return Plan(max((memory - found.fixed) // max(each, 1), least), (tuple(names),))
    needed = max(found.peak([name], least) for name in names)
    if needed > memory:
        raise UsageError(
            f"calibration needs about {_size(needed)} of memory for one "
            f"{'batch' if fixed_batch else 'sample'} and one tensor at a time, and "
            f"the limit is {_size(memory)}: raise --memory"
        )
    passes: list[list[str]] = [[]]
    for name in names:
        if passes[-1] and found.peak([*passes[-1], name], least) > memory:
            passes.append([])
        passes[-1].append(name)
    return Plan(least, tuple(tuple(part) for part in passes))


def collect_within(
    model: Model,
    read: Callable[[int], Iterable[Feeds]],
    how: Plan,
    *,
    until: Callable[[Iterable[Feeds]], Iterable[Feeds]] | None = None,
    counts: bool = True,
    positions: int | None = POSITIONS,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Collect as planned: what :func:`~graphopt.calibrators.collect.collect` finds in one pass.

    Args:
        model: the model whose tensors are named.
        read: batch size -> batches, the same each time it is called.
        how: the plan.
        until: may end the first pass early; the others then see as many batches.
        counts: as in ``collect``.
        positions: as in ``collect``.
        threads: as in ``collect``.
        progress: called after each batch of the first pass with the number of samples in it.

    Raises:
        UsageError, DataError, UnsupportedModelError: as ``collect`` does.
    """
    histograms: dict[str, Any] = {}
    seen, first = 0, None
    for names in how.passes:
        batches: Iterable[Feeds] = read(how.batch)
        if first is None:
            batches = batches if until is None else until(batches)
        else:
            batches = islice(batches, seen)
        counted = _Counted(batches)
        found = collect(
            model,
            counted,
            names,
            counts=counts,
            positions=positions,
            threads=threads,
            progress=progress if first is None else None,
        )
        first, seen = first or found, counted.number
        histograms.update(found.histograms)
    assert first is not None
    return Collected(histograms, first.samples, first.positions, first.counted)


class _Counted:
    """Batches, and how many were read."""

    def __init__(self, batches: Iterable[Feeds]) -> None:
        self._batches = batches
        self.number = 0

    def __iter__(self) -> Iterator[Feeds]:
        for batch in self._batches:
            self.number += 1
            yield batch


def resident_bytes() -> int:
    """Return what the process holds now; 0 where the system does not say."""
    try:
        kilobytes = re.search(r"^VmRSS:\s+(\d+)", Path("/proc/self/status").read_text(), re.M)
    except OSError:
        return 0
    return int(kilobytes[1]) * 1024 if kilobytes else 0


def _alive(graph: Graph, size: Mapping[str, int]) -> int:
    """Return the bytes alive at the fullest moment of a run in graph order, without inputs."""
    last = {
        tensor.name: i
        for i, node in enumerate(graph.nodes)
        for tensor in [*node.inputs, *captured(node)]
    }
    ends: dict[int, int] = {}
    now = most = 0
    for i, node in enumerate(graph.nodes):
        for tensor in node.outputs:
            now += size.get(tensor.name, 0)
            end = last.get(tensor.name, i)
            ends[end] = ends.get(end, 0) + size.get(tensor.name, 0)
        most = max(most, now)
        now -= ends.pop(i, 0)
    return most


def _bytes(tensor: Tensor, otherwise: int | None = None) -> int | None:
    shape = static_shape(tensor)
    return otherwise if shape is None else math.prod(shape) * _itemsize(tensor)


def _itemsize(tensor: Tensor) -> int:
    return 4 if tensor.dtype is None else int(getattr(tensor.dtype, "itemsize", 4))


def _size(size: int) -> str:
    for unit, name in ((1e6, "MB"), (1e3, "KB")):
        if size >= unit:
            return f"{size / unit:.0f} {name}"
    return counted(size, "byte")
