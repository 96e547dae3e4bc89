"""Which nodes to run in fp16: the choice that moves the fewest bytes, casts included.

A node in fp32 costs what fp16 would have saved, a tensor that one side writes and the other reads
costs one cast, however many read it. The cheapest choice is a minimum cut (Picard, *Maximal closure
of a graph*, 1976): the fp16 side holds the source, the fp32 side the sink. So no small island is
made that costs more casts than it saves, and the answer is the same for any order of nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENDLESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Crossing:
    """One tensor between nodes, by their numbers.

    Attributes:
        source: who writes it; None for what is there in fp32 from the start (graph inputs).
        readers: who read it.
        kept: whether fp32 is needed besides (graph outputs, bodies, what stays as it is).
        cost: of one cast.
    """

    source: int | None
    readers: tuple[int, ...]
    kept: bool
    cost: int


def choose(
    benefits: Sequence[int], fixed: frozenset[int], crossings: Sequence[Crossing]
) -> frozenset[int]:
    """Return the numbers of the nodes to run in fp16; of choices that cost the same, the largest.

    Args:
        benefits: what fp16 saves, by node, in the unit of the crossings' costs.
        fixed: the nodes that stay in fp32.
        crossings: the tensors.
    """
    count = len(benefits)
    cut = _Cut(count + 2 + 2 * len(crossings))
    source, sink = count, count + 1
    for i, benefit in enumerate(benefits):
        cut.edge(source, i, benefit)
        if i in fixed:
            cut.edge(i, sink, ENDLESS)
    for k, crossing in enumerate(crossings):
        down, up = count + 2 + 2 * k, count + 3 + 2 * k
        origin = sink if crossing.source is None else crossing.source
        # fp16 -> fp32: paid once if any reader, or what must be kept, is on the other side.
        cut.edge(origin, down, crossing.cost)
        # fp32 -> fp16: paid once if any reader is on this side.
        cut.edge(up, origin, crossing.cost)
        for reader in crossing.readers:
            cut.edge(down, reader, ENDLESS)
            cut.edge(reader, up, ENDLESS)
        if crossing.kept:
            cut.edge(down, sink, ENDLESS)
    return frozenset(range(count)) - cut.sink_side(source, sink)


class _Cut:
    """Maximum flow by Dinic's algorithm, in whole numbers."""

    def __init__(self, count: int) -> None:
        self._out: list[list[int]] = [[] for _ in range(count)]
        self._to: list[int] = []
        self._room: list[int] = []

    def edge(self, a: int, b: int, room: int) -> None:
        if a == b:
            return
        for x, y, r in ((a, b, room), (b, a, 0)):
            self._out[x].append(len(self._to))
            self._to.append(y)
            self._room.append(r)

    def sink_side(self, source: int, sink: int) -> set[int]:
        """Return who can still reach the sink when no more flows."""
        while True:
            level = self._levels(source)
            if sink not in level:
                break
            place = [0] * len(self._out)
            while self._augment(source, sink, level, place):
                pass
        reached, todo = {sink}, deque([sink])
        while todo:
            node = todo.popleft()
            for e in self._out[node]:
                other = self._to[e]
                if self._room[e ^ 1] > 0 and other not in reached:
                    reached.add(other)
                    todo.append(other)
        return reached

    def _levels(self, source: int) -> Mapping[int, int]:
        level, todo = {source: 0}, deque([source])
        while todo:
            node = todo.popleft()
            for e in self._out[node]:
                if self._room[e] > 0 and self._to[e] not in level:
                    level[self._to[e]] = level[node] + 1
                    todo.append(self._to[e])
        return level

    def _augment(self, source: int, sink: int, level: Mapping[int, int], place: list[int]) -> bool:
        """Push along one shortest path; False if there is none left."""
        path: list[int] = []
        node = source
        while node != sink:
            edges = self._out[node]
            while place[node] < len(edges):
                e = edges[place[node]]
                if self._room[e] > 0 and level.get(self._to[e], -1) == level[node] + 1:
                    break
                place[node] += 1
            else:
                if not path:
                    return False
                node = self._to[path.pop() ^ 1]
                place[node] += 1
                continue
            path.append(e)
            node = self._to[e]
        amount = min(self._room[e] for e in path)
        for e in path:
            self._room[e] -= amount
            self._room[e ^ 1] += amount
        return True
