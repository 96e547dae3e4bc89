"""The verbs that measure, judge and tell: estimate, profile, check, history, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from graphopt.cli_options import (
    COUNT,
    DATA,
    FILE,
    HOST,
    OUTPUT,
    TIME,
    console,
)


@click.command()
@click.argument("file", type=FILE)
@DATA
@click.option("--batch", type=COUNT, metavar="N", help="Batch size.  [1]")
@click.option("--opt-shapes", multiple=True, metavar="IN:8x3x…", help="Input shapes.")
@HOST
@click.option("--layers", type=FILE, metavar="FILE", help="Save each layer's time, by trtexec.")
@click.option("--warm-up", type=TIME, default=200, metavar="MS", help="Dropped.  [200]")
@click.option("--duration", type=TIME, default=3, metavar="S", help="At least.  [3]")
@click.option("--iterations", type=COUNT, default=10, metavar="N", help="At least.  [10]")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Save raw samples as JSON.")
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@OUTPUT
def profile(file: Path, **flags: Any) -> None:
    """Time FILE, here or on --host: latency and throughput."""
    from graphopt.verbs_profile import run_profile

    run_profile(file, flags, console(flags))


MEASURING: Sequence[click.Command] = (profile,)
