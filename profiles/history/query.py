"""Which runs of a history are asked for, and what is told of each without reading all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from graphopt.profiles.history.pack import plain_text
from graphopt.profiles.run import Status

GOOD = "status IN ('pass', 'none')"
COLUMNS = "id, moment, verb, subject, branch, revision, status, machine, batch, samples"
# What pruning leaves alone.
SPARED = (
    "id NOT IN (SELECT run FROM baselines) AND "
    f"id NOT IN (SELECT max(id) FROM runs WHERE {GOOD} GROUP BY subject, branch)"
)


@dataclass(frozen=True, slots=True)
class Query:
    """Which runs: an attribute of None asks for any; ``machine`` is a fingerprint's hash."""

    subject: str | None = None
    branch: str | None = None
    verb: str | None = None
    status: Status | None = None
    machine: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a list shows of a run.

    Attributes:
        id: its number.
        when: UTC, as :attr:`Run.when`.
        commit: of the repository it ran in, or empty.
        machine: hash of its fingerprint, 16 hex digits.
        samples: how many raw samples it has.
        baselines: the names it is a baseline under.
    """

    id: int
    when: str
    verb: str
    subject: str
    branch: str
    commit: str
    status: Status
    machine: str
    batch: int
    samples: int
    baselines: tuple[str, ...] = ()


class Point(NamedTuple):
    """One figure of one run, and what its series is known by: a tuple, for there are many."""

    id: int
    value: float
    unit: str
    when: str
    commit: str
    subject: str
    machine: str
    verb: str
    batch: int


def where(query: Query | None) -> tuple[str, tuple[str, ...]]:
    """Return the SQL that selects these runs, and its values."""
    if query is None:
        return "", ()
    columns = {
        "subject": query.subject,
        "branch": query.branch,
        "verb": query.verb,
        "status": query.status,
        "machine": query.machine,
    }
    given = {name: plain_text(v) for name, v in columns.items() if v is not None}
    if not given:
        return "", ()
    return f"WHERE {' AND '.join(f'{name} = ?' for name in given)}", tuple(given.values())
