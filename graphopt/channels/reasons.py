"""Why channels stay, in few words: the reasons of many atoms, condensed for a person.

A reason is a line ``Softmax 'attn/softmax': normalizes over it`` or ``graph output 'y'``. The
residual stream of a transformer meets two normalizations a block, and each of them alone freezes
it; a report should say so once.
"""

from __future__ import annotations

from collections.abc import Iterable

SPLIT_DIFFERENTLY = "joins channels that are split differently elsewhere"
UNEVENLY = "splits its channels unevenly"
_MOST = 4


def because(why: str, cause: str) -> str:
    """Return the reason of an operator that met what ``cause`` froze, or ``why`` without one."""
    if not cause or cause == why:
        return why
    return cause if cause.startswith(f"{why}:") else f"{why}: {cause}"


def condense(reasons: Iterable[str]) -> tuple[str, ...]:
    """Return at most a few reasons, the same things said of several nodes as one, in order.

    Every reason is sufficient alone, so those that only follow from others may go.
    """
    every = list(dict.fromkeys(reasons))
    said = {reason.partition("': ")[0] + "'" for reason in every if "': " in reason}
    # "Conv 'c'" alone says less than "Conv 'c': 4 groups".
    every = [reason for reason in every if reason not in said]
    causes = [reason for reason in every if not reason.endswith(SPLIT_DIFFERENTLY)]
    alike: dict[tuple[str, str], list[str]] = {}
    for reason in causes or every:
        head, colon, what = reason.partition("': ")
        kind = head.partition(" '")[0]
        alike.setdefault((kind, what), []).append(head + ("'" if colon else ""))
    lines = [_line(heads, what) for (_, what), heads in alike.items()]
    if len(lines) > _MOST:
        lines[_MOST - 1 :] = [f"and {len(lines) - _MOST + 1} more reasons"]
    return tuple(lines)


def _line(heads: list[str], what: str) -> str:
    more = f" and {len(heads) - 1} more" if len(heads) > 1 else ""
    return f"{heads[0]}{more}: {what}" if what else f"{heads[0]}{more}"
