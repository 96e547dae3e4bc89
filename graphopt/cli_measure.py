"""The verbs that measure, judge and tell: estimate, profile, check, history, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from graphopt.cli_history import history
from graphopt.cli_options import (
    COUNT,
    COUNTS,
    DATA,
    DECIBELS,
    FILE,
    HOST,
    LIMIT,
    OUTPUT,
    POINTS,
    PUBLISH,
    TEXT,
    THREADS,
    TIME,
    Sectioned,
    console,
    section,
)


@click.command(cls=Sectioned, short_help="Estimate MODEL's time on a device nobody has here.")
@click.argument("model", type=FILE)
@section(
    "What to estimate",
    click.option("--device", metavar="NAME|FILE", default="host", help="The target.  [host]"),
    click.option("--batch", type=COUNT, metavar="N", help="Batch size.  [1]"),
    click.option(
        "--precision",
        type=click.Choice(["int8", "fp16", "fp32"]),
        help="Of all layers.  [as the graph says]",
    ),
    click.option("--opt-shapes", multiple=True, metavar="IN:8x3x…", help="Input shapes."),
)
@section(
    "Output",
    click.option("--top", type=COUNT, metavar="N", help="Rows of each table.  [10]"),
    click.option("-o", "--output", type=FILE, metavar="FILE", help="Save all layers as JSON."),
    click.option("--force", is_flag=True, help="Overwrite a file that exists."),
    OUTPUT,
)
def estimate(model: Path, **flags: Any) -> None:
    """Estimate MODEL's time on a device nobody has here, layer by layer."""
    from graphopt.verbs_estimate import run_estimate

    run_estimate(model, flags, console(flags))


@click.command(cls=Sectioned)
@click.argument("file", type=FILE)
@section(
    "What to measure",
    click.option("--batch", type=COUNTS, metavar="N,…", help="Batch sizes, to sweep.  [1]"),
    click.option("--streams", type=COUNTS, metavar="N,…", help="Runs at a time, to sweep.  [1]"),
    click.option(
        "--layers",
        type=FILE,
        is_flag=False,
        flag_value="-",
        metavar="[FILE]",
        help="Each layer's time: the slowest shown, all into FILE.",
    ),
    click.option(
        "--power",
        type=LIMIT,
        is_flag=False,
        flag_value=10,
        metavar="[S]",
        help="Power and energy, in a pass of its own of S seconds.  [10]",
    ),
    click.option(
        "--max-latency", type=LIMIT, metavar="MS", help="Mark the best point with a p99 within MS."
    ),
)
@section(
    "What to feed",
    DATA,
    click.option("--opt-shapes", multiple=True, metavar="IN:8x3x…", help="Input shapes."),
)
@section(
    "How to measure",
    HOST,
    click.option("--threads", type=THREADS, metavar="N", help="ONNX Runtime's threads.  [cores]"),
    click.option("--warm-up", type=TIME, default=200, metavar="MS", help="Dropped.  [200]"),
    click.option("--duration", type=TIME, default=3, metavar="S", help="At least.  [3]"),
    click.option("--iterations", type=COUNT, default=10, metavar="N", help="At least.  [10]"),
)
@section(
    "Output",
    click.option("-o", "--output", type=FILE, metavar="FILE", help="Save raw samples as JSON."),
    click.option("--plot", type=FILE, metavar="FILE.svg", help="Throughput against latency."),
    click.option("--force", is_flag=True, help="Overwrite a file that exists."),
    OUTPUT,
)
@PUBLISH
def profile(file: Path, **flags: Any) -> None:
    """Time FILE, here or on --host: latency and throughput."""
    from graphopt.verbs_profile import run_profile

    run_profile(file, flags, console(flags))


@click.command()
@click.argument("name", type=TEXT, required=False)
@OUTPUT
def schema(name: str | None, **flags: Any) -> None:
    """Print the JSON Schema of a file.

    Without NAME: list them.
    """
    from graphopt.verbs import run_schema

    run_schema(name, console(flags))


