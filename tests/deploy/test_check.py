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


@pytest.mark.slow
def test_engines_are_checked_there(
    work: Path, device: Setup, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By turns, with other answers, and against what was measured there before."""
    monkeypatch.setattr("graphopt.check.measured._REMOTE_OPENINGS", 1)
    # The stand-in makes no more runs than it must, however long it shall take.
    monkeypatch.setattr("graphopt.check.timing._REMOTE_RUNS", 500)
    words = ("--host", device("t4", "10.3.0").host)
    assert call("build", NET, *words, "-o", "a")[0] == 0
    assert call("build", NET, "--prune", "0.5", *words, "-o", "b")[0] == 0

    limits = ("--max-size", "900%", "--min-sqnr", "60", "--budget", "0.1")
    found = call("check", "b", "--baseline", "a", *words, *limits, "-o", "r.json", "--json")
    gates = {gate["name"]: gate["status"] for gate in json.loads(found[1])["gates"]}
    # One opening of each is too little to tell anything about time.
    assert (found[0], gates["min-sqnr"], gates["max-regression"]) == (1, "fail", "inconclusive")
    assert gates["outputs"] == gates["max-size"] == "pass"
    assert "6 digits" in found[2]
    run = Run.from_json(json.loads(Path("r.json").read_text()))
    assert run.environment["clock"] == "GPU compute time by trtexec"
    assert "T4" in run.fingerprint["gpu"]
    assert run.samples_ms

    code, _, err = call("profile", "a/model.engine", *words, "--duration", "1", "-o", "p.json")
    assert code == 0, err
    code, _, err = call("check", "a", "--baseline", "p.json", *words, "--max-regression", "9000%")
    assert code == 0, err
