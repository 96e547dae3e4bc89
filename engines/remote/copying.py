"""Files there and back through a link, going on where an earlier copy broke off.

Why not scp, which cannot: docs/decisions/010-copies-over-ssh.md. Of a copy under way there is
``TARGET.part`` beside the target; it is renamed when its SHA-256 is right. One copy at a time may
go to one target: the caller holds the lock.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from graphopt.engines.remote.link import Done, LinkLost, Progress
from graphopt.errors import EnvironmentProblem, OutputError, UsageError
from graphopt.files import output_error, sha256
from graphopt.wording import one_line

PIECE = 1 << 16

# Exit statuses of the scripts below; a tool's own are small, a signal's above 128.
_NO_FILE, _NO_DIGEST, _IS_FOLDER, _NO_FOLDER = 81, 82, 83, 84

_DIGEST = f"""
digest() {{
    if command -v sha256sum >/dev/null 2>&1; then sha256sum
    elif command -v shasum >/dev/null 2>&1; then shasum -a 256
    elif command -v openssl >/dev/null 2>&1; then openssl dgst -sha256
    else exit {_NO_DIGEST}
    fi
}}
"""
# What there is: bytes of a broken-off copy, and room for the rest in KiB as df tells it.
_BEFORE_PUT = f"""
command -v sha256sum >/dev/null 2>&1 || command -v shasum >/dev/null 2>&1 ||
    command -v openssl >/dev/null 2>&1 || exit {_NO_DIGEST}
