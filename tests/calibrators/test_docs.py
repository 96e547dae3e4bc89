"""The calibrator in docs/calibrators.md works as written."""

from __future__ import annotations

import re
import sys
import types

import numpy as np
import pytest
from helpers import ROOT

from graphopt.calibrators import CALIBRATORS
from graphopt.calibrators.histogram import Histogram, merge


def test_the_calibrator_of_the_docs(monkeypatch) -> None:
    text = (ROOT / "docs" / "calibrators.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = types.ModuleType("documented_laplace")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "docs/calibrators.md", "exec"), module.__dict__)

    rule = module.Laplace()
    values = np.random.default_rng(0).laplace(size=400_000).astype(np.float32)
    histogram = Histogram.of(values)

    def error(amax: float) -> float:
        back = np.clip(np.rint(values / amax * 127), -127, 127) * (amax / 127)
        return float(np.square(values - back).sum())

    amax = rule(histogram)
    assert amax == pytest.approx(9.89, rel=0.01)
    assert error(amax) <= 1.02 * min(error(f * histogram.largest) for f in np.linspace(0.2, 1, 81))
    assert rule(merge(histogram, Histogram.of(np.zeros(10**6, np.float32)))) == amax
    assert rule(Histogram.of(values * np.float32(64))) == 64 * amax
    assert rule(Histogram.of(np.zeros(3, np.float32))) == 0.0
    assert rule(Histogram.of(np.full(3, 7.0, np.float32))) == 7.0


def test_every_calibrator_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "calibrators.md").read_text(encoding="utf-8")
    for name in CALIBRATORS.names():
        assert f"| `{name}`" in text
