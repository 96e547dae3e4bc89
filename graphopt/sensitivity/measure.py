"""Every change measured alone, while one run of the unchanged model goes by.

The unchanged model runs over the samples piece by piece (:class:`graphopt.statistics.Replay`), and
what lies at the frontier of a change is kept until that change has been measured. A change then
costs what lies behind it: a variant is cut down to the nodes that differ and those behind them,
fed with what was kept, and its outputs are compared with those of the unchanged model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from graphopt.channels import PrunePlan, analyze, apply_plan
from graphopt.data import Dataset
from graphopt.errors import DataError
from graphopt.graph import Array
from graphopt.model import Feeds, Model
from graphopt.sensitivity.cut import changes, region, tidy
from graphopt.sensitivity.layers import layer_alone
from graphopt.sensitivity.steps import running, steps_of
from graphopt.sensitivity.values import Loss
from graphopt.sensitivity.work import Job, in_measuring_order
from graphopt.statistics import Replay, Spill
from graphopt.verify import BATCH, compare, numeric, opened

Made: TypeAlias = Callable[[Job], Model]


@dataclass(frozen=True)
class Replayed(Dataset):
    """A dataset whose batches are only numbered: what they hold is kept elsewhere."""

    sizes: tuple[int, ...] = ()

    def batches(self, size: int) -> Iterator[Feeds]:  # noqa: ARG002
        """Yield the number of each batch, as often as it has samples."""
        for number, rows in enumerate(self.sizes):
            yield {"batch": np.full(rows, number)}


def pruned(model: Model, plans: Mapping[float, PrunePlan], job: Job) -> Model:
    """Return the model with channels of one group removed, as the plan of its ratio says."""
    assert job.ratio is not None
    plan = plans[job.ratio]
    alone = replace(plan, groups=tuple(g for g in plan.groups if g.name == job.name))
    variant = model.clone()
    apply_plan(variant, alone, analyze(variant))
    return variant


def quantized(model: Model, everywhere: Model, job: Job) -> Model:
    """Return the model with one layer in INT8, as it is where all layers are."""
    return layer_alone(model, everywhere, job.name)


def losses(
    model: Model,
    data: Dataset,
    jobs: Sequence[Job],
    made: Mapping[str, Made],
    *,
    exact: bool,
    memory: int,
    threads: int | None = None,
) -> Iterator[tuple[Job, Loss]]:
    """Measure jobs; yields each with its loss as soon as it is known, not in the order given.

    Args:
        model: the unchanged model.
        data: what to run on, labelled or not.
        jobs: what to measure.
        made: kind of a job -> what makes the changed model of one.
        exact: run layers in INT8 as written, so that Q/DQ for another runtime is emulated and not
            fused the way ONNX Runtime would.
        memory: bytes of activations held in memory; beyond it they go to a temporary folder.
        threads: cores for ONNX Runtime.

    Raises:
        UnsupportedModelError: ONNX Runtime refuses the model, or an output is no array.
        DataError: a sample is broken, or a label is no class of the model.
    """
    work = in_measuring_order(model, jobs)
    if not work:
        return
    with Spill(memory) as spill:
        sizes = _keep_outputs(model, data, spill, threads)
        dataset = Replayed(**_fields(data), sizes=sizes)
        inputs = [t.name for t in model.graph.inputs]
        asked = [name for job in work for name in job.frontier]
        replay = Replay(
            model, data.batches(BATCH), [*asked, *inputs], spill, tag="kept", threads=threads
        )
        replay.pin(*inputs, *asked)
        run = _Run(model, dataset, replay, exact, threads)
        seen: dict[tuple[str, str, int], Loss] = {}
        for job in work:
            replay.compute(*job.frontier)
            alike = (job.kind, job.name, job.kept)
            if alike not in seen:
                seen[alike] = run.loss(job, made[job.kind](job))
            replay.unpin(*job.frontier)
            yield job, seen[alike]


def _fields(data: Dataset) -> dict[str, Any]:
    """Return the fields of a dataset by name."""
    return {name: getattr(data, name) for name in Dataset.__dataclass_fields__}


def _keep_outputs(
    model: Model, data: Dataset, spill: Spill, threads: int | None
) -> tuple[int, ...]:
    """Run the unchanged model, keep its outputs, and return the sizes of the batches."""
    sizes = []
    with opened(model, threads=threads) as run:
        for number, feeds in enumerate(data.batches(BATCH)):
            for name, value in run(feeds).items():
                spill.put(("output", name, number), numeric(name, value))
            sizes.append(min(len(array) for array in feeds.values()))
    if not sizes:
        raise DataError("there are no samples: --data names an empty source")
    return tuple(sizes)


class _Run:
    def __init__(
        self,
        model: Model,
        data: Replayed,
        replay: Replay,
        exact: bool,
        threads: int | None,
    ) -> None:
        self.data, self.replay, self.exact, self.threads = data, replay, exact, threads
        self.is_changed = changes(model)
        self.outputs = [t.name for t in model.graph.outputs]

    def loss(self, job: Job, variant: Model) -> Loss:
        """Compare one variant with the unchanged model."""
        found = region(tidy(variant), self.is_changed)
        exact = self.exact and job.kind == "int8"
        steps = steps_of(variant, found, self.replay.ready, exact=exact)
        with running(variant, steps, self._value, self.threads) as run:

            def outputs(feeds: Feeds) -> dict[str, Array]:
                values = run(int(feeds["batch"][0]))
                known = self._known(feeds)
                return {name: values.get(name, known[name]) for name in self.outputs}

            return Loss.of(compare(self._known, outputs, self.data))

    def _known(self, feeds: Feeds) -> dict[str, Array]:
        batch, spill = int(feeds["batch"][0]), self.replay.spill
        return {name: np.asarray(spill.get(("output", name, batch))) for name in self.outputs}

    def _value(self, name: str, batch: int) -> Array:
        return np.asarray(self.replay.get(name, batch))
