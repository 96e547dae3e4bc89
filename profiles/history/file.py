"""The SQLite file of a history: opened, made, brought up to date; its errors in one line.

Anybody may have written the file. It is used only where its tables, to the letter, are ours: no
trigger, no view and no computed column can then run. What the columns hold is checked by who reads
them. See docs/decisions/012-a-history-is-one-file.md for the journal.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from graphopt.errors import EnvironmentProblem, GraphoptError, OutputError, UsageError
from graphopt.wording import one_line

APPLICATION_ID = 0x67704F68  # "gpOh"
# What brings a file from one schema to the next: a file of schema n has had the first n steps.
# Steps are only ever added. No STRICT: Jetsons and long-lived distributions have older SQLites.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            moment TEXT NOT NULL,
            verb TEXT NOT NULL,
            subject TEXT NOT NULL,
            branch TEXT NOT NULL,
            revision TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('pass', 'fail', 'inconclusive', 'none')),
            machine TEXT NOT NULL,
            batch INTEGER NOT NULL,
            samples INTEGER NOT NULL CHECK (samples >= 0),
            sha256 TEXT NOT NULL,
            model_digest TEXT NOT NULL,
            digest TEXT NOT NULL CHECK (length(digest) = 64)
        )""",
        "CREATE INDEX runs_by_subject ON runs (subject, id)",
        "CREATE INDEX runs_by_branch ON runs (branch, id)",
        "CREATE INDEX runs_by_machine ON runs (machine, id)",
        "CREATE INDEX runs_by_digest ON runs (digest)",
        # Wide rows apart, so that lists read little; the samples behind the record for the same.
        """CREATE TABLE details (
            run INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
            record BLOB NOT NULL CHECK (typeof(record) = 'blob'),
            samples BLOB NOT NULL CHECK (typeof(samples) = 'blob')
        )""",
        """CREATE TABLE figures (
            run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
            name TEXT NOT NULL,
            value REAL NOT NULL,
            unit TEXT NOT NULL,
            PRIMARY KEY (run, name)
        ) WITHOUT ROWID""",
        """CREATE TABLE baselines (
            name TEXT NOT NULL,
            subject TEXT NOT NULL,
            run INTEGER NOT NULL REFERENCES runs (id) ON DELETE RESTRICT,
            PRIMARY KEY (name, subject)
        ) WITHOUT ROWID""",
        "CREATE INDEX baselines_by_run ON baselines (run)",
    ),
)
_LONGEST = 256 << 20  # bytes of a value or a row: more than pack() makes


