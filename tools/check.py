"""The one gate: lint, format, strict types, tests. Exits with 1 if anything fails.

python tools/check.py            everything but the slow tests
python tools/check.py --slow     the slow tests only
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["graphopt", "calibrators", "engines", "profiles", "tests", "tools"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slow", action="store_true", help="run the slow tests only")
    parser.add_argument("pytest_args", nargs="*", help="passed on to pytest")
    args = parser.parse_args()
    python = [sys.executable, "-m"]
    # More processes than cores: tests over ssh wait much of their time.
    pytest = [*python, "pytest", "-q", "-n", "4", "--dist", "loadfile"]
    if args.slow:
        # Single tests are long: whoever is through takes the next.
        pytest[-1] = "worksteal"
        steps = [("slow tests", [*pytest, "-rs", "-m", "slow and not gpu", *args.pytest_args])]
    else:
        steps = [
            ("lint", [*python, "ruff", "check", *FOLDERS]),
            ("format", [*python, "ruff", "format", "--check", *FOLDERS]),
            ("types", [*python, "mypy"]),
            ("tests", [*pytest, "-m", "not slow and not gpu", *args.pytest_args]),
        ]
    # Two test processes on two cores: linear algebra of two threads each would fight for them.
    alone = {
        name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    failed = []
    for name, command in steps:
        print(f"== {name}: {' '.join(command[1:])}", flush=True)
        start = time.monotonic()
        if subprocess.run(command, cwd=ROOT, env={**os.environ, **alone}, check=False).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
