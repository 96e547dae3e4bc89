"""A baseline that was measured before: a file, or one of a history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from graphopt.check.artifacts import exists, find
from graphopt.check.gates import TimeGate
from graphopt.engines.sidecar import read_json
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.profiles.latency import LatencyProfile
from graphopt.profiles.regression import CONFIDENCE, Verdict, judge_stored
from graphopt.profiles.run import Run
from graphopt.profiles.state import differences, fingerprint
from graphopt.profiles.sweep import Sweep
from graphopt.wording import counted, one_line

if TYPE_CHECKING:
    from graphopt.profiles.history import History

_MOST_SIBLINGS = 8
_LOOKED_AT = 200
_MOST_BATCH = 1 << 20
# Throughput is judged by means; each of this many neighbours is one value of it.
_BLOCK = 10


@dataclass(frozen=True, slots=True)
class Stored:
    """A baseline that was measured before.

    Attributes:
        run: what was measured.
        where: what a person calls it.
        siblings: samples of other runs of the same file on such a machine: they tell how far apart
            runs of the same are.
    """

    run: Run
    where: str
    siblings: tuple[tuple[float, ...], ...] = ()

    @property
    def samples(self) -> list[tuple[float, ...]]:
        """The samples of all runs, the baseline's own first."""
        return [self.run.samples_ms, *self.siblings]


def baseline(
    ref: str,
    *,
    history: Path | None,
    subject: str,
    environment: Mapping[str, str] | None = None,
    batch: int | None = None,
) -> Path | Stored:
    """Return what ``--baseline`` means: a file first, then a name in the history.

    Args:
        ref: a path, or ``NAME``, ``branch:NAME``, ``last-good``, ``run:NUMBER``.
        history: the history's file, or None.
        subject: the name that runs of the candidate go by.
        environment: of this machine, to find the last good run of one like it.
        batch: what is to be timed, to find it in a sweep; None for 1.

    Returns:
        The path of an artifact, or a stored run.

    Raises:
        UsageError: there is neither, or the file is nothing that can be compared with.
    """
    path = Path(ref)
    if exists(path):
        return _from_file(path, batch) if is_json(path) else find(path)
    if history is None:
        try:
            return find(path)  # says that there is none, and what comes nearest
        except UsageError as problem:
            raise UsageError(
                str(problem), hint="a name of a stored baseline needs --history FILE"
            ) from problem
    return _from_history(ref, history, subject, environment)


def is_json(path: Path) -> bool:
    """Whether a file holds JSON, by its first character; no artifact begins so."""
    try:
        if path.is_dir():
            return False
        with path.open("rb") as stream:
            head = stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as problem:
        raise UsageError(f"cannot read {one_line(path)}: {problem.strerror}") from problem
    return path.suffix.lower() == ".json" or head[:1] in (b"{", b"[")


def _point(sweep: Sweep, batch: int | None) -> LatencyProfile:
    """Return the point of a sweep that a check can be held against.

    Raises:
        UsageError: none has this batch (1, or the only one there is) and one stream.
    """
    alone = {point.batch: point for point in sweep.points if point.streams == 1}
    if batch is None:
        batch = next(iter(alone)) if len(alone) == 1 else 1
    if batch in alone:
        return alone[batch]
    told = ", ".join(map(str, sorted(alone))) or "none"
    raise UsageError(
        f"a sweep without the batch {batch} on one stream (it has {told}): choose by --batch"
    )


def _from_file(path: Path, batch: int | None) -> Stored:
    what = "run written by graphopt profile -o or check -o"
    raw = read_json(path, what)
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if kind == "graphopt-report":
        raise UsageError(
            f"{one_line(path)} is the report of a build: --baseline {one_line(path.parent)} "
            "compares with what it built"
        )
    try:
        if kind in ("graphopt-latency-profile", "graphopt-latency-sweep"):
            profile = (
                _point(Sweep.from_json(raw), batch)
                if kind == "graphopt-latency-sweep"
                else LatencyProfile.from_json(raw)
            )
            run = Run(
                "profile",
                path.stem,
                samples_ms=profile.samples_ms,
                batch=profile.batch,
                environment=profile.environment,
            )
        else:
            run = Run.from_json(raw)
    except UsageError as problem:
        raise UsageError(f"{one_line(path)} is no {what}: {one_line(problem)}") from problem
    return checked(Stored(run, one_line(path)))