def connect(path: Path, *, write: bool, wait_s: float) -> sqlite3.Connection:
    """Open a history file; with ``write`` make it, or bring it to this schema.

    Never opened but by SQLite: closing any other handle would drop this process's locks on it.

    Raises:
        UsageError: there is none, or the file is something else, newer or damaged.
        EnvironmentProblem: it is locked for longer than ``wait_s`` seconds.
        OutputError: it may not be written, or the disk is full.
    """
    _check_path(path, write)
    with told(path):
        uri = f"{path.absolute().as_uri()}?mode={'rwc' if write else 'rw'}"
        connection = sqlite3.connect(uri, uri=True, timeout=wait_s, isolation_level=None)
        try:
            _harden(connection, write)
            with transaction(connection, "DEFERRED", wait_s):
                current = _check(connection, path)
            if current != len(STEPS):
                _bring_up(connection, path, write, current, wait_s)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def transaction(
    connection: sqlite3.Connection, kind: str = "IMMEDIATE", wait_s: float = 30.0
) -> Iterator[None]:
    """Do all of the block or nothing.

    IMMEDIATE takes the lock for writing first, so that waiting cannot deadlock. SQLite waits by
    itself, but not in every case (a journal that another is rolling back): so again until then.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            connection.execute(f"BEGIN {kind}")
            break
        except sqlite3.OperationalError as problem:
            if "locked" not in str(problem) or time.monotonic() >= until:
                raise
            time.sleep(0.01)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell what SQLite says in one line, with what to do."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as problem:  # the latter from a damaged schema
        raise _error(path, str(problem)) from problem


def _error(path: Path, said: str) -> GraphoptError:
    # By text: Python gives SQLite's codes from 3.11 on.
    if "locked" in said or "busy" in said:
        return EnvironmentProblem(f"{path} is locked by another program; try again later")
    if "full" in said:
        return OutputError(f"no space left on the disk that holds {path}: free some")
    if "readonly" in said:
        return OutputError(f"may not write {path}, or the folder it is in")
    if "unable to open" in said:
        return OutputError(f"cannot open {path}, or write in the folder it is in")
    if "disk I/O" in said:
        return OutputError(f"the disk that holds {path} gave an error; try again")
    if "not a database" in said:
        return UsageError(f"{path} is no history: not an SQLite file")
    return UsageError(
        f"{path} is damaged ({one_line(said, 80)}): take a copy made before, "
        "or what sqlite3's .recover saves"
    )


def _check_path(path: Path, write: bool) -> None:
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; a history is a file")
        if path.exists():
            if not path.is_file():
                raise UsageError(f"{path} is not a plain file")
        elif not write:
            raise UsageError(f"no such file: {path}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise OutputError(f"cannot open {path}: {problem.strerror or problem}") from problem


def _harden(connection: sqlite3.Connection, write: bool) -> None:
    if hasattr(connection, "setlimit"):  # from Python 3.11 on
        connection.setlimit(0, _LONGEST)  # SQLITE_LIMIT_LENGTH
    for pragma in (
        "trusted_schema = OFF",  # functions with side effects run for nobody's view or trigger
        "cell_size_check = ON",  # a page that contradicts itself is found when it is read
        "foreign_keys = ON",
        "temp_store = MEMORY",
        "synchronous = EXTRA",  # on the disk, its folder too, before it is acknowledged
        *(() if write else ("query_only = ON",)),
    ):
        connection.execute(f"PRAGMA {pragma}")


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """Return the file's schema, 0 for an empty file; refuse what is not ours."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    found = _schema(connection)
    if not found and application in (0, APPLICATION_ID) and version == 0:
        return 0
    if application != APPLICATION_ID:
        raise UsageError(f"{path} is an SQLite file of another program, not a history")
    if version > len(STEPS):
        raise UsageError(
            f"{path} was written by a newer graphopt (schema {version}; this reads {len(STEPS)}): "
            "upgrade graphopt"
        )
    if version < 1 or found != _expected(version):
        strange = sorted(
            {row[:2] for row in found} ^ {row[:2] for row in _expected(max(version, 1))}
        )
        which = "; ".join(f"{kind} '{one_line(name, 40)}'" for kind, name in strange[:3])
        raise UsageError(
            f"the tables of {path} are not as graphopt makes them"
            f"{f' ({which})' if which else ''}: it is not used, for what it holds may do harm"
        )
    return int(version)


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master "
        "WHERE name NOT LIKE 'sqlite~_stat%' ESCAPE '~' LIMIT 1000"  # ANALYZE makes those
    ).fetchall()
    return sorted((str(kind), str(name), str(sql)) for kind, name, sql in rows)


def _expected(version: int) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        _apply(connection, STEPS[:version])
        return _schema(connection)


def _apply(connection: sqlite3.Connection, steps: Sequence[Sequence[str]]) -> None:
    for step in steps:
        for statement in step:
            connection.execute(statement)


def _bring_up(
    connection: sqlite3.Connection, path: Path, write: bool, current: int, wait_s: float
) -> None:
    """Make the tables, or take the steps that the file lacks, in one transaction."""
    if not write:
        if current == 0:
            raise UsageError(f"{path} is empty: no run was added to it")
        connection.execute("PRAGMA query_only = OFF")
    with transaction(connection, wait_s=wait_s):
        current = _check(connection, path)  # again: another may have been here first
        _apply(connection, STEPS[current:])
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
    if not write:
        connection.execute("PRAGMA query_only = ON")
