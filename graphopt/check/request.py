"""What is asked of a check, and the samples that both sides are fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.data import Dataset, open_data, synthetic
from graphopt.data.preprocess import load_preprocess
from graphopt.errors import DataError, UsageError
from graphopt.model import Feeds, Inputs
from graphopt.profiles.interleave import Budget
from graphopt.recipe import Recipe

SYNTHETIC, SYNTHETIC_THERE = 16, 4
"""Samples made up to compare outputs on, where ``--data`` gives none; fewer by trtexec, each run of
which loads the engine anew."""
SECONDS, REMOTE_SECONDS = 60.0, 600.0
"""``--budget``; a run of trtexec loads the engine anew, which takes seconds."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes:
        candidate: an artifact, or a build's folder.
        baseline: a path, or a name in the history.
        recipe: limits (``gate``) and samples (``data``).
        history: where names are looked up, or None.
        label: the name that runs of the candidate go by; None for its file's.
        batch: items in one run, or None.
        shapes: input name -> shape, for those that may vary.
        threads: of ONNX Runtime, or None.
        budget_s: seconds that rounds may take, or None.
        outputs: whether answers are compared.
        host: another machine, or None.
        trtexec: its path, or None.
    """

    candidate: Path
    baseline: str
    recipe: Recipe = field(default_factory=Recipe)
    history: Path | None = None
    label: str | None = None
    batch: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int | None = None
    budget_s: float | None = None
    outputs: bool = True
    host: str | None = None
    trtexec: str | None = None

    @property
    def remote(self) -> bool:
        """Whether trtexec runs both."""
        return self.host is not None or self.trtexec is not None

    @property
    def seconds(self) -> float:
        """What rounds may take."""
        if self.budget_s is not None:
            return self.budget_s
        return REMOTE_SECONDS if self.remote else SECONDS

    @property
    def budget(self) -> Budget:
        """The rounds: more openings with more time than usual.

        Raises:
            UsageError: it is none.
        """
        return Budget.of(self.seconds, REMOTE_SECONDS if self.remote else SECONDS)

    @property
    def data(self) -> str | None:
        """The SPEC of the samples: those for evaluation, else those for calibration."""
        return self.recipe.data.evaluation or self.recipe.data.calibration

    @property
    def seed(self) -> int:
        """The seed of all that is random."""
        return self.recipe.data.seed

    def first_batch(self) -> int:
        """Return the items in one run."""
        return self.batch or next((s[0] for s in self.shapes.values() if s), 1)


def check_request(request: Request) -> None:
    """Refuse, before any work, what cannot be judged as it was asked.

    Raises:
        UsageError: flags contradict each other.
        DataError: a limit needs data.
    """
    limits = request.recipe.gate
    if limits.max_drop is not None and not request.data:
        raise DataError(
            "--max-drop needs samples: give --data",
            hint="for example --data test/ --preprocess cifar, with a folder for each class",
        )
    if not request.outputs and (limits.max_drop is not None or limits.min_sqnr is not None):
        raise UsageError("--no-outputs leaves out what --max-drop and --min-sqnr judge")
    if request.remote and limits.max_memory is not None:
        raise UsageError("--max-memory: trtexec does not tell what a session needs: leave it out")
    if request.remote and request.threads is not None:
        raise UsageError("--threads is about ONNX Runtime, and trtexec runs both: leave it out")
    for name, shape in request.shapes.items():
        if request.batch is not None and shape and shape[0] != request.batch:
            raise UsageError(
                f"--batch {request.batch}: --opt-shapes has {shape[0]} for '{name}': leave one out"
            )


def common_inputs(base: Inputs, cand: Inputs) -> Inputs:
    """Return what both take, with sizes fixed that one of the two fixes.

    Raises:
        UsageError: names, types or shapes differ: they cannot be fed the same.
    """
    common = {}
    for name in sorted(set(base) ^ set(cand)):
        there = "baseline" if name in base else "candidate"
        raise UsageError(f"inputs differ: '{name}' is one of the {there} only")
    for name, (dtype, shape) in base.items():
        other, sizes = cand[name]
        if None not in (dtype, other) and dtype != other:
            raise UsageError(
                f"inputs differ: '{name}' is {dtype} in the baseline and {other} in the candidate"
            )
        pairs = list(zip(shape, sizes, strict=False))
        fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        if len(shape) != len(sizes) or any(a != b for a, b in fixed):
            raise UsageError(
                f"inputs differ: '{name}' has other sizes in the baseline than in the candidate"
            )
        common[name] = (dtype, tuple(a if isinstance(a, int) else b for a, b in pairs))
    return common


def samples(request: Request, inputs: Inputs, *, most: int | None = None) -> Dataset:
    """Open the samples, or make them up.

    Args:
        request: names them.
        inputs: what the model takes.
        most: samples at most, where fewer are better than what the recipe says.

    Raises:
        DataError: they are missing or wrong.
        UsageError: an input's size is not known.
    """
    asked = request.recipe.data
    if request.data is None:
        count = max(SYNTHETIC_THERE if request.remote else SYNTHETIC, request.first_batch())
        return synthetic(inputs, count, seed=asked.seed, shapes=request.shapes)
    preprocess = load_preprocess(asked.preprocess) if asked.preprocess else None
    limit = asked.samples if most is None else min(asked.samples, most)
    return open_data(request.data, inputs, preprocess=preprocess, limit=limit, seed=asked.seed)


def one_batch(request: Request, data: Dataset) -> Feeds:
    """Return what is timed: the first batch.

    Raises:
        UsageError: the batch is fixed at another size, or there are too few samples.
    """
    asked = request.first_batch()
    size = data.batch_size(asked)
    if size != asked and request.batch is not None:
        raise UsageError(f"--batch {asked}: the model's batch is fixed at {data.fixed_batch}")
    if len(data) < size:
        raise DataError(f"a batch of {size} is timed, and there are {len(data)} samples")
    return next(iter(data.batches(size)))
