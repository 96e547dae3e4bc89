"""``graphopt history``: a group of verbs over one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graphopt.cli_options import (
    COUNT,
    FILE,
    LIMIT,
    NATURAL,
    OUTPUT,
    TEXT,
    Group,
    Sectioned,
    console,
    section,
)

WHICH = "Which runs"
_WHICH = section(
    WHICH,
    click.option("--subject", type=TEXT, metavar="NAME", help="Only runs of this."),
    click.option("--branch", type=TEXT, metavar="NAME", help="Only of this branch."),
    click.option(
        "--verb", type=TEXT, metavar="NAME", help="Only build, optimize, profile or check."
    ),
    click.option("--machine", type=TEXT, metavar="HASH", help="Only of this fingerprint."),
)
_STATUS = section(
    WHICH,
    click.option(
        "--status",
        type=click.Choice(["pass", "fail", "inconclusive", "none"]),
        help="Only with this verdict.",
    ),
)
_FIGURE = click.option(
    "--figure", type=TEXT, metavar="NAME", default="latency_p50", help="[latency_p50]"
)
_SUBJECT = click.option("--subject", type=TEXT, metavar="NAME", help="Only runs of this.")
_FORCE = click.option("--force", is_flag=True, help="Overwrite a file that exists.")


@click.group(cls=Group, short_help="List, plot and prune runs; find where a shift began.")
def history() -> None:
    """Look at the runs that --history FILE has kept."""


@history.command("list", cls=Sectioned)
@click.argument("file", type=FILE)
@_WHICH
@_STATUS
@section(
    WHICH,
    click.option("--limit", type=COUNT, default=20, metavar="N", help="The newest N.  [20]"),
)
@section("Output", _FIGURE, OUTPUT)
def list_runs(file: Path, **flags: Any) -> None:
    """List the runs of FILE, newest first."""
    from graphopt.verbs_history import run_list

    run_list(file, flags, console(flags))


@history.command()
@click.argument("file", type=FILE)
@click.argument("run", type=TEXT)
@_SUBJECT
@OUTPUT
def show(file: Path, run: str, **flags: Any) -> None:
    """Show one RUN: its number, a baseline, branch:NAME or last-good."""
    from graphopt.verbs_history import run_show

    run_show(file, run, flags, console(flags))


@history.command(cls=Sectioned)
@click.argument("file", type=FILE)
@_WHICH
@_STATUS
@section(WHICH, click.option("--limit", type=COUNT, metavar="N", help="The newest N.  [all]"))
@section(
    "Output",
    _FIGURE,
    click.option("-o", "--output", "--plot", type=FILE, metavar="FILE.svg", help="Draw, as SVG."),
    _FORCE,
    click.option("--ascii", is_flag=True, help="Plot without Unicode."),
    OUTPUT,
)
def plot(file: Path, **flags: Any) -> None:
    """Plot a figure over the runs of FILE, in the terminal.

    Only runs of the same subject, machine, verb and batch are joined.
    """
    from graphopt.verbs_trends import run_plot

    run_plot(file, flags, console(flags))


@history.command(cls=Sectioned)
@click.argument("file", type=FILE)
@_WHICH
@section(
    WHICH,
    click.option("--limit", type=COUNT, metavar="N", help="The newest N of a series.  [1000]"),
)
@section(
    "Output",
    _FIGURE,
    click.option("--least", type=LIMIT, metavar="X", help="Leave out changes below X (%)."),
    OUTPUT,
)
def shifts(file: Path, **flags: Any) -> None:
    """Find the runs that a change of level began with."""
    from graphopt.verbs_trends import run_shifts

    run_shifts(file, flags, console(flags))


@history.command(short_help="Let NAME mean RUN; without RUN list baselines.")
@click.argument("file", type=FILE)
@click.argument("name", type=TEXT, required=False)
@click.argument("run", type=TEXT, required=False)
@click.option("--remove", is_flag=True, help="Forget NAME; its run stays.")
@_SUBJECT
@OUTPUT
def baseline(file: Path, name: str | None, run: str | None, **flags: Any) -> None:
    """Let NAME mean RUN, in place of another; without RUN list baselines.

    A name means one run of each subject. RUN is a number, another name, branch:NAME or last-good.
    """
    from graphopt.verbs_history import run_baseline

    run_baseline(file, name, run, flags, console(flags))


@history.command(cls=Sectioned)
@click.argument("file", type=FILE)
@_WHICH
@_STATUS
@section(
    "Output",
    click.option("--format", type=click.Choice(["csv", "json"]), help="[by -o; json]"),
    click.option("-o", "--output", type=FILE, metavar="FILE", help="A .csv or .jsonl.  [stdout]"),
    _FORCE,
    OUTPUT,
)
def export(file: Path, **flags: Any) -> None:
    """Write runs as CSV, or as JSON Lines with raw samples."""
    from graphopt.verbs_history import run_export

    run_export(file, flags, console(flags))


@history.command("import")
@click.argument("file", type=FILE)
@click.argument("sources", type=FILE, nargs=-1, required=True, metavar="SOURCE...")
@OUTPUT
def import_runs(file: Path, sources: tuple[Path, ...], **flags: Any) -> None:
    """Add the runs of other histories, or exports, to FILE.

    Those that are there already are left out, so that it can be done again.
    """
    from graphopt.verbs_history import run_import

    run_import(file, sources, console(flags))


@history.command()
@click.argument("file", type=FILE)
@click.option("--keep", type=NATURAL, metavar="N", help="The newest N of each subject stay.")
@click.option("--older-than", metavar="AGE", help="Only runs older than 90d, 12h, 8w, 6m, 2y.")
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@OUTPUT
def prune(file: Path, **flags: Any) -> None:
    """Remove old runs; baselines and the last good ones stay."""
    from graphopt.verbs_history import run_prune

    run_prune(file, flags, console(flags))


@history.command()
@click.argument("file", type=FILE)
@OUTPUT
def verify(file: Path, **flags: Any) -> None:
    """Check every page, reference and digest of FILE."""
    from graphopt.verbs_history import run_verify

    run_verify(file, console(flags))
