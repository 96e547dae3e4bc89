"""The order in which layers are to be left in float: what each costs alone in INT8."""

from __future__ import annotations

from functools import partial

from graphopt.console import Console
from graphopt.cost import cost
from graphopt.data import Dataset
from graphopt.model import Model
from graphopt.passes.base import PassResult
from graphopt.sensitivity import Item, fewer
from graphopt.sensitivity.measure import losses, quantized
from graphopt.sensitivity.work import int8_work
from graphopt.statistics.collect import MEMORY

MOST_SAMPLES, LEAST_SAMPLES = 128, 16
_LAYER_SAMPLES = 4096


def order_samples(layers: int) -> int:
    """Return how many samples to measure each of so many layers on.

    Noise, unlike accuracy, is much the same on few samples. The fewer there are the more layers
    there are, so that the cost grows with the layers and not with their square.
    """
    return max(LEAST_SAMPLES, min(MOST_SAMPLES, _LAYER_SAMPLES // max(layers, 1)))


def measured_alone(
    model: Model,
    placed: PassResult,
    data: Dataset,
    ui: Console,
    *,
    exact: bool,
    threads: int | None = None,
) -> tuple[Item, ...]:
    """Measure each layer in INT8 alone; returns them in graph order, empty where none is in INT8.

    Args:
        model: the float model, as it is to be quantized.
        placed: what :class:`graphopt.passes.insert_qdq.InsertQDQ` made of it.
        data: samples, of which as many are taken as :func:`order_samples` says.
        ui: shows progress.
        exact: run Q/DQ as written.
        threads: cores for ONNX Runtime; all by default.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses a part of the model.
        DataError: a sample is broken, or does not fit.
    """
    feeds = next(iter(data.batches(1)))
    shapes = {name: tuple(array.shape) for name, array in feeds.items()}
    jobs = int8_work(model, placed, cost(model, shapes)).jobs
    data = fewer(data, order_samples(len(jobs)), seed=0)
    made = {"int8": partial(quantized, model, placed.model)}
    found: dict[str, Item] = {}
    with ui.progress("measuring layers alone in INT8", len(jobs)) as advance:
        for job, loss in losses(
            model, data, jobs, made, exact=exact, memory=MEMORY, threads=threads
        ):
            found[job.name] = job.item(loss)
            advance(1)
    return tuple(found[job.name] for job in jobs)
