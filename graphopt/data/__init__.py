"""Samples to calibrate and to measure on, through one SPEC; see docs/data.md."""

from __future__ import annotations

from graphopt.data.dataset import EXAMPLES, Dataset, open_data, synthetic
from graphopt.data.preprocess import Preprocess, load_preprocess

__all__ = [
    "EXAMPLES",
    "Dataset",
    "Preprocess",
    "load_preprocess",
    "open_data",
    "synthetic",
]
