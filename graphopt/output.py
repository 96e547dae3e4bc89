"""The output folder: filled beside, then moved into place whole; nothing of the user's is lost."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphopt.errors import GateError, OutputExistsError
from graphopt.files import output_error, sha256

REPORT = "report.json"


def check_free(folder: Path, *, force: bool) -> None:
    """Refuse, before any work, a folder that would have to be overwritten.

    Raises:
        OutputExistsError: it exists, is not empty, and ``force`` is off; or it is a file.
        OutputError: it cannot be made.
    """
    if folder.is_file():
        raise OutputExistsError(f"{folder} is a file; -o names a folder")
    try:
        if folder.is_dir() and any(folder.iterdir()) and not force:
            raise OutputExistsError(f"{folder} exists and is not empty; use --force or another -o")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".graphopt-", dir=folder.parent):
            pass
    except OSError as problem:
        raise output_error(folder, problem) from problem


@contextmanager
def staged(folder: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; move its files in at the end.

    On an error nothing appears and nothing changes, with one exception: a :class:`GateError`
    delivers the files (the work was done, and the report says what failed). With ``force``,
    files an earlier build listed in its report are replaced or removed; anything else that lies
    in the folder stays.
    """
    check_free(folder, force=force)
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name[:40]}.", dir=folder.parent))
    except OSError as problem:
        raise output_error(folder, problem) from problem
    try:
        try:
            yield scratch
        except GateError:
            _deliver(scratch, folder)
            raise
        _deliver(scratch, folder)
    except OSError as problem:
        raise output_error(folder, problem) from problem
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _deliver(scratch: Path, folder: Path) -> None:
    scratch.chmod(0o777 & ~_umask())
    if not folder.exists():
        scratch.rename(folder)
        scratch.mkdir()  # so that cleaning up finds what it expects
        return
    fresh = {p.name for p in scratch.iterdir()}
    for stale in _ours(folder) - fresh:
        (folder / stale).unlink(missing_ok=True)
    # The report goes last: it vouches for the others.
    for name in sorted(fresh, key=lambda n: (n == REPORT, n)):
        (scratch / name).replace(folder / name)


def _ours(folder: Path) -> set[str]:
    """Files that an earlier report lists and that still have the bytes it says."""
    try:
        listed = json.loads((folder / REPORT).read_text(encoding="utf-8"))["artifacts"]
        pairs = {str(a["path"]): str(a["sha256"]) for a in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {
        name
        for name, digest in pairs.items()
        if Path(name).name == name and (folder / name).is_file() and sha256(folder / name) == digest
    }


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
