"""What links have in common: scripts framed, run, listened to and timed."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from graphopt.engines.remote import copying
from graphopt.engines.remote.link import Done, LinkLost, Progress
from graphopt.engines.remote.process import NotStarted, Talk, TimeUp, converse
from graphopt.engines.remote.talk import Frame, Lines, Tail, framed

Sink = Callable[[bytes], object]


class ScriptLink(ABC):
    """A link that hands one line to a shell; a kind of link says which process does that."""

    where: str

    @abstractmethod
    def _words(self, line: str) -> list[str]:
        """Return the command that has a shell over there run ``line``."""

    @abstractmethod
    def _failed(self, status: int, out: Frame, err: Frame) -> Exception:
        """Return what to raise where a script did not come to its end.

        ``status`` is that of the process that :meth:`_words` named.
        """

    @abstractmethod
    def _absent(self, why: str) -> Exception:
        """Return what to raise where that process cannot be started."""

    def _ready(self, limit_s: float) -> None:  # noqa: B027 - not every link has one
        """Make the connection, where there is none."""

    def _broken(self) -> None:  # noqa: B027
        """Leave a connection that does not answer."""

    def _detached(self) -> bool:
        """Return whether commands may be cut off from the terminal."""
        return True

    def exchange(
        self,
        script: str,
        *words: str,
        feed: Iterator[bytes] | None = None,
        out: Sink,
        err: Sink,
        limit_s: float,
    ) -> int:
        """Run ``script``, bytes in and bytes out; return its exit status.

        Raises:
            LinkLost: the link broke, or ``limit_s`` seconds passed.
            EnvironmentProblem: there is no link, or no sh over there.
        """
        until = time.monotonic() + limit_s
        self._ready(limit_s)
        line, outside, aside = framed(script, words, out, err)
        talk = Talk(
            out=outside.feed,
            err=aside.feed,
            feed=feed,
            over=lambda: outside.status is not None and aside.status is not None,
        )
        left = max(until - time.monotonic(), 0.001)
        try:
            ended = converse(self._words(line), talk, left, own_session=self._detached())
        except TimeUp:
            self._broken()
            raise LinkLost(f"{self.where} took longer than {limit_s:g} s: {self._after}") from None
        except NotStarted as problem:
            raise self._absent(str(problem)) from problem
        outside.close()
        aside.close()
        if outside.status is None:
            raise self._failed(ended, outside, aside)
        return outside.status

    _after = "what was started there may go on"

    def run(
        self, script: str, *words: str, stdin: bytes | None = None, limit_s: float = 60.0
    ) -> Done:
        """Run ``script`` with ``words`` as its parameters (:meth:`Link.run`)."""
        out, err = Tail(), Tail()
        feed = None if stdin is None else iter((stdin,) if stdin else ())
        status = self.exchange(script, *words, feed=feed, out=out, err=err, limit_s=limit_s)
        return Done(status, out.text(), err.text())

    def stream(
        self, script: str, *words: str, on_line: Callable[[str], None], limit_s: float
    ) -> int:
        """Run ``script``, handing over its lines (:meth:`Link.stream`)."""
        lines = Lines(on_line)
        status = self.exchange(script, *words, out=lines, err=Tail(1 << 16), limit_s=limit_s)
        lines.close()
        return status

    def put(
        self, local: Path, remote: str, /, *, progress: Progress | None = None, limit_s: float
    ) -> None:
        """Copy a file there (:meth:`Link.put`)."""
        copying.put(self, local, remote, progress, limit_s)

    def get(
        self, remote: str, local: Path, /, *, progress: Progress | None = None, limit_s: float
    ) -> None:
        """Copy a file here (:meth:`Link.get`)."""
        copying.get(self, remote, local, progress, limit_s)

    def close(self) -> None:  # noqa: B027
        """End the connection, where there is one."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()
