"""Benchmark pages: what is printed is what is published, the raw samples beside it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.files import dump_json, write_text


def publish(text: str, raw: dict[str, Any], output: Path | None) -> None:
    """Print a page; where asked, write it and its raw values as JSON of the same name."""
    print(text)
    if output is not None:
        write_text(output, text)
        write_text(output.with_suffix(".json"), dump_json(raw))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_tables(text: str, made: Mapping[str, str]) -> str:
    """Return a page with each part between ``<!-- table: NAME -->`` and its end made anew.

    Raises:
        ValueError: the page has not the marks.
    """
    for name, new in made.items():
        marks = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(marks[0])}\n.*?{re.escape(marks[1])}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"the page has not one '{marks[0]}' … '{marks[1]}'")
        part = f"{marks[0]}\n{new.rstrip()}\n{marks[1]}"
        text = pattern.sub(lambda _, part=part: part, text)
    return text


def up_to_date(page: Path, updated: Callable[[str], str], about: str, tool: str) -> int:
    """Run a tool that makes parts of a page: say whether it is up to date, or ``--write`` it."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="bring the page up to date")
    args = parser.parse_args()
    text = page.read_text(encoding="utf-8")
    new = updated(text)
    if args.write:
        write_text(page, new)
    elif new != text:
        print(f"{page.name} is not up to date: python tools/{tool} --write")
        return 1
    return 0
