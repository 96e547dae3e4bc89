"""Baselines that were measured before: files, names, other machines, hostile JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphopt.check.gates import time_gates
from graphopt.check.stored import Stored, baseline, checked, stored_verdict
from graphopt.errors import UsageError
from graphopt.profiles.history import History
from graphopt.profiles.latency import LatencyProfile
from graphopt.profiles.run import Figure, Gate, Run
from graphopt.profiles.state import fingerprint
from graphopt.profiles.sweep import Sweep
from graphopt.recipe import Gate as Limits

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.check.measured._OPENING_S", 0.02)


@pytest.fixture
def stored(work: Path, call: Call, quick: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the model on this machine, in a file."""
    from fakes import interleaved, rounds

    with monkeypatch.context() as patch:
        patch.setattr("graphopt.check.measured.interleave", interleaved(rounds(1.0)))
        words = ("--max-size", "0", "-o", "base.json")
        assert call("check", "net.onnx", "--baseline", "net.onnx", *words)[0] == 0
    return work / "base.json"


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_file_is_compared_with_and_what_is_not_compared_is_said(stored: Path, call: Call) -> None:
    # Rounds made up took 1 ms each, a real run some hundredths of that.
    words = ("check", "net.onnx", "--baseline", "base.json")
    code, out, err = call(*words, "--max-regression", "500%")
    assert code == 0, err
    assert "the interval is wider" in out
    assert "outputs were not compared: base.json holds none" in out
    change(stored, samples_ms=[1e-6] * 200)
    code, out, err = call(*words)
    assert (code, "max-regression" in err) == (1, True)


def test_a_profile_is_a_baseline_too(work: Path, call: Call, quick: None) -> None:
    assert call("profile", "net.onnx", "--duration", "0.1", "-o", "p.json")[0] == 0
    words = ("--max-regression", "9999%")
    code, _, err = call("check", "net.onnx", "--baseline", "p.json", *words)
    assert code == 0, err


def test_another_machine_is_refused_with_each_difference(stored: Path, call: Call) -> None:
    value = json.loads(stored.read_text())
    here = value["fingerprint"]
    change(stored, fingerprint={**here, "cpu": "Z80\x1b[31m", "cores": "1"})
    code, out, err = call("check", "net.onnx", "--baseline", "base.json")
    assert (code, out) == (4, "")
    assert "processor: Z80 there" in err
    assert "cores: 1 there" in err
    assert "2 differences" in err
    assert "measure the baseline anew" in err
    assert "\x1b" not in err


def test_threads_are_those_of_the_baseline_unless_given(stored: Path, call: Call) -> None:
    code, _, err = call("check", "net.onnx", "--baseline", "base.json", "--threads", "2")
    assert (code, "threads: 1 there, 2 here" in err) == (4, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--min-sqnr", "20"), "holds no outputs"),
        (("--max-memory", "5%"), "tells no peak memory"),
        (("--max-drop", "1", "--data", "data.npz"), "tells no accuracy"),
        (("--batch", "4"), "with a batch of 1"),
    ],
)
def test_limits_that_a_stored_baseline_cannot_bear(
    words: tuple[str, ...], told: str, stored: Path, call: Call
) -> None:
    code, _, err = call("check", "net.onnx", "--baseline", "base.json", *words)
    assert (code, told in err) == (2, True), err


def test_size_is_judged_by_the_stored_figure(stored: Path, call: Call) -> None:
    words = ("--max-regression", "9999%", "--max-size", "10%", "--json")
    code, out, err = call("check", "net.onnx", "--baseline", "base.json", *words)
    assert code == 0, err
    assert {g["name"]: g["value"] for g in json.loads(out)["gates"]}["max-size"] == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"kind": "graphopt-run"}',
        '{"kind": "graphopt-run", "schema": 99}',
        '{"kind": "graphopt-latency-profile", "schema": 1, "samples_ms": "no"}',
        "[" * 100_000,
        '{"a": NaN}',
        "\x00\x01",
    ],
)
def test_garbage_is_refused_in_one_line(text: str, work: Path, call: Call) -> None:
    (work / "base.json").write_text(text)
    code, out, err = call("check", "net.onnx", "--baseline", "base.json")
    assert (code, out) == (2, "")
    assert "base.json" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"samples_ms": []},
        {"samples_ms": [0.0, 1.0]},
        {"samples_ms": [-1.0]},
        {"samples_ms": ["1", None]},
        {"fingerprint": {}, "environment": {}},
        {"batch": 0},
        {"batch": -3},
        {"batch": "many"},
        {"figures": [{"name": "x"}]},
        {"fingerprint": {"cpu": 3}},
    ],
)
def test_hostile_runs_are_refused(changes: dict[str, Any], stored: Path, call: Call) -> None:
    change(stored, **changes)
    code, out, err = call("check", "net.onnx", "--baseline", "base.json")
    assert (code, out) == (2, ""), err


