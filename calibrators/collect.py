"""One streaming pass over the data: a histogram for every tensor asked for.

The session is optimized and runs on all cores; the outputs of one batch are counted on a thread of
their own while the next batch runs. Of large tensors a sample of positions is counted, fixed by
their shape. Memory is two batches of the tensors asked for plus 32 KB a tensor, whatever the number
of samples.

Extremes reduced, and positions sampled, by nodes added to the graph were measured too. They cost as
much: ONNX Runtime undoes its blocked layout for them as it does for outputs, and on small models
two more nodes a tensor cost more than NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from graphopt.calibrators.histogram import Accumulator, Histogram, Scratch
from graphopt.errors import DataError, UsageError
from graphopt.graph import Array, Graph, Tensor, is_constant, is_graph_input, is_op, producer
from graphopt.model import Feeds, Model
from graphopt.registry import did_you_mean
from graphopt.runtime import open_session
from graphopt.wording import one_line

# Of each sample of a tensor; ranges then move at most half as much as by leaving out half of the
# images (docs/decisions/009-a-sample-of-positions.md).
POSITIONS = 8192


@dataclass(frozen=True, slots=True)
class Collected:
    """What one pass over the data found.

    Attributes:
        histograms: tensor name -> histogram, in the order asked for.
        samples: how many samples were seen (along axis 0 of the first batched input).
        positions: how many values of each sample of a tensor were counted, at least; None if all
            were. Only histograms of the same number may be merged.
        counted: whether values were counted; else the histograms know the extremes alone.
    """

    histograms: Mapping[str, Histogram]
    samples: int
    positions: int | None = None
    counted: bool = True


def collect(
    model: Model,
    batches: Iterable[Feeds],
    tensors: Sequence[str],
    *,
    counts: bool = True,
    positions: int | None = POSITIONS,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Run ``model`` on every batch and count the values of ``tensors``.

    Batches may differ in size and in every other dynamic dimension. The histograms are the same
    for any order and any split of the samples, as far as ONNX Runtime computes the same values.
    Extremes are of all values.

    Args:
        model: the model whose tensors are named; floating point, not quantized.
        batches: input name -> array, the batch along axis 0; read once, one batch ahead.
        tensors: names of activations and graph inputs; initializers are left out, for their
            values are in the model.
        counts: whether to count values; extremes alone, all that ``minmax`` needs, cost less.
        positions: count that many values of each sample of a tensor at least, at places that the
            sample's shape fixes; None for all. Tensors whose samples cannot be told apart by
            axis 0 are counted whole.
        threads: cores for inference; all by default.
        progress: called after each batch with the number of samples in it.

    Raises:
        UsageError: the model has no tensor of that name outside its sub-graphs, or ``positions``
            is not positive.
        DataError: there is no sample, an input is missing or of the wrong shape or dtype, or a
            tensor holds NaN or Inf.
        UnsupportedModelError: ONNX Runtime refuses the model.
    """
    if positions is not None and positions < 1:
        raise UsageError(f"at least one position of a tensor is counted, not {positions}")
    graph = model.graph
    wanted = _wanted(graph, tensors)
    inputs = {tensor.name for tensor in graph.inputs}
    inner = [name for name in wanted if name not in inputs]
    counters = _counters(graph, wanted, positions if counts else 0)
    samples = 0
    with (
        open_session(model, extra_outputs=inner, only=bool(inner), threads=threads) as session,
        ThreadPoolExecutor(1, thread_name_prefix="graphopt-histogram") as pool,
    ):
        fed = [value.name for value in session.get_inputs()]
        pending: Future[None] | None = None
        for given in batches:
            feeds = _complete(given, fed)
            values = {name: feeds[name] for name in wanted if name in inputs}
            # Nothing wanted from inside: ONNX Runtime would take an empty list for "all".
            if inner:
                values.update(zip(inner, _run(session, inner, feeds), strict=True))
            if pending is not None:
                pending.result()
            pending = pool.submit(_count, counters, values)
            seen = _samples(graph, feeds)
            samples += seen
            if progress is not None:
                progress(seen)
        if pending is not None:
            pending.result()
    if samples == 0:
        raise DataError("there are no calibration samples: --data names an empty source")
    histograms = {name: counter.accumulator.histogram() for name, counter in counters.items()}
    return Collected(histograms, samples, positions if counts else None, counts)


@dataclass(frozen=True, slots=True)
class _Counter:
    accumulator: Accumulator
    positions: int | None


def _counters(graph: Graph, wanted: Sequence[str], positions: int | None) -> dict[str, _Counter]:
    tensors, batch, scratch = graph.tensors(), _batch(graph), Scratch()
    counters = {}
    for name in wanted:
        made = producer(tensors[name])
        floor = 0.0 if made is not None and is_op(made, "Relu") else None
        apart = positions == 0 or by_sample(tensors[name], batch)
        counters[name] = _Counter(
            Accumulator(name, scratch, floor=floor), positions if apart else None
        )
    return counters


def _count(counters: Mapping[str, _Counter], values: dict[str, Array]) -> None:
    # In the order asked for, which is the graph's: the first tensor with NaN is named.
    for name, counter in counters.items():
        counter.accumulator.add(values.pop(name), counter.positions)  # lets go of it when counted


def _batch(graph: Graph) -> int | str | None:
    """Return axis 0 of the input that :func:`_samples` counts, as it was declared."""
    shapes = [tensor.shape for tensor in graph.inputs if tensor.shape]
    first = [shape[0] for shape in shapes]
    return next((d for d in first if not isinstance(d, int)), first[0] if first else None)


def by_sample(tensor: Tensor, batch: int | str | None) -> bool:
    """Whether axis 0 of the tensor surely is that of the samples, and no other axis is."""
    if not tensor.shape:
        return False
    first, *inner = tensor.shape
    if isinstance(batch, int):
        return batch == 1 or (first == batch and all(isinstance(d, int) for d in inner))
    # A dimension without a name could be anything: the batch too, where axis 0 is not known for it.
    known = first == batch and batch is not None
    return all(isinstance(d, int) or (d != batch and (known or d is not None)) for d in inner)


def _wanted(graph: Graph, names: Sequence[str]) -> list[str]:
    tensors = graph.tensors()
    for name in names:
        if name not in tensors:
            near = did_you_mean(name, tensors)
            raise UsageError(f"the model has no tensor '{name}' to calibrate{near}")
    return [
        name
        for name in dict.fromkeys(names)
        if is_graph_input(graph, tensors[name]) or not is_constant(tensors[name])
    ]


def _complete(feeds: Feeds, inputs: Sequence[str]) -> dict[str, Array]:
    for name in inputs:
        if name not in feeds:
            given = ", ".join(sorted(feeds)) or "nothing"
            raise DataError(f"the calibration data lacks the input '{name}'; it gives {given}")
    return {name: feeds[name] for name in inputs}


def _run(session: Any, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
    try:
        outputs: list[Array] = session.run(names, feeds)
    except Exception as problem:
        shapes = ", ".join(
            f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items()
        )
        raise DataError(
            f"the model cannot run on the calibration data ({shapes}): {one_line(problem)}"
        ) from problem
    return outputs


def _samples(graph: Graph, feeds: Feeds) -> int:
    """Return the size of axis 0 of the first input declared with a dynamic one, else the first."""
    ranked = [t for t in graph.inputs if t.name in feeds and feeds[t.name].ndim]
    dynamic = [t for t in ranked if not t.shape or not isinstance(t.shape[0], int)]
    first = next(iter([*dynamic, *ranked]), None)
    return 1 if first is None else int(feeds[first.name].shape[0])
