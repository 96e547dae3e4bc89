"""The options that verbs share, and how a long list of them is shown."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from graphopt.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])


class Name(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A path, or a SPEC that holds one: text that ONNX Runtime, JSON and TOML can carry."""

    name = "text"

    def __init__(self, kind: Callable[[str], Any] = str) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse nothing at all, bytes that are no UTF-8, and NUL."""
        text = os.fspath(value)
        if not text.strip():
            self.fail("is empty", param, ctx)  # most often a variable of the shell that is not set
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{text!r} is not UTF-8: rename it, or go through a link", param, ctx)
        if "\0" in text:
            self.fail(f"{text!r} holds a NUL character", param, ctx)
        return self.kind(text)


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse NaN and infinities too."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class Counts(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """Whole numbers with commas between them: ``1,8,32``; each once, in the order given."""

    name = "integers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is no number from 1 to 1,000,000, nothing between commas, and repetitions."""
        if isinstance(value, tuple):
            return value
        found: list[int] = []
        for word in str(value).split(","):
            word = word.strip()
            if not word:
                self.fail(f"{value!r}: nothing stands between two commas or at an end", param, ctx)
            if not (word.isascii() and word.isdigit() and 1 <= int(word[:12]) <= 1_000_000):
                self.fail(f"{word!r} is no whole number from 1 to 1000000", param, ctx)
            if int(word) in found:
                self.fail(f"{value!r} has {int(word)} twice", param, ctx)
            found.append(int(word))
        return tuple(found)


FILE, TEXT, COUNTS = Name(Path), Name(), Counts()
COUNT, NATURAL = click.IntRange(min=1), click.IntRange(min=0)
THREADS = click.IntRange(1, 1024)
POINTS, TIME = Number(min=0, max=100), Number(min=0)
DECIBELS = Number(min=0, max=200)
LIMIT = Number(min=0, min_open=True, max=1_000_000)


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Stack option decorators so that they read in order."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def hidden(*names: str) -> Callable[[Command], Command]:
    """Leave options out of the help: those that a verb refuses, with the way out."""

    def apply(command: Command) -> Command:
        for param in command.__click_params__:  # type: ignore[attr-defined]
            if param.name in names:
                param.hidden = True
        return command

    return apply


