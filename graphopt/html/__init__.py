"""The report of a build as one HTML page: values from files, sections, a template."""

from __future__ import annotations

from graphopt.html.blocks import Page
from graphopt.html.page import page_of
from graphopt.html.render import render
from graphopt.html.source import Built, read_build

__all__ = ["Built", "Page", "page_of", "read_build", "render"]
