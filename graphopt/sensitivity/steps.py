"""A changed model run in as few steps as give the figures of the whole, on what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphopt.errors import DataError
from graphopt.graph import Array
from graphopt.model import Model
from graphopt.runtime import open_session
from graphopt.sensitivity.cut import Region, boundary, part, read_by
from graphopt.wording import one_line

Kept: TypeAlias = Callable[[str, int], Array]
"""Gives a kept tensor: its name and the number of the batch."""

Fed: TypeAlias = Callable[[int], Mapping[str, Array]]
"""Runs the batch of a number: output name -> value, for the outputs that may differ."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a variant, and how ONNX Runtime is to run it.

    Attributes:
        outputs: names of the tensors it gives.
        known: names of the tensors to feed.
        optimize: whether it may rewrite them.
    """

    outputs: tuple[str, ...]
    known: tuple[str, ...]
    optimize: bool = True


def steps_of(
    variant: Model, found: Region, is_ready: Callable[[str], bool], *, exact: bool
) -> list[Step]:
    """Return what to run one after another.

    Args:
        variant: the changed model.
        found: what of it has to run.
        is_ready: whether a tensor is kept.
        exact: run the changed nodes as they are written, and only those behind them optimized.
    """
    if not found.outputs:
        return []
    if not exact:
        return [Step(found.outputs, boundary(variant, found.frontier, is_ready))]
    changed = set(found.changed)
    written = {t.name for n in variant.graph.nodes if n.name in changed for t in n.outputs}
    read = read_by(variant, set(found.affected))
    first = dict.fromkeys(name for name in (*read, *found.outputs) if name in written)
    known = boundary(variant, read_by(variant, changed), is_ready)
    steps = [Step(tuple(first), known, optimize=False)]
    behind = tuple(name for name in found.outputs if name not in written)
    if behind:
        known = boundary(variant, read, lambda name: name in written or is_ready(name))
        steps.append(Step(behind, known))
    return steps


@contextmanager
def running(
    variant: Model, steps: Sequence[Step], kept: Kept, threads: int | None
) -> Iterator[Fed]:
    """Open a session for each step; yield what runs them one after another.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses a part of the variant.
        DataError: it fails on a batch.
    """
    with ExitStack() as stack:
        sessions: list[tuple[Step, Any]] = []

        def run(batch: int) -> dict[str, Array]:
            values: dict[str, Array] = {}
            for step, session in sessions:
                feeds = _feeds(step, values, kept, batch)
                try:
                    results = session.run(list(step.outputs), feeds)
                except Exception as problem:
                    raise DataError(
                        f"the model cannot run on the samples: {one_line(problem)}"
                    ) from problem
                values.update(zip(step.outputs, results, strict=True))
            return values

        for step in steps:
            # What the steps before give on one batch tells dtype and rank of what this one takes.
            sample = _feeds(step, run(0), kept, 0)
            model = part(variant.clone(), sample, step.outputs)
            session = open_session(model, threads=threads, optimize=step.optimize)
            sessions.append((step, stack.enter_context(session)))
        yield run


def _feeds(step: Step, values: Mapping[str, Array], kept: Kept, batch: int) -> dict[str, Array]:
    return {name: values[name] if name in values else kept(name, batch) for name in step.known}
