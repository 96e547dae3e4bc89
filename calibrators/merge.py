"""One table of several: exactly the table of one pass over all their samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from graphopt.calibrators import CALIBRATORS, CalibrationTable
from graphopt.calibrators.choose import chosen, digest_of
from graphopt.calibrators.histogram import merge
from graphopt.calibrators.table import Counts
from graphopt.errors import UsageError
from graphopt.wording import counted


def merge_tables(
    tables: Sequence[tuple[str, CalibrationTable]], method: str = ""
) -> CalibrationTable:
    """Merge tables of the same model over different samples.

    Args:
        tables: (what it is called in messages, table), one or more.
        method: the calibrator that chooses; by default the one that chose in all of them.

    Raises:
        UsageError: a table has no counts, they are of different models, tensors or preprocessing,
            a sample is in two of them, or they were chosen by different calibrators and none is
            named.
    """
    if not tables:
        raise UsageError("there is nothing to merge: name two tables or more")
    counts = [require_counts(where, table) for where, table in tables]
    first_where, first = tables[0]
    for (where, table), other in zip(tables[1:], counts[1:], strict=True):
        _require_same(first_where, first, counts[0], where, table, other)
    _require_apart([where for where, _ in tables], counts)
    method = CALIBRATORS.canonical(method) if method else _method(tables)
    seen = tuple(sorted(digest for one in counts for digest in one.seen))
    merged = Counts(
        {name: merge(*(one.histograms[name] for one in counts)) for name in counts[0].histograms},
        counts[0].gains,
        seen,
        counts[0].preprocess,
        counts[0].positions,
    )
    return replace(
        first,
        ranges=chosen(merged, method),
        method=method,
        data_digest=digest_of(seen, merged.preprocess),
        samples=sum(table.samples for _, table in tables),
        synthetic=any(table.synthetic for _, table in tables),
        counts=merged,
    )


def require_counts(where: str, table: CalibrationTable) -> Counts:
    """Return the counts of a table that others can be added to.

    Raises:
        UsageError: it has none, or does not say of which samples.
    """
    if table.counts is None:
        raise UsageError(f"{where} has ranges only, no histograms to add to: calibrate again")
    if not table.counts.seen:
        raise UsageError(f"{where} does not say which samples it has seen: calibrate again")
    return table.counts


def _require_same(
    first_where: str,
    first: CalibrationTable,
    first_counts: Counts,
    where: str,
    table: CalibrationTable,
    counts: Counts,
) -> None:
    if first.model_digest != table.model_digest:
        raise UsageError(
            f"{first_where} and {where} belong to different models "
            f"({first.model_digest[:12]} and {table.model_digest[:12]}): merge tables of one"
        )
    apart = sorted(first_counts.histograms.keys() ^ counts.histograms.keys())
    if apart:
        has, lacks = (
            (first_where, where) if apart[0] in first_counts.histograms else (where, first_where)
        )
        raise UsageError(
            f"the tables differ in {counted(len(apart), 'tensor')}, such as '{apart[0]}', which "
            f"{has} has and {lacks} has not: calibrate both alike (--trt-cache asks for more)"
        )
    if first_counts.preprocess != counts.preprocess:
        raise UsageError(f"{first_where} and {where} were made with different preprocessing")
    if first_counts.positions != counts.positions:
        raise UsageError(
            f"{first_where} and {where} counted values at different positions "
            f"({first_counts.positions or 'all'} and {counts.positions or 'all'}): "
            "calibrate both alike"
        )


def _require_apart(names: Sequence[str], counts: Sequence[Counts]) -> None:
    """Refuse a sample that two tables have counted."""
    for i, one in enumerate(counts):
        for j in range(i + 1, len(counts)):
            both = Counter(one.seen) & Counter(counts[j].seen)
            if both:
                raise UsageError(
                    f"{names[i]} and {names[j]} share {counted(sum(both.values()), 'sample')}, "
                    "which would count twice: merge tables of different samples"
                )


def _method(tables: Sequence[tuple[str, CalibrationTable]]) -> str:
    methods = list(dict.fromkeys(table.method for _, table in tables))
    if len(methods) > 1:
        raise UsageError(
            f"the tables were chosen by different calibrators ({', '.join(methods)}): "
            "name one, --calibrator NAME"
        )
    return methods[0]
