"""What a run tells the system it runs in: GitHub Actions, GitLab CI."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from graphopt.console import Console
from graphopt.errors import OutputError, UsageError
from graphopt.files import output_error
from graphopt.profiles.run import Run
from graphopt.publish.annotations import annotate
from graphopt.publish.metrics import flat
from graphopt.publish.summary import append_summary
from graphopt.registry import did_you_mean
from graphopt.wording import one_line

SYSTEMS = ("auto", "github", "gitlab", "off")


def system(asked: str | None, environment: Mapping[str, str]) -> str:
    """Return ``"github"``, ``"gitlab"`` or ``"off"``.

    Args:
        asked: of ``--ci``; None is ``"auto"``.
        environment: variables; ``GITHUB_ACTIONS`` and ``GITLAB_CI`` are ``"true"`` there.

    Raises:
        UsageError: it is none of :data:`SYSTEMS`.
    """
    asked = asked or "auto"
    if asked not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise UsageError(
            f"--ci {one_line(asked, 40)} is none of {known}{did_you_mean(asked, SYSTEMS)}"
        )
    if asked != "auto":
        return asked
    for name, variable in (("github", "GITHUB_ACTIONS"), ("gitlab", "GITLAB_CI")):
        if environment.get(variable, "").lower() == "true":
            return name
    return "off"


def tell(
    run: Run,
    asked: str | None,
    environment: Mapping[str, str],
    ui: Console,
    *,
    summary: Path | None = None,
) -> None:
    """Tell the system what came of a run; what it cannot be told is a warning.

    Args:
        run: what came.
        asked: of ``--ci``.
        environment: variables.
        ui: annotations go to its standard error, which GitHub reads too, so that ``--json``
            pipes.
        summary: where one was written already: not a second time there.
    """
    where = system(asked, environment)
    if where == "github":
        _github(run, environment, ui, summary)
    elif where == "gitlab":
        ui.info(
            "GitLab: shows gates by artifacts:reports:junit, figures by artifacts:reports:metrics"
        )


def _github(run: Run, environment: Mapping[str, str], ui: Console, written: Path | None) -> None:
    for line in annotate(run):
        ui.err.file.write(f"{line}\n")
    ui.err.file.flush()
    page, outputs = environment.get("GITHUB_STEP_SUMMARY"), environment.get("GITHUB_OUTPUT")
    if page and not (written is not None and _same(Path(page), written)):
        with _warned(ui):
            append_summary(run, Path(page), ui)
    if outputs:
        with _warned(ui):
            _outputs(run, Path(outputs))
            ui.info("GitHub: set the step's outputs status, failed and metrics")
    if not (page or outputs):
        ui.warn("this is no step of GitHub Actions: GITHUB_STEP_SUMMARY is not set")


@contextmanager
def _warned(ui: Console) -> Iterator[None]:
    """Warn of what cannot be written: neither page nor outputs are worth a step that passed."""
    try:
        yield
    except OutputError as problem:
        ui.warn(str(problem))


def _outputs(run: Run, path: Path) -> None:
    failed = [one_line(gate.name) for gate in run.gates if gate.status == "fail"]
    values = {
        "status": run.status,
        "failed": ",".join(failed),
        "metrics": json.dumps(flat(run), sort_keys=True, allow_nan=False),  # one line, ASCII
    }
    try:
        with path.open("ab") as stream:
            stream.write("".join(f"{name}={text}\n" for name, text in values.items()).encode())
    except OSError as problem:
        raise output_error(path, problem) from problem


def _same(a: Path, b: Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)
