"""A profile as tables for a terminal, and as a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graphopt.console import Console
from graphopt.profiling.result import Measured
from graphopt.wording import counted, one_line

if TYPE_CHECKING:
    from graphopt.profiles import LatencyProfile
    from graphopt.profiles.layer_times import LayerTimes
    from graphopt.profiles.power import PowerResult

SLOWEST = 10


def show(
    measured: Measured, name: str, ui: Console, *, max_latency_ms: float | None, many: bool
) -> None:
    """Print what was measured.

    Args:
        measured: what.
        name: of the file.
        ui: where to.
        max_latency_ms: the limit that the best point is to meet; None for no limit.
        many: a sweep was asked for, though a single point may be left of it.
    """
    name = one_line(name, 120)
    best = measured.sweep.best(max_latency_ms)
    if many:
        _sweep(measured.sweep.points, best, name, ui)
    else:
        _one(measured.first, name, ui)
    if max_latency_ms is not None:
        _limit(measured, best, max_latency_ms, many, ui)
    if measured.power is not None:
        _power(measured.power, ui)
    if measured.layers is not None:
        _layers(measured.layers, ui)


def _one(profile: LatencyProfile, name: str, ui: Console) -> None:
    streams = f", {counted(profile.streams, 'stream')}" if profile.streams > 1 else ""
    rounds = f" in {counted(len(profile.starts), 'round')}" if len(profile.starts) > 1 else ""
    values = [
        profile.mean,
        *(profile.percentile(q) for q in (50, 90, 95, 99)),
        profile.minimum,
        profile.maximum,
        profile.deviation,
    ]
    ui.table(
        f"{name}, batch {profile.batch}{streams}, "
        f"{counted(len(profile.samples_ms), 'run')}{rounds}",
        ["", "mean ms", "p50", "p90", "p95", "p99", "min", "max", "sd", "items/s"],
        [["latency", *(f"{value:.3f}" for value in values), f"{profile.throughput:.1f}"]],
    )
    interval = profile.median_interval()
    if interval is not None:
        low, high = interval
        # Another process places its memory anew: that scatter is not in it.
        ui.result(
            f"  median {profile.p50:.4f} ms, 95 % interval {low:.4f} to {high:.4f} ms "
            "in this session"
        )


def _sweep(points: Sequence[LatencyProfile], best: int | None, name: str, ui: Console) -> None:
    first = points[0].throughput
    rows = [
        [
            str(point.batch),
            str(point.streams),
            f"{point.p50:.3f}",
            f"{point.p99:.3f}",
            f"{point.throughput:.1f}",
            f"{point.throughput / first:.2f}x",
            "best" if index == best else "",
        ]
        for index, point in enumerate(points)
    ]
    ui.table(
        f"{name}, {counted(len(points), 'point')}, by turns",
        ["batch", "streams", "p50 ms", "p99 ms", "items/s", "speed-up", ""],
        rows,
    )


def _limit(measured: Measured, best: int | None, limit: float, many: bool, ui: Console) -> None:
    if best is not None:
        if many:
            ui.result(f"  best: the most items/s with a p99 of at most {limit:g} ms")
        return
    least = min(point.p99 for point in measured.sweep.points)
    ui.warn(f"nothing keeps its p99 within {limit:g} ms: the least is {least:.3f} ms")


def _power(power: PowerResult, ui: Console) -> None:
    def watts(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    ui.table(
        f"power over {power.seconds:.1f} s, by {one_line(power.source)}",
        ["", "idle W", "mean W", "peak W", "mJ/item", "above idle"],
        [
            [
                "all",
                watts(power.idle_w),
                watts(power.mean_w),
                watts(power.peak_w),
                f"{power.gross_mj:.3f}",
                "-" if power.net_mj is None else f"{power.net_mj:.3f}",
            ],
            *(
                [one_line(name, 60), "", watts(value), "", "", ""]
                for name, value in sorted(power.rails.items())
            ),
        ],
    )


def _layers(layers: LayerTimes, ui: Console) -> None:
    shown = layers.slowest(SLOWEST)
    ops = any(each.op for each in shown)  # trtexec tells none
    rows = [
        [
            _short(each.name, 40 if ops else 56),
            *([_short(each.op, 16)] if ops else []),
            f"{each.median_ms:.4f}",
            f"{100 * each.share:.1f} %",
        ]
        for each in shown
    ]
    ui.table(
        f"the slowest of {counted(len(layers.layers), 'layer')}, by {layers.source}",
        ["layer", *(["op"] if ops else []), "median ms", "share"],
        rows,
    )
    ui.detail(layers.note)


def _short(name: str, most: int) -> str:
    """Return a name without its middle: layers differ in their ends."""
    name = one_line(name, 1000)
    head = most // 3
    return name if len(name) <= most else f"{name[:head]}…{name[head + 1 - most :]}"


def plot(measured: Measured, name: str, max_latency_ms: float | None) -> str:
    """Return throughput against latency as SVG: a line for each number of streams.

    Latency is the median; the 99th percentile where there is a limit, which is on that.
    """
    from graphopt.charts import Mark, Series, line_chart

    limited = max_latency_ms is not None

    def latency(point: LatencyProfile) -> float:
        return point.p99 if limited else point.p50

    points = measured.sweep.points
    streams = sorted({point.streams for point in points})
    series = [
        Series(
            "batch on 1 stream" if many == 1 else f"batch on {many} streams",
            [(latency(p), p.throughput) for p in chosen],
            [str(p.batch) for p in chosen],
        )
        for many in streams
        for chosen in [sorted((p for p in points if p.streams == many), key=lambda p: p.batch)]
    ]
    marks = []
    if max_latency_ms is not None:
        marks.append(Mark(max_latency_ms, f"limit {max_latency_ms:g} ms"))
    which = "99th percentile" if limited else "median"
    return line_chart(
        series,
        title=f"{one_line(name, 80)}: throughput against latency",
        desc="; ".join(_told(points, which, limited)),
        x_label=f"{which} of latency, ms",
        y_label="items a second",
        y_zero=True,
        marks=marks,
        alone=True,
    )


def _told(points: Sequence[LatencyProfile], which: str, limited: bool) -> Iterator[str]:
    for p in points:
        value = p.p99 if limited else p.p50
        yield (
            f"batch {p.batch}, {counted(p.streams, 'stream')}: {which} {value:.3f} ms, "
            f"{p.throughput:.1f} items/s"
        )
