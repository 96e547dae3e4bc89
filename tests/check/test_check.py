"""``graphopt check`` through the command line: real models, and verdicts on rounds made up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fakes import interleaved, rounds
from helpers import SHARED, needs_shared, parse

from graphopt.errors import OutputError
from graphopt.profiles.history import History
from graphopt.profiles.run import Run

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the rounds be of a candidate so many times as slow."""

    def set_up(ratio: float, **options: Any) -> None:
        made = interleaved(rounds(ratio, **options))
        monkeypatch.setattr("graphopt.check.measured.interleave", made)

    return set_up


def gates(out: str) -> dict[str, str]:
    return {gate["name"]: gate["status"] for gate in json.loads(out)["gates"]}


@pytest.mark.parametrize(
    ("ratio", "noise", "code", "status"),
    [(1.0, 0.002, 0, "pass"), (1.1, 0.002, 1, "fail"), (1.02, 0.02, 5, "inconclusive")],
)
def test_exit_codes(
    ratio: float, noise: float, code: int, status: str, work: Path, call: Call, fake: Any
) -> None:
    fake(ratio, noise=noise, runs=20)
    found, out, err = call("check", "net.onnx", "--baseline", "net.onnx", "--json", "-o", "r.json")
    assert found == code, err
    assert json.loads(out)["status"] == status
    run = Run.from_json(json.loads((work / "r.json").read_text()))
    assert run.status == status
    assert (run.verb, run.subject, len(run.sha256)) == ("check", "net.onnx", 64)
    assert len(run.samples_ms) == 24 * 20
    assert run.fingerprint["threads"] == "1"
    change = run.figure("latency_change")
    assert change is not None
    assert change.value == pytest.approx(100 * (ratio - 1), abs=0.5)
    before = run.figure("latency_p50_before")
    assert before is not None
    assert before.value == pytest.approx(1, abs=0.01)
    assert ("error:" in err) == (code != 0)
    assert err.count("\n") < 12


def test_a_table_and_a_line(work: Path, call: Call, fake: Any) -> None:
    fake(1.1)
    code, out, err = call("check", "net.onnx", "--baseline", "net.onnx", "--max-regression", "5%")
    assert code == 1
    lines = out.splitlines()
    assert [w for w in lines[0].split("  ") if w][:2] == ["gate", "baseline"]
    assert "max-regression" in lines[1]
    assert lines[1].rstrip().endswith("fail")
    assert lines[-1].startswith("fail: max-regression: median latency +9.9")
    assert lines[-1].endswith("limit 5 %")
    assert "graphopt profile --layers" in err
    assert "baseline and candidate are the same file" in err


def test_real_rounds_of_the_same_model(work: Path, call: Call) -> None:
    words = ("--budget", "3", "--max-regression", "300%", "--max-memory", "50%", "--max-size", "0")
    code, out, err = call("check", "net.onnx", "--baseline", "net.onnx", *words, "--json")
    assert code in (0, 5), err  # other programs may be in its way
    assert set(gates(out)) == {
        "max-regression", "max-memory", "max-size", "outputs", "min-sqnr"
    }  # fmt: skip
    assert gates(out)["outputs"] == gates(out)["min-sqnr"] == gates(out)["max-size"] == "pass"
    figures = {f["name"]: f["value"] for f in json.loads(out)["figures"]}
    assert figures["size"] == figures["size_before"] == (work / "net.onnx").stat().st_size
    assert 0 < figures["peak_memory"] < 1e9


def test_other_answers_fail_however_fast(work: Path, call: Call, fake: Any) -> None:
    fake(0.5)
    code, out, err = call("check", "other.onnx", "--baseline", "net.onnx", "--json")
    assert (code, gates(out)["max-regression"], gates(out)["min-sqnr"]) == (1, "pass", "fail")
    assert " dB, limit at least 10 dB\nthe candidate gives other answers" in err
    code, out, _ = call("check", "other.onnx", "--baseline", "net.onnx", "--no-outputs", "--json")
    assert (code, gates(out)) == (0, {"max-regression": "pass"})
    assert "outputs were not compared (--no-outputs)" in json.loads(out)["notes"]