folder=${{1%/*}}/
[ -d "$folder" ] || exit {_NO_FOLDER}
[ -d "$1" ] && exit {_IS_FOLDER}
if [ -f "$1.part" ]; then wc -c < "$1.part"; else echo 0; fi
LC_ALL=C df -Pk "$folder" 2>/dev/null
exit 0
"""
# By position and not by appending: what a link thought dead still delivers lands where it belongs.
_WRITE = f"""
LC_ALL=C; export LC_ALL
if [ "$2" = 0 ]; then : > "$1.part" || exit; fi
exec dd of="$1.part" bs={PIECE} seek="$2" conv=notrunc
"""
_CHECK = _DIGEST + 'wc -c < "$1.part" && digest < "$1.part"'
_RENAME = 'mv -f "$1.part" "$1"'
_REMOVE = 'rm -f "$1.part"'
_ROOM = 'LC_ALL=C df -Pk "${1%/*}/" 2>/dev/null'
_BEFORE_GET = _DIGEST + f'[ -f "$1" ] || exit {_NO_FILE}\nwc -c < "$1" && digest < "$1"'
_READ = 'tail -c "+$2" "$1"'


class Channel(Protocol):
    """The side of a link that copies are made through."""

    where: str

    def run(
        self, script: str, *words: str, stdin: bytes | None = None, limit_s: float = 60.0
    ) -> Done:
        """See :meth:`Link.run`."""

    def exchange(
        self,
        script: str,
        *words: str,
        feed: Iterator[bytes] | None = None,
        out: Callable[[bytes], object],
        err: Callable[[bytes], object],
        limit_s: float,
    ) -> int:
        """Run ``script``, bytes in and bytes out; return its exit status."""


class Clock:
    """What is left of a time limit, in seconds, for a task of several steps."""

    def __init__(self, limit_s: float) -> None:
        self._until = time.monotonic() + limit_s

    def left(self) -> float:
        """Return the seconds left; never none, so that the next step says that time is up."""
        return max(self._until - time.monotonic(), 0.001)


def put(link: Channel, local: Path, remote: str, progress: Progress | None, limit_s: float) -> None:
    """Copy ``local`` to ``remote``, an absolute path over there whose folder exists.

    Raises:
        UsageError: ``local`` cannot be read.
        OutputError: no room over there, or no such folder; the part file is gone.
        EnvironmentProblem: no way to check the copy, or it is wrong twice.
        LinkLost: the link broke; the next ``put`` goes on.
    """
    _absolute(remote)
    try:
        _put(link, local, remote, progress, Clock(limit_s))
    except OSError as problem:
        raise UsageError(f"cannot read {local}: {problem.strerror or problem}") from problem
    except LinkLost:
        raise
    except EnvironmentProblem:
        with suppress(EnvironmentProblem):
            link.run(_REMOVE, remote, limit_s=20.0)
        raise


def _put(link: Channel, local: Path, remote: str, progress: Progress | None, clock: Clock) -> None:
    size, digest = local.stat().st_size, sha256(local)
    for again in (False, True):
        start = _there_already(link, remote, size, clock)
        if again or start > size:
            start = 0
        with local.open("rb") as stream:
            _send(link, stream, remote, (start, size), progress, clock)
        if _arrived(link, remote, size, digest, clock):
            _settle(link, remote, clock)
            return
    raise EnvironmentProblem(
        f"{one_line(remote)} on {link.where} is not what was sent, twice over: "
        f"did {local} change meanwhile? If not, that disk or link is faulty"
    )


def get(link: Channel, remote: str, local: Path, progress: Progress | None, limit_s: float) -> None:
    """Copy ``remote`` to ``local``, whose folder exists; never more bytes than it has at first.

    Raises:
        EnvironmentProblem: no such file over there, no way to check the copy, or it is wrong twice.
        OutputError: no room here, or ``local`` may not be written; the part file is gone.
        LinkLost: the link broke; the next ``get`` goes on.
    """
    _absolute(remote)
    clock = Clock(limit_s)
    part = local.with_name(local.name + ".part")
    try:
        for again in (False, True):
            size, digest = _announced(link, remote, clock)
            start = part.stat().st_size if part.is_file() and not again else 0
            start = start if start <= size else 0
            _room_here(part, size - start)
            with part.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                _receive(link, remote, stream, (start, size), progress, clock)
            if part.stat().st_size == size and sha256(part) == digest:
                part.replace(local)
                return
        raise EnvironmentProblem(
            f"{one_line(remote)} on {link.where} did not arrive as it is there, twice over: "
            "is it still being written?"
        )
    except LinkLost:
        raise
    except (OSError, EnvironmentProblem) as problem:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(problem, OSError):
            raise output_error(local, problem) from problem
        raise


def _absolute(remote: str) -> None:
    if not remote.startswith("/") or remote.endswith("/"):
        raise ValueError(f"not the absolute path of a file: {remote!r}")


def _there_already(link: Channel, remote: str, size: int, clock: Clock) -> int:
    """Return where to go on, a multiple of :data:`PIECE`; refuse where there is no room."""
    done = link.run(_BEFORE_PUT, remote, limit_s=clock.left())
    folder = one_line(remote.rpartition("/")[0] or "/")
    if done.status == _NO_FOLDER:
        raise OutputError(f"{link.where} has no folder {folder}")
    if done.status == _IS_FOLDER:
        raise OutputError(f"{one_line(remote)} on {link.where} is a folder")
    first, _, rest = done.stdout.lstrip().partition("\n")
    if done.status or not first.strip().isdigit():
        raise _refused(link, remote, done.status, done.stderr)
    have = int(first)
    room = _kib(rest)
    if room is not None and room * 1024 < size - have <= size:
        raise _full(link, remote, room, size)
    return have // PIECE * PIECE if have < size else have


def _send(
    link: Channel,
    stream: BinaryIO,
    remote: str,
    span: tuple[int, int],
    progress: Progress | None,
    clock: Clock,
) -> None:
    """Write bytes ``span`` of ``stream`` into the part file over there."""
    start, size = span
    if start == size and size:
        return  # all was there: only the check had not been made
    stream.seek(start)

    def pieces() -> Iterator[bytes]:
        sent = start
        while sent < size and (piece := stream.read(min(PIECE, size - sent))):
            _tell(progress, sent, size)
            yield piece
            sent += len(piece)
        _tell(progress, sent, size)

    said: list[bytes] = []
    status = link.exchange(
        _WRITE,
        remote,
        str(start // PIECE),
        feed=pieces(),
        out=lambda _: None,
        err=lambda data: said.append(data) if len(said) < 64 else None,
        limit_s=clock.left(),
    )
    if not status:
        return
    text = b"".join(said).decode(errors="replace")
    if "No space left" in text or "quota" in text.lower():
        link.run(_REMOVE, remote, limit_s=max(clock.left(), 10.0))  # so that room counts without
        room = _kib(link.run(_ROOM, remote, limit_s=max(clock.left(), 10.0)).stdout)
        raise _full(link, remote, room, size)
    raise _refused(link, remote, status, text)


def _arrived(link: Channel, remote: str, size: int, digest: str, clock: Clock) -> bool:
    """Return whether the part file over there is what it should be."""
    done = link.run(_CHECK, remote, limit_s=clock.left())
    if done.status:
        raise _refused(link, remote, done.status, done.stderr)
    return _size_and_digest(done.stdout) == (size, digest)


def _settle(link: Channel, remote: str, clock: Clock) -> None:
    done = link.run(_RENAME, remote, limit_s=max(clock.left(), 10.0))
    if done.status:
        raise _refused(link, remote, done.status, done.stderr)


def _announced(link: Channel, remote: str, clock: Clock) -> tuple[int, str]:
    """Return the size and SHA-256 that a file has over there."""
    done = link.run(_BEFORE_GET, remote, limit_s=clock.left())
    if done.status == _NO_FILE:
        raise EnvironmentProblem(f"{link.where} has no file {one_line(remote)}")
    found = _size_and_digest(done.stdout)
    if done.status or found is None:
        raise _refused(link, remote, done.status, done.stderr, verb="read")
    return found


def _receive(
    link: Channel,
    remote: str,
    stream: BinaryIO,
    span: tuple[int, int],
    progress: Progress | None,
    clock: Clock,
) -> None:
    """Write what comes from over there to ``stream``: bytes ``span`` and none beyond."""
    start, size = span
    at = start
    _tell(progress, at, size)

    def take(data: bytes) -> None:
        nonlocal at
        if at + len(data) > size:
            raise EnvironmentProblem(
                f"{link.where} sends more of {one_line(remote)} than the {size} bytes it has: "
                "is it still being written?"
            )
        stream.write(data)
        at += len(data)
        _tell(progress, at, size)

    if start == size:
        return
    said: list[bytes] = []
    status = link.exchange(
        _READ,
        remote,
        str(start + 1),
        out=take,
        err=lambda data: said.append(data) if len(said) < 64 else None,
        limit_s=clock.left(),
    )
    if status:
        text = b"".join(said).decode(errors="replace")
        raise _refused(link, remote, status, text, verb="read")


def _room_here(part: Path, size: int) -> None:
    """Refuse a file that this disk has no room for, before any of it comes."""
    free = shutil.disk_usage(part.parent).free
    if size > free:
        raise OSError(28, os.strerror(28))  # ENOSPC, told as any other


def _size_and_digest(text: str) -> tuple[int, str] | None:
    """Read ``wc -c`` and then a digest, by whichever tool wrote it."""
    size, _, rest = text.strip().partition("\n")
    found = re.search(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", rest)
    size = size.strip()
    return (int(size), found[0]) if found and size.isdigit() and len(size) < 20 else None


def _kib(table: str) -> int | None:
    """Return the KiB that are free by what ``df -Pk`` printed; None where it says nothing."""
    found = re.findall(r"\s\d+\s+\d+\s+(-?\d+)\s+(?:\d+%|-)\s", table[:4096])
    return max(int(found[-1]), 0) if found else None


def _full(link: Channel, remote: str, room: int | None, size: int) -> OutputError:
    folder = one_line(remote.rpartition("/")[0] or "/")
    free = "" if room is None else f" ({room / 1024:.0f} MiB free)"
    return OutputError(
        f"no space left on {link.where} in {folder}{free} for {size / (1 << 20):.1f} MiB: "
        "free some there"
    )


def _refused(
    link: Channel, remote: str, status: int, said: str, verb: str = "write"
) -> EnvironmentProblem:
    if status == _NO_DIGEST:
        return EnvironmentProblem(
            f"{link.where} has none of sha256sum, shasum and openssl: copies cannot be checked"
        )
    if status > 128 and not said.strip():
        return LinkLost(f"what copied {one_line(remote)} on {link.where} was killed")
    kind = OutputError if verb == "write" else EnvironmentProblem
    why = one_line(said) or f"exit status {status}"
    return kind(f"cannot {verb} {one_line(remote)} on {link.where}: {why}")


def _tell(progress: Progress | None, at: int, size: int) -> None:
    if progress is not None:
        progress(at, size)
