"""The life of a pass: clone, edit in place, drop dead code, infer shapes, tell what was done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, final

from graphopt.graph import name_nodes, remove_dead, sort
from graphopt.model import Model


@dataclass(frozen=True, slots=True)
class Change:
    """One thing a pass did.

    Attributes:
        kind: what was done, a short stable word for counting: ``"folded"``, ``"removed"``.
        where: the node or tensor it was done to.
        detail: one line for a person.
    """

    kind: str
    where: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """One thing a pass could have done and did not, and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class PassResult:
    """A new model and what was done to get it; the model that went in is as it was."""

    model: Model
    name: str
    changes: tuple[Change, ...] = ()
    skipped: tuple[Skip, ...] = ()

    def counts(self) -> dict[str, int]:
        """Return how many changes there are of each kind, sorted by kind."""
        counts: dict[str, int] = {}
        for change in self.changes:
            counts[change.kind] = counts.get(change.kind, 0) + 1
        return dict(sorted(counts.items()))


class Pass(ABC):
    """One rewrite of the graph. Sub-classes are frozen dataclasses: their fields are the options.

    ``edit`` receives a clone and may change it freely, with one rule: assign new arrays to
    constants, never write into one, because clones share them. It yields a :class:`Change` for
    each thing done and a :class:`Skip` with a reason for each thing refused.
    """

    name: ClassVar[str]

    @final
    def __call__(self, model: Model) -> PassResult:
        """Run the pass on a copy of ``model``."""
        clone = model.clone()
        changes: list[Change] = []
        skipped: list[Skip] = []
        for event in self.edit(clone):
            if isinstance(event, Change):
                changes.append(event)
            else:
                skipped.append(event)
        remove_dead(clone.graph)
        sort(clone.graph)
        name_nodes(clone.graph)
        clone.infer_shapes()
        return PassResult(clone, self.name, tuple(changes), tuple(skipped))

    @abstractmethod
    def edit(self, model: Model) -> Iterable[Change | Skip]:
        """Change ``model.graph`` in place (or replace it); yield what was done and refused."""
