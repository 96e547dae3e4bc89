"""Random: what any criterion has to beat.

With recovery behind it, a random choice is a strong baseline (Mittal et al., *Recovering from
Random Pruning*, WACV 2018, arXiv:1801.10447). Numbers come from a hash of the seed, the group's
name and the channel, so that they are the same everywhere, whatever else the model holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from graphopt.channels.groups import Group
from graphopt.channels.importance.protocol import criterion
from graphopt.model import Model
from graphopt.statistics.collect import Statistics
from graphopt.statistics.gram import Matrix


@criterion()
def random_order(
    model: Model,  # noqa: ARG001  (looks at names alone)
    groups: Sequence[Group],
    /,
    *,
    statistics: Statistics | None = None,
) -> dict[str, Matrix]:
    """Return group name -> numbers in [0, 1), shape ``(width,)``, from ``statistics.seed`` or 0."""
    seed = 0 if statistics is None else statistics.seed
    return {
        group.name: np.array([_uniform(f"{seed}/{group.name}/{c}") for c in range(group.width)])
        for group in groups
    }


def _uniform(text: str) -> float:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
