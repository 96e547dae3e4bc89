"""A link that may break, asked again for as long as one wants to wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from graphopt.engines.remote.link import Link, LinkLost

T = TypeVar("T")
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
SILENT_S = 5.0


class Line:
    """What is asked through it is asked again after the link broke: it must bear being repeated.

    Args:
        link: to the device; a broken one makes its connection anew when it is used again.
        reconnect_s: it is tried again for so many seconds.
    """

    def __init__(self, link: Link, reconnect_s: float) -> None:
        self.link, self._reconnect_s = link, reconnect_s
        self.where = link.where
        self._lost: float | None = None

    def call(self, what: Callable[[Link], T]) -> T:
        """Return ``what`` of the link.

        Raises:
            LinkLost: it broke and did not come back in time.
        """
        pause = FIRST_PAUSE_S
        while True:
            try:
                value = what(self.link)
            except LinkLost:
                now = time.monotonic()
                if self._lost is None:
                    self._lost, pause = now, FIRST_PAUSE_S
                left = self._lost + self._reconnect_s - now
                if left <= 0:
                    raise
                time.sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self.heard()
                return value

    def once(self, what: Callable[[Link], T]) -> T:
        """Return ``what`` of the link; once more where it was found broken, not silent."""
        began = time.monotonic()
        try:
            return what(self.link)
        except LinkLost:
            if time.monotonic() - began > SILENT_S:
                raise
            return what(self.link)

    def heard(self) -> None:
        """Note that the link works: in the middle of a copy, say."""
        self._lost = None
