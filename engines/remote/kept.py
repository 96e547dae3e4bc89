"""The log of a job: handed on line by line, and kept in part where it is long."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from graphopt.wording import one_line

FIRST = 256 << 10
LAST = 2 << 20
LONGEST_LINE = 4096


class Log:
    """Takes lines, passes each on without control characters; keeps the first and last of them."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._first: list[str] = []
        self._last: deque[str] = deque()
        self._first_size = self._last_size = self._left_out = 0

    def take(self, text: str) -> None:
        """Take whole lines."""
        for raw in text.removesuffix("\n").split("\n") if text else []:
            indent = raw[: len(raw) - len(raw.lstrip(" \t"))][:64].expandtabs()
            line = indent + one_line(raw, LONGEST_LINE)
            self._keep(line)
            self._on_line(line)

    def _keep(self, line: str) -> None:
        size = len(line) + 1
        if not self._last and self._first_size + size <= FIRST:
            self._first.append(line)
            self._first_size += size
            return
        self._last.append(line)
        self._last_size += size
        while self._last_size > LAST:
            self._last_size -= len(self._last.popleft()) + 1
            self._left_out += 1

    def text(self) -> str:
        """Return what was kept, with a line that says how many are left out, if any."""
        gap = [f"[{self._left_out} lines left out]"] if self._left_out else []
        lines = [*self._first, *gap, *self._last]
        return "".join(f"{line}\n" for line in lines)

    def tail(self, most: int = 20) -> str:
        """Return the last ``most`` lines."""
        recent = list(self._last)[-most:]
        if len(recent) < most:
            recent = [*self._first[-(most - len(recent)) :], *recent]
        return "\n".join(recent)