def made(name: str, ms: float = 1.0, **changes: Any) -> Run:
    environment = {"engine": "onnxruntime", "cpu": "x", "threads": "1"}
    return Run(
        "profile",
        name,
        sha256="0" * 64,
        figures=(Figure("latency_p50", ms, "ms"),),
        samples_ms=(ms, ms * 1.01) * 300,
        fingerprint=fingerprint(environment),
        environment=environment,
        **changes,
    )


def test_names_are_looked_up_in_the_history_and_files_come_first(work: Path) -> None:
    with History.open("h.db") as history:
        number = history.add(made("net.onnx"))
        history.set_baseline("v1", number)
        history.set_baseline("net.onnx", number)
    file = Path("h.db")
    found = baseline("v1", history=file, subject="net.onnx")
    assert isinstance(found, Stored)
    assert found.run.subject == "net.onnx"
    assert "run 1 of h.db (v1)" in found.where
    assert baseline("net.onnx", history=file, subject="net.onnx") == Path("net.onnx")
    with pytest.raises(UsageError, match="did you mean 'v1'"):
        baseline("v2", history=file, subject="net.onnx")


def test_the_last_good_run_of_this_machine(work: Path) -> None:
    bad = Gate("max-regression", "median latency", 5.0, 2.0, "%", "fail")
    other = {"engine": "onnxruntime", "cpu": "y", "threads": "1"}
    with History.open("h.db") as history:
        history.add(made("net", 1.0, branch="main"))
        history.add(made("net", 2.0, gates=(bad,)))
        history.add(replace(made("net", 3.0), fingerprint=fingerprint(other), environment=other))
    environment = made("net").environment
    for ref in ("last-good", "branch:main"):
        found = baseline(ref, history=Path("h.db"), subject="net", environment=environment)
        assert isinstance(found, Stored)
        assert found.run.samples_ms[0] == 1.0
    # None of this machine: the newest of another, to be refused with what differs.
    there = {**environment, "cpu": "z"}
    found = baseline("last-good", history=Path("h.db"), subject="net", environment=there)
    assert isinstance(found, Stored)
    assert found.run.fingerprint["cpu"] == "y"


def test_other_runs_of_the_same_file_tell_how_far_runs_are_apart(work: Path) -> None:
    with History.open("h.db") as history:
        for ms in (1.0, 1.1, 0.9, 1.05, 0.95):
            number = history.add(made("net", ms))
        history.add(replace(made("net", 9.0), sha256="1" * 64))
        history.add(made("net", 9.0, batch=8))
    found = baseline(f"run:{number}", history=Path("h.db"), subject="net")
    assert isinstance(found, Stored)
    assert sorted(run[0] for run in found.siblings) == [0.9, 1.0, 1.05, 1.1]
    (gate,) = time_gates(Limits())
    alone = stored_verdict(gate, replace(found, siblings=()), made("net", 1.02).samples_ms, seed=0)
    told = stored_verdict(gate, found, made("net", 1.02).samples_ms, seed=0)
    assert told.high - told.low > alone.high - alone.low


def test_throughput_and_tails_against_stored_runs() -> None:
    base = checked(Stored(made("net", 1.0), "x"))
    asked = Limits.model_validate({"max_p99": "10%", "max_throughput_drop": "10%"})
    for gate in time_gates(asked):
        slow = stored_verdict(gate, base, made("net", 1.5).samples_ms, seed=0)
        same = stored_verdict(gate, base, made("net", 1.0).samples_ms, seed=0)
        assert slow.status == "fail"
        assert same.status != "fail"


def test_a_tail_of_few_stored_runs_decides_nothing() -> None:
    few = made("net", 1.0)
    few = replace(few, samples_ms=few.samples_ms[:200])
    (_, tail) = time_gates(Limits.model_validate({"max_p99": "10%"}))
    found = stored_verdict(tail, checked(Stored(few, "x")), made("net", 9.0).samples_ms, seed=0)
    assert (found.status, found.reason) == (
        "inconclusive", "p99 needs 500 runs of each, and there are 200"
    )  # fmt: skip


