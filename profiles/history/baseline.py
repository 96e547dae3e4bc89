"""Which run a baseline's name means, and why none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphopt.errors import UsageError
from graphopt.profiles.history.query import GOOD, Query, where
from graphopt.registry import did_you_mean
from graphopt.wording import one_line

if TYPE_CHECKING:
    from graphopt.profiles.history.store import History

LAST_GOOD = "last-good"
BRANCH, RUN = "branch:", "run:"
_MOST_NAME = 200


def check_name(name: str) -> None:
    """Refuse what cannot name a baseline, or means something else already.

    Raises:
        UsageError: it is such a name.
    """
    if not name.isprintable() or not 0 < len(name) <= _MOST_NAME or name != name.strip():
        raise UsageError(f"'{one_line(name, 40)}' cannot name a baseline: use a few letters")
    if name.isdecimal():
        raise UsageError(f"'{name}' is the number of a run: name the baseline otherwise")
    if name == LAST_GOOD or name.startswith((BRANCH, RUN)):
        raise UsageError(f"'{name}' has a meaning of its own; name the baseline otherwise")


def find(history: History, ref: str, asked: Query, *, with_samples: bool) -> int:
    """Return the number of the run that ``ref`` means; see :meth:`History.baseline`.

    Raises:
        UsageError: there is none; it says what there is.
    """
    if ref.startswith(BRANCH):
        branch = ref[len(BRANCH) :]
        if asked.branch not in (None, branch):
            raise UsageError(f"'{ref}' is no run of the branch '{asked.branch}'")
        asked = replace(asked, branch=branch)
    if ref == LAST_GOOD or ref.startswith(BRANCH):
        found = newest(history, asked, [GOOD, *_more(with_samples)])
        if found is None:
            raise _none_good(history, ref, asked, with_samples)
        return found
    found = _numbered(history, ref) if ref.startswith(RUN) else _named(history, ref, asked.subject)
    if newest(history, asked, ["id = ?", *_more(with_samples)], (found,)) is None:
        raise _not_such(history, ref, found, asked)
    return found


def newest(
    history: History,
    query: Query | None,
    conditions: Sequence[str] = (),
    values: Sequence[Any] = (),
) -> int | None:
    """Return the number of the newest such run, or None; ``conditions`` are SQL of our own."""
    clause, given = where(query)
    every = [*([clause[len("WHERE ") :]] if clause else []), *conditions]
    condition = f"WHERE {' AND '.join(every)}" if every else ""
    rows = history.rows(
        f"SELECT id FROM runs {condition} ORDER BY id DESC LIMIT 1", (*given, *values)
    )
    return int(rows[0][0]) if rows else None


def _more(with_samples: bool) -> list[str]:
    return ["samples > 0"] if with_samples else []


def _numbered(history: History, ref: str) -> int:
    digits = ref[len(RUN) :]
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):
        raise UsageError(f"'{one_line(ref, 40)}' is no run: write run:12")
    return history.existing(int(digits))


def _named(history: History, ref: str, subject: str | None) -> int:
    every = history.baselines()
    named = [(s, run) for name, s, run in every if name == ref]
    of_subject = [run for s, run in named if subject in (None, s)]
    if len(of_subject) == 1:
        return of_subject[0]
    if named:
        subjects = ", ".join(f"'{one_line(s, 60)}'" for s, _ in named[:5])
        if subject is None:
            raise UsageError(f"baseline '{ref}' is set for {subjects}: say which subject")
        raise UsageError(
            f"baseline '{ref}' is set for {subjects}, not for '{one_line(subject, 60)}': "
            "is it --label that differs?"
        )
    known = [LAST_GOOD, *dict.fromkeys(name for name, _, _ in every)]
    raise UsageError(
        f"no baseline '{one_line(ref, 60)}' in {history.path}{did_you_mean(ref, known)}; known: "
        f"{', '.join(known[:10])}, branch:NAME, run:NUMBER"
    )


def _not_such(history: History, ref: str, found: int, asked: Query) -> UsageError:
    """Say in what a named run differs from what is asked for."""
    (entry,) = history.entries(Query(), numbers=(found,))
    for what, wanted, has in (
        ("subject", asked.subject, entry.subject),
        ("branch", asked.branch, entry.branch),
        ("verb", asked.verb, entry.verb),
        ("machine (fingerprint)", asked.machine, entry.machine),
    ):
        if wanted not in (None, has):
            return UsageError(
                f"'{one_line(ref, 60)}' is run {found} of {history.path}, of {what} "
                f"'{one_line(has, 60)}', not '{one_line(wanted, 60)}'"
            )
    return UsageError(f"'{one_line(ref, 60)}' is run {found} of {history.path}: no raw samples")


def _none_good(history: History, ref: str, asked: Query, with_samples: bool) -> UsageError:
    """Say which of the conditions it is that no run meets."""
    ref, place, of = one_line(ref, 60), f"in {history.path}", ""
    if asked.subject is not None:
        of = f" of '{one_line(asked.subject, 60)}'"
        if newest(history, Query(asked.subject)) is None:
            hint = did_you_mean(asked.subject, history.distinct("subject"))
            return UsageError(f"'{ref}': no run{of} {place}{hint}")
    known = Query(asked.subject, asked.branch)
    if asked.branch is not None and newest(history, known) is None:
        hint = did_you_mean(asked.branch, history.distinct("branch"))
        return UsageError(f"no run{of} on branch '{one_line(asked.branch, 60)}' {place}{hint}")
    other = newest(history, known, [GOOD])
    if other is None:
        return UsageError(
            f"'{ref}': no run{of} has passed {place}; set one: graphopt history baseline"
        )
    lacks = " with raw samples" if with_samples else ""
    machine = " on this machine" if asked.machine else ""
    return UsageError(
        f"'{ref}': no good run{of}{lacks}{machine} {place}; the newest of others is run {other}"
    )