def _from_history(
    ref: str, file: Path, subject: str, environment: Mapping[str, str] | None
) -> Stored:
    from graphopt.profiles.history import History, Query

    if not exists(file):
        raise UsageError(
            f"no file {one_line(ref)}, and no history {one_line(file)} to find it in",
            hint=f"the first run begins it: check --baseline FILE --history {one_line(file)} "
            "--store NAME, or profile --history",
        )
    with History.open(file, write=False) as history:
        # A name is asked for as it is: where its machine is another one, that is to be said.
        last = ref == "last-good" or ref.startswith("branch:")
        here: Mapping[str, str] | None = None
        if last and environment:
            here = fingerprint(environment)
        if here is not None and "threads" not in here:
            here = _with_any_threads(history, ref, subject, here)
        try:
            number, run = history.baseline(
                ref, subject=subject, fingerprint=here, with_samples=True
            )
        except UsageError:
            if here is None:
                raise
            # There may be one of another machine: then what differs is told, fact by fact.
            number, run = history.baseline(ref, subject=subject, with_samples=True)
        siblings = [
            other.id
            for other in history.entries(Query(subject=run.subject), limit=_LOOKED_AT)
            if other.samples and other.id != number
        ]
        found = []
        for each in siblings:
            other = history.get(each)
            if (
                run.sha256
                and (other.sha256, other.batch) == (run.sha256, run.batch)
                and not (differences(run.fingerprint, other.fingerprint))
            ):
                found.append(other.samples_ms)
            if len(found) == _MOST_SIBLINGS:
                break
    where = f"run {number} of {one_line(file)} ({one_line(ref)})"
    return checked(Stored(run, where, tuple(found)))


def _with_any_threads(
    history: History, ref: str, subject: str, here: Mapping[str, str]
) -> Mapping[str, str]:
    """Return the fingerprint of the newest good run that differs in no more than threads.

    ``here`` itself where there is none: the history then says what there is.
    """
    from graphopt.profiles.history import Query

    branch = ref.removeprefix("branch:") if ref.startswith("branch:") else None
    seen: set[str] = set()
    for entry in history.entries(Query(subject=subject, branch=branch)):
        if entry.machine in seen or not entry.samples or entry.status not in {"pass", "none"}:
            continue
        seen.add(entry.machine)
        there = history.get(entry.id).fingerprint
        if not differences({**there, "threads": ""}, {**here, "threads": ""}):
            return there
    return here


def checked(stored: Stored) -> Stored:
    """Return it with a fingerprint, once it is sure that it can be compared with.

    Raises:
        UsageError: it holds no samples, no runs that took any time, or no batch.
    """
    run = stored.run
    if not run.samples_ms:
        raise UsageError(f"{stored.where} holds no samples: it is nothing to compare times with")
    if min(run.samples_ms) <= 0:
        raise UsageError(f"{stored.where} holds runs that took no time")
    if not 1 <= run.batch <= _MOST_BATCH:
        raise UsageError(f"{stored.where} tells of a batch of {run.batch}")
    if not run.fingerprint and run.environment:
        run = replace(run, fingerprint=fingerprint(run.environment))
    if not run.fingerprint:
        raise UsageError(f"{stored.where} does not tell what machine it was measured on")
    return replace(stored, run=run)


def refuse_another(stored: Stored, environment: Mapping[str, str]) -> None:
    """Refuse a baseline of another machine, or of this one in another state.

    Raises:
        EnvironmentProblem: what must agree differs; the hint holds a line for each fact.
    """
    found = differences(stored.run.fingerprint, environment)
    if found:
        raise EnvironmentProblem(
            f"{stored.where} was measured elsewhere or otherwise, so its times cannot be compared: "
            f"{counted(len(found), 'difference')}",
            hint="\n".join(
                [f"  {one_line(line)}" for line in found]
                + ["measure the baseline anew here (graphopt profile -o, or --store), or give its "
                   "file: two files are interleaved on the same machine"]
            ),
        )  # fmt: skip


def stored_verdict(gate: TimeGate, stored: Stored, cand: Sequence[float], *, seed: int) -> Verdict:
    """Judge the candidate's runs against stored ones; the interval is wider than interleaved."""
    base: list[tuple[float, ...]] = stored.samples
    if gate.kind == "mean":
        base, cand = [_means(run) for run in base], _means(cand)
    q = 99.0 if gate.kind == "p99" else 50.0
    return judge_stored(base, cand, gate.limit, q=q, confidence=CONFIDENCE, seed=seed)


def _means(samples: Sequence[float]) -> tuple[float, ...]:
    return tuple(fmean(samples[i : i + _BLOCK]) for i in range(0, len(samples), _BLOCK))
