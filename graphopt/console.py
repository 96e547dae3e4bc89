"""What the command line shows: progress bars on a terminal, plain lines elsewhere.

Results go to standard output, everything else to standard error, so that ``--json`` pipes.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

Advance = Callable[[int], None]


class PipeConsole(RichConsole):
    """Tells a closed pipe like any other error; rich would end with the code of a failed gate."""

    def on_broken_pipe(self) -> None:
        """Raise what rich has caught."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@dataclass(slots=True)
class Console:
    """Where messages go.

    Attributes:
        verbosity: -1 quiet (warnings and results only), 0 normal, 1 every refusal and change.
        json: results are JSON on standard output; tables are left out.
    """

    verbosity: int = 0
    json: bool = False
    out: RichConsole = field(default_factory=lambda: PipeConsole(soft_wrap=True, highlight=False))
    err: RichConsole = field(
        default_factory=lambda: PipeConsole(stderr=True, soft_wrap=True, highlight=False)
    )
    warnings: list[str] = field(default_factory=list)

    def info(self, text: str) -> None:
        """Say what is being done."""
        if self.verbosity >= 0:
            self.err.print(escape(text))

    def detail(self, text: str) -> None:
        """Say what only ``-v`` shows."""
        if self.verbosity >= 1:
            self.err.print(f"  {escape(text)}", style="dim")

    def warn(self, text: str) -> None:
        """Say and remember what the user must know; each text once."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.err.print(f"warning: {escape(text)}", style="yellow")

    def result(self, text: str) -> None:
        """Print a line of the result itself, to standard output."""
        self.out.print(escape(text))

    def raw(self, text: str) -> None:
        """Write to standard output exactly as it is (JSON, a plan)."""
        self.out.file.write(text)

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table: drawn on a terminal, aligned plain text elsewhere."""
        if self.json:
            return
        right = [i > 0 and _figures(row[i] for row in rows) for i in range(len(head))]
        if self.out.is_terminal:
            drawn = Table(title=title, title_justify="left")
            for name, to_right in zip(head, right, strict=True):
                drawn.add_column(name, justify="right" if to_right else "left")
            for row in rows:
                drawn.add_row(*[escape(cell) for cell in row])
            self.out.print(drawn)
            return
        if title:
            self.result(title)
        cells = [list(head), *[list(row) for row in rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        for row in cells:
            line = "  ".join(
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(row, widths, right, strict=True)
            )
            self.result(f"  {line}".rstrip())

    @contextmanager
    def progress(self, what: str, total: int | None) -> Iterator[Advance]:
        """Show progress over ``total`` items; yields a function to advance it by n."""
        if self.verbosity < 0:
            yield lambda _: None
        elif self.err.is_terminal:
            bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self.err,
                transient=True,
            )
            with bar:
                task = bar.add_task(escape(what), total=total)
                yield lambda n: bar.advance(task, n)
        else:
            yield self._plain(what, total)

    def _plain(self, what: str, total: int | None) -> Advance:
        done, last = 0, time.monotonic()

        def advance(n: int) -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            if now - last > 10:
                last = now
                self.info(f"{what}: {done}" + (f" of {total}" if total else ""))

        return advance


def _figures(cells: Iterable[str]) -> bool:
    """Whether a column holds figures, which stand to the right; a dash stands for one."""
    return all(cell in ("", "-") or cell[cell[0] in "+-" :][:1].isdigit() for cell in cells)
