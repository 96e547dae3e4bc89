"""Timing caches: what TensorRT measured of kernels, kept for one version on one kind of GPU.

With one, rebuilds are faster and choose the same kernels. Files are added to under a lock and
replaced whole, so that two builds at once lose nothing of each other's. Nothing about a cache stops
a build: what cannot be used is told in a note.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# A build waits for another one's reading or writing, which takes milliseconds, not for its end.
_PATIENCE_S = 30.0


def default_cache(runtime: str, version: str, gpu: str) -> Path | None:
    """Return the file for this runtime, version and GPU; None where there is no home folder.

    ``$XDG_CACHE_HOME`` (``%LOCALAPPDATA%`` on Windows), else ``~/.cache``, then
    ``graphopt/timing/<runtime>-<version>-<gpu>.cache``.
    """
    given = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    try:
        # The XDG specification: a relative path is to be ignored.
        base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    name = "-".join(_word(part) for part in (runtime, version, gpu))
    return base / "graphopt" / "timing" / f"{name}.cache"


class TimingCache:
    """One cache file and what became of it; reads before a build, writes after it."""

    def __init__(self, path: Path, *, own: bool) -> None:
        """Look after ``path``; ``own`` says that graphopt chose it, and may replace all of it."""
        self.path, self._own = path, own
        self._foreign = False
        self.notes: list[str] = []

    def load(self, config: Any) -> None:
        """Attach the file's cache to an ``IBuilderConfig``, an empty one where it has none."""
        data = b""
        try:
            # Without the lock: the file is only ever replaced whole.
            if self.path.exists():
                data = self.path.read_bytes()
        except OSError as problem:
            self._note("cannot be read", problem)
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return
        if data:
            # TensorRT compares its own version and the device's properties with the file's.
            self._foreign = True
            self.notes.append(
                f"the timing cache {self.path} is no cache of this TensorRT and GPU: ignored"
                + ("" if self._own else ", and left as it is")
            )
        empty = config.create_timing_cache(b"")
        if empty is not None:
            config.set_timing_cache(empty, ignore_mismatch=False)

    def save(self, config: Any) -> bool:
        """Add what was measured to the file; return whether it was written."""
        measured = config.get_timing_cache()
        if measured is None or (self._foreign and not self._own):
            return False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path):
                # Another build may have added to it meanwhile.
                if self.path.exists() and not self._foreign:
                    there = config.create_timing_cache(self.path.read_bytes())
                    if there is not None:
                        measured.combine(there, ignore_mismatch=False)
                _replace(self.path, bytes(memoryview(measured.serialize())))
        except OSError as problem:
            self._note("cannot be written", problem)
            return False
        return True

    def _note(self, what: str, problem: OSError) -> None:
        why = problem.strerror or str(problem)
        self.notes.append(f"the timing cache {self.path} {what}: {why}")


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:80] or "unknown"


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, the file beside it named ``….lock``; the system frees it if we die.

    Raises:
        OSError: it cannot be had.
    """
    with path.with_name(path.name + ".lock").open("ab") as stream:
        until = time.monotonic() + _PATIENCE_S
        while not _try_lock(stream.fileno()):
            if time.monotonic() > until:
                raise TimeoutError(f"another process has held its lock for {_PATIENCE_S:.0f} s")
            time.sleep(0.02)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
