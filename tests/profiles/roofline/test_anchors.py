"""The constants, the page and the file beside it say what the code computes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from math import exp

import pytest
from helpers import ROOT

from graphopt.profiles import devices, load_device
from graphopt.profiles.roofline.anchors import (
    OFFLINE_BATCH,
    Constants,
    Fit,
    anchors,
    devices_of,
    fit,
)

PAGE = ROOT / "docs" / "benchmarks" / "estimate.md"


@pytest.fixture(scope="module")
def tool():
    """tools/bench_estimate.py, which imports its neighbours by their names."""
    folder = str(ROOT / "tools")
    sys.path.insert(0, folder)
    try:
        spec = importlib.util.spec_from_file_location(
            "bench_estimate", f"{folder}/bench_estimate.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)
        sys.modules.pop("bench_estimate", None)


def test_every_point_is_of_a_device_of_ours():
    points = anchors()
    assert set(devices_of(points)) == {"t4", "jetson-agx-xavier", "jetson-agx-orin", "a10", "l4"}
    assert set(devices_of(points)) <= set(devices())
    for point in points:
        offline = point.scenario == "Offline"
        assert point.batch == (OFFLINE_BATCH if offline else 1)
        assert bool(point.dla_tops) == (offline and load_device(point.device).dla > 0)
        assert point.source.startswith("https://") == bool(point.round)
    assert set(fit().errors) == set(fit().left_out) == {point.name for point in points}
    assert next(p for p in points if p.name == "t4 resnet50 Offline").ms == pytest.approx(
        OFFLINE_BATCH / 6.03557
    )


@pytest.mark.slow
def test_the_published_errors_are_those_of_the_code(tool):
    """Each anchor estimated again, by the constants in use, through the same code as the verb."""
    from graphopt.profiles.roofline import estimate, with_accelerators

    page = json.loads(PAGE.with_suffix(".json").read_text())
    rows = {f"{r['device']} {r['model']} {r['scenario']}": r for r in page["rows"]}
    text = PAGE.read_text()
    known = fit()
    assert page["constants"] == {
        name: getattr(known.constants, name) for name in Constants.__slots__
    }
    for anchor in anchors():
        device = with_accelerators(load_device(anchor.device), anchor.dla_tops)
        model = tool.model_of(anchor.model, anchor.batch)
        found = estimate(model, device, precision="int8")
        row = rows[anchor.name]
        assert found.ms == pytest.approx(row["estimated_ms"], rel=1e-6)
        assert found.ms / anchor.ms - 1 == pytest.approx(known.errors[anchor.name], abs=1e-4)
        assert row["left_out"] == pytest.approx(known.left_out[anchor.name], abs=1e-4)
        cells = f"{row['published_ms']:.3f} ({row['quantile']}) | {row['estimated_ms']:.3f}"
        assert f"| {cells} | {100 * row['error']:+.0f} % | {100 * row['left_out']:+.0f} % |" in text


def test_a_fit_finds_what_made_the_points(tool):
    """The search itself: points made of known constants give these constants back."""
    a, b = anchors()[0], anchors()[-1]  # before Ampere, and after
    kernels = [((5.0, 1.0), (1.0, 9.0), (0.1, 0.2)), ((80.0, 1.0), (40.0, 9.0), (0.1, 0.2))]
    truth = {"before Ampere": 11.0, "Ampere on": 4.0}
    points = []
    for anchor in (a, b):
        for mine in kernels:
            floor = truth[tool.by_generation(anchor.device)]
            us = exp(tool.Point(anchor, mine).error(0.4, 2.0, floor)) * anchor.ms
            made = dataclasses.replace(anchor, ms=us)
            points.append(tool.Point(made, mine))
    found = tool.fit_to(points, 2.0, tool.by_generation)
    assert found.share == pytest.approx(0.4, rel=1e-3)
    assert found.floors == pytest.approx(truth, rel=1e-3)
    assert tool.rms(tool.errors_of(points, found, 2.0, tool.by_generation)) < 1e-4


def test_the_band_holds_every_published_time():
    known = fit()
    for anchor in anchors():
        estimated = anchor.ms * (1 + known.errors[anchor.name])
        low, high = known.band(anchor.device)
        assert low * estimated <= anchor.ms * 1.0001
        assert high * estimated >= anchor.ms * 0.9999


def test_a_device_without_points_gets_the_wider_band():
    known = fit()
    (low, high), (least, most) = known.band("t4"), known.band("mine")
    assert least < low < 1 < high <= most
    perfect = Fit(known.constants, "", "", {}, {})
    assert perfect.band("t4") == (1.0, 1.0)
