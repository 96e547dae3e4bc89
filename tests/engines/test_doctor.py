from __future__ import annotations

import pytest

from graphopt.engines import doctor as module
from graphopt.engines.doctor import doctor

NAMES = ["python", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "polygraphy"]


def test_it_tells_everything_in_order():
    findings = doctor()
    names = [f.name for f in findings]
    assert names[: len(NAMES)] == NAMES
    assert names[len(NAMES) : len(NAMES) + 2] == ["tensorrt-rtx", "tensorrt"]
    assert {"gpu", "trtexec", "cpu"} <= set(names)
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


def test_trtexec_is_found_where_tensorrt_puts_it(monkeypatch, tmp_path):
    tool = tmp_path / "trtexec"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(module, "TRTEXEC", tool)
    (found,) = [f for f in doctor() if f.name == "trtexec"]
    assert (found.status, found.detail) == ("ok", str(tool))
