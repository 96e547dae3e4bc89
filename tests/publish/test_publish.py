"""All that PUBLISH's flags do: files, refusals before any work, what a CI system is told."""

from __future__ import annotations

import io
import json
import os
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from graphopt.console import Console
from graphopt.errors import OutputError, OutputExistsError, UsageError
from graphopt.profiles.history import History
from graphopt.profiles.run import Figure, Gate, Run
from graphopt.publish import check_outputs, publish
from graphopt.publish.summary import MOST
from graphopt.runs import stamped
from graphopt.vcs import now, place

RUN = Run(
    verb="profile",
    subject="model.onnx",
    figures=(Figure("latency_p50", 2.0, "ms"),),
    when="2026-11-23T04:12:53Z",
    commit="a" * 40,
    branch="main",
)
FAILED = replace(RUN, gates=(Gate("max-regression", "median latency", 9, 3, "%", "fail"),))
CI = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CI:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ui() -> Console:
    return Console(err=RichConsole(file=io.StringIO(), soft_wrap=True, highlight=False))


def told(ui: Console) -> str:
    assert isinstance(ui.err.file, io.StringIO)
    return ui.err.file.getvalue()


def test_every_file_is_written(tmp_path: Path, ui: Console) -> None:
    flags = {
        "junit": tmp_path / "new" / "junit.xml",
        "metrics": tmp_path / "metrics.json",
        "bmf": tmp_path / "bmf.json",
        "summary": tmp_path / "also new" / "summary.md",
        "history": tmp_path / "history.sqlite",
        "label": "resnet",
        "ci": None,
    }
    check_outputs(flags)
    assert not list(tmp_path.iterdir())  # nothing is left of having looked
    publish(RUN, flags, ui)
    publish(RUN, flags, ui)
    assert ET.parse(flags["junit"]).getroot()[0].get("name") == "graphopt profile: resnet"
    assert json.loads(flags["metrics"].read_text()) == {"latency_p50": 2.0}
    assert json.loads(flags["bmf"].read_text()) == {"resnet": {"latency": {"value": 2e6}}}
    assert flags["summary"].read_text().count("### graphopt profile (resnet)\n") == 2
    with History.open(flags["history"]) as history:
        assert [run.subject for _, run in history.runs()] == ["resnet", "resnet"]
    assert "as run 2" in told(ui)


def test_a_text_file_gets_openmetrics(tmp_path: Path, ui: Console) -> None:
    publish(RUN, {"metrics": tmp_path / "metrics.txt"}, ui)
    assert (
        'graphopt_latency_p50{subject="model.onnx"} 2\n' in (tmp_path / "metrics.txt").read_text()
    )


def test_two_outputs_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(UsageError, match=r"--(metrics|junit) and --(metrics|junit) name"):
        check_outputs({"junit": tmp_path / "a", "metrics": tmp_path / "sub" / ".." / "a"})
    (tmp_path / "b").write_text("")
    os.link(tmp_path / "b", tmp_path / "c")
    with pytest.raises(UsageError, match="name one file"):
        check_outputs({"junit": tmp_path / "b", "output": tmp_path / "c"})


