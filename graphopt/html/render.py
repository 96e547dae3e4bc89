"""A page as HTML: one file that asks for nothing else."""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template

from graphopt.charts import STYLE
from graphopt.html.blocks import Page


def render(page: Page) -> str:
    """Return the page; the same page gives the same bytes."""
    style = f"{_read('style.css')}{STYLE}"
    return _template().render(page=page, style=style)


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_read("page.html.j2"))


def _read(name: str) -> str:
    folder = resources.files("graphopt.html").joinpath("templates")
    return folder.joinpath(name).read_text(encoding="utf-8")
