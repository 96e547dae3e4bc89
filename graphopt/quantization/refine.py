"""What the pipeline calls: the float model before it is calibrated, its weights afterwards.

Each step is an option, on by default where it measured better (docs/quantization.md): channels made
alike and outliers moved before calibration, codes by second order and biases after it. All look at
samples, which must be real: on made-up ones they would fit noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.calibrators import CalibrationTable
from graphopt.errors import UsageError
from graphopt.model import Model
from graphopt.passes.base import PassResult
from graphopt.quantization.bias import correct_bias
from graphopt.quantization.equalize import equalize
from graphopt.quantization.refined import Refined
from graphopt.quantization.rounding import FLOAT, SEQUENTIAL, round_weights
from graphopt.quantization.smooth import smooth
from graphopt.statistics.collect import MEMORY, Batches
from graphopt.statistics.replay import Progress

NEAREST = "nearest"
ROUNDINGS = (NEAREST, FLOAT, SEQUENTIAL)


@dataclass(frozen=True, slots=True)
class WeightOptions:
    """What is done to weights so that INT8 costs less accuracy.

    Attributes:
        equalize: make channels between layers alike.
        smooth: move outliers behind normalizations into weights.
        rounding: ``nearest``, ``float`` (second order, on the float network's activations) or
            ``sequential`` (on the quantized network's).
        bias: take back the mean of what rounding weights does.

    Raises:
        UsageError: the rounding is none of these.
    """

    equalize: bool = True
    smooth: bool = True
    rounding: str = FLOAT
    bias: bool = True

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            choices = ", ".join(ROUNDINGS)
            raise UsageError(f"weights are rounded by one of {choices}, not '{self.rounding}'")


def prepare_weights(
    model: Model,
    batches: Batches | None,
    options: WeightOptions | None = None,
    *,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[PassResult]:
    """Rescale channels of the float model; what it computes stays the same.

    Args:
        model: simplified and with BatchNorm folded, float; stays as it is.
        batches: gives real samples, the same each time; None where there are none, and nothing is
            done.
        options: what to do.
        memory: bytes of activations held in memory.
        threads: cores for ONNX Runtime.
        progress: called after each tensor looked at with 1.

    Returns:
        What each step did, in order; the model of the last is the result. Empty where nothing was
        asked for, or there are no samples.

    Raises:
        DataError: there are no samples, or they do not fit the model.
        UnsupportedModelError: ONNX Runtime refuses the model.
    """
    options = options or WeightOptions()
    done: list[PassResult] = []
    if batches is None:
        return done
    for wanted, step in ((options.equalize, equalize), (options.smooth, smooth)):
        if wanted:
            now = done[-1].model if done else model
            done.append(step(now, batches, memory=memory, threads=threads, progress=progress))
    return done


def refine(
    model: Model,
    table: CalibrationTable,
    batches: Batches | None,
    options: WeightOptions | None = None,
    *,
    dialect: str,
    exclude: Sequence[str] = (),
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Refined:
    """Choose how the weights of a calibrated model are rounded, and correct its biases.

    Args:
        model: the float model that was calibrated; stays as it is.
        table: the ranges of its activations.
        batches: gives real samples, the same each time; None where there are none, and weights
            are rounded to nearest.
        options: what to do.
        dialect: a name in :data:`graphopt.dialects.DIALECTS`.
        exclude: patterns of nodes that stay float.
        memory: bytes of activations held in memory.
        threads: cores for ONNX Runtime.
        progress: called after each layer with 1.

    Returns:
        The model and the codes that ``InsertQDQ(dialect, table, exclude, codes)`` takes.

    Raises:
        UsageError: the table lacks a tensor.
        DataError: there are no samples, or they do not fit the model.
        UnsupportedModelError: the model is quantized already, or ONNX Runtime refuses it.
    """
    options = options or WeightOptions()
    if batches is None or (options.rounding == NEAREST and not options.bias):
        return Refined(model)
    if options.rounding == NEAREST:
        result = correct_bias(
            model,
            table,
            batches,
            dialect=dialect,
            exclude=exclude,
            memory=memory,
            threads=threads,
            progress=progress,
        )
        return Refined(result.model, skipped=result.skipped)
    return round_weights(
        model,
        table,
        batches,
        dialect=dialect,
        exclude=exclude,
        how=options.rounding,
        bias=options.bias,
        memory=memory,
        threads=threads,
        progress=progress,
    )
