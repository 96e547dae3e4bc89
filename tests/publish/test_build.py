"""A build tells a pipeline before its gate's error leaves; its JSON stays JSON."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from helpers import command_line as call
from helpers import conv_net, image_samples


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("graphopt.measure.SECONDS", 0.01)
    for name in ("GITLAB_CI", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    conv_net(32).save("net.onnx")
    np.savez("test.npz", image=image_samples(8))
    return tmp_path


def test_a_failed_build_is_published_and_fails(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(work / "page.md"))
    flags = ["--prune", "0.5", "--min-sqnr", "190", "--eval", "test.npz", "-o", "out", "--json"]
    code = call("optimize", "net.onnx", *flags, "--junit", "junit.xml", "--history", "h.sqlite")
    assert code == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["status"] == "fail"  # annotations go elsewhere
    assert "\n::error title=graphopt optimize%3A net.onnx::min-sqnr fail" in printed.err
    (case,) = ET.parse("junit.xml").getroot().iter("testcase")
    assert case.get("name") == "min-sqnr" and case.find("failure") is not None
    assert "❌ fail" in (work / "page.md").read_text("utf-8")
    assert call("history", "list", "h.sqlite", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["verb"], row["subject"], row["status"]) == ("optimize", "net.onnx", "fail")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--junit", "net.onnx"), "is what is read"),
        (("--junit", "x", "--bmf", "x"), "name one file"),
        (("--metrics", "out/report.json"), "what the build itself calls so"),
        (("--history", "net.txt"), "net.txt"),
        (("--ci", "jenkins"), "--ci jenkins is none of"),
        (("--summary", "net.txt/page.md"), "net.txt"),
    ],
)
def test_what_could_not_be_told_is_refused_before_any_work(
    work: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], told: str
) -> None:
    (work / "net.txt").write_text("not a history")
    before = sorted(p.name for p in work.iterdir())
    assert call("optimize", "net.onnx", "-o", "out", *flags) in (2, 4)
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1, error
    assert sorted(p.name for p in work.iterdir()) == before


def test_a_dry_run_tells_nobody(work: Path) -> None:
    assert call("optimize", "net.onnx", "--dry-run", "--junit", "junit.xml") == 0
    assert not (work / "junit.xml").exists()
