"""Who has the device, and since when, as it is told to whoever waits for it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from graphopt.errors import EnvironmentProblem
from graphopt.wording import one_line

_HELD = re.compile(r"held (\d{1,10}) (\d{1,10}) (\S+) ?(.*)")


def spell_holder(text: str) -> str:
    """Word what ``holder`` of ``shared.sh`` printed: process, seconds, user, what it does."""
    if found := _HELD.fullmatch(text.strip()):
        pid, seconds, user, what = found.groups()
        since = time_span(int(seconds))
        doing = f": {one_line(what, 80)}" if one_line(what) else ""
        return f"{one_line(user, 40)} (process {pid} there) has had it for {since}{doing}"
    if text.startswith("blocked "):
        return f"{one_line(text[8:], 200)} is in the way: have it removed there"
    return "it is taken"


def time_span(seconds: int) -> str:
    """Return a time as people say it: ``"40 s"``, ``"12 min"``, ``"3 h"``."""
    if seconds < 100:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 6000 else f"{seconds // 3600} h"


class Queue:
    """One client's wait for the device: says so at first and then rarely; ends at a limit."""

    def __init__(
        self, where: str, tell: Callable[[str], None], limit_s: float, remind_s: float
    ) -> None:
        self._where, self._tell = where, tell
        self._limit_s, self._remind_s = limit_s, remind_s
        self._began = self._told = float("-inf")

    def still(self, why: str) -> None:
        """Note that the device is still not ours.

        Raises:
            EnvironmentProblem: that has been so for as long as one may wait.
        """
        now = time.monotonic()
        if self._began == float("-inf"):
            self._began = now
        waited = now - self._began
        if waited > self._limit_s:
            raise EnvironmentProblem(
                f"{self._where} was not free within {time_span(int(self._limit_s))}: {why}"
            )
        if now - self._told >= self._remind_s:
            self._told = now
            self._tell(f"waiting for {self._where}: {why}")

    def over(self) -> None:
        """Note that it is ours: another wait is a new one."""
        self._began = self._told = float("-inf")
