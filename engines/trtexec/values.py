"""What an engine computes, told by trtexec: samples go there as files, values come back as text.

One job runs many batches: each is one run of trtexec (``--loadInputs``, ``--exportOutput``), which
loads the engine anew; the engine is sent once. What trtexec takes, from NVIDIA/TensorRT's
samples/common (sampleInference.cpp, sampleOptions.cpp; alike from 8.5 to 11 but where told):

- A file has the bytes of the binding, row-major, little-endian; a short one is not noticed there,
  so sizes are checked here. Before 10, int64 inputs of a model are int32 in its engine.
- The shape of an input that is fixed may be told too: it is looked at for free dimensions only.
- Without ``--shapes`` a free dimension would be 1.
- It runs at least once with ``--warmUp=0 --duration=0 --iterations=1``, and exports the last run.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphopt.engines.feeds import batch_of, check_feeds
from graphopt.engines.remote.job import Job, Waits
from graphopt.engines.trtexec.command import Request, Timing, command
from graphopt.engines.trtexec.device import Ran, mark, run_errand
from graphopt.engines.trtexec.exported import DIGITS, read_part, read_parts, read_values
from graphopt.engines.trtexec.features import Features
from graphopt.engines.trtexec.requests import FILES
from graphopt.engines.trtexec.takes import Takes

if TYPE_CHECKING:
    from collections.abc import Callable

    from graphopt.engines.trtexec.engine import Trtexec
    from graphopt.graph import Array
    from graphopt.model import Feeds, Inputs
    from graphopt.profiles import LatencyProfile

BATCHES = 64
"""Runs in one job at most."""
LARGEST = 64
"""Samples in one run at most, where the engine would take more."""
_EXPORT, _VALUES = "out.json", "values"
_MOST_INPUT_BYTES = 256 << 20
_MOST_RUN_BYTES = 256 << 20
_MOST_VALUE_BYTES = 2 << 30
_LIMIT_S = 2 * 3600.0
_ONCE = Timing(0, 0, 1, cuda_graph=False, spin_wait=False, transfers=True)


class TrtexecSession:
    """An engine on a machine with trtexec, as the Session of ``graphopt.engines``.

    Each value comes as text of six significant digits, as float64 whatever its kind.

    Args:
        tool: the trtexec.
        path: the engine, checked against that machine.
        takes: input name -> what it takes.
        dla: the DLA core it was built for.
        say: told what goes on.
    """

    def __init__(
        self,
        tool: Trtexec,
        path: Path,
        takes: Mapping[str, Takes],
        *,
        dla: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._tool, self._path, self._takes = tool, path, dict(takes)
        self._dla, self._say = dla, say or _silent

    def inputs(self) -> Inputs:
        """Return input name -> (dtype, shape); a dimension that may vary is None."""
        return {name: (each.dtype, each.shape) for name, each in self._takes.items()}

    @property
    def batch(self) -> int:
        """The most samples one run takes, up to :data:`LARGEST`: to need few runs."""
        high = min((each.high[0] for each in self._takes.values() if each.high), default=1)
        return max(self.least, min(high, LARGEST))

    @property
    def least(self) -> int:
        """The fewest samples one run takes."""
        return max((each.low[0] for each in self._takes.values() if each.low), default=1)

    def run(self, feeds: Feeds, /) -> dict[str, Array]:
        """Run one batch, in a job of its own; :meth:`values` runs many at less cost.

        Raises:
            UsageError: an input is missing, unknown, of the wrong type, or out of the shapes the
                engine was built for.
            UnsupportedModelError: TensorRT refuses the engine or the shapes.
            EnvironmentProblem: the machine cannot be reached or used, or what comes back is not
                what trtexec writes.
        """
        return next(self.values([feeds]))

    def values(self, batches: Iterable[Feeds]) -> Generator[dict[str, Array], None, None]:
        """Yield the outputs of each batch, in order: name -> values, float64.

        Batches are taken and run some dozens at a time, as outputs are asked for.

        Raises:
            as :meth:`run`.
        """
        for some in _portions(self._checked(batches)):
            yield from self._run(some)

    def time(
        self, feeds: Feeds, /, *, warmup_s: float = 0.2, min_s: float = 1.0, min_runs: int = 30
    ) -> LatencyProfile:
        """Time runs of one batch's shapes, on values that trtexec makes up."""
        sizes = {name: np.shape(array) for name, array in feeds.items() if np.ndim(array)}
        timing = Timing(round(warmup_s * 1000), max(1, round(min_s)), min_runs)
        latency = self._tool.time(self._path, sizes, timing).latency
        return replace(latency, batch=batch_of(feeds))

    def _checked(self, batches: Iterable[Feeds]) -> Iterator[Feeds]:
        inputs, old = self.inputs(), self._tool.features().version < (10, 0, 0)
        for feeds in batches:
            check_feeds(feeds, inputs)
            yield {n: self._takes[n].stored(n, np.asarray(feeds[n]), old=old) for n in self._takes}

    def _run(self, batches: list[Feeds]) -> Iterator[dict[str, Array]]:
        features, probe = self._tool.features(), self._tool.probe()
        with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
            folder = Path(scratch)
            groups = _groups(batches)
            inputs = {FILES.engine: self._path}
            for number, group in enumerate(groups):
                inputs |= _write(folder, number, group)
            rounds = _Rounds(
                title=f"values of {self._path.name}",
                program=probe.trtexec,
                groups=tuple(self._words(group[0], features) for group in groups),
                counts=tuple(len(group) for group in groups),
                sizes=tuple(tuple(a.nbytes for a in group[0].values()) for group in groups),
                inputs=inputs,
                values=folder / _VALUES,
            )
            # Here nothing has to be sent, so nothing is to be kept from one job to the next.
            waits = Waits(store_limit=0) if self._tool.host is None else None
            with self._tool.link() as link:
                ran = run_errand(link, rounds, self._say, waits=waits)
            _last(ran).check(f"run {self._path.name}")
            parts = read_parts(folder / _VALUES, len(batches), _MOST_RUN_BYTES)
            for part in parts:
                yield read_values(read_part(folder / _VALUES, part), _EXPORT)

    def _words(self, feeds: Feeds, features: Features) -> tuple[str, ...]:
        request = Request(
            load=FILES.engine,
            dla=self._dla,
            timing=_ONCE,
            shapes={name: array.shape for name, array in feeds.items() if array.ndim},
            feeds={name: f"in-{k}" for k, name in enumerate(feeds)},
            values=_EXPORT,
        )
        return command(request, features).words