def test_an_output_of_another_name_fails(work: Path, call: Call, fake: Any) -> None:
    fake(1.0)
    model = onnx.load("net.onnx")
    model.graph.node[-1].output[0] = model.graph.output[0].name = "score"
    onnx.save(model, "renamed.onnx")
    code, _, err = call("check", "renamed.onnx", "--baseline", "net.onnx")
    assert code == 1
    assert "output 'score' is in the candidate only (did you mean 'scores'?)" in err


def test_nan_fails(work: Path, call: Call, fake: Any) -> None:
    fake(1.0)
    text = "net (float[N,3] x) => (float[N,3] y) { %s }"
    parse(text % "y = Relu(x)").save("a.onnx")
    parse(text % "r = Relu(x) s = Log(r) t = Exp(s) u = Sub(s, s) y = Add(t, u)").save("b.onnx")
    code, _, err = call("check", "b.onnx", "--baseline", "a.onnx")
    assert code == 1
    assert "NaN or infinite in one of the two only: " in err


def test_answers_that_are_no_numbers_in_both_are_not_compared(
    work: Path, call: Call, fake: Any
) -> None:
    fake(1.0)
    text = "net (float[N,3] x) => (float[N,3] y) { a = Abs(x) b = Neg(a) y = %s(b) }"
    parse(text % "Log").save("a.onnx")
    parse(text % "Sqrt").save("b.onnx")
    code, out, err = call("check", "b.onnx", "--baseline", "a.onnx", "--json")
    assert (code, gates(out)["outputs"]) == (5, "inconclusive")
    assert "all of 'y' is NaN or infinite in both: give real samples with --data" in err
    assert "min-sqnr" not in gates(out)


