"""The output folder: filled beside, then moved into place whole; nothing of the user's is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from graphopt.errors import GateError, GraphoptError, OutputExistsError
from graphopt.files import output_error, scratch_beside, sha256, uninterrupted

MODEL, REPORT, RECIPE = "model.onnx", "report.json", "recipe.toml"
TABLE, CACHE = "calibration.json", "calibration.cache"
CONTACT_SHEET = "contact-sheet.webp"


def check_free(folder: Path, *, force: bool) -> None:
    """Refuse, before any work, a folder that would have to be overwritten.

    Raises:
        OutputExistsError: it exists, is not empty, and ``force`` is off; or it is a file.
        OutputError: it cannot be made.
    """
    try:
        if folder.is_dir():
            if any(folder.iterdir()) and not force:
                raise OutputExistsError(
                    f"{folder} exists and is not empty; use --force or another -o"
                )
        elif os.path.lexists(folder):
            what = "a link to nothing" if folder.is_symlink() else "a file"
            raise OutputExistsError(f"{folder} is {what}; -o names a folder")
        with _scratch(folder):
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
        with _scratch(folder) as scratch:
            try:
                yield scratch
            except GateError:
                _deliver(scratch, folder, force=force)
                raise
            except GraphoptError as problem:
                # The user knows the folder, not where it is filled.
                problem.args = (str(problem).replace(str(scratch), str(folder)),)
                raise
            _deliver(scratch, folder, force=force)
    except OSError as problem:
        # Not what went wrong in reading something else.
        about = Path(os.fsdecode(problem.filename or folder)).absolute()
        if folder.absolute().parent not in (about, *about.parents):
            raise
        raise output_error(folder, problem) from problem


def _scratch(folder: Path) -> AbstractContextManager[Path]:
    """A folder on the disk that will hold the results: inside one that exists (a mount, often)."""
    return scratch_beside(folder / "results" if folder.is_dir() else folder)


def _deliver(scratch: Path, folder: Path, *, force: bool) -> None:
    fresh = {p.name for p in scratch.iterdir()}
    others = {p.name for p in folder.iterdir()} - {scratch.name} if folder.is_dir() else set()
    if others and not force:
        raise OutputExistsError(f"{folder} was filled by another program meanwhile; use another -o")
    blocked = next((n for n in sorted(others & fresh) if (folder / n).is_dir()), None)
    if blocked is not None:
        raise OutputExistsError(f"{folder / blocked} is a folder, and a result goes by that name")
    with uninterrupted():
        if not folder.exists():
            scratch.chmod(0o777 & ~_umask())
            scratch.rename(folder)
            return
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
