"""The calibrator in docs/calibrators.md works as written."""

from __future__ import annotations

import re
import sys
import types

import numpy as np
from helpers import ROOT

from graphopt.calibrators.histogram import Histogram, merge


def test_the_calibrator_of_the_docs(monkeypatch) -> None:
    text = (ROOT / "docs" / "calibrators.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = types.ModuleType("documented_mse")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "docs/calibrators.md", "exec"), module.__dict__)

    rule = module.MeanSquaredError()
    values = np.random.default_rng(0).laplace(size=100_000).astype(np.float32)
    histogram = Histogram.of(values)

    def error(amax: float) -> float:
        back = np.clip(np.rint(values / amax * 127), -127, 127) * (amax / 127)
        return float(np.square(values - back).sum())

    amax = rule(histogram)
    assert error(amax) <= 1.01 * min(error(f * histogram.largest) for f in np.linspace(0.2, 1, 81))
    assert rule(merge(histogram, Histogram.of(np.zeros(10**6, np.float32)))) == amax
    assert rule(Histogram.of(values * np.float32(64))) == 64 * amax
    assert rule(Histogram.of(np.zeros(3, np.float32))) == 0.0
