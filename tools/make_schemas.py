"""Write the schema of the recipe, which follows from the model of it; all others are by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graphopt.files import write_text
from graphopt.recipe import Recipe

FILE = Path(__file__).resolve().parents[1] / "graphopt" / "schemas" / "recipe.schema.json"


def recipe_schema() -> str:
    """Return the recipe's schema as the package holds it."""
    found: dict[str, Any] = Recipe.model_json_schema(mode="validation")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:graphopt:schema:recipe:1",
        "title": "Recipe of graphopt: every option of a build, recipe.toml as JSON",
    }
    found.pop("title", None)
    _rename(found)
    return json.dumps({**head, **found}, indent=2, sort_keys=False, ensure_ascii=False) + "\n"


def _rename(value: Any) -> None:
    """Give limits the names of JSON Schema where pydantic left its own: of types it wraps."""
    if isinstance(value, dict):
        for own, name in (("lt", "exclusiveMaximum"), ("gt", "exclusiveMinimum")):
            if own in value:
                value[name] = value.pop(own)
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, dict | list):
            _rename(part)


if __name__ == "__main__":
    print(f"wrote {write_text(FILE, recipe_schema())}")
