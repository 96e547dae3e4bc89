"""The example pipelines run: build, profile, store a baseline, regress, fail, summary.

What runs is the shell of the workflow files themselves, so what is documented is what is tested.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import click
import jsonschema
import pytest
from helpers import ROOT
from workflows import GITHUB, GITLAB, Step, github_steps, gitlab_scripts, variables

from graphopt import schemas
from graphopt.cli import cli
from graphopt.cli_options import PUBLISH

PAGES = [ROOT / "docs" / "pipelines.md", ROOT / "docs" / "schemas.md"]


def commands(script: str) -> list[list[str]]:
    """Return the words of each graphopt command of a shell script."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||;|\bthen\b", line):
            start = re.search(r"(?:^|\s)graphopt ", part)
            if start and not part.lstrip().startswith("#"):
                words = shlex.split(part[start.start() :], comments=True)
                found.append(words[1 : next((i for i, w in enumerate(words) if w == ">"), None)])
    return found


def parse(words: list[str]) -> None:
    """Let click read a command; nothing of it runs."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, words)
        assert name is not None and found is not None
        command, words = found, rest
        context = click.Context(command, context, name)
    command.make_context(context.info_name, words, parent=context.parent)


def every_script() -> list[str]:
    documented = [
        block
        for page in PAGES
        for block in re.findall(r"```(?:bash|yaml)\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    ]
    steps = [step.script for step in github_steps()]
    return [*steps, *gitlab_scripts(), *gitlab_scripts("after_script"), *documented]


def test_every_command_and_option_of_the_examples_exists() -> None:
    found = [words for script in every_script() for words in commands(script)]
    assert {"build", "profile", "check", "history", "report"} <= {words[0] for words in found}
    for words in found:
        # A number may stand for itself only once the shell has put it there.
        parse([re.sub(r"\$\{?BUDGET\}?", "60", word) for word in words])


def test_the_page_lists_every_option() -> None:
    @PUBLISH
    def verb() -> None: ...

    page = PAGES[0].read_text("utf-8")
    options = [p.opts[0] for p in reversed(verb.__click_params__)]  # type: ignore[attr-defined]
    assert sorted(re.findall(r"^\| `(--[\w-]+)", page, re.MULTILINE)) == sorted(options)


def test_an_option_that_is_none_would_be_found() -> None:
    with pytest.raises(click.UsageError):
        parse(["check", "a", "--baseline", "b", "--max-regresion", "3%"])


def test_the_steps_are_those_of_the_files() -> None:
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load(GITHUB.read_text("utf-8"))
    steps = [s for s in jobs["jobs"]["model"]["steps"] if "run" in s]
    assert [Step(s["name"], s.get("if", ""), s["run"].rstrip()) for s in steps] == [
        Step(s.name, s.condition, s.script.rstrip()) for s in github_steps()
    ]
    assert {k: str(v) for k, v in jobs["env"].items()} == variables(GITHUB)
    job = yaml.safe_load(GITLAB.read_text("utf-8"))
    for key in ("script", "after_script"):
        assert [text.rstrip() for text in job["model"][key]] == [
            text.rstrip() for text in gitlab_scripts(key)
        ]
    assert job["model"]["allow_failure"] == {"exit_codes": [5]}


def test_no_expression_of_a_workflow_reaches_a_shell() -> None:
    """A branch's name in ``${{ }}`` would be pasted into the script, where it can be commands."""
    for step in github_steps():
        assert "${{" not in step.script, step.name


# A build times its model for less long than it would.
_QUICK = "import graphopt.cli, graphopt.measure as m; m.SECONDS = 0.05; graphopt.cli.main()"


INT8 = 'int8 = true\nrounding = "nearest"'  # which is quick


def _most_images(_: str, names: list[str]) -> list[str]:
    """Return what is not copied: of the images of each digit all but the first ten."""
    return sorted(name for name in names if name.endswith(".png"))[10:]


class Machine:
    """Runs the shell of a pipeline in a checkout of its own."""

    def __init__(self, folder: Path, path: Path, **more: str) -> None:
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=_most_images)
        programs = folder / "bin"
        programs.mkdir()
        program = programs / "graphopt"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{_QUICK}" "$@"\n')
        program.chmod(0o755)
        self.folder, self.recipe = folder, folder / "examples" / "pipelines" / "recipe.toml"
        kept = {k: v for k, v in os.environ.items() if not re.match("GITHUB_|GITLAB|CI", k)}
        self.environment = {
            **kept,
            **variables(path),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CI": "true",
            "BUDGET": "20",
            **more,
        }
        # Fewer samples; and a limit that a busy machine does not come near by itself.
        self.edit("samples = 200", "samples = 32")
        self.edit("int8 = true", INT8)
        self.edit('max_regression = "3%"', 'max_regression = "30%"')

    def edit(self, old: str, new: str) -> None:
        text = self.recipe.read_text("utf-8")
        assert old in text
        self.recipe.write_text(text.replace(old, new), "utf-8")

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", script.replace("--duration 3", "--duration 0.3")],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


def suite(path: Path) -> ET.Element:
    root = ET.parse(path).getroot()
    (found,) = root.findall("testsuite")
    return found


def failed_cases(path: Path) -> set[str]:
    cases = suite(path).findall("testcase")
    return {str(c.get("name")) for c in cases if c.find("failure") is not None}


