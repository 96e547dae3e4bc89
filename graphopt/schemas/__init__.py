"""JSON Schemas (2020-12) of every file graphopt writes, for those who read them elsewhere.

``docs/schemas.md`` says what may change and what may not.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from graphopt.errors import UsageError
from graphopt.registry import did_you_mean

_SUFFIX = ".schema.json"


def names() -> list[str]:
    """Return the names of all schemas."""
    found = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX))


def text(name: str) -> str:
    """Return a schema as it is in the package.

    Raises:
        UsageError: there is none of that name.
    """
    known = names()
    if name not in known:
        raise UsageError(
            f"no schema '{name}'{did_you_mean(name, known)}; there are {', '.join(known)}"
        )
    return files(__name__).joinpath(f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def load(name: str) -> dict[str, Any]:
    """Return a schema: ``"report"``, ``"run"``, ``"recipe"`` and so on.

    Raises:
        UsageError: there is none of that name.
    """
    value: dict[str, Any] = json.loads(text(name))
    return value
