"""Benchmark pages: what is printed is what is published, the raw samples beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.files import dump_json, write_text


def publish(text: str, raw: dict[str, Any], output: Path | None) -> None:
    """Print a page; where asked, write it and its raw values as JSON of the same name."""
    print(text)
    if output is not None:
        write_text(output, text)
        write_text(output.with_suffix(".json"), dump_json(raw))
