"""How many channels each group keeps: one file per allocation, and what a width costs."""

from __future__ import annotations

from graphopt.channels.allocation.costs import CostModel
from graphopt.channels.allocation.limits import Limit
from graphopt.channels.allocation.problem import Allocation, Decision, Problem
from graphopt.channels.allocation.target import Target
from graphopt.registry import Registry

__all__ = ["ALLOCATIONS", "Allocation", "CostModel", "Decision", "Limit", "Problem", "Target"]

ALLOCATIONS = Registry(
    "allocation",
    {
        "uniform": "graphopt.channels.allocation.uniform:uniform",
        "global": "graphopt.channels.allocation.greedy:globally",
    },
)
