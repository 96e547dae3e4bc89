"""Streams on a GPU: one execution context, stream and set of buffers each, launched by one thread.

Like trtexec: each stream has one run in flight; the thread waits for them in turn and launches the
next. PyCUDA's context belongs to one thread, so threads would not do. Not run where this was
written (no GPU).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.profiles.bursts import Burst, Clock

if TYPE_CHECKING:
    from graphopt.engines._session import EngineSession
    from graphopt.model import Feeds


class Lane:
    """One stream: what launches a batch on it, and the events around the launch.

    Args:
        session: whose context, stream and buffers it uses.
    """

    def __init__(self, session: EngineSession) -> None:
        self._session = session
        self._feeds: Feeds | None = None
        self._launch: Callable[[], None] | None = None
        self._events: tuple[Any, Any] | None = None
        self.graph = False

    def ready(self, feeds: Feeds) -> None:
        """Bind a batch, unless it is the one that is bound; capture its launch in a CUDA graph."""
        if self._feeds is feeds:
            return
        self._feeds = None
        self._launch, self.graph = self._session.launcher(feeds)
        self._feeds = feeds

    def launch(self) -> None:
        """Queue one run, between two events."""
        assert self._launch is not None, "nothing is bound"
        cuda, stream = self._session.cuda, self._session.stream
        if self._events is None:
            self._events = (cuda.event(), cuda.event())
        cuda.record(self._events[0], stream)
        self._launch()
        cuda.record(self._events[1], stream)

    def elapsed_ms(self) -> float:
        """Wait for the run; return the GPU's time for it, in ms."""
        assert self._events is not None, "nothing was launched"
        return float(self._session.cuda.elapsed_ms(*self._events))


@dataclass(slots=True)
class Lanes:
    """A batch on some streams, as a Timer of ``graphopt.profiles.bursts``.

    Attributes:
        lanes: one a stream; other points use them too, so each burst binds its batch anew.
        feeds: the batch.
        batch: items in it.
        environment: what it runs on.
        clock: nanoseconds.
    """

    lanes: tuple[Lane, ...]
    feeds: Feeds
    batch: int
    environment: Mapping[str, str]
    clock: Clock = time.perf_counter_ns

    @property
    def streams(self) -> int:
        """Runs in flight at a time."""
        return len(self.lanes)

    def burst(self, seconds: float, runs: int, /) -> Burst:
        """See :class:`graphopt.profiles.bursts.Timer`."""
        for lane in self.lanes:
            lane.ready(self.feeds)
        start = self.clock()
        times: list[list[float]] = [[] for _ in self.lanes]
        for lane in self.lanes:
            lane.launch()
        flying = True
        while flying:
            rounds = len(times[0]) + 1
            flying = rounds < max(runs, 1) or self.clock() - start < seconds * 1e9
            for lane, found in zip(self.lanes, times, strict=True):
                found.append(lane.elapsed_ms())
                if flying:
                    lane.launch()
        wall = (self.clock() - start) / 1e6
        return Burst(tuple(s for each in times for s in each), wall)