def section(title: str, *decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Stack option decorators under a title of their own in the help."""

    def apply(command: Command) -> Command:
        before = len(getattr(command, "__click_params__", []))
        command = options(*decorators)(command)
        for param in command.__click_params__[before:]:  # type: ignore[attr-defined]
            param.section = title
        return command

    return apply


class Group(click.Group):
    """Keeps verbs in the order a user meets them, and suggests the nearest for a typing error."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the verbs as they were defined."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take no words for a question."""
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a verb, or say which one may have been meant."""
        from graphopt.registry import did_you_mean

        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as problem:
            if not args or args[0] in self.commands or args[0].startswith("-"):
                raise
            # In our words: what click says of it differs from version to version.
            hint = did_you_mean(args[0], self.commands)
            raise click.UsageError(f"no such verb '{args[0]}'{hint}", ctx) from problem


class Sectioned(click.Command):
    """Shows options under the titles :func:`section` gave them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list of options for each title."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                rows.setdefault(getattr(param, "section", "Help"), []).append(record)
        rows["Help"] = rows.pop("Help", [])
        for title, records in rows.items():
            with formatter.section(title):
                formatter.write_dl(records)


OUTPUT = options(
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    click.option("-v", "--verbose", is_flag=True, help="Say every change and refusal."),
    click.option("-q", "--quiet", is_flag=True, help="Warnings and results only."),
)
DATA = options(
    click.option(
        "--data", type=TEXT, metavar="SPEC", help="Image folder, .npz/.npy, or file.py:function."
    ),
    click.option(
        "--preprocess",
        type=TEXT,
        metavar="NAME|FILE",
        help="cifar, imagenet or a TOML file; for images.",
    ),
    click.option("--samples", type=COUNT, metavar="N", help="Samples at most.  [512]"),
    click.option("--seed", type=NATURAL, metavar="N", help="Chooses which samples.  [0]"),
)
SHAPES = options(
    click.option("--min-shapes", multiple=True, metavar="IN:1x3x…", help="Least input shape."),
    click.option("--opt-shapes", multiple=True, metavar="IN:8x3x…", help="Shape to tune for."),
    click.option("--max-shapes", multiple=True, metavar="IN:32x3x…", help="Greatest input shape."),
)
HOST = options(
    click.option("--host", type=TEXT, metavar="[USER@]HOST", help="Use trtexec there, over ssh."),
    click.option("--trtexec", type=TEXT, metavar="PATH", help="The trtexec to use, here or there."),
)
SHARE = Number(min=0, max=1, min_open=True, max_open=True)
_COMPRESS = options(
    section(
        "What to do",
        click.option(
            "--int8", is_flag=True, help="Quantize to INT8: give --data or --calibration."
        ),
        click.option("--prune", type=SHARE, metavar="RATIO", help="Share of channels to remove."),
        click.option("--fp16", is_flag=True, help="FP16 for all that stays floating point."),
        click.option(
            "--weights", type=click.Choice(["int4", "int8"]), help="Quantize weights alone."
        ),
        click.option(
            "--sparsity", metavar="2:4|X", help="Zeros in weights: 2:4 for Ampere on, or a share."
        ),
        click.option(
            "--low-rank",
            type=SHARE,
            metavar="X",
            help="Factorize layers until this share of MACs is left.",
        ),
        click.option("--recipe", type=FILE, metavar="FILE.toml", help="Options from a file."),
    ),
    section(
        "Data",
        DATA,
        click.option(
            "--eval",
            "eval_spec",
            type=TEXT,
            metavar="SPEC",
            help="Samples to measure fidelity on.",
        ),
        click.option("--synthetic", is_flag=True, help="Calibrate on random data: latency only."),
    ),
    section(
        "Target",
        click.option(
            "--engine", metavar="NAME", help="auto, tensorrt, trtexec, tensorrt-rtx, onnxruntime."
        ),
        click.option(
            "--device", metavar="NAME|FILE", help="The target; see graphopt devices.  [host]"
        ),
        HOST,
        click.option(
            "--trt-version",
            metavar="X.Y.Z",
            help="TensorRT the model is for.  [what builds; else all of the device's]",
        ),
        SHAPES,
        click.option(
            "--dla", type=click.IntRange(0, 15), metavar="CORE", help="Build for this DLA core."
        ),
        click.option("--no-gpu-fallback", is_flag=True, help="All of it on the DLA, or fail."),
        click.option(
            "--builder-level", type=click.IntRange(0, 5), metavar="0-5", help="How long to search."
        ),
        click.option("--workspace", metavar="SIZE", help="Scratch memory at most, like 2GB."),
        click.option(
            "--timing-cache", type=FILE, metavar="FILE", help="[one for each TensorRT and GPU]"
        ),
        click.option(
            "--time-limit", type=LIMIT, metavar="S", help="Stop a build that takes longer."
        ),
    ),
    section(
        "Limits",
        click.option(
            "--max-drop",
            type=POINTS,
            metavar="X",
            help="Points of accuracy that may be lost: INT8 leaves the fewest layers out that "
            "meet it, else the build fails.",
        ),
        click.option(
            "--min-sqnr", type=DECIBELS, metavar="DB", help="The same, for the SQNR of outputs."
        ),
    ),
    section(
        "How to quantize",
        click.option(
            "--quantization",
            type=click.Choice(["explicit", "implicit"]),
            help="Q/DQ in the graph, or ranges beside it.  [explicit; DLA implicit]",
        ),
        click.option(
            "--calibrate-on-gpu",
            is_flag=True,
            help="Implicit: TensorRT measures the ranges by itself.",
        ),
        click.option(
            "--calibrator",
            type=TEXT,
            metavar="NAME",
            help="entropy, minmax, percentile:99.9, mse or auto.  [auto]",
        ),
        click.option(
            "--calibration",
            type=FILE,
            metavar="FILE",
            help="Ranges of graphopt calibrate, TensorRT or ONNX Runtime, in place of a pass.",
        ),
        click.option(
            "--exclude-nodes",
            multiple=True,
            metavar="PATTERN",
            help="Node names or op types INT8 (or FP16) leaves out; repeatable.",
        ),
        click.option(
            "--rounding",
            type=click.Choice(["second-order", "nearest"]),
            help="Of INT8 weights.  [second-order with data]",
        ),
        click.option(
            "--bias-correction/--no-bias-correction",
            "bias",
            default=None,
            help="Mean errors of INT8 layers go into their biases.",
        ),
        click.option(
            "--equalize/--no-equalize",
            default=None,
            help="Even out the ranges of channels from layer to layer.",
        ),
        click.option(
            "--smooth/--no-smooth",
            default=None,
            help="Move outliers behind normalizations into weights (SmoothQuant).",
        ),
        click.option("--block", type=COUNT, metavar="N", help="Weights that share a scale.  [128]"),
        click.option("--memory", metavar="SIZE", help="What calibration may hold, like 2GB."),
    ),
    section(
        "How to prune",
        click.option(
            "--prune-to",
            type=TEXT,
            metavar="COST=X",
            help="What shall remain: macs=0.5, params=0.6, latency=0.7.",
        ),
        click.option(
            "--importance",
            metavar="NAME",
            help="obs, activation, lasso, l2 …; a wrong name lists them.  [obs with data, else l2]",
        ),
        click.option(
            "--allocation",
            metavar="NAME",
            help="global or uniform.  [global with obs, else uniform]",
        ),
        click.option(
            "--align",
            type=click.IntRange(1, 1024),
            metavar="N",
            help="Pruned widths divide by N.  [device's]",
        ),
        click.option("--floor", type=COUNT, metavar="N", help="Least width left.  [an eighth]"),
        click.option(
            "--keep", multiple=True, metavar="PATTERN", help="Never prune these; repeatable."
        ),
        click.option("--prune-heads", is_flag=True, help="Whole heads, not parts of each."),
        click.option(
            "--prune-steps", type=COUNT, metavar="K", help="Remove and recover K times.  [2]"
        ),
        click.option("--plan", type=FILE, metavar="FILE.json", help="Replay a prune-plan.json."),
        click.option(
            "--recover-with",
            metavar="NAME",
            help="least-squares, affine or none.  [least-squares with data]",
        ),
        click.option(
            "--recover-from",
            type=FILE,
            metavar="ONNX",
            help="MODEL was pruned elsewhere, from this: recover it.",
        ),
        click.option("--sparsity-by", metavar="NAME", help="obs or magnitude.  [obs with data]"),
    ),
)
_MAKE = options(
    click.option("--force", is_flag=True, help="Write over what exists."),
    click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing."),
    OUTPUT,
)
COMPRESS = options(
    _COMPRESS,
    section(
        "Output",
        click.option("-o", "--output", type=FILE, metavar="DIR", help="Folder for the results."),
        _MAKE,
    ),
)
BUNDLE = options(
    hidden("host", "trtexec", "timing_cache", "calibrate_on_gpu"),
    _COMPRESS,
    section(
        "Output",
        click.option("-o", "--output", type=FILE, metavar="FILE", help="[MODEL-DEVICE.tar.gz]"),
        _MAKE,
    ),
)
PUBLISH = section(
    "For pipelines",
    click.option("--history", type=FILE, metavar="FILE", help="Add this run to a history."),
    click.option("--label", type=TEXT, metavar="NAME", help="Goes by NAME there.  [the file's]"),
    click.option("--junit", type=FILE, metavar="FILE", help="Write a test report, JUnit XML."),
    click.option(
        "--metrics",
        type=FILE,
        metavar="FILE",
        help="Write flat figures: JSON; a .txt, OpenMetrics.",
    ),
    click.option("--bmf", type=FILE, metavar="FILE", help="Write Bencher Metric Format."),
    click.option("--summary", type=FILE, metavar="FILE", help="Add a summary, Markdown."),
    click.option("--ci", metavar="NAME", help="auto, github, gitlab, off.  [auto]"),
)


def console(flags: dict[str, Any]) -> Console:
    """Make the console the output flags ask for."""
    from graphopt.console import Console

    verbosity = -1 if flags.pop("quiet") else 0
    verbosity = 1 if flags.pop("verbose") else verbosity
    return Console(verbosity=verbosity, json=bool(flags.pop("as_json")))