def sweep(*points: tuple[int, int], ms: float = 1.0) -> dict[str, Any]:
    environment = made("net").environment
    measured = tuple(
        LatencyProfile(
            tuple([ms * batch] * 60 * streams), batch, environment=environment, streams=streams
        )
        for batch, streams in points
    )
    return Sweep(measured).to_json()


@pytest.mark.parametrize(
    ("points", "batch", "found"),
    [
        (((1, 1), (8, 1)), None, 1),
        (((1, 1), (8, 1)), 8, 8),
        (((8, 1),), None, 8),
        (((4, 2), (4, 1)), 4, 4),
        (((4, 1), (8, 1)), None, "(it has 4, 8): choose by --batch"),
        (((1, 1), (8, 1)), 3, "(it has 1, 8)"),
        (((8, 2),), 8, "(it has none)"),
    ],
)
def test_a_sweep_stands_for_the_point_that_matches(
    points: tuple[tuple[int, int], ...], batch: int | None, found: int | str, work: Path
) -> None:
    Path("s.json").write_text(json.dumps(sweep(*points)))
    if isinstance(found, str):
        with pytest.raises(UsageError) as problem:
            baseline("s.json", history=None, subject="net", batch=batch)
        assert found in str(problem.value)
        return
    stored = baseline("s.json", history=None, subject="net", batch=batch)
    assert isinstance(stored, Stored)
    assert (stored.run.batch, stored.run.samples_ms[0]) == (found, float(found))


def test_a_sweep_that_profile_wrote_is_a_baseline(work: Path, call: Call, quick: None) -> None:
    words = ("--batch", "1,4", "--duration", "0.1", "-o", "s.json", "--threads", "1")
    assert call("profile", "net.onnx", *words)[0] == 0
    words = ("--baseline", "s.json", "--max-regression", "9999%", "--batch", "4", "--json")
    code, out, err = call("check", "net.onnx", *words)
    assert (code, json.loads(out)["batch"]) == (0, 4), err


def test_the_last_good_run_may_have_had_other_threads(work: Path) -> None:
    here = made("net").environment
    with History.open("h.db") as history:
        for ms, changes in ((1.0, {"threads": "2"}), (2.0, {"cpu": "y"})):
            environment = {**here, **changes}
            history.add(
                replace(
                    made("net", ms),
                    environment=environment,
                    fingerprint=fingerprint(environment),
                )
            )
    asked = {key: value for key, value in here.items() if key != "threads"}
    found = baseline("last-good", history=Path("h.db"), subject="net", environment=asked)
    assert isinstance(found, Stored)
    assert found.run.samples_ms[0] == 1.0
    # Where threads were asked for it is not: then the newest there is, to be refused.
    found = baseline("last-good", history=Path("h.db"), subject="net", environment=here)
    assert isinstance(found, Stored)
    assert found.run.samples_ms[0] == 2.0


def test_the_flow_of_the_docs(work: Path, call: Call, quick: None) -> None:
    """Profile into a history, as many threads as profile takes, then check against that."""
    history = ("--history", "perf.db")
    code, _, err = call("profile", "net.onnx", *history, "--duration", "0.1")
    assert code == 0, err
    wide = ("--max-regression", "9999%")
    code, out, err = call("check", "net.onnx", "--baseline", "last-good", *history, *wide, "--json")
    assert code == 0, err
    assert "outputs were not compared" in " ".join(json.loads(out)["notes"])
    assert "threads as run 1 of perf.db" in err
    # Two files by turns, kept; then the same name alone, where the file is gone.
    words = (*history, "--store", "v1", "--budget", "2")
    code, _, err = call("check", "net.onnx", "--baseline", "net.onnx", *words, *wide)
    assert code == 0, err
    code, _, err = call("check", "net.onnx", "--baseline", "v1", *history, *wide)
    assert code == 0, err
    code, _, err = call("check", "net.onnx", "--baseline", "last-good", "--history", "none.db")
    assert (code, "the first run begins it" in err) == (2, True)


def test_opt_shapes_of_another_batch_are_refused(stored: Path, call: Call) -> None:
    words = ("--opt-shapes", "image:4x3x16x16")
    code, _, err = call("check", "net.onnx", "--baseline", "base.json", *words)
    assert (code, "measured with a batch of 1" in err) == (2, True), err
