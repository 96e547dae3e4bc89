"""How much memory a session needs at its peak, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from graphopt.errors import EnvironmentProblem
from graphopt.model import Feeds
from graphopt.wording import one_line

TIMES = 3
_LIMIT_S = 600.0
_MODULE = "graphopt.check.session_memory"


@dataclass(frozen=True, slots=True)
class Memory:
    """What a session needs.

    Attributes:
        bytes: at its peak.
        what: ``"process"``: of this machine's memory; ``"device"``: of the GPU's, as the engine
            tells it.
    """

    bytes: float
    what: str


def peak_memory(path: Path, feeds: Feeds, *, threads: int) -> Memory:
    """Open an artifact in new processes, run it some times, and return the median peak.

    Args:
        path: of the artifact.
        feeds: one batch.
        threads: of ONNX Runtime.

    Raises:
        EnvironmentProblem: this system does not tell it, or the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        names = list(feeds)
        for i, name in enumerate(names):
            np.save(Path(scratch) / f"in{i}.npy", feeds[name], allow_pickle=False)
        job = Path(scratch) / "job.json"
        job.write_text(
            json.dumps({"path": str(Path(path).resolve()), "names": names, "threads": threads}),
            encoding="utf-8",
        )
        found = [_once(job, path) for _ in range(TIMES)]
    return Memory(median(m.bytes for m in found), found[0].what)


def _once(job: Path, path: Path) -> Memory:
    try:
        done = subprocess.run(
            [sys.executable, "-m", _MODULE, str(job)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
        told: Any = json.loads(done.stdout.decode(errors="replace").strip().split("\n")[-1])
        if "problem" not in told:
            return Memory(float(told["bytes"]), str(told["what"]))
        why = one_line(told["problem"])
    except subprocess.TimeoutExpired:
        why = f"it took longer than {_LIMIT_S:.0f} s"
    except (OSError, ValueError, KeyError, TypeError) as problem:
        why = one_line(problem)
    raise EnvironmentProblem(f"the memory of {one_line(path.name)} cannot be measured: {why}")
