"""Weights whose rounding was chosen with more than the weights in view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from graphopt.graph import Array


@dataclass(frozen=True, slots=True, eq=False)
class WeightCodes:
    """One weight in INT8: ``codes * scales`` along its axis of output channels.

    Attributes:
        codes: int8, the shape of the weight, in -127..127.
        scales: float32 ``[channels]``, > 0.
    """

    codes: Array
    scales: Array


Codes: TypeAlias = "Mapping[str, WeightCodes]"
"""Node label (:func:`graphopt.dialects.heads.label`) -> how its weight is rounded.

A node that is not in it has its weight rounded to nearest, by the greatest weight of each channel.
"""