def github(machine: Machine, *, ref: str) -> tuple[int, dict[str, str]]:
    """Run the job as GitHub does; return its exit code, and each step's standard error."""
    told, code = {}, 0
    for step in github_steps():
        if step.name == "Install":
            continue
        always = step.condition == "always()"
        holds = {
            "": True,
            "always()": True,
            "github.ref == 'refs/heads/main'": ref == "refs/heads/main",
            "hashFiles('baseline/model.ort.onnx') != ''": (
                machine.folder / "baseline" / "model.ort.onnx"
            ).exists(),
        }[step.condition]
        if not holds or (code and not always):
            continue
        done = machine.run(step.script)
        told[step.name] = done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode and step.name != "Check":
            pytest.fail(f"{step.name}: {done.stdout}{done.stderr}")
        code = code or done.returncode
    return code, told


@pytest.mark.slow
def test_github_builds_stores_a_baseline_and_fails_a_slower_model(tmp_path: Path) -> None:
    page, outputs = tmp_path / "page.md", tmp_path / "outputs"
    machine = Machine(
        tmp_path / "checkout",
        GITHUB,
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(page),
        GITHUB_OUTPUT=str(outputs),
        GITHUB_SHA="1" * 40,
        GITHUB_REF_NAME="main",
    )
    reports, baseline = machine.folder / "reports", machine.folder / "baseline"

    code, told = github(machine, ref="refs/heads/main")
    assert code == 0 and "Check" not in told  # nothing to hold it against yet
    assert (baseline / "model.ort.onnx").exists() and (reports / "report.html").exists()
    assert "### graphopt build: ✅ pass (digits)" in page.read_text("utf-8")
    first = (baseline / "model.ort.onnx").read_bytes()

    # The same again, as a pull request that changes nothing.
    machine.environment |= {"GITHUB_SHA": "2" * 40, "GITHUB_HEAD_REF": "docs"}
    code, told = github(machine, ref="refs/pull/1/merge")
    assert code == 0 and "Check" in told and "::error" not in told["Check"]
    assert suite(reports / "check.xml").get("failures") == "0"

    # Somebody turns INT8 off: fp32 takes more than twice as long, and four times the room.
    machine.edit(INT8, "int8 = false")
    machine.environment |= {"GITHUB_SHA": "3" * 40, "GITHUB_HEAD_REF": "slow\n::error::injected"}
    page.write_text("")
    outputs.write_text("")
    code, told = github(machine, ref="refs/pull/2/merge")
    assert code == 1
    assert failed_cases(reports / "check.xml") == {"max-regression", "max-size"}
    text = page.read_text("utf-8")
    assert "### graphopt check: ❌ fail (digits)" in text
    assert re.search(r"\| median latency \(max-regression\) \| ❌ fail \| \d+\.\d\d % \|", text)
    errors = [line for line in told["Check"].splitlines() if line.startswith("::error")]
    assert len(errors) == 2 and "max-regression fail" in errors[0]
    assert not any(line.startswith("::error::injected") for line in told["Check"].splitlines())
    last = dict(line.split("=", 1) for line in outputs.read_text("utf-8").splitlines())
    assert last["status"] == "fail" and last["failed"] == "max-regression,max-size"
    figures = json.loads((reports / "check.json").read_text("utf-8"))
    jsonschema.validate(figures, schemas.load("metrics"))
    assert figures["latency_p50"] > figures["latency_p50_before"]
    assert (reports / "report.html").exists()  # always(): for whoever looks into it
    assert (baseline / "model.ort.onnx").read_bytes() == first

    rows = json.loads(machine.run("graphopt history list baseline/history.sqlite --json").stdout)
    assert [row["status"] for row in rows if row["verb"] == "check"] == ["fail", "pass"]
    assert {row["commit"][0] for row in rows} == {"1", "2", "3"}
    exported = machine.run("graphopt history export baseline/history.sqlite").stdout.splitlines()
    assert len(exported) == len(rows)
    for line in exported:
        jsonschema.validate(json.loads(line), schemas.load("run"))


@pytest.mark.slow
def test_gitlab_stores_a_baseline_and_fails_a_slower_model(tmp_path: Path) -> None:
    machine = Machine(
        tmp_path / "checkout",
        GITLAB,
        GITLAB_CI="true",
        CI_COMMIT_SHA="1" * 40,
        CI_COMMIT_REF_NAME="main",
    )
    reports = machine.folder / "reports"
    codes = []
    for options in (INT8, "int8 = false"):
        machine.edit(INT8, options)
        done = None
        for script in gitlab_scripts():
            done = machine.run(script)
            assert "Traceback" not in done.stderr, done.stderr
            if done.returncode:
                break
        assert done is not None
        codes.append((done.returncode, done.stdout + done.stderr))
        for script in gitlab_scripts("after_script"):
            after = machine.run(script)
            assert after.returncode == 0, after.stderr
    # A stored baseline is of another moment: where the machine was busier then, it says it cannot
    # tell; it never fails what is the same.
    assert codes[0][0] in (0, 5), codes[0][1]
    assert codes[1][0] == 1, codes[1][1]
    assert "max-regression" in failed_cases(reports / "check.xml")
    assert 'graphopt_gate_max_regression_passed{subject="digits"} 0' in (
        reports / "metrics.txt"
    ).read_text("utf-8")
