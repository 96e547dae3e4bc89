"""Runs of trtexec in one job on a device: a build, the times of what it built, what they said."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from graphopt.engines.remote import state
from graphopt.engines.remote.job import Finished, Job, Waits
from graphopt.engines.remote.link import Link
from graphopt.engines.remote.runner import run_job
from graphopt.engines.trtexec.log import LogReader, Outcome
from graphopt.engines.trtexec.requests import FILES
from graphopt.errors import (
    EnvironmentProblem,
    GraphoptError,
    OutputError,
    UnsupportedModelError,
)

_MARK = "&&&& graphopt runs "
_MARKED = re.compile(rf"^{re.escape(_MARK)}(\d{{1,6}})$")
_GIVEN = "given.cache"
_SAY_S = 5.0
_FEW = 2
_NOT_SAVED = "Saving engine to file failed"
_UNLIMITED_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Errand:
    """What trtexec is to do, one run after the other.

    Attributes:
        title: what others who wait for the device are told.
        program: the path of trtexec over there.
        commands: the words of each run. Only the first must end well for the outputs to be kept.
        inputs: name -> file here.
        outputs: name -> where it goes here.
        optional: those that a later run writes.
        timing_name: under which the device keeps the kernel timings.
        timing_file: a file here with kernel timings, taken there instead; what they have become
            is an output like others, and never written over the file before all went well.
        time_limit_s: for all of it, or None.
        states: a folder here for what the machine tells of its state right before the last run and
            after it (``graphopt.engines.remote.state``); None to ask nothing.
    """

    title: str
    program: str
    commands: tuple[tuple[str, ...], ...]
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    optional: frozenset[str] = frozenset()
    timing_name: str = ""
    timing_file: Path | None = None
    time_limit_s: float | None = None
    states: Path | None = None

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return len(self.commands)

    def script(self) -> str:
        """Return it in POSIX sh."""
        # A job must not write to what it was given.
        lines = [f"if [ -f {_GIVEN} ]; then cp {_GIVEN} {FILES.timing_cache} || exit; fi"]
        last = len(self.commands) - 1
        for number, words in enumerate(self.commands):
            run = shlex.join([self.program, *words])
            if self.states is not None and number == last:
                lines.append(state.asking(state.BEFORE))
            lines += [mark(number), run if number else f"{run} || exit $?"]
        if self.states is not None:
            lines.append(state.asking(state.AFTER))
        # What a later run has not done is seen by its files, which are not there.
        return "\n".join([*lines, "exit 0"] if len(self.commands) > 1 else lines)

    def job(self) -> Job:
        """Return the job."""
        inputs, outputs, caches = dict(self.inputs), dict(self.outputs), {}
        if self.states is not None:
            inputs[state.SCRIPT] = state.write_script(self.states)
            outputs |= {name: self.states / name for name in (state.BEFORE, state.AFTER)}
        if self.timing_file is not None:
            if self.timing_file.exists():
                inputs[_GIVEN] = self.timing_file
        elif self.timing_name:
            caches[FILES.timing_cache] = self.timing_name
        return Job(
            words=("sh", "-c", self.script()),
            inputs=inputs,
            outputs=outputs,
            optional=self.optional | {FILES.timing_cache, state.BEFORE, state.AFTER},
            caches=caches,
            title=self.title,
            time_limit_s=self.time_limit_s or _UNLIMITED_S,
        )


def mark(number: int | str) -> str:
    """Return the line of sh that tells which run begins; a word like ``$n`` is one of the shell's.

    What follows in the log is that run's.
    """
    return f'echo "{_MARK}{number}"'


class Work(Protocol):
    """What :func:`run_errand` runs: a job that marks its runs."""

    @property
    def runs(self) -> int:
        """How many there are."""

    def job(self) -> Job:
        """Return the job."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of an errand.

    Attributes:
        where: the machine.
        finished: the job.
        outcomes: what the log of each run told; a run that was not reached told nothing.
    """

    where: str
    finished: Finished
    outcomes: tuple[Outcome, ...]

    def check(self, what: str) -> None:
        """Raise what went wrong with the first run.

        Args:
            what: ``"build model.engine"``.

        Raises:
            UnsupportedModelError: TensorRT refuses the model.
            EnvironmentProblem: it could not be started, was killed, or ran out of something.
        """
        if self.finished.status == 0 and not self.finished.missing:
            return
        problem = self.problem(0) or self.finished.problem
        if problem.startswith(_NOT_SAVED):
            raise OutputError(
                f"trtexec on {self.where} could not write the engine: is the disk there full?"
            )
        raise self._kind()(f"trtexec on {self.where} cannot {what}: {problem}")

    def problem(self, number: int) -> str | None:
        """Return what went wrong in one of the runs, in one line, or None."""
        status = self.finished.status if number == 0 else None
        return self.outcomes[number].problem(status)

    def _kind(self) -> type[GraphoptError]:
        told = self.outcomes[0]
        machine = self.finished.status > 128 or self.finished.status in (126, 127)
        return EnvironmentProblem if machine or not told.errors else UnsupportedModelError


@dataclass(slots=True)
class _Reader:
    """Hands each line to the reader of the run it belongs to, and says what is worth saying."""

    readers: list[LogReader]
    say: Callable[[str], None]
    current: int = field(default=0)
    said: float = field(default_factory=time.monotonic)

    def line(self, text: str) -> None:
        marked = _MARKED.match(text)
        if marked:
            self.current = min(int(marked[1]), len(self.readers) - 1)
            self._count()
            return
        progress = self.readers[self.current].feed(text)
        if progress is not None and len(self.readers) <= _FEW:
            self.say(f"trtexec: {progress}")

    def _count(self) -> None:
        """Say every few seconds which of many runs has begun."""
        now = time.monotonic()
        if len(self.readers) > _FEW and now - self.said > _SAY_S:
            self.said = now
            self.say(f"trtexec: run {self.current + 1} of {len(self.readers)}")


def run_errand(
    link: Link,
    errand: Work,
    say: Callable[[str], None],
    *,
    waits: Waits | None = None,
) -> Ran:
    """Run it, here or over there; its outputs are here afterwards.

    Raises:
        LinkLost: the link broke and did not come back; the same errand goes on from there.
        EnvironmentProblem: the machine cannot be reached, or is in use for too long.
        OutputError: a disk is full.
    """
    reader = _Reader([LogReader() for _ in range(errand.runs)], say)
    finished = run_job(
        link,
        errand.job(),
        on_line=reader.line,
        on_wait=say,
        on_copy=_copies(say),
        waits=waits,
    )
    return Ran(link.where, finished, tuple(each.outcome() for each in reader.readers))


def _copies(say: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Return what says how a copy gets on, every few seconds of one that takes that long."""
    last, copied = time.monotonic(), ""

    def told(name: str, at: int, size: int) -> None:
        nonlocal last, copied
        now = time.monotonic()
        if name != copied:
            last, copied = now, name
        elif now - last > _SAY_S:
            last = now
            say(f"{name}: {at / 1e6:.1f} of {size / 1e6:.1f} MB")

    return told
