"""Archives: written the same for the same files, read as if an enemy had made them.

A bundle and what a device sends back are ``tar.gz`` files of a handful of plain files whose names
are known beforehand. Anything else in one (a link, a device, a folder, a path, a name twice, an
extension header) is refused, and sizes are checked while reading, not believed.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from graphopt.errors import UsageError
from graphopt.files import atomic_path

BLOCK = tarfile.BLOCKSIZE
PIECE = 1 << 20
# Engines with many zeros shrink well, but deflate alone can reach 1000.
MOST_RATIO = 200
RATIO_FROM = 16 << 20
_PADDING = 64 * BLOCK  # tar fills up to 20 blocks with zeros


def write_archive(path: Path, files: Mapping[str, Path], *, folder: str) -> Path:
    """Write files as ``tar.gz`` atomically, under one folder; the same files give the same bytes.

    Args:
        path: the archive.
        files: name inside the folder -> file; ``*.sh`` becomes executable.
        folder: the folder they unpack into.

    Raises:
        OutputError: the disk is full, or the archive may not be written.
    """
    with (
        atomic_path(path) as beside,
        beside.open("wb") as raw,
        # No name and no time in gzip's header.
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(files):
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = files[name].stat().st_size
            info.mode = 0o755 if name.endswith(".sh") else 0o644
            with files[name].open("rb") as stream:
                archive.addfile(info, stream)
    return path


def read_archive(path: Path, into: Path, limits: Mapping[str, int], *, in_folder: bool) -> str:
    """Unpack an archive that nobody vouches for into the empty folder ``into``.

    Args:
        path: a ``tar.gz``.
        into: where the files go.
        limits: every name that may be there -> the most bytes it may have.
        in_folder: the files lie in one folder, whose name is returned; else at the top.

    Returns:
        The name of the folder, or an empty string.

    Raises:
        UsageError: there is no such file, it is damaged or cut short, or holds anything but plain
            files of these names and sizes.
    """
    with _opened(path) as (stream, size):
        reader = _Reader(stream, path, size)
        folders: set[str] = set()
        seen: set[str] = set()
        while (info := reader.header()) is not None:
            folder, name = _place(path, info, in_folder=in_folder)
            folders.add(folder)
            if len(folders) > 1:
                raise UsageError(f"{path}: its files lie in more than one folder")
            if name not in limits:
                raise UsageError(f"{path}: holds {_shown(info.name)}, which does not belong there")
            if name in seen:
                raise UsageError(f"{path}: holds {name} twice")
            seen.add(name)
            if info.size > limits[name]:
                raise UsageError(
                    f"{path}: {name} claims {info.size:,} bytes; at most {limits[name]:,} are read"
                )
            with (into / name).open("xb") as out:
                for piece in reader.body(info.size):
                    out.write(piece)
        reader.end()
    return next(iter(folders), "")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[gzip.GzipFile, int]]:
    """Open a ``tar.gz``; what its compression holds against us becomes one line."""
    try:
        with path.open("rb") as raw:
            size = raw.seek(0, io.SEEK_END)
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
                yield stream, size
    except EOFError as problem:
        raise UsageError(f"{path} is cut short: copy it again") from problem
    except (gzip.BadGzipFile, zlib.error) as problem:
        raise UsageError(f"{path} is not a whole tar.gz: {problem}") from problem
    except OSError as problem:
        if problem.filename != str(path):
            raise
        what = "no such file:" if isinstance(problem, FileNotFoundError) else "cannot read"
        why = "" if isinstance(problem, FileNotFoundError) else f": {problem.strerror}"
        raise UsageError(f"{what} {path}{why}") from problem


def _place(path: Path, info: tarfile.TarInfo, *, in_folder: bool) -> tuple[str, str]:
    """Return folder and name of a member that is a plain file where one may be."""
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise UsageError(f"{path}: {_shown(info.name)} is not a plain file")
    folder, slash, name = info.name.rpartition("/")
    plain = all(part not in ("", ".", "..") and "/" not in part for part in (folder, name) if part)
    if bool(slash) != in_folder or not name or bool(folder) != in_folder or not plain:
        raise UsageError(f"{path}: holds {_shown(info.name)}, which does not belong there")
    return folder, name


def _shown(name: str) -> str:
    return ascii(name[:80])


class _Reader:
    """Headers and bodies of a tar stream; counts what comes out against what went in."""

    def __init__(self, stream: gzip.GzipFile, path: Path, packed: int) -> None:
        self.stream, self.path = stream, path
        self.most = max(RATIO_FROM, MOST_RATIO * packed)
        self.total = 0

    def _read(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) != count:
            raise UsageError(f"{self.path} is cut short: copy it again")
        self.total += count
        if self.total > self.most:
            raise UsageError(
                f"{self.path} unpacks to more than {MOST_RATIO} times its size: not what a "
                "device sends"
            )
        return data

    def header(self) -> tarfile.TarInfo | None:
        """Return the next member's header, or None at the end."""
        block = self._read(BLOCK)
        if not block.strip(b"\0"):
            return None
        try:
            # One header alone: extensions (long names, pax) are members of a type we refuse.
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as problem:
            raise UsageError(f"{self.path} is not a tar.gz of plain files: {problem}") from problem
        except (ValueError, IndexError, OverflowError) as problem:
            raise UsageError(f"{self.path} is not a tar.gz of plain files: bad header") from problem
        if info.size < 0:
            raise UsageError(f"{self.path}: {_shown(info.name)} claims a negative size")
        return info

    def body(self, size: int) -> Iterator[bytes]:
        """Yield a member's bytes in pieces."""
        left = size
        while left:
            piece = self._read(min(left, PIECE))
            left -= len(piece)
            yield piece
        if size % BLOCK:
            self._read(BLOCK - size % BLOCK)

    def end(self) -> None:
        """Check that nothing follows but zeros; reading to the end checks gzip's sum too."""
        rest = self.stream.read(_PADDING + 1)
        if len(rest) < BLOCK:
            raise UsageError(f"{self.path} is cut short: copy it again")
        if len(rest) > _PADDING or rest.strip(b"\0"):
            raise UsageError(f"{self.path}: something follows after its end")
