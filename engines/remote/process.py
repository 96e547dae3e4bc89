"""A child process fed and listened to at once, within a time limit, and gone afterwards."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from graphopt.files import uninterrupted

PIECE = 1 << 16
GRACE_S = 2.0


class TimeUp(Exception):
    """The time limit passed; the process is gone."""


class NotStarted(Exception):
    """The command could not be started; its cause is the ``OSError``."""


@dataclass(frozen=True)
class Talk:
    """What goes into a process and who takes what comes out.

    Attributes:
        feed: bytes for its stdin, piece by piece, then its end; None: an empty stdin.
        out, err: take what it prints.
        over: whether all that is wanted has come, though the process may still hold its pipes.
    """

    out: Callable[[bytes], object]
    err: Callable[[bytes], object]
    feed: Iterator[bytes] | None = None
    over: Callable[[], bool] = lambda: False


def converse(
    words: Sequence[str],
    talk: Talk,
    limit_s: float,
    *,
    own_session: bool = True,
) -> int:
    """Run ``words``; return its exit status (negative: the signal that ended it).

    Whatever happens (the limit, Ctrl-C, an error in a sink), the process has ended when this
    returns and those it started in its group are killed; after a normal end they are left.

    Args:
        words: the command.
        talk: what goes in and out.
        limit_s: the most seconds it may take.
        own_session: cut it off from the terminal, so that Ctrl-C reaches only this process.

    Raises:
        TimeUp: the limit passed.
        NotStarted: there is no such command, or it may not be run.
    """
    until = time.monotonic() + limit_s
    child: subprocess.Popen[bytes] | None = None
    ended = False
    try:
        try:
            with uninterrupted():
                child = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL if talk.feed is None else subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=own_session,
                )
        except OSError as problem:
            raise NotStarted(problem.strerror) from problem
        ended = _exchange(child, talk, until)
        return child.returncode if ended else 0
    finally:
        if child is not None:
            with uninterrupted():
                _leave(child, ended, own_session)


def _exchange(child: subprocess.Popen[bytes], talk: Talk, until: float) -> bool:
    """Pass bytes both ways until the process has ended, True, or all wanted came, False."""
    with selectors.DefaultSelector() as ready:
        for stream, sink in ((child.stdout, talk.out), (child.stderr, talk.err)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                ready.register(stream, selectors.EVENT_READ, sink)
        feeding = _Feed(child.stdin, talk.feed) if child.stdin and talk.feed else None
        if feeding is not None:
            ready.register(feeding.pipe, selectors.EVENT_WRITE, None)
        last_words: float | None = None
        while True:
            now = time.monotonic()
            if now >= until:
                raise TimeUp
            gone = child.poll() is not None  # before looking: what it wrote last is there then
            events = ready.select(0.0 if gone else min(until - now, 0.005 if last_words else 0.5))
            heard = False
            for key, _ in events:
                if feeding is not None and key.fileobj is feeding.pipe:
                    if not feeding.push():
                        ready.unregister(feeding.pipe)
                        feeding.pipe.close()
                        feeding = None
                else:
                    heard = True
                    if not _pull(key.fileobj, key.data):  # type: ignore[arg-type]
                        ready.unregister(key.fileobj)
            listening = any(k.events & selectors.EVENT_READ for k in ready.get_map().values())
            if gone and (not listening or not heard or talk.over()):
                # Whoever else holds the pipes (a master gone to the background) is not waited for.
                return True
            if not listening or talk.over():
                last_words = last_words or time.monotonic() + GRACE_S
                if time.monotonic() >= last_words:
                    return False


class _Feed:
    """What is still to go into a pipe."""

    def __init__(self, pipe: IO[bytes], pieces: Iterator[bytes]) -> None:
        self.pipe = pipe
        self._pieces = pieces
        self._left = memoryview(b"")
        os.set_blocking(pipe.fileno(), False)

    def push(self) -> bool:
        """Write what the pipe takes now; False: all is written, or nobody reads any more."""
        while not self._left:
            try:
                self._left = memoryview(next(self._pieces))
            except StopIteration:
                return False
        try:
            self._left = self._left[os.write(self.pipe.fileno(), self._left) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        return True


def _pull(pipe: IO[bytes], sink: Callable[[bytes], object]) -> bool:
    """Hand over what is in ``pipe``; False at its end."""
    try:
        data = os.read(pipe.fileno(), PIECE)
    except BlockingIOError:
        return True
    if data:
        sink(data)
    return bool(data)


def _leave(child: subprocess.Popen[bytes], ended: bool, group: bool) -> None:
    """Close the pipes; end the process, and its group, unless it ended by itself."""
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    if ended:
        child.wait()
        return
    _signal(child, signal.SIGTERM, group)
    with suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
    _signal(child, signal.SIGKILL, group)
    child.wait()


def _signal(child: subprocess.Popen[bytes], number: int, group: bool) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if group:  # the leader of a session: its id is the group's, also when it has ended
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
