"""Where trtexec is on this machine, told without running it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# As probe.sh and build.sh look: Debian packages and JetPack, archives, containers.
PLACES = (
    "/usr/src/tensorrt/bin",
    "/opt/tensorrt/bin",
    "/usr/local/tensorrt/bin",
    "/workspace/tensorrt/bin",
)
UNPACKED = ("/usr/local", "/opt", "~")


def local_trtexec(program: str | None = None) -> str | None:
    """Return the trtexec of this machine: the one asked for, on PATH, or where it is put."""
    if program is not None:
        return shutil.which(os.path.expanduser(program))  # noqa: PTH111 - a name stays a name
    found = shutil.which("trtexec")
    return found or next((str(path) for path in _put() if os.access(path, os.X_OK)), None)


def _put() -> Iterator[Path]:
    yield from (Path(place, "trtexec") for place in PLACES)
    for place in UNPACKED:
        yield from sorted(Path(os.path.expanduser(place)).glob("TensorRT*/bin/trtexec"))  # noqa: PTH111