def test_a_short_budget_is_told_how_much_would_do(work: Path, call: Call) -> None:
    words = ("--budget", "0.001", "--max-p99", "10%")
    code, out, err = call("check", "net.onnx", "--baseline", "net.onnx", *words)
    assert code == 5
    assert "at least 5 openings are needed, and there are 1" in out
    assert "e+" not in out and "000000" not in out
    assert "give it more time: --budget " in err
    code, out, err = call("check", "other.onnx", "--baseline", "net.onnx", *words)
    assert (code, out.splitlines()[-1][:15]) == (1, "fail: min-sqnr:")


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_changes_meanwhile_is_told(
    how: str, work: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interleave(_base: Any, cand: Any, **_: Any) -> Any:
        if how == "removed":
            (work / "other.onnx").unlink()
            with cand():
                pass
        (work / "net.onnx").replace(work / "other.onnx")
        return interleaved(rounds(1.0))(None, None, **_)

    monkeypatch.setattr("graphopt.check.measured.interleave", interleave)
    words = ("--baseline", "net.onnx", "--history", "h.db")
    code, out, err = call("check", "other.onnx", *words)
    assert (code, out) == (2, ""), err
    first = {"removed": "other.onnx", "replaced": "net.onnx"}[how]
    assert f"error: {first} was changed or removed while it was checked: check again" in err
    assert not (work / "h.db").exists()


def test_a_limit_of_zero_is_warned_of(work: Path, call: Call, fake: Any) -> None:
    fake(0.9)
    words = ("--baseline", "net.onnx", "--max-regression", "0")
    code, _, err = call("check", "net.onnx", *words)
    assert (code, "one as fast stays inconclusive" in err) == (0, True)


def test_inputs_that_differ_are_refused(work: Path, call: Call) -> None:
    parse("net (float[N,3] image) => (float[N,3] scores) { scores = Relu(image) }").save("in.onnx")
    parse("net (float16[N,3] x) => (float16[N,3] y) { y = Relu(x) }").save("h.onnx")
    parse("net (float[N,3] x) => (float[N,3] y) { y = Relu(x) }").save("f.onnx")
    for base, cand in (("net.onnx", "in.onnx"), ("net.onnx", "h.onnx"), ("f.onnx", "h.onnx")):
        code, _, err = call("check", cand, "--baseline", base)
        assert (code, "inputs differ" in err) == (2, True), err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--baseline", "nett.onnx"), 2, "did you mean 'net.onnx'?"),
        (("--baseline", "v1"), 2, "--history FILE"),
        (("--baseline", "v1", "--history", "no.db"), 2, "no history no.db"),
        (("--baseline", "net.onnx", "--max-regression", "much"), 2, "no percentage"),
        (("--baseline", "net.onnx", "--max-regression", "0.03"), 2, "0.03% or 3%"),
        (("--baseline", "net.onnx", "--max-throughput-drop", "100%"), 2, "too much"),
        (("--baseline", "net.onnx", "--max-latency", "soon"), 2, "not a valid float"),
        (("--baseline", "net.onnx", "--max-drop", "1"), 2, "--max-drop needs samples"),
        (("--baseline", "net.onnx", "--no-outputs", "--min-sqnr", "9"), 2, "--no-outputs"),
        (("--baseline", "net.onnx", "--store", "v1"), 2, "--history FILE"),
        (("--baseline", "net.onnx", "--store", "last-good", "--history", "h"), 2, "meaning of its"),
        (("--baseline", "net.onnx", "--budget", "0"), 2, "budget"),
        (("--baseline", "net.onnx", "--trtexec", "t", "--threads", "2"), 2, "--threads"),
        (("--baseline", "net.onnx", "--trtexec", "t", "--max-memory", "2"), 2, "--max-memory"),
        (("--baseline", "net.onnx", "--trtexec", "t"), 2, "is no engine"),
        (("--baseline", "net.onnx", "--batch", "2", "--opt-shapes", "image:4x3x16x16"), 2, "leave"),
        (("--baseline", "net.onnx", "-o", "net.onnx", "--force"), 2, "is what is read"),
        (("--baseline", "empty"), 2, "without report.json"),
        (("--baseline", "text.onnx"), 3, "text.onnx"),
        ((), 2, "--baseline"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: tuple[str, ...], code: int, told: str, work: Path, call: Call
) -> None:
    (work / "empty").mkdir()
    (work / "text.onnx").write_text("no model")
    found, out, err = call("check", "net.onnx", *words)
    assert (found, told in err) == (code, True), err
    assert out == ""


def test_a_builds_folder_stands_for_its_engine(work: Path, call: Call, fake: Any) -> None:
    fake(0.6)
    words = ("--engine", "onnxruntime", "--int8", "--data", "data.npz", "--quiet")
    assert call("build", "net.onnx", *words, "-o", "out")[0] == 0
    code, out, err = call("check", "out", "--baseline", "net.onnx", "--data", "data.npz", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert value["subject"] == "model.ort.onnx"
    assert value["model_digest"]
    assert gates(out)["min-sqnr"] == "pass"
    code, _, err = call("check", "net.onnx", "--baseline", "out/report.json")
    assert (code, "--baseline out" in err) == (2, True)


def test_flags_override_the_recipe(work: Path, call: Call, fake: Any) -> None:
    fake(1.04)
    (work / "r.toml").write_text('[gate]\nmax_regression = "6%"\nmax_p99 = 50\nmin_sqnr = 3\n')
    base = ("check", "net.onnx", "--baseline", "net.onnx", "--recipe", "r.toml", "--json")
    code, out, err = call(*base)
    assert code == 0, err
    limits = {gate["name"]: gate["limit"] for gate in json.loads(out)["gates"]}
    assert limits == {"max-regression": 6, "max-p99": 50, "outputs": 0, "min-sqnr": 3}
    assert call(*base, "--max-regression", "2%")[0] == 1
    for line in ("max_regression = 0.03", 'max_p99 = "x"', "max_latency = -1", "max_regresion = 1"):
        (work / "r.toml").write_text(f"[gate]\n{line}\n")
        code, _, err = call(*base)
        assert (code, "gate.max_" in err, "Traceback" in err) == (2, True, False)


def test_a_recipe_with_limits_comes_back_as_it_was() -> None:
    from graphopt.recipe import Recipe

    given = Recipe.from_dict({"gate": {"max_regression": "0.5%", "max_size": 3}})
    assert given.override({}) == given
    assert 'max_regression = "0.5%"' in given.to_toml()
    assert not given.gate.asked, "a build has no such limit"


def test_accuracy(work: Path, call: Call, fake: Any) -> None:
    fake(1.0)
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("0", "1"):
        (work / "set" / label).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(work / "set" / label / f"{i}.png")
    words = ("--data", "set", "--preprocess", "cifar", "--max-drop", "0", "--json")
    code, out, err = call("check", "net.onnx", "--baseline", "net.onnx", *words)
    assert code == 0, err
    assert gates(out)["max-drop"] == "pass"
    assert "min-sqnr" not in gates(out)
    names = {figure["name"] for figure in json.loads(out)["figures"]}
    assert {"accuracy", "accuracy_before", "top1_agreement"} <= names


def test_stored_when_it_passes_and_not_when_it_fails(work: Path, call: Call, fake: Any) -> None:
    fake(1.0)
    words = ("--history", "h.db", "--label", "net", "--store", "good", "--junit", "j.xml")
    code, _, err = call("check", "net.onnx", "--baseline", "net.onnx", *words)
    assert code == 0, err
    assert (work / "j.xml").read_text().startswith("<?xml")
    fake(2.0)
    code, _, err = call("check", "net.onnx", "--baseline", "net.onnx", *words)
    assert (code, "is no baseline" in err) == (1, True)
    with History.open("h.db") as history:
        number, run = history.baseline("good", subject="net")
        assert (number, run.status, run.subject) == (1, "pass", "net")
        assert len(history.entries()) == 2


def test_a_missed_limit_outweighs_a_history_that_cannot_be_written(
    work: Path, call: Call, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OutputError("no space left")

    monkeypatch.setattr(History, "add", full)
    words = ("--baseline", "net.onnx", "--history", "h.db", "--store", "good")
    for slowness, expected in ((1.0, 4), (2.0, 1)):
        fake(slowness)
        code, _, err = call("check", "net.onnx", *words)
        assert (code, "no space left" in err) == (expected, True), err


def test_external_weights_count_in_the_size(work: Path, call: Call) -> None:
    from graphopt.check.artifacts import look_at

    onnx.save_model(
        onnx.load("net.onnx"), "apart.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=16,
    )  # fmt: skip
    found = look_at(Path("apart.onnx"))
    assert found.size == Path("apart.onnx").stat().st_size + Path("w.bin").stat().st_size
    assert look_at(Path("net.onnx")).size == Path("net.onnx").stat().st_size


def test_a_dynamic_size_is_asked_for_and_a_batch_is_timed(
    work: Path, call: Call, fake: Any
) -> None:
    fake(1.0)
    parse("net (float[N,3,H] x) => (float[N,3,H] y) { y = Relu(x) }").save("d.onnx")
    code, _, err = call("check", "d.onnx", "--baseline", "d.onnx")
    assert (code, "--opt-shapes x:" in err) == (2, True)
    words = ("--opt-shapes", "x:4x3x5", "--json")
    code, out, err = call("check", "d.onnx", "--baseline", "d.onnx", *words)
    assert (code, json.loads(out)["batch"]) == (0, 4), err
    code, out, _ = call("check", "net.onnx", "--baseline", "net.onnx", "--batch", 3, "--json")
    assert (code, json.loads(out)["batch"]) == (0, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_ctrl_c_leaves_nothing(work: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = sorted(p.name for p in work.iterdir())
    words = ["check", "net.onnx", "--baseline", "net.onnx", "--budget", "60", "-o", "r.json",
             "--max-regression", "0", "--history", "h.db", "--max-memory", "1"]  # fmt: skip
    started = subprocess.Popen(
        [sys.executable, "-m", "graphopt", *words],
        cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("timing by turns"):
            break
    time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=30)
    assert started.returncode == 130, err
    assert sorted(p.name for p in work.iterdir()) == before
    assert not list(scratch.glob("graphopt-*"))


@needs_shared
@pytest.mark.slow
def test_resnets(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models = SHARED / "models"
    small, large = models / "resnet20_cifar10.onnx", models / "resnet56_cifar10.onnx"
    code, out, err = call("check", small, "--baseline", small, "--budget", 5, "--json")
    assert code in (0, 5), err
    code, out, err = call("check", large, "--baseline", small, "--budget", 10, "--json")
    assert code == 1, err
    assert gates(out)["min-sqnr"] == "fail"
