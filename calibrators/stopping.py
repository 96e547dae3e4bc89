"""Ctrl-C between two batches, so that what was counted is whole and can be kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, NoReturn, TypeVar

from graphopt.files import STOPPING

Batch = TypeVar("Batch")


class Stopping:
    """Within its block the first Ctrl-C (SIGTERM, SIGHUP) is noted; a second one acts at once.

    Attributes:
        number: the signal that was noted, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._kept: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        """Take the signals over, those whose handler is a function; in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._kept[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._kept.items():
            signal.signal(number, handler)

    def batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches, at least one, until a signal is noted."""
        for i, batch in enumerate(batches):
            if i and self.number is not None:
                return
            yield batch

    def act(self, message: str) -> NoReturn:
        """Do now what the signal noted would have done, with a message.

        Raises:
            KeyboardInterrupt: always; of the kind that the signal's own handler raises.
        """
        if self.number is not None:
            try:
                self._kept[self.number](self.number, None)
            except KeyboardInterrupt as stop:
                stop.args = (message,)
                raise
        raise KeyboardInterrupt(message)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            self._kept[number](number, frame)
        self.number = number
