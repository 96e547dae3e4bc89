"""TOML in and out: the standard library reads it from Python 3.11 on."""

from __future__ import annotations

import os
import sys
from typing import Any

import tomli_w

from graphopt.errors import RecipeError
from graphopt.files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: no such file, or it cannot be read.
        RecipeError: it is not TOML (with line and column).
    """
    try:
        values: dict[str, Any] = tomllib.loads(read_text(path))
        return values
    except tomllib.TOMLDecodeError as problem:
        raise RecipeError(f"{path} is not valid TOML: {problem}") from problem


def dump_toml(value: dict[str, Any]) -> str:
    """Serialize plain values; TOML has no null, so None is left out."""
    return tomli_w.dumps(_without_none(value))


def _without_none(value: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            kept[key] = _without_none(item)
        elif item is not None:
            kept[key] = list(item) if isinstance(item, tuple) else item
    return kept
