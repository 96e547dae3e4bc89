"""Sets of layers evaluated: placed, run on the evaluation samples, held against the reference.

The reference runs once. Its outputs are kept, and so are the samples as they are fed, so that an
evaluation costs one run of one model; what is larger than the memory allowed is not kept, but
computed or read again. Outputs are compared as :func:`graphopt.measure.fidelity` compares them, in
the same batches: the figures of the set that is chosen are those of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from graphopt.data import Dataset
from graphopt.graph import Array
from graphopt.model import Feeds, Model
from graphopt.quantization.search_limit import Verdict
from graphopt.verify import BATCH, Runner, compare, numeric, opened

MEMORY = 512 << 20
"""Bytes of samples, and again of outputs, that are kept between evaluations."""


@dataclass(frozen=True)
class Kept(Dataset):
    """A dataset whose batches are in memory.

    Attributes:
        kept: the batches.
    """

    kept: tuple[Feeds, ...] = ()

    def batches(self, size: int) -> Iterator[Feeds]:  # noqa: ARG002
        """Yield what is kept, in batches of the size it was read in."""
        yield from self.kept


class _Store:
    """Values of one kind, batch by batch, until they are too many."""

    def __init__(self, budget: int) -> None:
        self._left = budget
        self.values: list[Mapping[str, Array]] | None = []

    def add(self, values: Mapping[str, Array]) -> None:
        if self.values is None:
            return
        self._left -= sum(array.nbytes for array in values.values())
        if self._left < 0:
            self.values = None
        else:
            self.values.append(values)


class Trials:
    """Holds one model after the other against the same reference on the same samples.

    Args:
        run: the reference.
        data: the samples, with labels where there are any.
        exact: run models as written, so that Q/DQ for another runtime is emulated.
        memory: as :data:`MEMORY`.
        threads: cores for ONNX Runtime; all by default.
    """

    def __init__(
        self, run: Runner, data: Dataset, *, exact: bool, memory: int, threads: int | None
    ) -> None:
        self._run, self._data = run, data
        self._exact, self._threads = exact, threads
        feeds, outputs = _Store(memory), _Store(memory)
        for batch in data.batches(BATCH):
            if feeds.values is None and outputs.values is None:
                break
            feeds.add(batch)
            if outputs.values is not None:
                outputs.add({n: numeric(n, value, " of A") for n, value in run(batch).items()})
        self._outputs = outputs.values
        if feeds.values is not None:
            plain = {f.name: getattr(data, f.name) for f in fields(Dataset)}
            self._data = Kept(**plain, kept=tuple(feeds.values))

    def __call__(self, model: Model) -> Verdict:
        """Run a model on all samples.

        Args:
            model: takes and gives what the reference does.

        Raises:
            UsageError: names or shapes of the outputs differ.
            DataError: a sample is broken, or a label is no class of the model.
            UnsupportedModelError: ONNX Runtime refuses the model.
        """
        with opened(model, threads=self._threads, optimize=not self._exact) as run:
            return Verdict.of(compare(self._reference(), run, self._data))

    def _reference(self) -> Runner:
        if self._outputs is None:
            return self._run
        # Batches come in the same order each time.
        known = iter(self._outputs)
        return lambda _: next(known)


@contextmanager
def trials(
    reference: Model | Path,
    data: Dataset,
    *,
    exact: bool,
    memory: int = MEMORY,
    threads: int | None = None,
) -> Iterator[Callable[[Model], Verdict]]:
    """Open the reference and yield what holds models against it; see :class:`Trials`."""
    with ExitStack() as stack:
        run = stack.enter_context(opened(reference, threads=threads))
        yield Trials(run, data, exact=exact, memory=memory, threads=threads)