@click.command(short_help="Write the report of a build: one HTML page.")
@click.argument("folder", type=FILE, metavar="DIR")
@click.option("--baseline", type=FILE, metavar="DIR", help="Show another build's figures beside.")
@click.option("--history", type=FILE, metavar="FILE", help="Show the builds before, from there.")
@click.option("--label", type=TEXT, metavar="NAME", help="What they go by there.  [the model's]")
@click.option("--no-images", is_flag=True, help="Leave out the images it was calibrated on.")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="[DIR/report.html]")
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@OUTPUT
def report(folder: Path, **flags: Any) -> None:
    """Write the report of a build in DIR as one HTML page that needs no network."""
    from graphopt.verbs_report import run_report

    run_report(folder, flags, console(flags))


class Percent(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A percentage: ``3%`` or ``3``."""

    name = "percent"

    def __init__(self, most: float = 10_000.0) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is none, and what may mean two."""
        from graphopt.percent import parse_percent, spell_percent

        try:
            return spell_percent(parse_percent(value, most=self.most))
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


class Milliseconds(click.ParamType):  # type: ignore[type-arg]
    """A time: ``5ms`` or ``5``."""

    name = "ms"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse what is no time above zero."""
        found: float = LIMIT.convert(str(value).strip().removesuffix("ms").rstrip(), param, ctx)
        return found


PERCENT = Percent()


@click.command(cls=Sectioned, short_help="Hold CANDIDATE against a baseline: pass or fail.")
@click.argument("candidate", type=FILE)
@section(
    "What is compared",
    click.option(
        "--baseline",
        type=TEXT,
        required=True,
        metavar="FILE|NAME",
        help="A model or engine, a build's folder, a run's JSON; or with --history NAME, "
        "branch:NAME, last-good.",
    ),
    click.option("--batch", type=COUNT, metavar="N", help="Batch size.  [1]"),
    click.option("--opt-shapes", multiple=True, metavar="IN:8x3x…", help="Input shapes."),
    HOST,
    click.option("--recipe", type=FILE, metavar="FILE.toml", help="Limits and data from a file."),
)
@section(
    "Limits",
    click.option(
        "--max-regression", type=PERCENT, metavar="3%", help="Median latency, slower.  [2%]"
    ),
    click.option("--max-p99", type=PERCENT, metavar="10%", help="99th percentile, slower."),
    click.option(
        "--max-throughput-drop", type=Percent(99.99), metavar="5%", help="Throughput, lower."
    ),
    click.option("--max-latency", type=Milliseconds(), metavar="5ms", help="Median, by itself."),
    click.option("--max-memory", type=PERCENT, metavar="10%", help="Peak of a session, more."),
    click.option("--max-size", type=PERCENT, metavar="10%", help="File, larger."),
    click.option("--max-drop", type=POINTS, metavar="X", help="Points of accuracy; needs --data."),
    click.option("--min-sqnr", type=DECIBELS, metavar="DB", help="Of the worst output.  [10]"),
    click.option("--no-outputs", is_flag=True, help="Do not compare outputs."),
)
@section("Data", DATA)
@section(
    "Measuring",
    click.option("--budget", type=LIMIT, metavar="S", help="At most.  [60; with trtexec 600]"),
    click.option("--threads", type=THREADS, metavar="N", help="ONNX Runtime's threads.  [1]"),
)
@section(
    "Output",
    click.option("-o", "--output", type=FILE, metavar="FILE", help="Save the run as JSON."),
    click.option("--store", type=TEXT, metavar="NAME", help="If it passes it is baseline NAME."),
    click.option("--force", is_flag=True, help="Overwrite a file that exists."),
    OUTPUT,
)
@PUBLISH
def check(candidate: Path, **flags: Any) -> None:
    """Hold CANDIDATE against a baseline: latency, answers, size and more.

    Exit code 0: all limits are met; 1: one is not; 5: the measurement cannot tell.
    """
    from graphopt.verbs_check import run_check

    run_check(candidate, flags, console(flags))


MEASURING: Sequence[click.Command] = (estimate, profile, check, history, report, schema)
