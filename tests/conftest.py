"""Makes ``helpers`` importable and keeps hypothesis repeatable."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parent))

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, the README's: else the others wait for them at the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin no test after ``TESTS_UNTIL`` (seconds since 1970), which the gate sets."""
    until = os.environ.get("TESTS_UNTIL")
    if until and time.time() > float(until):
        pytest.skip("out of time: run tools/check.py --slow by itself")


@pytest.fixture(scope="session", autouse=True)
def _one_round_of_timing() -> Iterator[None]:
    """How long this CPU takes is in every report; no test judges it, so one round will do."""
    from graphopt import measure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "ROUNDS", 1)
        yield