def test_an_input_is_no_output(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_text("x")
    (tmp_path / "link").symlink_to(model)
    with pytest.raises(OutputExistsError, match="is what is read"):
        check_outputs({"junit": tmp_path / "link"}, inputs=[None, model])
    with pytest.raises(OutputExistsError, match="is a folder"):
        check_outputs({"bmf": tmp_path})


@pytest.mark.parametrize("name", ["report.json", "model.int8.onnx", "prune-plan.json"])
def test_what_a_build_names_is_its_own(tmp_path: Path, name: str) -> None:
    check_outputs({"metrics": tmp_path / "out" / "metrics.json"}, folder=tmp_path / "out")
    with pytest.raises(UsageError, match="what the build itself calls so"):
        check_outputs({"metrics": tmp_path / "out" / name}, folder=tmp_path / "out")


def test_a_place_that_cannot_be_written_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        check_outputs({"junit": tmp_path / "file" / "junit.xml"})


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--ci githup is none of .* \(did you mean 'github'\?\)"):
        check_outputs({"ci": "githup"})


def test_github_gets_summary_annotations_and_outputs(
    tmp_path: Path, ui: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, outputs = tmp_path / "page.md", tmp_path / "outputs"
    page.write_text("of the step before\n")
    for name, value in (
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_STEP_SUMMARY", str(page)),
        ("GITHUB_OUTPUT", str(outputs)),
    ):
        monkeypatch.setenv(name, value)
    publish(FAILED, {}, ui)
    assert page.read_text().startswith("of the step before\n\n### graphopt profile: ❌ fail")
    assert "\n::error title=" in f"\n{told(ui)}"
    lines = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
    assert lines["status"] == "fail" and lines["failed"] == "max-regression"
    assert json.loads(lines["metrics"])["latency_p50"] == 2.0
    publish(FAILED, {"summary": page}, ui)
    assert page.read_text().count("###") == 2  # not twice in one run
    publish(FAILED, {"ci": "off"}, ui)
    assert page.read_text().count("###") == 2


def test_a_full_page_is_a_warning(
    tmp_path: Path, ui: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("x" * MOST)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    publish(RUN, {"ci": "github"}, ui)
    assert page.stat().st_size == MOST and "is full" in told(ui)


def test_gitlab_is_told_by_files(ui: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITLAB_CI", "true")
    publish(RUN, {}, ui)
    assert "artifacts:reports:junit" in told(ui) and "::" not in told(ui)


def test_what_can_be_written_is(tmp_path: Path, ui: Console) -> None:
    (tmp_path / "file").write_text("")
    flags = {"junit": tmp_path / "file" / "no", "bmf": tmp_path / "bmf.json"}
    with pytest.raises(OutputError):
        publish(RUN, flags, ui)
    assert flags["bmf"].exists()
    publish(FAILED, flags, ui)  # the gate's error comes after, and counts for more
    assert "warning: cannot write" in told(ui)


def test_a_run_is_stamped_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stamped(RUN) == RUN
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("CI_COMMIT_SHA", "b" * 40)
    monkeypatch.setenv("GITHUB_SHA", "")
    monkeypatch.setenv("CI_COMMIT_REF_NAME", "feature\n::error::x")
    found = stamped(replace(RUN, commit="", branch="", when=""))
    assert found.commit == "b" * 40 and "\n" not in found.branch
    assert found.when <= now() and found.when.endswith("Z")


def test_commit_and_branch_of_a_repository(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "HOME": "/"}
    assert place(tmp_path, {**environment, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}) == (
        "",
        "",
    )
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (
        ["init", "-q", "-b", "a$(touch${IFS}pwned)b"],
        [*who, "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, env=environment, check=True)
    commit, branch = place(tmp_path, environment)
    assert len(commit) == 40 and branch == "a$(touch${IFS}pwned)b"
    subprocess.run(["git", "checkout", "-q", "--detach"], cwd=tmp_path, check=True, env=environment)
    assert place(tmp_path, environment) == (commit, "")
    assert place(tmp_path, {**environment, "GIT_COMMIT": "c" * 40}) == (commit, "")
    assert place(tmp_path / "missing", environment) == ("", "")
    assert place(tmp_path, {"PATH": ""}) == ("", "")


def test_a_pull_request_has_its_own_branch() -> None:
    found = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_SHA": "d" * 40,
        "GITHUB_REF_NAME": "12/merge",
        "GITHUB_HEAD_REF": "feature",
    }
    assert place(None, found) == ("d" * 40, "feature")
    found = {
        "TF_BUILD": "True",
        "BUILD_SOURCEVERSION": "e" * 40,
        "BUILD_SOURCEBRANCH": "refs/heads/m",
    }
    assert place(None, found) == ("e" * 40, "m")
    assert place(None, {"CI": "true", "GITHUB_SHA": "not one", "PATH": ""}) == ("", "")


def test_outputs_are_set_where_the_page_cannot_be_written(
    tmp_path: Path, ui: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = tmp_path / "outputs"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))  # a folder
    monkeypatch.setenv("GITHUB_OUTPUT", str(outputs))
    publish(RUN, {"ci": "github"}, ui)
    assert "Is a directory" in told(ui)
    assert outputs.read_text().startswith("status=none\n")


@pytest.mark.parametrize("label", ["a\nb", "a\x1b[31m", "x" * 201, "a\udcff"])
def test_a_label_that_cannot_be_typed_again_is_refused(label: str) -> None:
    check_outputs({"label": "résnet 50 <&> (INT8)"})
    with pytest.raises(UsageError, match="is no name"):
        check_outputs({"label": label})


def test_the_number_in_the_history_is_told(tmp_path: Path, ui: Console) -> None:
    flags = {"history": tmp_path / "h.sqlite"}
    assert [publish(RUN, flags, ui) for _ in range(2)] == [1, 2]
    assert publish(RUN, {}, ui) is None
    (tmp_path / "folder").mkdir()
    assert publish(FAILED, {"history": tmp_path / "folder"}, ui) is None  # a warning


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, ui: Console) -> None:
    names = {"junit": "j.xml", "metrics": "m.txt", "bmf": "b.json", "summary": "s.md"}
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        publish(FAILED, {name: folder / file for name, file in names.items()}, ui)
        found.append([(folder / file).read_bytes() for file in names.values()])
    assert found[0] == found[1]
