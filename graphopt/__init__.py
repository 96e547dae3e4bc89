"""Compress ONNX graphs for deployment and build TensorRT engines, with no training framework.

::

    from pathlib import Path
    import graphopt

    recipe = graphopt.Recipe.from_dict({
        "quantize": {"int8": True},
        "prune": {"ratio": 0.3},
        "data": {"calibration": "images/", "preprocess": "imagenet"},
    })
    report = graphopt.build(graphopt.Request(Path("model.onnx"), recipe, Path("out")))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.calibrators import CalibrationTable
    from graphopt.errors import GraphoptError
    from graphopt.model import Model
    from graphopt.pipeline import build
    from graphopt.plan import Request
    from graphopt.recipe import Recipe
    from graphopt.report import Report

__version__ = "0.1.0"

__all__ = [
    "CalibrationTable",
    "GraphoptError",
    "Model",
    "Recipe",
    "Report",
    "Request",
    "__version__",
    "build",
]

_HOMES = {
    "CalibrationTable": "graphopt.calibrators",
    "GraphoptError": "graphopt.errors",
    "Model": "graphopt.model",
    "Recipe": "graphopt.recipe",
    "Report": "graphopt.report",
    "Request": "graphopt.prepare",
    "build": "graphopt.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import graphopt`` itself costs nothing."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'graphopt' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
