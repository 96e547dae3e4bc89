"""Two models on the same samples: error, SQNR, cosine, top-1 agreement, accuracy where labelled."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from graphopt.data import Dataset
from graphopt.errors import DataError, UnsupportedModelError, UsageError
from graphopt.fidelity import Error, Fidelity, Top1
from graphopt.graph import Array
from graphopt.model import Feeds, Model
from graphopt.registry import did_you_mean
from graphopt.runtime import open_session
from graphopt.wording import one_line, spell

__all__ = [
    "Error",
    "Fidelity",
    "Progress",
    "Runner",
    "Top1",
    "compare",
    "compare_models",
    "evaluate",
    "opened",
]

Runner: TypeAlias = Callable[[Feeds], Mapping[str, Array]]
"""Runs one batch: input name -> array in, output name -> array out."""

Progress: TypeAlias = Callable[[int], None]
"""Called after each batch with the number of samples in it."""

BATCH = 16


@dataclass(slots=True)
class _Sums:
    """Running sums of one output, float64, one sample after another.

    Each sample is summed by itself and samples are added in order, so how they were batched
    makes no difference.
    """

    elements: int = 0
    compared: int = 0
    max_abs: float = 0.0
    abs_diff: float = 0.0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0
    nonfinite_a: int = 0
    nonfinite_b: int = 0
    mismatched: int = 0

    def add(self, a: Array, b: Array, rows: int) -> None:
        """Add a batch of ``rows`` samples; outputs without a batch axis count as one."""
        rows = rows if a.ndim and a.shape[0] == rows else 1
        x = np.asarray(a, dtype=np.float64).reshape(rows, -1)
        y = np.asarray(b, dtype=np.float64).reshape(rows, -1)
        good_a, good_b = np.isfinite(x), np.isfinite(y)
        good = good_a & good_b
        self.elements += x.size
        self.compared += int(good.sum())
        if not good.all():
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            self.nonfinite_a += int(x.size - good_a.sum())
            self.nonfinite_b += int(y.size - good_b.sum())
            self.mismatched += int((~good & ~same).sum())
            x, y = np.where(good, x, 0.0), np.where(good, y, 0.0)
        diff = x - y
        if diff.size:
            self.max_abs = max(self.max_abs, float(np.abs(diff).max()))
        for row in range(rows):
            self.abs_diff += float(np.abs(diff[row]).sum())
            self.aa += float((x[row] * x[row]).sum())
            self.bb += float((y[row] * y[row]).sum())
            self.ab += float((x[row] * y[row]).sum())
            self.dd += float((diff[row] * diff[row]).sum())

    def error(self) -> Error:
        """Return the figures."""
        if self.dd == 0:
            sqnr = math.inf
        else:
            sqnr = 10 * (math.log10(self.aa) - math.log10(self.dd)) if self.aa else -math.inf
        if self.aa and self.bb:
            cosine = self.ab / (math.sqrt(self.aa) * math.sqrt(self.bb))
            cosine = max(-1.0, min(1.0, cosine))
        else:
            cosine = 1.0 if self.aa == self.bb else 0.0
        return Error(
            self.elements,
            self.max_abs,
            self.abs_diff / self.compared if self.compared else 0.0,
            sqnr,
            cosine,
            self.nonfinite_a,
            self.nonfinite_b,
            self.mismatched,
        )

    @classmethod
    def merged(cls, parts: Iterable[_Sums]) -> _Sums:
        """Return the sums over several outputs."""
        total = cls()
        for part in parts:
            for name in ("elements", "compared", "abs_diff", "aa", "bb", "ab", "dd"):
                setattr(total, name, getattr(total, name) + getattr(part, name))
            for name in ("nonfinite_a", "nonfinite_b", "mismatched"):
                setattr(total, name, getattr(total, name) + getattr(part, name))
            total.max_abs = max(total.max_abs, part.max_abs)
        return total


@dataclass(slots=True)
class _Votes:
    """Counts of classes, sample by sample."""

    labels: Array | None
    output: str = ""
    samples: int = 0
    agree: int = 0
    table: dict[tuple[bool, bool], int] = field(default_factory=dict)

    def add(self, a: Array, b: Array) -> None:
        """Count a batch of scores, (N, C) each."""
        class_a, class_b = _classes(a), _classes(b)
        start, self.samples = self.samples, self.samples + len(class_a)
        self.agree += int(((class_a == class_b) & (class_a >= 0)).sum())
        if self.labels is None:
            return
        truth = self.labels[start : self.samples]
        check_labels(truth, self.output, a.shape[1])
        for pair in zip((class_a == truth).tolist(), (class_b == truth).tolist(), strict=True):
            self.table[pair] = self.table.get(pair, 0) + 1

    def result(self) -> Top1 | None:
        """Return the counts, or None where no output was taken for scores."""
        if not self.output:
            return None
        if self.labels is None:
            return Top1(self.output, self.samples, self.agree)
        pairs = [(True, True), (True, False), (False, True), (False, False)]
        both, only_a, only_b, neither = (self.table.get(pair, 0) for pair in pairs)
        return Top1(self.output, self.samples, self.agree, both, only_a, only_b, neither)


def compare(
    run_a: Runner,
    run_b: Runner,
    dataset: Dataset,
    *,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Fidelity:
    """Run two models on the same feeds and tell how far B is from A.

    Outputs are not kept: memory does not grow with the number of samples. Given the same
    outputs a sample, the result does not depend on the batch size.

    Args:
        run_a: the reference.
        run_b: the candidate.
        dataset: the samples, with labels where there are any.
        batch: samples at a time; the model's where that is fixed.
        progress: called after each batch with the number of samples in it.

    Raises:
        UsageError: names or shapes of the outputs differ, or are not arrays of numbers.
        DataError: a sample is broken, or a label is no class of the model.
    """
    sums: dict[str, _Sums] = {}
    votes = _Votes(dataset.labels)
    samples = 0
    for feeds in dataset.batches(batch):
        rows = min(len(array) for array in feeds.values())
        out_a, out_b = run_a(feeds), run_b(feeds)
        pairs = dict(_paired(out_a, out_b))
        if not samples:
            sums = {name: _Sums() for name in pairs}
            votes.output = class_output({n: a for n, (a, _) in pairs.items()}, rows) or ""
        for name, (a, b) in pairs.items():
            sums[name].add(a, b, rows)
        if votes.output:
            scores = [_scores(side, rows) for side in pairs[votes.output]]
            if scores[0] is None or scores[1] is None:
                raise UsageError(f"output '{votes.output}' changes shape from batch to batch")
            votes.add(scores[0], scores[1])
        samples += rows
        if progress is not None:
            progress(rows)
    outputs = {name: part.error() for name, part in sums.items()}
    total = _Sums.merged(sums.values()).error()
    return Fidelity(samples, outputs, total, votes.result(), dataset.synthetic)


def evaluate(
    run: Runner, dataset: Dataset, *, batch: int = BATCH, progress: Progress | None = None
) -> Top1:
    """Count how many samples one model has right.

    Raises:
        DataError: the data has no labels, or one is no class of the model.
        UsageError: no output looks like class scores.
    """
    if dataset.labels is None:
        raise DataError(
            f"{dataset.spec} has no labels: accuracy needs them (sub-folders are labels)"
        )
    last: list[Mapping[str, Array]] = []

    def once(feeds: Feeds) -> Mapping[str, Array]:
        last[:] = [run(feeds)]
        return last[0]

    top1 = compare(once, lambda _: last[0], dataset, batch=batch, progress=progress).top1
    if top1 is None:
        raise UsageError("no output of the model looks like class scores, of shape (N, C)")
    return top1


@contextmanager
def opened(
    model: Model | str | os.PathLike[str], *, threads: int | None = None, optimize: bool = True
) -> Iterator[Runner]:
    """Open a model on ONNX Runtime and yield its :data:`Runner`.

    Args:
        model: a model, or the path of an ONNX file.
        threads: cores to use; all by default.
        optimize: run ONNX Runtime's graph optimizations; without them Q/DQ is computed as written.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses it, or fails while running it.
    """
    with open_session(model, threads=threads, optimize=optimize) as session:
        names = [output.name for output in session.get_outputs()]

        def run(feeds: Feeds) -> Mapping[str, Array]:
            try:
                values = session.run(None, dict(feeds))
            except Exception as problem:  # ONNX Runtime's have no base class of their own.
                shapes = ", ".join(f"{n} {spell(a.shape)}" for n, a in feeds.items())
                raise UnsupportedModelError(
                    f"ONNX Runtime cannot run the model on {shapes}: {one_line(problem)}"
                ) from problem
            return dict(zip(names, values, strict=True))

        yield run


def compare_models(
    a: Model | str | os.PathLike[str],
    b: Model | str | os.PathLike[str],
    dataset: Dataset,
    *,
    batch: int = BATCH,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Fidelity:
    """Open two models on ONNX Runtime and :func:`compare` them.

    Raises:
        UsageError: as :func:`compare`.
        UnsupportedModelError: ONNX Runtime refuses one of them.
    """
    with ExitStack() as stack:
        run_a = stack.enter_context(opened(a, threads=threads))
        run_b = stack.enter_context(opened(b, threads=threads))
        return compare(run_a, run_b, dataset, batch=batch, progress=progress)


def _paired(
    out_a: Mapping[str, Array], out_b: Mapping[str, Array]
) -> Iterator[tuple[str, tuple[Array, Array]]]:
    if set(out_a) != set(out_b):
        odd = sorted(set(out_a) ^ set(out_b))[0]
        here, other = ("A", out_b) if odd in out_a else ("B", out_a)
        raise UsageError(
            f"outputs differ: '{odd}' is in {here} only{did_you_mean(odd, other)}; "
            f"A has {', '.join(out_a)}; B has {', '.join(out_b)}"
        )
    for name, value in out_a.items():
        a, b = numeric(name, value, " of A"), numeric(name, out_b[name], " of B")
        if a.shape != b.shape:
            raise UsageError(
                f"output '{name}' is {spell(a.shape)} in A and {spell(b.shape)} in B: "
                "only outputs of the same shape can be compared"
            )
        yield name, (a, b)


def class_output(outputs: Mapping[str, Array], rows: int) -> str | None:
    """Return the output taken for class scores: the first of shape (rows, C > 1); or None."""
    return next((n for n, array in outputs.items() if _scores(array, rows) is not None), None)


def check_labels(labels: Array, output: str, classes: int) -> None:
    """Refuse a label that is no class of the model.

    Raises:
        DataError: one is out of range.
    """
    if labels.size and int(labels.max()) >= classes:
        raise DataError(
            f"label {int(labels.max())} is out of range: output '{output}' has {classes} classes "
            f"(0 to {classes - 1}); is it the right data?"
        )


def numeric(name: str, value: object, whose: str = "") -> Array:
    """Return an output as an array of numbers.

    Raises:
        UnsupportedModelError: it is a map, text, or a sequence of different shapes.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind in "OUSM":
        raise UnsupportedModelError(
            f"output '{name}'{whose} is no array of numbers: it cannot be compared; "
            "leave it out of the model"
        )
    return array


def _scores(array: Array, rows: int) -> Array | None:
    """Return class scores as (N, C), C > 1; None where the shape is not theirs."""
    if array.ndim not in (2, 4) or array.shape[0] != rows or array.shape[1] < 2:
        return None
    return array.reshape(array.shape[:2]) if array.size == rows * array.shape[1] else None


def _classes(scores: Array) -> Array:
    """Return the class of each row, -1 where a score is NaN: a wrong answer for any label."""
    values = np.asarray(scores, dtype=np.float64)
    return np.where(np.isnan(values).any(axis=1), -1, values.argmax(axis=1))
