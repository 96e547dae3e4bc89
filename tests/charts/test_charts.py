"""Charts are well-formed for any finite values, and refuse the others."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.charts import (
    STYLE,
    Bar,
    Mark,
    Roof,
    Samples,
    Series,
    Threshold,
    Work,
    bar_chart,
    distribution,
    histogram,
    line_chart,
    roofline,
)
from graphopt.charts.frame import spread
from graphopt.charts.scale import brief, scale_of
from graphopt.charts.svg import COLOURS, shorten, tell_apart

ANY = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False)
# A chart that says NaN anywhere is wrong, unless it was told to.
TEXT = st.text(max_size=40).filter(lambda text: "nan" not in text.lower())
SOME = settings(max_examples=40, deadline=None)


def checked(svg: str) -> ElementTree.Element:
    """Parse a chart; every coordinate is a plain finite number inside a sane range."""
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("role") == "img"
    idents = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(idents) == len(set(idents))
    assert str(root.get("aria-labelledby")).split() == idents[: len(idents)]
    width, height = map(float, str(root.get("viewBox")).split()[2:])
    for element in root.iter():
        for key in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"):
            if element.get(key) is not None:
                value = float(str(element.get(key)))
                assert -width - 400 <= value <= 2 * max(width, height) + 400, (key, value)
        for number in re.findall(r"-?[\d.]+", element.get("d") or ""):
            assert math.isfinite(float(number))
    assert "nan" not in svg.lower().replace("nanosecond", "")
    return root


@SOME
@given(
    st.lists(st.tuples(TEXT, st.lists(st.tuples(ANY, ANY), max_size=8)), max_size=4),
    TEXT, st.booleans(), st.booleans(),
)  # fmt: skip
def test_lines_are_well_formed(
    series: list[tuple[str, list[tuple[float, float]]]], title: str, x_log: bool, y_log: bool
) -> None:
    given_series = [Series(name, points) for name, points in series]
    svg = line_chart(given_series, title=title, x_log=x_log, y_log=y_log, marks=[Mark(1, "x")])
    checked(svg)
    again = line_chart(given_series, title=title, x_log=x_log, y_log=y_log, marks=[Mark(1, "x")])
    assert svg == again


@SOME
@given(st.lists(st.tuples(TEXT, ANY, st.none() | ANY), max_size=6), st.booleans())
def test_bars_are_well_formed(rows: list[tuple[str, float, float | None]], log: bool) -> None:
    checked(bar_chart([Bar(*row) for row in rows], title='<bars> & "so"', log=log))


@SOME
@given(st.lists(st.tuples(TEXT, st.lists(ANY, max_size=20)), max_size=3))
def test_distributions_are_well_formed(rows: list[tuple[str, list[float]]]) -> None:
    checked(distribution([Samples(name, values) for name, values in rows], title="t", desc="d"))


@SOME
@given(
    st.lists(st.integers(0, 1 << 62), max_size=300),
    st.floats(1e-300, 1e300), st.lists(st.floats(0, 1e300), max_size=3),
)  # fmt: skip
def test_histograms_are_well_formed(
    counts: list[int], wide: float, thresholds: list[float]
) -> None:
    lines = [Threshold(value, "amax") for value in thresholds]
    checked(histogram(counts, wide, title="t", thresholds=lines))


@SOME
@given(
    st.lists(st.tuples(TEXT, POSITIVE, POSITIVE), max_size=3),
    st.lists(st.tuples(TEXT, ANY, ANY, ANY, st.sampled_from(["compute", "memory", "", "?"])),
             max_size=8),
)  # fmt: skip
def test_rooflines_are_well_formed(
    roofs: list[tuple[str, float, float]], works: list[tuple[str, float, float, float, str]]
) -> None:
    checked(roofline([Roof(*r) for r in roofs], [Work(*w) for w in works], title="t"))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "chart",
    [
        lambda v: line_chart([Series("a", [(1.0, v)])], title="t"),
        lambda v: line_chart([Series("a", [(v, 1.0)])], title="t"),
        lambda v: line_chart([Series("a", [(1, 1)], band=[(v, 1)])], title="t"),
        lambda v: line_chart([Series("a", [(1, 1)])], title="t", marks=[Mark(v, "m")]),
        lambda v: bar_chart([Bar("a", 1.0, v)], title="t"),
        lambda v: distribution([Samples("a", [1.0, v])], title="t"),
        lambda v: distribution([Samples("a", [1.0], (v, 2.0))], title="t"),
        lambda v: histogram([1, v], 1.0, title="t"),
        lambda v: histogram([1], v, title="t"),
        lambda v: histogram([1], 1.0, title="t", thresholds=[Threshold(v, "x")]),
        lambda v: roofline([Roof("a", v, 1.0)], [], title="t"),
        lambda v: roofline([], [Work("a", 1.0, 1.0, v)], title="t"),
    ],
)
def test_what_is_not_finite_is_refused(chart: Callable[[float], str], bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        chart(bad)


def test_a_histogram_refuses_negative_counts_and_no_width() -> None:
    for counts, wide in (([1, -1], 1.0), ([1], 0.0), ([1], -1.0)):
        with pytest.raises(ValueError, match="width"):
            histogram(counts, wide, title="t")


def test_bars_are_as_long_as_their_values() -> None:
    root = checked(bar_chart([Bar("a", 10.0), Bar("b", 5.0, 20.0)], title="t"))
    solid = [r for r in root.iter() if r.tag.endswith("rect") and not r.get("fill-opacity")]
    pale = [r for r in root.iter() if r.tag.endswith("rect") and r.get("fill-opacity")]
    lengths = [float(str(r.get("width"))) for r in [*solid, *pale]]
    assert lengths[0] == pytest.approx(2 * lengths[1], rel=1e-3)
    assert lengths[2] == pytest.approx(2 * lengths[0], rel=1e-3)


def test_what_lies_beyond_the_greatest_threshold_is_marked() -> None:
    svg = histogram([8, 4, 2, 1], 1.0, title="t", thresholds=[Threshold(2.0, "amax 2")])
    assert svg.count('class="go-f-before"') == 2
    assert svg.count('class="go-f-warn"') == 2
    assert "amax 2" in svg


def test_a_distribution_tells_its_median_and_what_is_off_the_axis() -> None:
    svg = distribution([Samples("now", [*range(1, 1000), 1e6])], title="t")
    assert "p50 500" in svg
    assert "1 beyond" in svg


def test_a_file_stands_alone_and_a_page_shares_one_sheet() -> None:
    inner = bar_chart([Bar("a", 1)], title="t")
    alone = bar_chart([Bar("a", 1)], title="t", alone=True)
    assert "<style>" not in inner
    assert STYLE in alone
    assert f'fill="{COLOURS["after"][0]}"' in inner


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_from_its_ground() -> None:
    for name, pair in COLOURS.items():
        least = {"grid": 1.0, "before": 3.0}.get(name, 4.5)
        for colour, ground in zip(pair, ("#ffffff", "#14171c"), strict=True):
            light, dark = sorted((_luminance(colour), _luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= least, (name, colour)


@SOME
@given(st.lists(ANY, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_an_axis_holds_its_values_and_its_ticks_are_in_order(
    values: list[float], log: bool, zero: bool
) -> None:
    scale = scale_of(values, 0, 100, log=log, zero=zero)
    assert scale.low < scale.high
    for value in values:
        assert 0 <= scale(value) <= 100
    ticks = scale.ticks()
    assert ticks == sorted(ticks)
    assert all(0 <= scale(t) <= 100 for t in ticks)
    assert len(ticks) <= 30


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.5, "0.5"), (999.6, "1,000"), (1234, "1,234"), (12500, "12.5k"), (3e6, "3M"),
     (6.5e13, "65T"), (0.0002, "0.0002"), (1e-7, "1e-7"), (-2.5, "-2.5"), (2e20, "2e20")],
)  # fmt: skip
def test_ticks_are_brief(value: float, text: str) -> None:
    assert brief(value) == text


@SOME
@given(st.lists(st.floats(0, 100), max_size=6))
def test_labels_are_moved_apart(wanted: list[float]) -> None:
    placed = sorted(spread(wanted, 14, 0, 100))
    assert len(placed) == len(wanted)
    assert all(b - a >= 14 - 1e-9 for a, b in pairwise(placed))


def test_a_long_name_keeps_both_ends() -> None:
    assert shorten("layer1.0.conv1", 30) == "layer1.0.conv1"
    short = shorten("a" * 30 + "b" * 30, 11)
    assert len(short) == 11
    assert short == "aaaaa…bbbbb"


def test_names_that_differ_are_told_apart() -> None:
    names = [f"module.block.layers.{i}.attention.output.dense.projection" for i in (9, 10, 11)]
    cut = tell_apart(names, 20)
    assert len(set(cut)) == 3
    assert all(len(name) <= 20 for name in cut)
    for i, name in zip((9, 10, 11), cut, strict=True):
        assert re.search(rf"…{i}\b", name)
    assert tell_apart(["a", "b"], 20) == ["a", "b"]
    assert tell_apart([], 20) == []
    assert tell_apart(["x" * 50] * 2, 11) == [shorten("x" * 50, 11)] * 2


@SOME
@given(st.lists(st.text(max_size=40), max_size=6), st.integers(4, 30))
def test_names_keep_to_their_length(names: list[str], most: int) -> None:
    cut = tell_apart(names, most)
    assert len(cut) == len(names)
    assert all(len(name) <= most for name in cut)
    # Never fewer are told apart than by their ends alone.
    assert len(set(cut)) >= len({shorten(name, most) for name in names})


def _cluster() -> list[Work]:
    small = [Work(f"small{i}", 1e6 + i, 1e5, 0.011, "floor") for i in range(40)]
    return [*small, *(Work(f"slow{i}", 1e6 + i, 1e5, 0.02 + i / 1e3, "memory") for i in range(4))]


def test_names_on_a_roofline_lie_on_no_other() -> None:
    root = checked(roofline([Roof("int8", 65e12, 320e9)], _cluster(), title="t"))
    texts = [e for e in root.iter() if str(e.text or "").startswith(("slow", "small"))]
    texts = [e for e in texts if e.tag.endswith("text")]
    assert [e.text for e in texts] == ["slow3", "slow2", "slow1"]
    boxes = [(float(str(e.get("x"))), float(str(e.get("y")))) for e in texts]
    for i, (x, y) in enumerate(boxes):
        for u, v in boxes[:i]:
            assert abs(y - v) >= 14 or abs(x - u) >= 5 * 11 * 0.61


def test_on_a_roofline_only_what_stands_out_is_named() -> None:
    alike = [Work(f"layer{i}", 1e6, 1e5, 0.011, "floor") for i in range(40)]
    svg = roofline([], alike, title="t")
    assert not [e for e in checked(svg).iter() if str(e.text).startswith("layer")
                and e.tag.endswith("text")]  # fmt: skip


def test_a_layer_far_from_the_others_does_not_stretch_a_roofline() -> None:
    far = Work("gemm", 640, 4456, 0.0112, "floor")
    root = checked(roofline([Roof("int8", 65e12, 320e9)], [*_cluster(), far], title="t"))
    texts = [str(e.text) for e in root.iter() if e.tag.endswith("text")]
    assert "1 small, outside of the axes" in texts
    assert len([e for e in root.iter() if e.tag.endswith("circle")]) == 44
    long = Work("gemm", 640, 4456, 1.0, "floor")  # what takes long is always drawn
    root = checked(roofline([Roof("int8", 65e12, 320e9)], [*_cluster(), long], title="t"))
    assert len([e for e in root.iter() if e.tag.endswith("circle")]) == 45
