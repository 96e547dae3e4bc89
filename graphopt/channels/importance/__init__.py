"""How much each channel matters: one file per criterion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from graphopt.channels.groups import Group
from graphopt.graph import Array
from graphopt.model import Model
from graphopt.registry import Registry

IMPORTANCES = Registry(
    "importance",
    {
        "l2": "graphopt.channels.importance.l2:l2",
        "l1": "graphopt.channels.importance.l1:l1",
    },
)


class Importance(Protocol):
    """Scores the channels of every group; the least goes first.

    Only the order within a group counts. ``statistics`` is what a criterion that looks at data
    asks for (activation moments, Gram matrices), collected beforehand; criteria that look at
    weights alone ignore it.
    """

    def __call__(
        self, model: Model, groups: Sequence[Group], /, *, statistics: Any = None
    ) -> Mapping[str, Array]:
        """Return group name -> scores, shape ``(width,)``, float64, finite."""
