"""Activations of all samples: in memory up to a budget, beyond it in files that go away again."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from graphopt.errors import OutputError
from graphopt.files import uninterrupted
from graphopt.graph import Array


@dataclass(frozen=True, slots=True)
class _Stored:
    """A file that holds the bytes of an array, and what they mean."""

    path: Path
    dtype: Any
    shape: tuple[int, ...]


class Spill:
    """A store of arrays that holds at most ``budget`` bytes in memory.

    What does not fit goes to one file an array, in a folder of its own under the system's folder
    for temporary files (``TMPDIR``). The folder goes with :meth:`close`, on leaving the ``with``
    block for whatever reason, and at the latest when the interpreter ends.

    Arrays of strings (of any Python objects) have no bytes to write, and stay in memory.

    Args:
        budget: bytes kept in memory; what comes later goes to disk.

    Attributes:
        held: bytes in memory now; never more than ``budget``, but for arrays of strings.
        peak: the most bytes that were in memory.
        peak_disk: the most bytes that were on disk.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.held = 0
        self.peak = 0
        self.peak_disk = 0
        self._disk = 0
        self._arrays: dict[Hashable, Array | _Stored] = {}
        self._sizes: dict[Hashable, int] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._written = 0

    def __enter__(self) -> Spill:
        """Return the store."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the files."""
        self.close()

    def put(self, key: Hashable, array: Array) -> None:
        """Keep an array; it must not be written into afterwards.

        Raises:
            OutputError: the disk is full, or there is no folder to write to.
        """
        self.drop(key)
        size = array.nbytes
        if self.held + size <= self.budget or array.dtype.hasobject or not size:
            self._arrays[key] = array
            self.held += size
            self.peak = max(self.peak, self.held)
        else:
            self._arrays[key] = self._write(array)
            self._disk += size
            self.peak_disk = max(self.peak_disk, self._disk)
        self._sizes[key] = size

    def get(self, key: Hashable) -> Array:
        """Return an array, not to be written into.

        What lies on disk is mapped: its pages are read when they are looked at, can be given back
        by the system at any time, and are unmapped with the last reference to the array.
        """
        found = self._arrays[key]
        if isinstance(found, _Stored):
            # A plain array on top: views of a memmap are memmaps, and slow to make.
            return np.asarray(np.memmap(found.path, found.dtype, mode="r", shape=found.shape))
        return found

    def __contains__(self, key: Hashable) -> bool:
        """Whether there is such an array."""
        return key in self._arrays

    def drop(self, key: Hashable) -> None:
        """Forget an array, if it is there."""
        found = self._arrays.pop(key, None)
        if found is None:
            return
        size = self._sizes.pop(key)
        if isinstance(found, _Stored):
            found.path.unlink()
            self._disk -= size
        else:
            self.held -= size

    def close(self) -> None:
        """Forget everything."""
        self._arrays.clear()
        self._sizes.clear()
        self.held = self._disk = 0
        if self._folder is not None:
            with uninterrupted():
                self._folder.cleanup()
            self._folder = None

    def _write(self, array: Array) -> _Stored:
        where = Path(tempfile.gettempdir()) if self._folder is None else Path(self._folder.name)
        try:
            if self._folder is None:
                with uninterrupted():
                    self._folder = tempfile.TemporaryDirectory(prefix="graphopt-")
                where = Path(self._folder.name)
            path = where / str(self._written)
            self._written += 1
            flat = np.ascontiguousarray(array).reshape(-1)
            with path.open("wb") as stream:
                stream.write(flat.view(np.uint8).data)
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                why = "no space left for the activations of the samples"
            else:
                why = f"cannot keep activations on disk: {problem.strerror or problem}"
            raise OutputError(
                f"{why} in {where}: free some, point TMPDIR at another disk, or give fewer samples"
            ) from problem
        return _Stored(path, array.dtype, array.shape)
