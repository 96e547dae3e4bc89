"""Bencher Metric Format: benchmark -> measure -> value with bounds.

https://bencher.dev/docs/reference/bencher-metric-format. Bencher's own measures have units:
``latency`` nanoseconds, ``throughput`` operations a second. Other measures it makes as they come,
named by slugs of at most 64 characters.
"""

from __future__ import annotations

import math
import re

from graphopt.files import dump_json
from graphopt.profiles.run import Figure, Run
from graphopt.wording import one_line

_LONGEST_SLUG, _LONGEST_NAME = 64, 1024
_OWN = {"latency_p50": "latency", "throughput": "throughput"}
_NANOSECONDS = 1e6  # in a millisecond


def bmf(run: Run) -> str:
    """Return a run's figures in Bencher Metric Format."""
    measures: dict[str, dict[str, float]] = {}
    for figure in run.figures:
        values = _values(figure)
        if "value" in values:
            measures.setdefault(_slug(figure), values)
    return dump_json({one_line(run.subject, _LONGEST_NAME) or run.verb: measures})


def _slug(figure: Figure) -> str:
    name = _OWN.get(figure.name, figure.name)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return slug[:_LONGEST_SLUG].strip("-") or "figure"


def _values(figure: Figure) -> dict[str, float]:
    scale = _NANOSECONDS if figure.unit == "ms" else 1.0
    values = {"value": figure.value, "lower_value": figure.low, "upper_value": figure.high}
    found = {name: v * scale for name, v in values.items() if v is not None}
    return {name: v for name, v in found.items() if math.isfinite(v)}
