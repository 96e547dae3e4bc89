"""The cases of ``bench_recovery.py``: what is run, as values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from graphopt.channels.importance import IMPORTANCES
from graphopt.recovery import NONE, RECOVERIES

CLASSIFIERS = ("resnet56_cifar10", "resnet20_cifar10")
DETECTORS = ("face_rfb320", "face_yunet_n")
RATIOS = (0.3, 0.5)
FAR = 0.625
METHODS = (NONE, "affine", "least-squares")
ONNXSIM = ("l2", "wanda", "wanda-finetune")
OTHER = "uniform"  # the default is global
QUICK_SAMPLES = 64
FEW = ("obs", "l2")
DEFAULT, DEFAULT_1000 = "default (global at the same MACs)", "default, 1,000 images"

if set(METHODS) != {NONE, *RECOVERIES.names()}:
    raise SystemExit(f"recoveries are {RECOVERIES.names()}: the columns of the page are {METHODS}")


@dataclass(frozen=True, slots=True)
class Case:
    """One run.

    Attributes:
        part: of the page: A, B or C.
        model: the file's stem.
        ratio: the fraction of channels it is about; heads a table.
        title: names the row.
        prune: the recipe's table of that name.
        method: recovery; None is the default.
        int8: whether to quantize too.
        inner: whether groups with several producers or consumers are kept whole.
        onnxsim: onnxsim's method; then nothing of the above but ``ratio`` counts.
        given: onnxsim sees the model as given, not the one graphopt simplified and folded.
        equal: the key of the case whose MACs are to be met; then ``ratio`` only names the table.
        samples: how many, where it is not graphopt's default.
    """

    part: str
    model: str
    ratio: float
    title: str
    prune: dict[str, Any] = field(default_factory=dict)
    method: str | None = None
    int8: bool = False
    inner: bool = False
    onnxsim: str = ""
    given: bool = False
    equal: str = ""
    samples: int | None = None

    @property
    def key(self) -> str:
        """What results are kept under."""
        return f"{self.part}/{self.model}/{self.ratio:g}/{self.title}"


def grid_title(importance: str, method: str, steps: int = 1) -> str:
    """Name a row of part A."""
    return f"{importance}, {method}" + (f", {steps} steps" if steps > 1 else "")


def inner(model: str, ratio: float, importance: str, method: str, steps: int = 1) -> Case:
    """Return a case of part A: block-internal channels only."""
    prune = {"ratio": ratio, "allocation": "uniform", "align": 1}
    prune |= {"importance": importance, "steps": steps}
    title = grid_title(importance, method, steps)
    return Case("A", model, ratio, title, prune, method, inner=True)


def part_a(quick: bool) -> Iterator[Case]:
    """Yield the cases of block-internal channels."""
    if quick:
        for importance in ("l2", "random"):
            for method in (NONE, "least-squares"):
                yield inner("resnet20_cifar10", 0.5, importance, method)
        yield Case("A", "resnet20_cifar10", 0.5, "onnxsim l2", onnxsim="l2")
        return
    for model in CLASSIFIERS:
        criteria = IMPORTANCES.names() if model == CLASSIFIERS[0] else FEW
        for ratio in RATIOS:
            prune = {"ratio": ratio, "align": 1}
            yield Case("A", model, ratio, DEFAULT, prune, inner=True)
            yield Case("A", model, ratio, DEFAULT_1000, prune, inner=True, samples=1000)
            for importance in criteria if ratio == RATIOS[-1] else FEW:
                for method in METHODS:
                    if importance in FEW or method != "affine":
                        yield inner(model, ratio, importance, method)
            for steps in (2, 4) if criteria is not FEW and ratio == RATIOS[-1] else (2,):
                yield inner(model, ratio, "obs", "least-squares", steps)
            for how in ONNXSIM:
                yield Case("A", model, ratio, f"onnxsim {how}", onnxsim=how)
            yield Case("A", model, ratio, "onnxsim l2, as given", onnxsim="l2", given=True)
        for importance, steps in (("obs", 2), ("l1", 1)):
            yield inner(model, FAR, importance, "least-squares", steps)


def part_b(quick: bool) -> Iterator[Case]:
    """Yield the defaults over all groups, and what is compared with them at equal MACs."""
    for model in CLASSIFIERS[-1:] if quick else CLASSIFIERS:
        for ratio in RATIOS[:1] if quick else RATIOS:
            asked = {"ratio": ratio, "align": 1}
            default = Case("B", model, ratio, "default", asked)
            yield default
            yield Case("B", model, ratio, "default, INT8", asked, int8=True)
            l1 = {"importance": "l1", "allocation": "uniform", "align": 1, "steps": 1}
            other = {"allocation": OTHER, "align": 1}
            equal = default.key
            yield Case("B", model, ratio, "L1, none", l1, NONE, equal=equal)
            yield Case("B", model, ratio, "L1, none, INT8", l1, NONE, int8=True, equal=equal)
            if quick:
                continue
            yield Case("B", model, ratio, "L1, least-squares", l1, "least-squares", equal=equal)
            yield Case("B", model, ratio, f"default, {OTHER}", other, equal=equal)
            for how in ONNXSIM:
                yield Case("B", model, ratio, f"onnxsim {how}", onnxsim=how, equal=equal)


def part_c(quick: bool) -> Iterator[Case]:
    """Yield the detectors."""
    for model in DETECTORS[:1] if quick else DETECTORS:
        for ratio in (0.2,) if quick else (0.1, 0.2, 0.3):
            for method in METHODS[:2] if quick else METHODS:
                prune: dict[str, Any] = {"ratio": ratio, "align": 1}
                yield Case("C", model, ratio, method, prune, method)


PARTS = {"A": part_a, "B": part_b, "C": part_c}
