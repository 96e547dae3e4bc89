"""What this machine gives a process: cores, and packages that are looked up and not imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os


def cpu_count() -> int:
    """Return how many cores this process may use (its affinity), not how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed(module: str) -> bool:
    """Whether a module can be imported, without importing it; a folder of that name is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def installed_version(*distributions: str) -> str | None:
    """Return the version of the first of these distributions that is installed, or None."""
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
