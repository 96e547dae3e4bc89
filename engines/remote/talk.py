"""One command and what it prints, marked off from whatever else comes through the same pipes.

A login shell may print before a command, ssh itself writes to stderr, and an exit status of 255 is
ssh's word for any trouble of its own. So each script is framed: a marker that nobody can guess
before its output, another one with its exit status behind, on both streams.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from graphopt.engines.remote.link import quoted

KEPT = 4 << 20
"""The most bytes of a script's output that are kept."""

NOISE = 1 << 16
LINE = 1 << 16

# The markers are put together over there: a list of processes does not hold them.
_FRAMED = r"""
nonce=$1; script=$2; shift 2
printf '<%s:begin>\n' "$nonce"; printf '<%s:begin>\n' "$nonce" >&2
sh -c "$script" sh "$@"
status=$?
printf '<%s:end>%d\n' "$nonce" "$status"; printf '<%s:end>%d\n' "$nonce" "$status" >&2
"""


class Tail:
    """Keeps the last ``most`` bytes of all it is given."""

    def __init__(self, most: int = KEPT) -> None:
        self.most = most
        self.total = 0
        self._kept = bytearray()

    def __call__(self, data: bytes) -> None:
        """Take ``data``."""
        self.total += len(data)
        self._kept += data
        if len(self._kept) > 2 * self.most:  # so that a byte is moved once, not each time
            del self._kept[: -self.most]

    def text(self) -> str:
        """Return what was kept, with a line before it where that is not all."""
        kept = bytes(self._kept[-self.most :])
        lost = self.total - len(kept)
        note = f"[the first {lost} bytes are left out]\n" if lost else ""
        return note + kept.decode(errors="replace")


class Lines:
    """Cuts bytes into lines; one longer than 64 KiB is cut into several."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.on_line = on_line
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        """Take ``data``, hand over the lines that it ends."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._hand_over(line)
        while len(self._rest) >= LINE:
            self.on_line(self._rest[:LINE].decode(errors="replace"))
            self._rest = self._rest[LINE:]

    def close(self) -> None:
        """Hand over what came without a line's end."""
        if self._rest:
            self._hand_over(self._rest)
        self._rest = b""

    def _hand_over(self, line: bytes) -> None:
        self.on_line(line.removesuffix(b"\r").decode(errors="replace"))


@dataclass
class Frame:
    """What one stream carried between its markers, handed to ``sink`` piece by piece.

    Attributes:
        outside: what came before the first marker: noise, or ssh's own complaints.
        begun: the first marker came.
        status: the script's exit status, once the second marker came.
    """

    begin: bytes
    end: bytes
    sink: Callable[[bytes], object]
    begun: bool = False
    status: int | None = None
    outside: Tail = field(default_factory=lambda: Tail(NOISE))
    _held: bytes = b""

    def feed(self, data: bytes) -> None:
        """Take what came through the pipe."""
        if self.status is not None:
            self.outside(data)
            return
        self._held += data
        if not self.begun:
            before, found, rest = self._held.partition(self.begin)
            if not found:
                self._held = self._spare(self._held, self.begin, self.outside)
                return
            self.outside(before)
            self.begun, self._held = True, rest
        inside, found, rest = self._held.partition(self.end)
        if not found:
            self._held = self._spare(self._held, self.end, self.sink)
            return
        if b"\n" not in rest[:5]:
            if len(rest) < 5:
                return  # the status is still under way
            rest = b"255\n"
        if inside:
            self.sink(inside)
        status, _, after = rest.partition(b"\n")
        self.status = int(status) if status.isdigit() else 255
        self.outside(after)
        self._held = b""

    def close(self) -> None:
        """Take what was held back because a marker might have begun in it."""
        (self.sink if self.begun else self.outside)(self._held)
        self._held = b""

    @staticmethod
    def _spare(held: bytes, marker: bytes, sink: Callable[[bytes], object]) -> bytes:
        """Hand over what cannot be the beginning of ``marker``; return the rest."""
        keep = 0
        for size in range(min(len(marker) - 1, len(held)), 0, -1):
            if held.endswith(marker[:size]):
                keep = size
                break
        cut = len(held) - keep
        if cut:
            sink(held[:cut])
        return held[cut:]


def framed(
    script: str,
    words: tuple[str, ...],
    out: Callable[[bytes], object],
    err: Callable[[bytes], object],
) -> tuple[str, Frame, Frame]:
    """Return the line for the login shell, and the frames for its stdout and stderr."""
    nonce = secrets.token_hex(16)
    marks = (f"<{nonce}:begin>\n".encode(), f"<{nonce}:end>".encode())
    line = quoted(_FRAMED, (nonce, script, *words))
    return line, Frame(*marks, out), Frame(*marks, err)
