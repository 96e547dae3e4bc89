from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from graphopt.engines.doctor import Finding, doctor, exit_code
from graphopt.engines.remote.link import LinkLost
from graphopt.engines.remote.local import LocalLink
from graphopt.errors import EnvironmentProblem, UsageError
from graphopt.toml import load_toml

NAMES = ["python", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "polygraphy"]


def test_it_tells_everything_in_order():
    findings = doctor()
    names = [f.name for f in findings]
    assert names[: len(NAMES)] == NAMES
    assert names[len(NAMES) : len(NAMES) + 2] == ["tensorrt-rtx", "tensorrt"]
    assert {"gpu", "trtexec", "ssh", "cpu"} <= set(names)
    assert {f.place for f in findings} == {"here"}
    assert exit_code(findings) == 0
    for finding in findings:
        assert finding.status in ("ok", "missing", "note")
        assert finding.detail
        assert "\n" not in finding.detail + finding.remedy
        assert finding.status != "missing" or finding.remedy


@pytest.mark.parametrize(
    "broken",
    [
        "graphopt.machine.installed_version",
        "graphopt.machine.installed",
        "graphopt.profiles.host.gpus",
        "graphopt.profiles.host.cpu",
        "shutil.which",
        "platform.python_version",
    ],
)
def test_a_broken_installation_does_not_break_it(broken, monkeypatch):
    def fails(*_):
        raise RuntimeError("broken\nin two lines")

    monkeypatch.setattr(broken, fails)
    findings = doctor()
    assert any("RuntimeError: broken in two lines" in f.detail for f in findings)
    assert len(findings) >= 5


def test_what_is_missing_comes_with_its_remedy(monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setattr(f"graphopt.engines.{name}.installed", lambda m: False)
    monkeypatch.setattr("graphopt.engines.tensorrt_rtx.no_wheel", lambda *m: None)
    monkeypatch.setattr("graphopt.profiles.host.gpus", lambda: ())
    found = {f.name: f for f in doctor()}
    assert found["tensorrt-rtx"].status == "missing"
    assert found["tensorrt-rtx"].remedy == 'pip install "graphopt[rtx]"'
    assert found["tensorrt"].status == "note"
    assert found["gpu"].status == "note"


def tool(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return folder / name


def test_trtexec_is_asked_its_version(monkeypatch, tmp_path):
    path = tool(
        tmp_path / "bin", "trtexec", 'echo "&&&& RUNNING TensorRT.trtexec [TensorRT v8502]"'
    )
    found = {f.name: f for f in doctor(trtexec=str(path))}
    assert found["trtexec"] == Finding("trtexec", "ok", f"TensorRT 8.5.2, {path}")
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    assert {f.name: f for f in doctor()}["trtexec"] == found["trtexec"]
    tool(tmp_path / "bin", "trtexec", "echo cannot open libnvinfer.so.8 >&2; exit 127")
    (broken,) = [f for f in doctor() if f.name == "trtexec"]
    assert broken.status == "note"
    assert "cannot open libnvinfer.so.8" in broken.detail
    (absent,) = [f for f in doctor(trtexec="/nowhere/trtexec") if f.name == "trtexec"]
    assert absent.status == "note"
    assert absent.remedy


def test_every_extra_that_a_remedy_names_exists(monkeypatch):
    monkeypatch.setattr("graphopt.machine.installed_version", lambda *n: None)
    monkeypatch.setattr("graphopt.machine.installed", lambda n: False)
    for name in ("tensorrt", "tensorrt_rtx", "cuda"):
        monkeypatch.setattr(f"graphopt.engines.{name}.installed", lambda m: False)
    remedies = " ".join(f.remedy for f in doctor())
    named = set(re.findall(r"graphopt\[(\w+)\]", remedies))
    root = Path(__file__).resolve().parents[2]
    assert named == {"rtx", "tensorrt", "cuda"}
    assert named <= set(load_toml(root / "pyproject.toml")["project"]["optional-dependencies"])


# --- another machine ---


def there(findings):
    assert {f.place for f in findings} == {"here", "me@jetson"}
    return [f for f in findings if f.place == "me@jetson"]


def test_another_machine_is_looked_at(tmp_path, monkeypatch):
    smi = 'case $1 in *gpu=*) echo "Tesla T4, 7.5, 15360, 535.1" ;; esac'
    bin_ = tool(tmp_path / "bin", "nvidia-smi", smi).parent
    tool(bin_, "trtexec", 'echo "&&&& RUNNING TensorRT.trtexec [TensorRT v100300]"')
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    asked = []

    def connect(host):
        asked.append(host)
        return LocalLink()

    findings = there(doctor("me@jetson", connect=connect))
    assert asked == ["me@jetson"]
    found = {f.name: f for f in findings}
    assert found["device"].detail == "t4"
    assert found["gpu"].detail == "Tesla T4, compute capability 7.5, 16.1 GB, driver 535.1"
    assert found["tensorrt"].detail == "10.3.0"
    assert found["trtexec"] == Finding("trtexec", "ok", f"{bin_}/trtexec", "", "me@jetson")
    assert {"host", "memory", "disk"} <= set(found)
    findings = there(doctor("me@jetson", connect=connect, trtexec="/nowhere"))
    (missing,) = [f for f in findings if f.name == "trtexec"]
    assert missing.status == "missing"
    assert exit_code(findings) == 0


@pytest.mark.parametrize(
    "problem",
    [
        LinkLost("me@jetson: connection timed out"),
        EnvironmentProblem("the key of me@jetson changed", hint="ssh-keygen -R\njetson"),
    ],
)
def test_a_machine_that_does_not_answer_is_a_finding_and_exit_code_4(problem):
    def connect(host):
        raise problem

    findings = doctor("me@jetson", connect=connect)
    (found,) = there(findings)
    assert (found.name, found.status, found.detail) == ("host", "no answer", str(problem))
    assert "\n" not in found.remedy
    assert exit_code(findings) == 4
    assert len(findings) > 8  # what is here is told all the same


def test_a_host_that_ssh_could_not_take_is_refused():
    with pytest.raises(UsageError):
        doctor("-oProxyCommand=touch x")
