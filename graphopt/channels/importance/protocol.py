"""What a criterion is, and what it needs: asked before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from graphopt.channels.groups import Group
from graphopt.errors import DataError
from graphopt.graph import Array
from graphopt.model import Model
from graphopt.statistics.collect import Statistics

DATA = "data"
"""The criterion looks at activations: ``statistics`` has samples."""
UNFOLDED = "unfolded"
"""It looks at the model as it was before BatchNorm was folded: ``statistics.unfolded``."""


class Importance(Protocol):
    """Scores the channels of every group; the least goes first.

    Only the order within a group counts, unless the criterion is marked as giving ``estimates``:
    then the scores of a group, sorted and summed up, say what relative error it makes to remove so
    many channels, added over the layers that read them, and groups can be compared.

    ``statistics`` streams samples through the model for criteria that look at data, and holds what
    else they ask for (a seed, the model before folding); criteria that look at weights alone
    ignore it.
    """

    def __call__(
        self, model: Model, groups: Sequence[Group], /, *, statistics: Statistics | None = None
    ) -> Mapping[str, Array]:
        """Return group name -> scores, shape ``(width,)``, float64, finite."""


Marked = TypeVar("Marked", bound="Callable[..., Any]")


def criterion(*needs: str, estimates: bool = False) -> Callable[[Marked], Marked]:
    """Mark a function as a criterion.

    Args:
        needs: what it cannot do without: :data:`DATA`, :data:`UNFOLDED`.
        estimates: whether scores are error estimates that can be compared between groups.
    """

    def mark(function: Marked) -> Marked:
        function.__dict__.update(needs=frozenset(needs), estimates=estimates)
        return function

    return mark


def with_samples(statistics: Statistics | None, name: str) -> Statistics:
    """Return the statistics, sure to have samples.

    Raises:
        DataError: there are none.
    """
    if statistics is None or not statistics.has_data:
        raise DataError(
            f"importance '{name}' looks at activations and needs samples: give --data, or choose "
            "one that looks at weights alone, such as l2"
        )
    return statistics