@dataclass(frozen=True, slots=True)
class _Rounds:
    """Many runs in one job: groups of batches of the same shapes.

    Attributes:
        groups: of each, the words of its runs.
        counts: of each, its batches.
        sizes: of each, the bytes of each input in one batch.
    """

    title: str
    program: str
    groups: tuple[tuple[str, ...], ...]
    counts: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    inputs: Mapping[str, Path]
    values: Path

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return sum(self.counts)

    def script(self) -> str:
        """Return it in POSIX sh: a batch is cut out of its group's file, run, its values added."""
        lines = ["n=0"]
        for number, (words, count, sizes) in enumerate(
            zip(self.groups, self.counts, self.sizes, strict=True)
        ):
            lines += ["k=0", f"while [ $k -lt {count} ]; do", mark("$n")]
            lines += [
                f"dd if={_file(number, k)} of=in-{k} bs={size} skip=$k count=1 2>dd || "
                "{ cat dd >&2; exit 1; }"
                for k, size in enumerate(sizes)
            ]
            lines += [
                f"rm -f {_EXPORT}",
                f"{shlex.join([self.program, *words])} || exit $?",
                f"size=$(wc -c <{_EXPORT}) || exit",
                f'echo "$n" $size >>{_VALUES} && cat {_EXPORT} >>{_VALUES} || exit',
                "k=$((k + 1)) n=$((n + 1))",
                "done",
            ]
        return "\n".join(lines)

    def job(self) -> Job:
        """Return the job."""
        return Job(
            words=("sh", "-c", self.script()),
            inputs=self.inputs,
            outputs={_VALUES: self.values},
            title=self.title,
            time_limit_s=_LIMIT_S,
            output_limit=_MOST_VALUE_BYTES,
        )


def told_digits() -> str:
    """Return what a person should know of the values, in one line."""
    return f"trtexec tells values in {DIGITS} digits: beyond about 110 dB, an SQNR tells no more"


def _last(ran: Ran) -> Ran:
    """Return it with the outcome of the last run that began."""
    begun = tuple(outcome for outcome in ran.outcomes if outcome.version is not None)
    return replace(ran, outcomes=(begun or ran.outcomes)[-1:])


def _portions(batches: Iterable[Feeds]) -> Iterator[list[Feeds]]:
    """Yield batches by what one job takes."""
    some: list[Feeds] = []
    total = 0
    for feeds in batches:
        size = sum(array.nbytes for array in feeds.values())
        if some and (len(some) == BATCHES or total + size > _MOST_INPUT_BYTES):
            yield some
            some, total = [], 0
        some.append(feeds)
        total += size
    if some:
        yield some


def _groups(batches: list[Feeds]) -> list[list[Feeds]]:
    """Return batches that follow each other and have the same shapes, together."""
    groups: list[list[Feeds]] = []
    for feeds in batches:
        if groups and _shapes(groups[-1][0]) == _shapes(feeds):
            groups[-1].append(feeds)
        else:
            groups.append([feeds])
    return groups


def _shapes(feeds: Feeds) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feeds.items()}


def _file(group: int, number: int) -> str:
    return f"feeds-{group}-{number}"


def _write(folder: Path, number: int, group: list[Feeds]) -> dict[str, Path]:
    """Write a group's batches, one after the other, a file an input; return name -> file."""
    files: dict[str, Path] = {}
    for k, name in enumerate(group[0]):
        files[_file(number, k)] = folder / _file(number, k)
        with files[_file(number, k)].open("wb") as stream:
            for feeds in group:
                stream.write(feeds[name].tobytes())
    return files


def _silent(_: str) -> None:
    pass
