"""Writers of one history, killed at any moment: is what was acknowledged there, and whole?"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from graphopt.profiles.history import History
from graphopt.profiles.run import Figure, Run

SAMPLES = 400
BEGUN, DONE = "begun", "done"


@dataclass(frozen=True)
class Killed:
    """What came of it.

    Attributes:
        begun: runs that were begun to be added.
        acknowledged: of those, how many :meth:`History.add` returned for.
        kept: runs in the file at the end.
        unseen: of those, not acknowledged: killed after the commit, before the answer.
        rolled_back: begun, and not in the file: killed before the commit.
        lost: acknowledged, and not in the file; must be none.
        torn: in the file, and not as begun; must be none.
        problems: what ``History.check`` finds; must be none.
    """

    writers: int
    seconds: float
    kills: int
    begun: int
    acknowledged: int
    kept: int
    unseen: int
    rolled_back: int
    lost: int
    torn: int
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def run_of(token: str) -> Run:
    """Return the run of a token: the same for the same."""
    rng = random.Random(token)
    samples = tuple(rng.lognormvariate(0, 0.1) for _ in range(SAMPLES))
    return Run(
        verb="profile",
        subject=f"net-{rng.randrange(3)}.onnx",
        figures=tuple(
            Figure(f"figure_{i}", rng.random(), "ms") for i in range(rng.randrange(1, 20))
        ),
        samples_ms=samples,
        environment={"cpu": "x" * rng.randrange(2000), "token": token},
        notes=(token,),
    )


def hammer(file: Path, writers: int, seconds: float, seed: int = 0) -> Killed:
    """Let ``writers`` processes add runs to ``file``, which none has made yet; kill and replace.

    Each writes down what it begins and what was acknowledged, outside of the history: a line that
    ``write`` took outlives its process. Each opens the file anew every few runs.
    """
    rng = random.Random(seed)
    log = file.with_name(f"{file.name}.log")
    kills = generation = 0
    living: list[int] = []
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            while len(living) < writers:
                living.append(_fork(file, log, f"{seed}-{generation}"))
                generation += 1
            time.sleep(rng.uniform(0, 0.05))
            victim = living.pop(rng.randrange(len(living)))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            kills += 1
    finally:
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return _judge(file, log, writers, seconds, kills + len(living))


def _fork(file: Path, log: Path, name: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _write_for_ever(file, log, name)
    except BaseException as problem:  # noqa: BLE001  # a child must not go on as its parent
        os.write(2, f"writer {name}: {problem!r}\n".encode())
    finally:
        os._exit(code)


def _write_for_ever(file: Path, log: Path, name: str) -> NoReturn:
    told = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    number = 0
    while True:
        with History.open(file) as history:
            for _ in range(5):
                token = f"{name}-{number}"
                number += 1
                os.write(told, f"{BEGUN} {token}\n".encode())
                found = history.add(run_of(token))
                os.write(told, f"{DONE} {token} {found}\n".encode())


def _judge(file: Path, log: Path, writers: int, seconds: float, kills: int) -> Killed:
    begun: set[str] = set()
    done: dict[str, int] = {}
    for line in log.read_text(encoding="ascii").splitlines():
        kind, token, *number = line.split()
        if kind == BEGUN:
            begun.add(token)
        else:
            done[token] = int(number[0])
    with History.open(file, write=False) as history:
        problems = tuple(history.check())
        found = {e.id: history.get(e.id) for e in history.entries()}
    tokens = {number: run.notes[0] for number, run in found.items()}
    lost = sum(tokens.get(number) != token for token, number in done.items())
    torn = sum(run != run_of(run.notes[0]) for run in found.values())
    kept = set(tokens.values())
    torn += len(found) - len(kept) + len(kept - begun)  # twice, or never begun
    return Killed(
        writers=writers, seconds=seconds, kills=kills, begun=len(begun), acknowledged=len(done),
        kept=len(found), unseen=len(kept - set(done)), rolled_back=len(begun - kept), lost=lost,
        torn=torn, problems=problems,
    )  # fmt: skip
