"""L1: a filter's sum of absolute weights.

Li et al., *Pruning Filters for Efficient ConvNets*, ICLR 2017 (arXiv:1608.08710), section 3.1,
taken over a whole group as :mod:`graphopt.channels.importance.norms` says.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.channels.groups import Group
from graphopt.channels.importance.norms import Scores, group_scores
from graphopt.channels.importance.protocol import criterion
from graphopt.model import Model
from graphopt.statistics.collect import Statistics


@criterion()
def l1(
    model: Model,
    groups: Sequence[Group],
    /,
    *,
    statistics: Statistics | None = None,  # noqa: ARG001  (weights alone)
) -> dict[str, Scores]:
    """Return group name -> L1 importance, shape ``(width,)``."""
    return group_scores(model, groups, order=1)
