"""From a model and samples to the sensitivities of its groups and layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import onnxruntime as ort

import graphopt
from graphopt.calibrators import CalibrationTable
from graphopt.channels import ChannelAnalysis, PrunePlan, make_plan
from graphopt.channels import analyze as find_groups
from graphopt.channels.importance import IMPORTANCES, default_importance
from graphopt.console import Console
from graphopt.cost import Cost, cost
from graphopt.data import Dataset
from graphopt.data.samples import choose
from graphopt.dialects.onnxruntime import OnnxRuntime
from graphopt.errors import UnsupportedModelError, UsageError
from graphopt.model import Model
from graphopt.optimize import QDQ_OPSET, refuse_broken_weights
from graphopt.passes.base import PassResult
from graphopt.passes.fold_batchnorm import FoldBatchNorm
from graphopt.passes.insert_qdq import InsertQDQ
from graphopt.passes.raise_opset import RaiseOpset
from graphopt.passes.simplify import Simplify
from graphopt.pruning import batches_of
from graphopt.quantize import calibration_table, placeholder_table, wanted_tensors
from graphopt.sensitivity.measure import Made, losses, pruned, quantized
from graphopt.sensitivity.values import (
    KINDS,
    RATIOS,
    Item,
    Kind,
    LeftOut,
    Sensitivity,
    Subject,
    check_ratios,
)
from graphopt.sensitivity.work import Job, Work, int8_work, prune_work
from graphopt.statistics import Statistics
from graphopt.statistics.collect import MEMORY

MEASURED = 128
"""Samples that losses are measured on, where nobody says how many."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and how.

    Attributes:
        kinds: ``prune``, ``int8`` or both.
        ratios: fractions of a group's channels.
        importance: a name in :data:`graphopt.channels.importance.IMPORTANCES`; empty for the one
            that pruning takes with data.
        align: kept widths are multiples of it.
        dialect: a name in :data:`graphopt.dialects.DIALECTS`: whose Q/DQ.
        calibrator: a name in :data:`graphopt.calibrators.CALIBRATORS`.
        samples: how many of the calibration samples to measure on, where no others are given.
        seed: chooses those, and for criteria that draw numbers.
        memory: bytes of activations held in memory; beyond it they go to a temporary folder.
        threads: cores for ONNX Runtime; all by default.
    """

    kinds: tuple[Kind, ...] = KINDS
    ratios: tuple[float, ...] = RATIOS
    importance: str = ""
    align: int = 1
    dialect: str = "tensorrt"
    calibrator: str = "auto"
    samples: int = MEASURED
    seed: int = 0
    memory: int = MEMORY
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class _Forms:
    """The model as pruning and quantization take it."""

    unfolded: Model
    folded: Model
    not_int8: str = ""


def analyze(
    model: Model,
    calibration: Dataset,
    measured: Dataset | None = None,
    options: Options | None = None,
    *,
    table: CalibrationTable | None = None,
    known: Callable[[Subject], Sensitivity | None] | None = None,
    keep: Callable[[Sensitivity], None] | None = None,
    ui: Console | None = None,
) -> Sensitivity:
    """Measure what each channel group loses alone at each ratio, and each layer in INT8 alone.

    Nothing is recovered. The changes are those of ``build --prune`` and ``build --int8``: the same
    channels by the same importance, the same Q/DQ with the same ranges.

    Args:
        model: as given; simplified and folded here.
        calibration: samples for scores and INT8 ranges.
        measured: samples for losses; by default up to ``options.samples`` of the calibration.
        options: what to measure; everything by default.
        table: INT8 ranges of the simplified and folded model, if at hand.
        known: gives what an earlier call has measured, which is not measured again.
        keep: called with all there is after each item.
        ui: shows progress.

    Raises:
        UsageError: an option is unknown or out of range, or what is known is of another subject.
        UnsupportedModelError: ONNX Runtime refuses the model, or nothing in it can be measured.
        DataError: a sample is broken, or does not fit.
    """
    options, ui = options or Options(), ui or Console(verbosity=-1)
    refuse_broken_weights(model)
    on_calibration = measured is None
    measured = fewer(calibration, options.samples, options.seed) if measured is None else measured
    asked = _subject(model, calibration, measured, options, on_calibration=on_calibration)
    before = None if known is None else known(asked)
    if before is not None:
        other = before.subject.differs(asked)
        if other:
            raise UsageError(f"the figures at hand are of another run: {other}")
        if before.complete:
            return before
    forms = _forms(model, "int8" in options.kinds)
    shapes = {n: tuple(a.shape) for n, a in next(iter(measured.batches(1))).items()}
    count = cost(forms.folded, shapes)
    groups = find_groups(forms.folded)
    work = _work(forms, groups, options, shapes, count)
    done = _Done(Sensitivity(asked, count.macs, left_out=work.left_out), work.jobs, before)
    rest = done.missing()
    made = _makers(forms, groups, calibration, asked, rest, table, options, ui)
    exact = options.dialect != OnnxRuntime.name
    with ui.progress("measuring", len(work.jobs)) as advance:
        advance(len(work.jobs) - len(rest))
        found = losses(forms.folded, measured, rest, made, exact=exact,
                       memory=options.memory, threads=options.threads)  # fmt: skip
        with closing(found):  # type: ignore[type-var]
            for job, loss in found:
                done.add(job.item(loss))
                if keep is not None:
                    keep(done.result())
                advance(1)
    return done.result()


def _subject(
    model: Model,
    calibration: Dataset,
    measured: Dataset,
    options: Options,
    *,
    on_calibration: bool,
) -> Subject:
    """Return what tells one run from others.

    Raises:
        UsageError: an option is unknown or out of range.
    """
    if not options.kinds or set(options.kinds) - set(KINDS):
        raise UsageError(f"there is nothing to measure: choose of {', '.join(KINDS)}")
    prune, int8 = "prune" in options.kinds, "int8" in options.kinds
    importance = options.importance or default_importance(has_data=True)
    return Subject(
        model.digest(),
        calibration.digest,
        measured.digest,
        len(measured),
        on_calibration,
        tuple(kind for kind in KINDS if kind in options.kinds),
        check_ratios(options.ratios) if prune else (),
        IMPORTANCES.canonical(importance) if prune else "",
        options.align if prune else 1,
        options.dialect if int8 else "",
        options.calibrator if int8 else "",
        options.seed,
        {"graphopt": graphopt.__version__, "onnxruntime": ort.__version__},
    )


def fewer(data: Dataset, most: int, seed: int) -> Dataset:
    """Return at most so many samples, classes in equal numbers; whole batches where fixed."""
    fixed = data.fixed_batch or 1
    count = max(most // fixed, 1) * fixed
    if len(data) <= count:
        return data
    chosen = range(count) if data.source.in_order else choose(data.names, data.labels, count, seed)
    return replace(data, indices=tuple(data.indices[i] for i in chosen))


def _forms(model: Model, int8: bool) -> _Forms:
    """Bring the model into the forms that the build works on."""
    reason = ""
    if int8 and model.opset < QDQ_OPSET:
        try:
            model = RaiseOpset(QDQ_OPSET)(model).model
        except UnsupportedModelError as problem:
            reason = str(problem)
    unfolded = Simplify()(model).model
    return _Forms(unfolded, FoldBatchNorm()(unfolded).model, reason)


def _work(
    forms: _Forms,
    groups: ChannelAnalysis,
    options: Options,
    shapes: Mapping[str, tuple[int, ...]],
    count: Cost,
) -> Work:
    """Return what is to be measured.

    Raises:
        UnsupportedModelError: nothing is.
    """
    work = Work()
    if "prune" in options.kinds:
        ratios = check_ratios(options.ratios)
        work += prune_work(forms.folded, groups, ratios, options.align, shapes)
    if "int8" in options.kinds:
        work += _int8_work(forms, options, lambda placed: int8_work(forms.folded, placed, count))
    if not work.jobs:
        raise UnsupportedModelError(
            "nothing can be measured: no channel group can lose a channel at these ratios, and no "
            "layer runs in INT8; graphopt inspect says why"
        )
    return work


def _int8_work(forms: _Forms, options: Options, work_of: Callable[[PassResult], Work]) -> Work:
    """Return the layers that would run in INT8; none, and the reason, where the model has none."""
    if forms.not_int8:
        return Work((), (LeftOut("int8", "the model", forms.not_int8),))
    try:
        table = placeholder_table(forms.folded, wanted_tensors(forms.folded, ()))
        return work_of(InsertQDQ(options.dialect, table)(forms.folded))
    except UnsupportedModelError as problem:
        return Work((), (LeftOut("int8", "the model", str(problem)),))


def _makers(
    forms: _Forms,
    groups: ChannelAnalysis,
    calibration: Dataset,
    asked: Subject,
    jobs: tuple[Job, ...],
    table: CalibrationTable | None,
    options: Options,
    ui: Console,
) -> Mapping[str, Made]:
    """Return what makes the changed model of a job; looks at the data, for what is left to do."""
    made: dict[str, Made] = {}
    kinds = {job.kind for job in jobs}
    if "prune" in kinds:
        plans = _plans(forms, groups, calibration, asked, options, ui)
        made["prune"] = partial(pruned, forms.folded, plans)
    if "int8" in kinds:
        if table is None:
            tensors = wanted_tensors(forms.folded, ())
            table = calibration_table(forms.folded, calibration, options.calibrator, tensors, ui)
        everywhere = InsertQDQ(options.dialect, table)(forms.folded).model
        made["int8"] = partial(quantized, forms.folded, everywhere)
    return made


def _plans(
    forms: _Forms,
    groups: ChannelAnalysis,
    calibration: Dataset,
    asked: Subject,
    options: Options,
    ui: Console,
) -> dict[float, PrunePlan]:
    """Score the channels, and plan every group at every ratio."""
    ui.info(f"scoring the channels of {len(groups.groups)} groups ({asked.importance})")
    statistics = Statistics(
        forms.folded,
        batches_of(calibration),
        unfolded=forms.unfolded,
        seed=options.seed,
        memory=options.memory,
        threads=options.threads,
    )
    score = IMPORTANCES.load(asked.importance)
    scores = score(forms.folded, groups.groups, statistics=statistics)
    return {
        ratio: make_plan(groups, scores, ratio, align=options.align, importance=asked.importance)
        for ratio in asked.ratios
    }


class _Done:
    """What has been measured so far, put in the order of the jobs."""

    def __init__(
        self, empty: Sensitivity, jobs: tuple[Job, ...], known: Sensitivity | None
    ) -> None:
        self.empty, self.jobs = empty, jobs
        self.items: dict[tuple[str, str, float | None], Item] = {}
        for item in () if known is None else known.items:
            self.items[item.key] = item

    def missing(self) -> tuple[Job, ...]:
        """Return what is still to be measured."""
        return tuple(job for job in self.jobs if job.key not in self.items)

    def add(self, item: Item) -> None:
        """Note what one job came to."""
        self.items[item.key] = item

    def result(self) -> Sensitivity:
        """Return all there is."""
        found: Iterator[Item] = (self.items[j.key] for j in self.jobs if j.key in self.items)
        items = tuple(found)
        return replace(self.empty, items=items, complete=len(items) == len(self.jobs))
