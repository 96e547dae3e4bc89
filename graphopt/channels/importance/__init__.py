"""How much each channel matters: one file per criterion."""

from __future__ import annotations

from graphopt.channels.importance.protocol import DATA, UNFOLDED, Importance, criterion
from graphopt.registry import Registry

_HERE = "graphopt.channels.importance"

IMPORTANCES = Registry(
    "importance",
    {
        "obs": f"{_HERE}.obs:obs",
        "l2": f"{_HERE}.l2:l2",
        "l1": f"{_HERE}.l1:l1",
        "geometric-median": f"{_HERE}.geometric_median:geometric_median",
        "bn-gamma": f"{_HERE}.bn_gamma:bn_gamma",
        "activation": f"{_HERE}.activation:activation",
        "apoz": f"{_HERE}.apoz:apoz",
        "lasso": f"{_HERE}.lasso:lasso",
        "random": f"{_HERE}.random_order:random_order",
    },
    aliases={"fpgm": "geometric-median"},
)

__all__ = [
    "DATA",
    "IMPORTANCES",
    "UNFOLDED",
    "Importance",
    "criterion",
    "default_importance",
    "needs_data",
]


def default_importance(*, has_data: bool) -> str:
    """Return the criterion to use where none is asked for."""
    return "obs" if has_data else "l2"


def needs_data(name: str) -> bool:
    """Whether a criterion looks at activations.

    Raises:
        UsageError: there is no such criterion.
        EnvironmentProblem: it cannot be imported.
    """
    return DATA in getattr(IMPORTANCES.load(name), "needs", ())
