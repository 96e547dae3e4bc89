"""Accuracy won back from unlabelled samples, without gradients: layers are solved one by one."""

from __future__ import annotations

from graphopt.recovery.problem import Problem, Rows, Solution, Solver
from graphopt.recovery.sequential import Solved, recover
from graphopt.registry import Registry

NONE = "none"  # leaves the weights that pruning left

RECOVERIES = Registry(
    "recovery",
    {
        "least-squares": "graphopt.recovery.least_squares:least_squares",
        "affine": "graphopt.recovery.affine:affine",
    },
)

__all__ = ["NONE", "RECOVERIES", "Problem", "Rows", "Solution", "Solved", "Solver", "recover"]
