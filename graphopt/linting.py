"""What TensorRT will make of a quantized model, told to the user."""

from __future__ import annotations

from dataclasses import replace

from graphopt.console import Console
from graphopt.engines import BuildOptions
from graphopt.engines.network import read_network, reader
from graphopt.errors import GraphoptError
from graphopt.lint.finding import ERROR, NOTE
from graphopt.lint.run import Lint, lint
from graphopt.model import Model


def lint_model(model: Model, options: BuildOptions) -> Lint:
    """Account for each Q and DQ, over TensorRT's own parsed network where its parser is here.

    Where that refuses the model, the file is walked instead, and ``unread`` says what it said.

    Args:
        model: the model as it ships.
        options: device and shapes it is for.
    """
    if reader() is None:
        return lint(model, device=options.device)
    # What else a build asks for, the parser that is here need not have.
    asked = BuildOptions(options.device, options.shapes, precision=options.precision)
    try:
        network = read_network(model, asked)
    except GraphoptError as problem:
        found = lint(model, device=options.device)
        return replace(found, unread=(*found.unread, f"TensorRT's own network: {problem}"))
    return lint(model, device=options.device, network=network)


def say_lint(found: Lint, ui: Console, *, meant: bool = False) -> None:
    """Say the counts, then what should be changed; notes and each Q and DQ with ``-v``.

    Args:
        found: what the linter says.
        ui: where to.
        meant: layers were left in floating point so that a limit is met: what that costs in speed
            is told, not warned of.
    """
    ui.info(f"lint: {found.summary()}")
    for text in found.unread:
        ui.info(f"lint: not looked at: {text}")
    for finding in found.findings:
        if finding.severity == NOTE:
            ui.detail(finding.line())
        else:
            told = finding.line().partition(": ")[2]
            (ui.info if meant and finding.severity != ERROR else ui.warn)(told)
    for account in found.accounts:
        ui.detail(account.line())
