"""Atoms: what dies together, kept in a union-find that can also take one atom apart into several.

An *atom* is a number. A *position* of a tensor dimension is a tuple of atoms, and it dies when any
of its atoms dies; the empty tuple never dies. Three operations say all that operators can say
about channels:

* :meth:`Atoms.unify`: two positions die together;
* :meth:`Atoms.freeze`: a position never dies, and why;
* expansion (inside ``unify``): an atom turns out to be several, ``x := (row, column)``, which is
  how a dimension is split lazily: everything said of ``x`` before then holds of the pair.

Everything here only ever adds constraints, so whatever order operators are visited in, and
however little a rule understands, the result is safe: at worst less can be pruned.
"""

from __future__ import annotations

from typing import TypeAlias

Position: TypeAlias = "tuple[int, ...]"


class Atoms:
    """Union-find over atoms, with expansions and reasons for what may not be removed."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._expansion: dict[int, Position] = {}
        self._reasons: dict[int, dict[str, None]] = {}

    def fresh(self, count: int) -> tuple[Position, ...]:
        """Return ``count`` positions of one new atom each."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return tuple((atom,) for atom in range(first, first + count))

    def find(self, atom: int) -> int:
        """Return the root of the atom's class."""
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def resolve(self, position: Position) -> Position:
        """Return the position as roots without expansions, each once, in order."""
        if len(position) == 1:
            root = self.find(position[0])
            if root not in self._expansion:
                return (root,)
        found: dict[int, None] = {}
        stack = list(reversed(position))
        while stack:
            root = self.find(stack.pop())
            expansion = self._expansion.get(root)
            if expansion is None:
                found[root] = None
            else:
                stack.extend(reversed(expansion))
        return tuple(found)

    def resolve_all(self, table: tuple[Position, ...]) -> tuple[Position, ...]:
        """Return every position resolved; the table itself where nothing changes."""
        parent, expansion = self._parent, self._expansion
        out: list[Position] = []
        same = True
        for position in table:
            new = position
            if len(position) == 1:
                atom = root = position[0]
                if parent[atom] != atom:
                    root = self.find(atom)
                    new = (root,)
                if root in expansion:
                    new = self.resolve(position)
            elif position:
                new = self.resolve(position)
            same = same and new is position
            out.append(new)
        return table if same else tuple(out)

    def reasons(self, root: int) -> tuple[str, ...]:
        """Return why the class of this root may not be removed; empty if it may."""
        return tuple(self._reasons.get(root, ()))

    def freeze(self, position: Position, why: str) -> None:
        """Forbid that the position dies."""
        for root in self.resolve(position):
            self._reasons.setdefault(root, {})[why] = None

    def unify(self, a: Position, b: Position, why: str) -> None:
        """Make two positions die together; ``why`` names the operator that asks.

        Where that has no exact form (sets of different atoms on both sides), what is recorded is
        stronger than asked, never weaker.
        """
        a, b = self.resolve(a), self.resolve(b)
        only_a = [x for x in a if x not in b]
        only_b = [x for x in b if x not in a]
        if not only_a or not only_b:
            self.freeze(tuple(only_a or only_b), why)
        elif len(only_a) == len(only_b):
            for x, y in zip(only_a, only_b, strict=True):
                self._union(x, y, why)
        elif len(only_a) == 1:
            self._expand(only_a[0], tuple(only_b))
        elif len(only_b) == 1:
            self._expand(only_b[0], tuple(only_a))
        else:
            self.freeze(tuple(only_a + only_b), why)

    def _union(self, x: int, y: int, why: str) -> None:
        x, y = self.find(x), self.find(y)
        if x == y:
            return
        if x in self._expansion or y in self._expansion:
            # An earlier pair of the same unify took one of them apart or merged it.
            self.unify((x,), (y,), why)
            return
        low, high = min(x, y), max(x, y)
        self._parent[high] = low
        for reason in self._reasons.pop(high, ()):
            self._reasons.setdefault(low, {})[reason] = None

    def _expand(self, x: int, parts: Position) -> None:
        self._expansion[x] = parts
        for why in self._reasons.pop(x, ()):
            self.freeze(parts, why)
