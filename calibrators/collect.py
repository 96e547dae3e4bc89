"""One streaming pass over the data: a histogram for every tensor asked for.

The session is optimized and runs on all cores; the outputs of one batch are counted on a thread of
their own while the next batch runs. Memory is two batches of the tensors asked for plus 32 KB a
tensor, whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from graphopt.calibrators.histogram import Accumulator, Histogram, Scratch
from graphopt.errors import DataError, UsageError
from graphopt.graph import Array, Graph, is_constant, is_graph_input
from graphopt.model import Feeds, Model
from graphopt.registry import did_you_mean
from graphopt.runtime import open_session
from graphopt.wording import one_line


@dataclass(frozen=True, slots=True)
class Collected:
    """What one pass over the data found.

    Attributes:
        histograms: tensor name -> histogram, in the order asked for.
        samples: how many samples were seen (along axis 0 of the first batched input).
    """

    histograms: Mapping[str, Histogram]
    samples: int


def collect(
    model: Model,
    batches: Iterable[Feeds],
    tensors: Sequence[str],
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Run ``model`` on every batch and count the values of ``tensors``.

    Batches may differ in size and in every other dynamic dimension. The histograms are the same
    for any order and any split of the samples, as far as ONNX Runtime computes the same values.

    Args:
        model: the model whose tensors are named; floating point, not quantized.
        batches: input name -> array, the batch along axis 0; read once, one batch ahead.
        tensors: names of activations and graph inputs; initializers are left out, for their
            values are in the model.
        threads: cores for inference; all by default.
        progress: called after each batch with the number of samples in it.

    Raises:
        UsageError: the model has no tensor of that name outside its sub-graphs.
        DataError: there is no sample, an input is missing or of the wrong shape or dtype, or a
            tensor holds NaN or Inf.
        UnsupportedModelError: ONNX Runtime refuses the model.
    """
    graph = model.graph
    wanted = _wanted(graph, tensors)
    inputs = {tensor.name for tensor in graph.inputs}
    inner = [name for name in wanted if name not in inputs]
    scratch = Scratch()
    counters = {name: Accumulator(name, scratch) for name in wanted}
    samples = 0
    with (
        open_session(model, extra_outputs=inner, threads=threads) as session,
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
    return Collected({name: counter.histogram() for name, counter in counters.items()}, samples)


def _count(counters: Mapping[str, Accumulator], values: dict[str, Array]) -> None:
    while values:  # Lets go of each tensor as soon as it is counted.
        name, value = values.popitem()
        counters[name].add(value)


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
