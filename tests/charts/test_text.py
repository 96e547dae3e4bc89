"""Plots in a terminal: every value is in them, within the width, in ASCII where asked."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.charts.text import text_plot

BARS = "│┤|+"


def body(plot: str) -> list[str]:
    """Return the lines of dots, from the axis on."""
    lines = [line for line in plot.splitlines() if any(c in line for c in BARS)]
    kept = []
    for line in lines:
        at = min(line.index(c) for c in BARS if c in line)
        if not set(line[at + 1 :]) <= set("-─"):
            kept.append(line[at + 1 :])
    return kept


def dots(plot: str) -> int:
    return sum((ord(c) - 0x2800).bit_count() for line in body(plot) for c in line if c >= "\u2800")


def test_a_rise_goes_from_the_lower_left_to_the_upper_right() -> None:
    plot = text_plot([1.0, 2.0, 3.0, 4.0], title="t", unit="ms", width=40, height=4)
    lines = body(plot)
    assert plot.startswith("t\n")
    firsts = [len(line) for line in lines if line]
    assert firsts == sorted(firsts, reverse=True)
    assert len(firsts) == 4
    assert " ms" in plot


def test_ascii_is_ascii() -> None:
    plot = text_plot([1.0, 3.0, 2.0], width=30, height=5, ascii_only=True, marks=[1])
    assert plot.isascii()
    assert sum(line.count(".") + line.count("'") for line in body(plot)) == 3
    assert plot.rstrip().endswith("^")


@pytest.mark.parametrize("values", [[], [5.0], [0.0, 0.0], [7.0] * 50, [1e300, -1e300]])
def test_degenerate_series_are_plotted(values: list[float]) -> None:
    plot = text_plot(values, title="x")
    assert plot.endswith("\n")
    assert ("nothing to plot" in plot) == (not values)
    assert (dots(plot) > 0) == bool(values)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        text_plot([1.0, wrong])


def test_a_spike_is_counted_and_does_not_flatten_the_rest() -> None:
    values = [1.0 + 0.01 * (i % 5) for i in range(100)]
    values[40] = 80.0
    plot = text_plot(values, width=80, height=8)
    assert "1 value above: up to 80" in plot
    assert len([line for line in body(plot) if line.strip()]) > 3


def test_a_shift_is_no_spike() -> None:
    plot = text_plot([1.0] * 30 + [5.0] * 3, width=80, height=8)
    assert "above" not in plot


def test_what_is_written_beside_it_does_nothing_to_a_terminal() -> None:
    plot = text_plot([1.0], title="a\x1b[31mb\nc", unit="\x1b]0;x\x07", begin="\x1b[2J", end="\r")
    assert "\x1b" not in plot
    assert "\r" not in plot


@given(
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=300),
    st.integers(0, 120),
    st.integers(0, 20),
    st.booleans(),
)
@settings(max_examples=80)
def test_any_plot_keeps_to_its_width(
    values: list[float], width: int, height: int, ascii_only: bool
) -> None:
    plot = text_plot(
        values, title="x" * 500, unit="ms", begin="b" * 50, end="e" * 50, width=width,
        height=height, ascii_only=ascii_only, marks=[0, len(values) - 1],
    )  # fmt: skip
    widest = max(len(line) for line in plot.splitlines() if "value" not in line)
    assert widest <= max(width, 24)
    assert plot == text_plot(
        values, title="x" * 500, unit="ms", begin="b" * 50, end="e" * 50, width=width,
        height=height, ascii_only=ascii_only, marks=[0, len(values) - 1],
    )  # fmt: skip


def test_every_value_has_a_dot_where_there_is_room() -> None:
    values = [float(i % 7) for i in range(60)]
    assert dots(text_plot(values, width=80, height=12)) == 60
