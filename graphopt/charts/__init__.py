"""Charts as SVG: plain functions of values, each returning one ``<svg>`` element as text.

No browser, no font metrics, no randomness: the same values give the same bytes. Text is escaped,
values that are not finite are refused (``ValueError``), and nothing to show is shown as such.

Colours are presentation attributes, so that a file stands alone in any viewer, and classes, so
that a page's style sheet (:data:`STYLE`) can follow its reader into the dark. ``alone=True`` puts
that style sheet into the SVG itself: for files. ``ident`` must be unique within a page.
"""

from __future__ import annotations

from graphopt.charts.bars import Bar, bar_chart
from graphopt.charts.distributions import Samples, distribution
from graphopt.charts.histograms import Threshold, histogram
from graphopt.charts.lines import Mark, Series, line_chart
from graphopt.charts.roofs import Roof, Work, roofline
from graphopt.charts.svg import STYLE

__all__ = [
    "STYLE",
    "Bar",
    "Mark",
    "Roof",
    "Samples",
    "Series",
    "Threshold",
    "Work",
    "bar_chart",
    "distribution",
    "histogram",
    "line_chart",
    "roofline",
]
