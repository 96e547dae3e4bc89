"""Tables for tests: of a few values, with counts."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import numpy as np

from graphopt.calibrators import CalibrationTable, Histogram
from graphopt.calibrators.choose import chosen, digest_of
from graphopt.calibrators.table import Counts


def seen_of(samples: np.ndarray) -> tuple[str, ...]:
    return tuple(sorted(sha256(sample.tobytes()).hexdigest() for sample in samples))


def table_of(
    values: Mapping[str, np.ndarray], method: str = "auto", model: str = "m", preprocess: str = "p"
) -> CalibrationTable:
    """One row a sample; of each tensor what one pass over the rows gives."""
    first = next(iter(values.values()))
    counts = Counts(
        {name: Histogram.of(v) for name, v in values.items()},
        {name: 2.5 for name in values if name.startswith("blur")},
        seen_of(first),
        preprocess,
        positions=None,
    )
    data = digest_of(counts.seen, preprocess)
    return CalibrationTable(chosen(counts, method), method, model, data, len(first), counts=counts)


def rows(seed: int, count: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "blur": rng.laplace(size=(count, 500)).astype(np.float32),
        "a": np.maximum(rng.normal(size=(count, 300)), 0).astype(np.float32) * 1e-3,
        "dead": np.zeros((count, 10), np.float32),
    }
