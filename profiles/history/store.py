"""A history: runs in one SQLite file that several programs may write at once.

::

    with History.open("history.db") as history:         # made, where there is none
        number = history.add(run)
        history.set_baseline("v1", number)
    with History.open("history.db", write=False) as history:
        number, base = history.baseline("last-good", subject="net.onnx", fingerprint=here)

What :meth:`History.add` returned for is on the disk, whole; what it did not is not there at all.
Runs are in the order they were added in, not that of their clocks, which differ.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from graphopt.errors import UsageError
from graphopt.profiles.history.baseline import check_name, find
from graphopt.profiles.history.check import problems
from graphopt.profiles.history.file import connect, told, transaction
from graphopt.profiles.history.pack import (
    SEARCHED,
    figure_rows,
    fingerprint_hash,
    pack,
    plain_text,
    searched,
    unpack,
)
from graphopt.profiles.history.query import COLUMNS, SPARED, Entry, Point, Query, where
from graphopt.profiles.run import STATUSES, Run
from graphopt.wording import one_line

Column = Literal["subject", "branch", "machine"]
WAIT_S = 30.0  # for the lock; 8 writers at once wait for hundredths of a second
_PAGE = 500


class History:
    """An open history file; see :meth:`open`. For one thread; each opens its own."""

    def __init__(self, path: Path, connection: sqlite3.Connection, wait_s: float) -> None:
        self.path, self._connection, self._wait_s = path, connection, wait_s

    @classmethod
    def open(cls, path: str | Path, *, write: bool = True, wait_s: float = WAIT_S) -> History:
        """Open a history, to be closed or used as a context.

        Args:
            path: the file.
            write: to add to it; it is made where there is none.
            wait_s: how long to wait for others that are writing, in seconds.

        Raises:
            UsageError: without ``write`` there is none; the file is something else, of a newer
                graphopt, or damaged.
            EnvironmentProblem: another program holds its lock for longer.
            OutputError: it may not be written, or the disk is full.
        """
        path = Path(path)
        return cls(path, connect(path, write=write, wait_s=wait_s), wait_s)

    def __enter__(self) -> History:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was added is there already."""
        self._connection.close()

    def add(self, run: Run) -> int:
        """Add a run; return its number once it is on the disk.

        Raises:
            UsageError: it is larger than a history keeps.
            EnvironmentProblem: another program holds the lock for too long.
            OutputError: the file may not be written, or the disk is full.
        """
        packed = pack(run)
        with told(self.path), transaction(self._connection, wait_s=self._wait_s):
            return self._insert(run, packed)

    def add_missing(self, runs: Iterable[Run]) -> tuple[int, int]:
        """Add those of ``runs`` that are not there yet, all or none; return added and present.

        Two runs are the same if everything of them is, raw samples included.
        """
        added = present = 0
        with told(self.path), transaction(self._connection, wait_s=self._wait_s):
            for run in runs:
                packed = pack(run)
                if self.rows("SELECT 1 FROM runs WHERE digest = ?", (packed[2],)):
                    present += 1
                else:
                    self._insert(run, packed)
                    added += 1
        return added, present

    def _insert(self, run: Run, packed: tuple[bytes, bytes, str]) -> int:
        record, samples, digest = packed
        names = SEARCHED.replace("runs.", "")
        number = self._connection.execute(
            f"INSERT INTO runs ({names}, digest) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (*searched(run), digest),
        ).lastrowid
        assert number is not None
        self._connection.execute("INSERT INTO details VALUES (?,?,?)", (number, record, samples))
        self._connection.executemany(
            "INSERT INTO figures VALUES (?,?,?,?)", [(number, *row) for row in figure_rows(run)]
        )
        return number

    def get(self, number: int) -> Run:
        """Return a run as it was added, raw samples included; its digest is checked.

        Raises:
            UsageError: there is none of that number, or what is there is damaged.
        """
        rows = self.rows(
            f"SELECT details.record, details.samples, digest, {SEARCHED} "
            "FROM runs LEFT JOIN details ON run = id WHERE id = ?",
            (self.existing(number),),
        )
        try:
            if not rows:
                raise UsageError("damaged: an index tells of it, and nothing else")
            record, samples, digest, *listed = rows[0]
            run = unpack(record, samples, digest)
            if tuple(listed) != searched(run):
                raise UsageError("damaged: what lists show of it is not what was added")
        except UsageError as problem:
            raise UsageError(f"run {number} of {self.path} is {problem}") from problem
        return run

    def runs(
        self, query: Query | None = None, *, limit: int | None = None
    ) -> Iterator[tuple[int, Run]]:
        """Yield numbers and runs, newest first, without raw samples.

        Read in pages: nobody who writes has to wait for whoever looks at them.
        """
        entries = iter(self.entries(query, limit=limit))
        while page := list(islice(entries, _PAGE)):
            numbers = [entry.id for entry in page]
            marks = ",".join("?" * len(numbers))
            found = dict(
                self.rows(f"SELECT run, record FROM details WHERE run IN ({marks})", numbers)
            )
            for number in numbers:
                if number in found:  # else pruned meanwhile
                    try:
                        yield number, unpack(found[number], None, None)
                    except UsageError as problem:
                        raise UsageError(f"run {number} of {self.path} is {problem}") from problem

    def entries(
        self,
        query: Query | None = None,
        *,
        limit: int | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Entry]:
        """Return what a list shows of runs, newest first; of those ``numbers`` only, if given."""
        clause, values = where(query)
        if numbers is not None:
            clause = f"{clause} AND" if clause else "WHERE"
            clause += f" id IN ({','.join(str(int(n)) for n in numbers)})"
        rows = self.rows(
            f"SELECT {COLUMNS} FROM runs {clause} ORDER BY id DESC LIMIT ?",
            (*values, -1 if limit is None else limit),
        )
        names = self._names()
        return [self._entry(row, names) for row in rows]

    def series(
        self, figure: str, query: Query | None = None, *, limit: int | None = None
    ) -> list[Point]:
        """Return one figure of the newest ``limit`` runs that have it, oldest first."""
        clause, values = where(query)
        rows = self.rows(
            "SELECT id, value, unit, moment, revision, subject, machine, verb, batch "
            "FROM runs CROSS JOIN figures ON figures.run = runs.id AND figures.name = ? "
            f"{clause} ORDER BY id DESC LIMIT ?",
            (plain_text(figure), *values, -1 if limit is None else limit),
        )
        # By column: as much as that costs of the time of a plot, of as many runs as there may be.
        for column, kind in zip(zip(*rows, strict=True), _POINT, strict=False):
            if set(map(type, column)) != {kind} or (kind is float and not _finite(column)):
                raise UsageError(f"{self.path} is damaged: a column holds something else")
        return [Point._make(row) for row in reversed(rows)]

    def values(self, figure: str, numbers: Sequence[int]) -> dict[int, tuple[float, str]]:
        """Return one figure of these runs with its unit, by run; those without it are left out."""
        found: dict[int, tuple[float, str]] = {}
        for start in range(0, len(numbers), _PAGE):
            some = list(numbers[start : start + _PAGE])
            marks = ",".join("?" * len(some))
            rows = self.rows(
                f"SELECT run, value, unit FROM figures WHERE name = ? AND run IN ({marks})",
                [plain_text(figure), *some],
            )
            found.update({r: (v, str(u)) for r, v, u in rows if isinstance(v, float)})
        return found

    def measured(self, query: Query | None = None) -> list[tuple[str, int]]:
        """Return the names of the figures that such runs have, and how many have each."""
        clause, values = where(query)
        rows = self.rows(
            "SELECT name, count(*) FROM figures WHERE run IN "
            f"(SELECT id FROM runs {clause}) GROUP BY name ORDER BY name",
            values,
        )
        return [(str(name), int(count)) for name, count in rows]

    def count(self) -> int:
        """Return how many runs there are."""
        return int(self.rows("SELECT count(*) FROM runs")[0][0])

    def distinct(self, column: Column) -> list[str]:
        """Return what there is of one of these, sorted; a thousand at most."""
        rows = self.rows(f"SELECT DISTINCT {column} FROM runs LIMIT 1000")
        return sorted(str(value) for (value,) in rows)

    def set_baseline(self, name: str, number: int) -> None:
        """Let a run be the baseline of its subject under ``name``, in place of another.

        Raises:
            UsageError: the name means something else already, or there is no such run.
        """
        check_name(name)
        with told(self.path), transaction(self._connection, wait_s=self._wait_s):
            self.existing(number)
            self._connection.execute(
                "INSERT OR REPLACE INTO baselines SELECT ?, subject, id FROM runs WHERE id = ?",
                (name, number),
            )

    def drop_baseline(self, name: str, subject: str | None = None) -> int:
        """Forget a name, of one subject or of all; return how many were so called."""
        with told(self.path), transaction(self._connection, wait_s=self._wait_s):
            also, values = ("", ()) if subject is None else (" AND subject = ?", (subject,))
            return self._connection.execute(
                f"DELETE FROM baselines WHERE name = ?{also}", (name, *values)
            ).rowcount

    def baselines(self) -> list[tuple[str, str, int]]:
        """Return name, subject and run of each baseline, by name."""
        rows = self.rows("SELECT name, subject, run FROM baselines ORDER BY name, subject")
        return [(str(name), str(subject), int(run)) for name, subject, run in rows]

    def baseline(
        self,
        ref: str,
        *,
        subject: str | None = None,
        branch: str | None = None,
        fingerprint: Mapping[str, str] | None = None,
        verb: str | None = None,
        with_samples: bool = False,
    ) -> tuple[int, Run]:
        """Return number and run of a baseline, raw samples included.

        Args:
            ref: a name that was set; ``branch:NAME``, the newest good run of that branch;
                ``last-good``, the newest good run; ``run:NUMBER``. Good is what met its gates, or
                had none to meet; a failed run is not, nor one that could not tell.
            subject: only of this subject.
            branch: only of this branch.
            fingerprint: only of machines with it.
            verb: only of this verb.
            with_samples: only runs that have raw samples.

        Raises:
            UsageError: there is none; it says what there is.
        """
        machine = None if fingerprint is None else fingerprint_hash(fingerprint)
        asked = Query(subject, branch, verb, None, machine)
        number = find(self, ref, asked, with_samples=with_samples)
        return number, self.get(number)

    def prune(
        self, *, keep: int | None = None, before: str | None = None, dry_run: bool = False
    ) -> list[int]:
        """Remove old runs and give their room back; return their numbers.

        Baselines stay, and the newest good run of each subject and branch.

        Args:
            keep: what is not among the newest ``keep`` of its subject may go.
            before: what ran before this time (UTC, as :attr:`Run.when`) may go; where a run's time
                is not known it stays. With ``keep``, only what is both goes.
            dry_run: only say which would go.

        Raises:
            UsageError: neither was given.
        """
        if keep is None and before is None:
            raise UsageError("say what to keep: a number of runs, or an age")
        conditions: list[str] = [SPARED]
        values: list[object] = []
        if keep is not None:
            conditions.append(
                "id NOT IN (SELECT id FROM (SELECT id, ROW_NUMBER() OVER "
                "(PARTITION BY subject ORDER BY id DESC) AS place FROM runs) WHERE place <= ?)"
            )
            values.append(keep)
        if before is not None:
            conditions.append("moment GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T*'")
            conditions.append("moment < ?")
            values.append(before)
        clause = " AND ".join(conditions)
        with told(self.path), transaction(self._connection, wait_s=self._wait_s):
            gone = [int(n) for (n,) in self.rows(f"SELECT id FROM runs WHERE {clause}", values)]
            if not dry_run:
                self._connection.executemany("DELETE FROM runs WHERE id = ?", [(n,) for n in gone])
        if gone and not dry_run:
            # What was pruned stays so where there is no room for a copy, or another is reading.
            with suppress(sqlite3.OperationalError):
                self._connection.execute("VACUUM")
        return gone

    def check(self) -> list[str]:
        """Look at every page, index, reference and run; return what is wrong, a line each."""
        return problems(self)

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all that a query of our own gives, read whole: nobody waits for a reader."""
        with told(self.path):
            return self._connection.execute(sql, values).fetchall()

    def existing(self, number: int) -> int:
        """Return the number of a run that is there.

        Raises:
            UsageError: it is not.
        """
        if not self.rows("SELECT 1 FROM runs WHERE id = ?", (max(0, min(number, 2**62)),)):
            raise UsageError(f"{self.path} has no run {number}; 'graphopt history list' shows them")
        return number

    def _names(self) -> dict[int, tuple[str, ...]]:
        names: dict[int, tuple[str, ...]] = {}
        for name, _, run in self.baselines():
            names[run] = (*names.get(run, ()), name)
        return names

    def _entry(self, row: Sequence[Any], names: Mapping[int, tuple[str, ...]]) -> Entry:
        number, *texts, batch, samples = row
        whole = all(type(n) is int for n in (number, batch, samples))
        if not whole or not all(type(t) is str for t in texts) or texts[5] not in STATUSES:
            raise self._strange(number)
        when, verb, subject, branch, commit, status, machine = texts
        return Entry(
            number,
            when,
            verb,
            subject,
            branch,
            commit,
            status,
            machine,
            batch,
            samples,
            names.get(number, ()),
        )

    def _strange(self, number: object) -> UsageError:
        return UsageError(f"run {one_line(number, 20)} of {self.path} is damaged: wrong types")


_POINT = (int, float, str, str, str, str, str, str, int)


def _finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))
