"""The process that opens one session and tells how much more memory that took at its peak.

On Linux by ``VmHWM`` of ``/proc/self/status``: unlike ``ru_maxrss`` it does not begin with what
the parent held, and it is set back (``/proc/self/clear_refs``) once all imports are done.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_RUNS = 3
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(words: Sequence[str]) -> int:
    """Measure, and print one line of JSON: ``bytes`` and ``what``, or ``problem``."""
    try:
        found = _measure(json.loads(Path(words[0]).read_text(encoding="utf-8")), Path(words[0]))
    except Exception as problem:  # noqa: BLE001 - the parent tells it
        found = {"problem": f"{type(problem).__name__}: {problem}"}
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


def _measure(job: dict[str, Any], file: Path) -> dict[str, Any]:
    import numpy as np

    from graphopt.engines.header import is_engine

    path = Path(job["path"])
    feeds = {name: np.load(file.parent / f"in{i}.npy") for i, name in enumerate(job["names"])}
    if is_engine(path):
        return _engine(path, feeds)
    from graphopt.runtime import open_session

    before = _set_back()
    with open_session(path, threads=int(job["threads"])) as session:
        for _ in range(_RUNS):
            session.run(None, feeds)
        peak = _told("VmHWM")
    return {"bytes": max(0, peak - before), "what": "process"}


def _engine(path: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    """Return what the engine tells it needs of the device; its weights are in the file's size."""
    from graphopt.opening import opened

    with opened(path) as session:
        session.run(feeds)
        told = getattr(session, "device_bytes", None)
        if told is None:
            return {"problem": "its runtime does not tell the memory of a session"}
        return {"bytes": told(), "what": "device"}


def _set_back() -> int:
    """Let the high-water mark begin anew; return the memory held now, in bytes."""
    gc.collect()
    _CLEAR.write_text("5", encoding="ascii")
    return _told("VmRSS")


def _told(key: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"this system does not tell {key}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
