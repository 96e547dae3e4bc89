"""Makes ``engine_models`` importable; fixtures of the tests of engines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture
def shapes():
    from graphopt.engines import ShapeRange

    return {"x": ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))}
