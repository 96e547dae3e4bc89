"""Which widths a group may be given: alignment, floor, and what a user says of it by name."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil, floor

from graphopt.channels.allocation.target import check_ratio
from graphopt.channels.groups import ChannelAnalysis, Group
from graphopt.errors import UsageError


@dataclass(frozen=True, slots=True)
class Limit:
    """Which widths one group may be given.

    Attributes:
        name: the group.
        width: its channels.
        align: kept widths are multiples of it.
        floor: never keep fewer; None for the default.
        ratio: the fraction to remove where a user named one for this group; else None, and the
            allocation decides.
        pattern: what named it.
        kept: the ``--keep`` pattern that leaves the group alone; empty if none does.
    """

    name: str
    width: int
    align: int = 1
    floor: int | None = None
    ratio: float | None = None
    pattern: str = ""
    kept: str = ""

    @property
    def least(self) -> int:
        """The fewest channels it may keep, unless it has fewer."""
        return least_width(self.width, self.align) if self.floor is None else self.floor

    @property
    def free(self) -> bool:
        """Whether the allocation decides."""
        return self.ratio is None and not self.kept

    def asked(self, ratio: float) -> int:
        """Return how many channels a ratio keeps, before alignment."""
        if self.kept:
            return self.width
        return asked_width(self.width, ratio if self.ratio is None else self.ratio)

    def after(self, ratio: float) -> int:
        """Return how many channels are kept at a ratio."""
        if self.kept:
            return self.width
        return aligned_width(self.width, self.asked(ratio), self.align, self.floor)

    def options(self) -> list[int]:
        """Return every width the group may have, the widest first."""
        if not self.free:
            return [self.after(0.0)]
        last = aligned_width(self.width, 1, self.align, self.floor)
        first = (self.width - 1) // self.align * self.align
        inner = range(first, last, -self.align)
        return [self.width, *inner, *([last] if last < self.width else [])]


def limits_of(
    analysis: ChannelAnalysis,
    *,
    align: int,
    floor: int | None,
    keep: Sequence[str],
    ratios: Mapping[str, float],
) -> tuple[Limit, ...]:
    """Return the limits of every group, in order.

    Alignment and floor count channels: a group of whole attention heads is pruned head by head.

    Raises:
        UsageError: align, floor or a ratio is out of range.
    """
    check_limits(align, floor, ratios)
    found = []
    names = {group.name for group in analysis.groups}
    makers = makers_of(analysis) if ratios else {}
    for group in analysis.groups:
        heads = getattr(group, "kind", "channels") == "heads"
        pattern = next((p for p in ratios if _any(makers[group.name], p)), "")
        found.append(
            Limit(
                group.name,
                group.width,
                1 if heads else align,
                None if heads else floor,
                ratios.get(pattern),
                pattern,
                next((p for p in keep if _keeps(group, p, names)), ""),
            )
        )
    return tuple(found)


def check_limits(align: int, floor: int | None, ratios: Mapping[str, float]) -> None:
    """Check what a user asks of widths.

    Raises:
        UsageError: align, floor or a ratio is out of range.
    """
    check_align(align)
    if floor is not None and floor < 1:
        raise UsageError(f"the floor is a whole number from 1 on: {floor}")
    for ratio in ratios.values():
        check_ratio(ratio)


def makers_of(analysis: ChannelAnalysis) -> dict[str, tuple[str, ...]]:
    """Return group name -> the names of what makes its channels: the group, weights, nodes.

    A ratio is of the channels a layer writes; ``--keep`` is of those it reads as well.
    """
    nodes: dict[tuple[str, int], dict[str, None]] = {}
    for role in analysis.trace.roles:
        if role.kind == "producer":
            nodes.setdefault((role.tensor, role.axis), {})[role.node.name] = None
    found = {}
    for group in analysis.groups:
        names = {group.name: None}
        for member in group.members:
            if member.role == "producer":
                names[member.tensor] = None
                names.update(nodes.get((member.tensor, member.axis), {}))
        found[group.name] = tuple(names)
    return found


def matches(group: Group, pattern: str) -> bool:
    """Whether a pattern names the group, or a node or tensor that has its channels."""
    return _any((group.name, *group.nodes, *group.tensors), pattern)


def _keeps(group: Group, pattern: str, names: Container[str]) -> bool:
    """Whether ``--keep`` means the group; a group's own name means that group alone."""
    return group.name == pattern if pattern in names else matches(group, pattern)


def unmatched(
    analysis: ChannelAnalysis, keep: Iterable[str], ratios: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Return the patterns of each kind that name nothing that can be pruned."""
    makers = makers_of(analysis).values()
    return (
        [p for p in keep if not any(matches(group, p) for group in analysis.groups)],
        [p for p in ratios if not any(_any(names, p) for names in makers)],
    )


def _any(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def check_align(align: int) -> int:
    """Return the alignment.

    Raises:
        UsageError: it is not a whole number from 1 on.
    """
    if align < 1:
        raise UsageError(f"--align is a whole number from 1 on: {align}")
    return align


def asked_width(width: int, ratio: float) -> int:
    """Return how many of ``width`` channels a ratio keeps: ``ceil((1 - ratio) width)``, exactly.

    Computed as ``width - floor(ratio width)`` with the rounding of the product forgiven, so that
    0.3 of 10 removes 3 and 0.29 of 100 removes 29.
    """
    return width - floor(ratio * width + 1e-9)


def least_width(width: int, align: int) -> int:
    """Return the default floor: ``max(align, ceil(width / 8))``."""
    return max(align, ceil(width / 8))


def aligned_width(width: int, asked: int, align: int, least: int | None = None) -> int:
    """Return the kept width: a multiple of ``align``, never below what was asked.

    Args:
        width: the channels there are.
        asked: the channels to keep before alignment.
        align: what the kept width is rounded up to a multiple of.
        least: never keep fewer; default ``max(align, ceil(width / 8))``.
    """
    least = least_width(width, align) if least is None else least
    return min(width, max(ceil(max(asked, 1) / align) * align, least))
