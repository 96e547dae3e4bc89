"""``check --host``: two engines on the device they run on, by trtexec over a real ssh."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphopt.profiles.run import Run

Call = Callable[..., tuple[int, str, str]]
Setup = Callable[..., Any]
NET = "my 'net'.onnx"
pytestmark = pytest.mark.slow


@pytest.fixture
def two(work: Path, device: Setup, call: Call, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Build a plain engine and a pruned one on a device."""
    monkeypatch.setattr("graphopt.check.measured._REMOTE_OPENINGS", 2)
    # The stand-in makes no more runs than it must, however long it shall take.
    monkeypatch.setattr("graphopt.check.timing._REMOTE_RUNS", 400)
    there = device("t4", "10.3.0")
    assert call("build", NET, "--host", there.host, "-o", "a")[0] == 0
    assert call("build", NET, "--prune", "0.5", "--host", there.host, "-o", "b")[0] == 0
    return there


def gates(out: str) -> dict[str, str]:
    return {gate["name"]: gate["status"] for gate in json.loads(out)["gates"]}


def test_engines_run_by_turns_there(two: Any, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.profiles import interleave

    monkeypatch.setattr(interleave, "_FIRST", 5)
    words = (
        "--host",
        two.host,
        "--max-regression",
        "900%",
        "--max-size",
        "900%",
        "-o",
        "r.json",
        "--budget",
        "8",
    )
    code, out, err = call("check", "a", "--baseline", "a/model.engine", *words, "--json")
    assert code in (0, 5), err  # the stand-in's times are what they are
    assert gates(out)["outputs"] == gates(out)["min-sqnr"] == gates(out)["max-size"] == "pass"
    run = Run.from_json(json.loads(Path("r.json").read_text()))
    assert run.environment["clock"] == "GPU compute time by trtexec"
    assert "T4" in run.fingerprint["gpu"]
    assert run.samples_ms
    assert "6 digits" in err


def test_other_answers_there_fail(two: Any, call: Call) -> None:
    words = ("--host", two.host, "--budget", "1", "--min-sqnr", "60", "--json")
    code, out, err = call("check", "b", "--baseline", "a", *words)
    assert (code, gates(out)["min-sqnr"]) == (1, "fail"), err


def test_a_profile_of_the_device_is_a_baseline(two: Any, call: Call) -> None:
    words = ("--host", two.host)
    code, _, err = call("profile", "a/model.engine", *words, "--duration", "1", "-o", "p.json")
    assert code == 0, err
    limits = ("--max-regression", "9000%", "--budget", "5")
    found = call("check", "a", "--baseline", "p.json", *words, *limits)
    assert found[0] in (0, 5), found[2]
    code, _, err = call("check", "a", "--baseline", "p.json", "--max-drop", "1", *words)
    assert code == 2, err
