"""Run a command; write how long it took and how much memory it needed at most.

    python tools/measured.py FIGURES.json COMMAND [ARGUMENT …]

The command's output and exit status are passed on. It is started from here, and not from the
program that wants to know, because Linux lets a process begin with the peak memory of the one
that started it: this one stays small.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    target, *command = sys.argv[1:]
    started = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    figures = {
        "seconds": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6,
    }
    Path(target).write_text(json.dumps(figures), encoding="utf-8")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
