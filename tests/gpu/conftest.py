"""What the GPU suite needs, found or told: a GPU, a runtime that builds for it, a CUDA package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "engines"))

ENGINES = ("tensorrt", "tensorrt-rtx")


@pytest.fixture(params=ENGINES)
def engine(request):
    """Each engine that can build here and run here; the others are skipped, with the reason."""
    from graphopt.engines import ENGINES as TABLE
    from graphopt.profiles.host import host

    found = TABLE.load(request.param)()
    reason = found.missing() or found.cannot_build(host(), "int8") or found.cannot_run()
    if reason:
        pytest.skip(reason)
    return found


@pytest.fixture
def tensorrt():
    """TensorRT proper, or a skip."""
    from graphopt.engines.tensorrt import TensorRT
    from graphopt.profiles.host import host

    found = TensorRT()
    reason = found.missing() or found.cannot_build(host(), "int8") or found.cannot_run()
    if reason:
        pytest.skip(reason)
    return found
