"""The gate of a pipeline: a candidate against a baseline, one limit after the other."""

from __future__ import annotations
