"""Which dimensions of a Reshape's input become which of its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Size = Any
"""A number, the name of a symbol, or None; equal names are equal sizes."""


@dataclass(frozen=True, slots=True)
class Block:
    """Input dimensions ``[a, b)`` become output dimensions ``[c, d)``, in row-major order.

    Attributes:
        source: ``(a, b)``.
        target: ``(c, d)``.
        known: whether the sizes on both sides are numbers with equal products, or it is one
            dimension on both sides; if not, nothing is known of what goes where.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    known: bool = True


def blocks(source: Sequence[Size], target: Sequence[Size]) -> list[Block]:
    """Cut a reshape into the smallest independent pieces.

    Matches from the front while sizes are known or equal, then from the back; a reshape
    preserves the total, so what matches at either end is the same data in the same order. At most
    one piece, in the middle, remains unknown.
    """
    if 0 in source or 0 in target:
        return [Block((0, len(source)), (0, len(target)), known=False)]
    front = _match(source, target)
    i = front[-1].source[1] if front else 0
    j = front[-1].target[1] if front else 0
    back = _match(source[i:][::-1], target[j:][::-1])
    n, m = len(source), len(target)
    mirrored = [
        Block((n - b.source[1], n - b.source[0]), (m - b.target[1], m - b.target[0]))
        for b in reversed(back)
    ]
    k = mirrored[0].source[0] if mirrored else n
    q = mirrored[0].target[0] if mirrored else m
    middle: list[Block] = []
    if k - i == q - j == 1:
        middle = [Block((i, k), (j, q))]  # One dimension left on both sides: the same one.
    elif i < k or j < q:
        ones = all(s == 1 for s in [*source[i:k], *target[j:q]])
        middle = [Block((i, k), (j, q), known=ones)]
    return front + middle + mirrored


def nested(
    source: Sequence[Size], target: Sequence[Size]
) -> tuple[list[list[Size]], list[list[Size]]]:
    """Return each size as factors such that :func:`blocks` matches as many of them as it can.

    Where the batch is unknown, ``(T, N, 16) -> (T, ?, 4)`` is unknown as a whole, yet the 4 is the
    low part of the 16: reading from the end, one size divides the other until one is unknown.
    """
    fine_source, fine_target = [[s] for s in source], [[t] for t in target]
    block = next((b for b in blocks(source, target) if not b.known), None)
    if block is None or 0 in source or 0 in target:
        return fine_source, fine_target
    i, j = block.source[1] - 1, block.target[1] - 1
    while i >= block.source[0] and j >= block.target[0]:
        s, t = fine_source[i][0], fine_target[j][0]
        if s is not None and s == t:
            i, j = i - 1, j - 1
        elif not isinstance(s, int) or not isinstance(t, int):
            break
        elif s % t == 0:
            fine_source[i][:1] = [s // t, t]
            j -= 1
        elif t % s == 0:
            fine_target[j][:1] = [t // s, s]
            i -= 1
        else:
            break
    return fine_source, fine_target


def _match(source: Sequence[Size], target: Sequence[Size]) -> list[Block]:
    found: list[Block] = []
    i = j = 0
    while i < len(source) and j < len(target):
        a, b = source[i], target[j]
        if a is not None and a == b:
            found.append(Block((i, i + 1), (j, j + 1)))
            i, j = i + 1, j + 1
            continue
        end = _equal_products(source[i:], target[j:])
        if end is None:
            break
        found.append(Block((i, i + end[0]), (j, j + end[1])))
        i, j = i + end[0], j + end[1]
    return found


def _equal_products(source: Sequence[Size], target: Sequence[Size]) -> tuple[int, int] | None:
    """Return how many dimensions to take on each side until the products are equal, or None."""
    if not isinstance(source[0], int) or not isinstance(target[0], int):
        return None
    left, right, i, j = source[0], target[0], 1, 1
    while left != right:
        if left < right:
            if i == len(source) or not isinstance(source[i], int):
                return None
            left, i = left * source[i], i + 1
        else:
            if j == len(target) or not isinstance(target[j], int):
                return None
            right, j = right * target[j], j + 1
    return i, j
