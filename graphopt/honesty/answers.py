"""What the model as given answers: the same to everything, or nothing that fits the labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.data import Dataset
from graphopt.graph import Array
from graphopt.sensitivity import fewer
from graphopt.verify import BATCH, Runner, class_output, numeric

SAMPLES = 64
LEAST = 16
"""Fewer samples than this say nothing."""

_SURE = 1e-3


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model answers to some samples.

    Attributes:
        output: the output taken for class scores; empty where there is none.
        count: how many classes it tells apart; 0 without such an output.
        classes: the class of each sample, -1 where a score is NaN.
        labels: the true ones, or None.
        constant: names of outputs that are the same for every sample.
        varying: names of the others.
        broken: names of outputs with NaN or infinity.
    """

    output: str
    count: int
    classes: tuple[int, ...]
    labels: tuple[int, ...] | None
    constant: tuple[str, ...]
    varying: tuple[str, ...]
    broken: tuple[str, ...]


def look(run: Runner, data: Dataset, *, samples: int = SAMPLES) -> Answers:
    """Run some samples, as many of each class as can be.

    Args:
        run: the model as given.
        data: samples, labelled or not.
        samples: how many.

    Raises:
        DataError: a sample is broken.
        UnsupportedModelError: an output is no array of numbers.
    """
    data = fewer(data, samples, 0)
    first: dict[str, Array] = {}
    differs: set[str] = set()
    broken: dict[str, None] = {}
    output, count, classes = "", 0, []
    for feeds in data.batches(BATCH):
        rows = min(len(array) for array in feeds.values())
        outputs = {name: numeric(name, value) for name, value in run(feeds).items()}
        if not first:
            output = class_output(outputs, rows) or ""
        for name, array in outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                broken[name] = None
            lead = first.setdefault(name, array[:1] if array.ndim else array)
            if not array.ndim or array.shape[0] != rows or array.shape[1:] != lead.shape[1:]:
                differs.add(name)  # not one a sample, or of a size of its own
            elif not (array == lead).all():
                differs.add(name)
        if output:
            scores = outputs[output].reshape(rows, -1).astype(np.float64)
            count = scores.shape[1]
            classes += np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1)).tolist()
    labels = data.labels
    constant = tuple(name for name in first if name not in differs) if len(data) > 1 else ()
    return Answers(
        output,
        count,
        tuple(classes),
        None if labels is None or not output else tuple(labels[: len(classes)].tolist()),
        constant,
        tuple(name for name in first if name not in constant),
        tuple(broken),
    )


def check_answers(run: Runner, data: Dataset, *, samples: int = SAMPLES) -> list[str]:
    """Return one line for each thing that is odd about what the model answers.

    Args:
        run: the model as given.
        data: samples it is to be judged on; nothing is said of made-up ones.
        samples: how many to run.

    Raises:
        DataError: a sample is broken.
        UnsupportedModelError: an output is no array of numbers.
    """
    if data.synthetic:
        return []
    found = look(run, data, samples=samples)
    told = []
    if found.broken:
        told.append(
            f"the model as given returns NaN or infinity in {', '.join(found.broken[:3])}: no "
            "figure of it means anything; check --preprocess and the model"
        )
    told += _same(found) or _labels(found)
    return told


def _same(found: Answers) -> list[str]:
    """Say so where the answer is always the same."""
    n = len(found.classes)
    # Outputs that never change are common beside others: the anchors of a detector.
    if found.output in found.constant or (found.constant and not found.varying):
        return [
            f"the model answers the same to every sample ({', '.join(found.constant[:3])}): the "
            "data do not reach it, or are alike; check --preprocess"
        ]
    if n < LEAST or len(set(found.classes)) > 1:
        return []
    expected = set(found.labels or ())
    if found.labels is not None and len(expected) == 1:
        return []
    return [
        f"the model gives class {found.classes[0]} to each of {n} samples: check --preprocess"
        + (f"; their labels are of {len(expected)} classes" if expected else "")
    ]


def _labels(found: Answers) -> list[str]:
    """Say so where labels and answers have nothing to do with each other, or only their numbers."""
    n = len(found.classes)
    if found.labels is None or n < LEAST or len(set(found.labels)) < 2:
        return []
    right = sum(a == b for a, b in zip(found.classes, found.labels, strict=True))
    expected = _by_chance(found.classes, found.labels)
    share = f"{right} of {n} samples right, and chance gets {expected:.0f}"
    renamed = _renamed(found.classes, found.labels, right)
    if renamed is not None:
        label, answer, hits, of = renamed
        return [
            f"the model has {share}, but tells the classes apart: {hits} of {of} samples labelled "
            f"{label} are class {answer} to it; the labels are in another order (sub-folders are "
            "numbered by name)"
        ]
    if _at_least(right, n, expected / n) < _SURE:
        return []
    return [
        f"the model as given has {share}: labels or --preprocess do not fit it, and no accuracy "
        "means anything"
    ]


def _by_chance(classes: Sequence[int], labels: Sequence[int]) -> float:
    """Return how many would be right if answers had nothing to do with labels."""
    n = len(classes)
    return sum(classes.count(value) * labels.count(value) / n for value in sorted(set(labels)))


def _at_least(right: int, n: int, p: float) -> float:
    """Return the probability of that many or more right of ``n``, each with probability ``p``."""
    p = min(max(p, 1 / (10 * n)), 1.0)
    return math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(right, n + 1))


def _renamed(
    classes: Sequence[int], labels: Sequence[int], right: int
) -> tuple[int, int, int, int] | None:
    """Return (label, class, hits, samples) where labels are classes under other numbers, or None.

    They are where each label has a class of its own that most of its samples get, and where by
    these at least twice as many are right.
    """
    pairs: dict[int, dict[int, int]] = {}
    for answer, truth in zip(classes, labels, strict=True):
        counts = pairs.setdefault(truth, {})
        counts[answer] = counts.get(answer, 0) + 1
    best = {t: max(sorted(c.items()), key=lambda item: item[1]) for t, c in sorted(pairs.items())}
    hits = sum(count for _, count in best.values())
    many = {t: sum(counts.values()) for t, counts in pairs.items()}
    apart = len({answer for answer, _ in best.values()}) >= 0.8 * len(best)
    if not apart or len(best) < 2 or min(many.values()) < 3 or hits < 0.6 * len(classes):
        return None
    if hits < 2 * right:
        return None
    other = [t for t in best if best[t][0] != t]
    if not other:
        return None
    label = max(other, key=lambda t: best[t][1])
    return label, *best[label], many[label]
