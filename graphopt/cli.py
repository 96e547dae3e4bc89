"""The command line: one function per verb, no logic."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

import graphopt
from graphopt.cli_measure import MEASURING
from graphopt.cli_options import (
    BUNDLE,
    COMPRESS,
    COUNT,
    DATA,
    FILE,
    HOST,
    OUTPUT,
    POINTS,
    PUBLISH,
    SHAPES,
    TEXT,
    Group,
    Sectioned,
    console,
)
from graphopt.errors import GraphoptError
from graphopt.files import STOPPING
from graphopt.wording import one_line

INTERNAL = 70  # EX_SOFTWARE of <sysexits.h>: a fault of graphopt's own
COMPLETE = "_GRAPHOPT_COMPLETE"


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Prune, quantize and verify ONNX models and build TensorRT engines.\n\n\b\n"
    "graphopt build model.onnx --int8 --prune 0.3 --data images/\n"
    "graphopt build model.onnx --int8 --data images/ --device t4 --host me@server\n"
    "graphopt bundle model.onnx --int8 --data images/ --device jetson-agx-xavier\n"
    "graphopt check model.engine --baseline released.engine --max-regression 3%",
)
@click.version_option(graphopt.__version__, prog_name="graphopt")
def cli() -> None:
    """Hold the verbs."""


@cli.command(cls=Sectioned)
@click.argument("model", type=FILE)
@COMPRESS
@PUBLISH
def build(model: Path, **flags: Any) -> None:
    """Compress MODEL and build an engine."""
    from graphopt.verbs import run_build

    run_build(model, flags, console(flags), engine=True)


@cli.command(cls=Sectioned)
@click.argument("model", type=FILE)
@COMPRESS
@PUBLISH
def optimize(model: Path, **flags: Any) -> None:
    """Compress MODEL; stop at the optimized ONNX, no engine."""
    from graphopt.verbs import run_optimize

    run_optimize(model, flags, console(flags))


@cli.command(cls=Sectioned, short_help="Pack MODEL for a device out of reach.")
@click.argument("model", type=FILE, metavar="MODEL|DIR")
@BUNDLE
def bundle(model: Path, **flags: Any) -> None:
    """Pack MODEL, or a build's output, for a device out of reach.

    There: tar xzf BUNDLE, then sh build.sh in the folder, which needs trtexec and no Python.
    Back here: graphopt import-results model-results.tar.gz --bundle BUNDLE.
    """
    from graphopt.verbs_bundle import run_bundle

    run_bundle(model, flags, console(flags))


@cli.command("import-results")
@click.argument("results", type=FILE)
@click.option("--bundle", type=FILE, required=True, metavar="FILE", help="What was built there.")
@click.option("-o", "--output", type=FILE, metavar="DIR", help="[the bundle's name, -graphopt]")
@click.option("--force", is_flag=True, help="Write into a folder that exists.")
@OUTPUT
def import_results(results: Path, **flags: Any) -> None:
    """Check what a device sent back; take in engine and times.

    RESULTS is what build.sh packed there, model-results.tar.gz.
    """
    from graphopt.verbs_bundle import run_import_results

    run_import_results(results, flags, console(flags))


@cli.command()
@click.argument("files", type=FILE, nargs=-1, metavar="[MODEL | TABLE...]")
@DATA
@click.option(
    "--calibrator",
    type=TEXT,
    metavar="NAME",
    help="entropy, minmax, percentile:99.9, mse, auto; all compares them.  [auto]",
)
@click.option("--resume", type=FILE, metavar="TABLE", help="Add to it what it has not seen.")
@click.option(
    "--from",
    "source",
    type=FILE,
    metavar="FILE",
    help="No data: read a table, a TensorRT cache, or ONNX Runtime's.",
)
@click.option("--merge", is_flag=True, help="Make one table of several, exactly.")
@click.option("--compare", is_flag=True, help="Say where two tables differ.")
@click.option("--inspect", is_flag=True, help="Say what is in a table.")
@click.option("--memory", metavar="SIZE", help="What it may hold, like 2GB.")
@click.option("--trt-cache", type=FILE, metavar="FILE", help="Write TensorRT's cache too.")
@click.option("--trt-version", metavar="X.Y.Z", help="Version the cache is for.  [8.5.2]")
@click.option("--trt-algorithm", metavar="NAME", help="In its header.  [EntropyCalibration2]")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="[calibration.json]")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@OUTPUT
def calibrate(files: tuple[Path, ...], **flags: Any) -> None:
    """Measure the ranges of MODEL's tensors; work on the tables.

    They are those of MODEL as build quantizes it, simplified and BatchNorm folded; with
    --trt-cache those of every tensor of MODEL as it stands.
    """
    from graphopt.verbs_calibrate import run_calibrate

    run_calibrate(files, flags, console(flags))


@cli.command(short_help="Say what a model, an engine or a table is made of.")
@click.argument("file", type=FILE)
@click.option("--device", metavar="NAME|FILE", default="host", help="The target.  [host]")
@SHAPES
@OUTPUT
def inspect(file: Path, **flags: Any) -> None:
    """Say what a model, an engine or a calibration table is made of."""
    from graphopt.verbs import run_inspect

    run_inspect(file, flags, console(flags))


@cli.command()
@click.argument("model", type=FILE)
@DATA
@click.option(
    "--eval", "eval_spec", type=TEXT, metavar="SPEC", help="Samples to measure on.  [of --data]"
)
@click.option("--ratios", metavar="R,R,…", help="Shares of a group's channels.  [0.1,0.3,0.5]")
@click.option("--only", type=click.Choice(["prune", "int8"]), help="One of the two.  [both]")
@click.option("--importance", metavar="NAME", help="What chooses the channels.  [obs]")
@click.option("--align", type=click.IntRange(1, 1024), metavar="N", help="Widths divide by N.  [1]")
@click.option("--calibrator", metavar="NAME", help="What chooses INT8 ranges.  [auto]")
@click.option("--engine", metavar="NAME", help="Whose INT8: see graphopt engines.  [auto]")
@click.option("--device", metavar="NAME|FILE", default="host", help="The target.  [host]")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Figures; a stopped run goes on.")
@click.option("--force", is_flag=True, help="Overwrite figures of another run.")
@OUTPUT
def analyze(model: Path, **flags: Any) -> None:
    """Measure what each group and layer of MODEL loses alone."""
    from graphopt.verbs_analyze import run_analyze

    run_analyze(model, flags, console(flags))


@cli.command()
@click.argument("reference", type=FILE, metavar="A")
@click.argument("candidate", type=FILE, metavar="B")
@DATA
@HOST
@click.option("--max-drop", type=POINTS, metavar="X", help="Fail past X points of accuracy.")
@OUTPUT
def compare(reference: Path, candidate: Path, **flags: Any) -> None:
    """Measure the fidelity of B against A on the same samples.

    With --host or --trtexec the engine B runs there, on 64 samples unless --samples says more.
    """
    from graphopt.verbs import run_compare

    run_compare(reference, candidate, flags, console(flags))


for verb in MEASURING:
    cli.add_command(verb)


@cli.command(short_help="List the devices that are known, or show one.")
@click.argument("name", required=False, type=TEXT, metavar="[NAME|FILE]")
@click.option("--measure", is_flag=True, help="Find the peaks of this processor (host).")
@click.option("--threads", type=COUNT, metavar="N", help="To measure with.  [all]")
@click.option("-o", "--output", type=FILE, metavar="FILE.toml", help="Save what was measured.")
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@OUTPUT
def devices(name: str | None, **flags: Any) -> None:
    """List the devices that are known, or show one with the source of each figure."""
    from graphopt.verbs_devices import run_devices

    run_devices(name, flags, console(flags))


@cli.command()
@OUTPUT
def engines(**flags: Any) -> None:
    """List the engines, and which can be used here."""
    from graphopt.verbs import run_engines

    run_engines(console(flags))


@cli.command(short_help="Say what is here, or on --host, and what is missing.")
@HOST
@OUTPUT
def doctor(**flags: Any) -> None:
    """Say what is installed, here and on --host, what is missing, how to get it."""
    from graphopt.verbs import run_doctor

    ui = console(flags)
    sys.exit(run_doctor(flags, ui))


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP: cleaned up after as Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; end with the exit code of the error, if there is one.

    Args:
        argv: the words after the program's name; the process's own by default, and then its
            signals, warnings and standard output are set up too.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        if COMPLETE in os.environ:
            cli.main(prog_name="graphopt")
        _own_process()
    sys.exit(_run(words or ["--help"]))


def _run(words: list[str]) -> int:
    """Run, tell any error in one line, and return the exit code."""
    try:
        # Not cli.main(): it gives a closed pipe the exit code of a failed gate.
        with cli.make_context("graphopt", list(words)) as ctx:
            cli.invoke(ctx)
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort) as problem:
        number = problem.number if isinstance(problem, Stopped) else signal.SIGINT
        return _tell(str(problem) or "interrupted; nothing was written", code=128 + number)
    except click.ClickException as problem:
        usage = isinstance(problem, click.UsageError) and problem.ctx is not None
        hint = f"try '{problem.ctx.command_path} --help'" if usage else ""  # type: ignore[attr-defined]
        return _tell(problem.format_message(), hint, code=2)
    except GraphoptError as problem:
        return _tell(str(problem), problem.hint, code=problem.exit_code)
    except MemoryError:
        return _tell("out of memory: use fewer or smaller samples, or a smaller batch", code=4)
    except BrokenPipeError:
        _drop_output()
        return 128 + 13  # what a shell shows for SIGPIPE, which Windows has not
    except Exception as problem:  # noqa: BLE001 - no user should meet a bare traceback
        return _unexpected(problem, words)
    return 0


def _unexpected(problem: Exception, words: list[str]) -> int:
    """Tell of an error that nothing else did: the machine's, or a fault of graphopt's."""
    if os.environ.get("GRAPHOPT_TRACEBACK") or {"-v", "--verbose"} & set(words):
        traceback.print_exception(problem)
    if isinstance(problem, OSError) and problem.strerror:
        if not problem.filename:
            _drop_output()
        name = os.fsdecode(problem.filename or "standard output")
        return _tell(f"cannot use {name}: {problem.strerror}", code=4)
    told = one_line(f"{type(problem).__name__}: {problem}")
    return _tell(
        f"internal error: {told}; please report it, with -v for the traceback", code=INTERNAL
    )


def _own_process() -> None:
    """Set up what only the owner of a process may: signals, warnings, standard output.

    NumPy's linear algebra gets one thread, unless the user says otherwise: sums taken by several
    differ in their last bits, which pruning then decides by, and on busy cores they wait for each
    other. ONNX Runtime has threads of its own.
    """
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ.setdefault(name, "1")
    for number in STOPPING:
        if signal.getsignal(number) == signal.SIG_DFL:  # not where nohup ignores it
            signal.signal(number, _stop)
    if not sys.warnoptions:
        # Of libraries, to programmers; graphopt's own go through the console.
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def _drop_output() -> None:
    """Give up what waits to be written: nobody reads it, and Python would try again at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _tell(message: str, hint: str = "", *, code: int) -> int:
    with contextlib.suppress(OSError):
        click.echo(f"error: {message}", err=True)
        if hint:
            click.echo(hint, err=True)
    return code
